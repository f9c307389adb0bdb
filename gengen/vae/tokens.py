"""The sequences of `gengen.vae.text_to_image`: words of a caption, then codes of an image.

`cfg` is its Config.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gengen import rng
from gengen.nn.transformer import Transformer
from gengen.types import Array, InputError, Key, PyTree
from gengen.vae import vqvae
from gengen.vae.vqvae_prior import codec
from gengen.xla import jit


def network(cfg: Any) -> Transformer:
    """Return the transformer. Its tokens: padding and words, "no caption", codes."""
    length = cfg.caption_length + int(np.prod(vqvae.places(codec(cfg))))
    return Transformer(
        first_code(cfg) + cfg.codebook_size, length, cfg.hidden_dim, cfg.num_layers,
        cfg.num_heads, cfg.dropout,
    )  # fmt: skip


def no_caption(cfg: Any) -> int:
    """Return the token that stands in the places of a dropped caption."""
    return len(cfg.words) + 1


def first_code(cfg: Any) -> int:
    """Return the token of the code 0."""
    return len(cfg.words) + 2


def check_caption(cfg: Any, caption: ArrayLike, num: int) -> Array:
    """Return captions as an int32 array [num, T].

    Raises:
        InputError: for another shape or dtype or, outside of jit, a token that is no word.
    """
    wanted = (num, cfg.caption_length)
    if jnp.shape(caption) != wanted or not jnp.issubdtype(jnp.result_type(caption), jnp.integer):
        raise InputError(
            f"captions are {jnp.result_type(caption)} {list(jnp.shape(caption))}; they must be "
            f"integers {list(wanted)}, such as condition_of_text(cfg, texts)"
        )
    if not isinstance(caption, Tracer):
        known = np.asarray(caption)
        if known.size and not 0 <= known.min() <= known.max() <= len(cfg.words):
            raise InputError(
                f"tokens of captions lie in {known.min()}..{known.max()}; they must lie in "
                f"0..{len(cfg.words)}, for the {len(cfg.words)} words of Config.words"
            )
    return jnp.asarray(caption, jnp.int32)


def sequence(cfg: Any, k: Array) -> Array:
    """Return maps of codes k [B, h, w] as a sequence [B, h·w], in the order of columns."""
    return jnp.swapaxes(k, 1, 2).reshape(len(k), -1)


def as_map(cfg: Any, codes: Array) -> Array:
    """Return sequences of codes [B, h·w] as maps [B, h, w]. The inverse of `sequence`."""
    height, width = vqvae.places(codec(cfg))
    return jnp.swapaxes(codes.reshape(-1, width, height), 1, 2)


def log_probs(
    cfg: Any, variables: PyTree, caption: Array, codes: Array, is_dropped: ArrayLike = False,
    dropout_key: Key | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return ln p(c_t | c_<t) [B, T] and ln p(k_i | c, k_<i) [B, h·w], in nats.

    Args:
        cfg: of the model.
        variables: of the transformer.
        caption: tokens int32 [B, T].
        codes: of `sequence`, int32 [B, h·w].
        is_dropped: whose codes do not depend on the caption: bool, broadcasts to [B, 1].
        dropout_key: of dropout while training; None: none.
    """
    length, first = cfg.caption_length, first_code(cfg)
    seen = jnp.where(is_dropped, no_caption(cfg), caption)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    logits: Array = network(cfg).apply(
        variables, jnp.concatenate([seen, first + codes], axis=1), train=rngs is not None, rngs=rngs
    )  # type: ignore[assignment]
    text = jax.nn.log_softmax(logits[:, :length, : no_caption(cfg)])
    image = jax.nn.log_softmax(logits[:, length:, first:])
    chosen = lambda table, at: jnp.take_along_axis(table, at[..., None], -1)[..., 0]  # noqa: E731
    return chosen(text, caption), chosen(image, codes)


def sample_tokens(
    cfg: Any, variables: PyTree, key: Key, num: int, caption: Array | None = None,
    k: Array | None = None, is_known: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return captions int32 [num, T] and maps of codes int32 [num, h, w].

    Args:
        cfg: of the model.
        variables: of the transformer.
        key: of the samples.
        num: number of samples.
        caption: int32 [num, T]; None: they are sampled.
        k: maps of codes, [num, h, w], of which some are known; None: none is.
        is_known: which, in the order of `sequence`: bool [num, h·w].
    """
    length, places = cfg.caption_length, vqvae.places(codec(cfg))
    known = jnp.zeros((num, int(np.prod(places))), bool) if is_known is None else is_known
    codes = jnp.zeros(known.shape, jnp.int32) if k is None else sequence(cfg, k)
    words = jnp.zeros((num, length), jnp.int32) if caption is None else caption
    given = jnp.concatenate([words, first_code(cfg) + codes], axis=1)
    has_words = jnp.full((num, length), caption is not None)
    known = jnp.concatenate([has_words, known], axis=1)
    tokens = _decode(cfg, variables, rng.uniform(key, given.shape), given, known)
    return tokens[:, :length], as_map(cfg, tokens[:, length:] - first_code(cfg))


@jit(0, often=False)
def _decode(cfg: Any, variables: PyTree, u: Array, given: Array, is_known: Array) -> Array:
    """Return tokens [B, L] that are `given` where known, by uniform numbers u [B, L].

    With guidance a second half of the rows does not see the caption.
    """
    net, num, times = network(cfg), len(u), 2 if cfg.guidance else 1
    is_code = jnp.arange(net.num_tokens) >= first_code(cfg)
    is_word = jnp.arange(net.num_tokens) < no_caption(cfg)

    def step(carry: tuple[PyTree, Array], now: tuple[Array, ...]):
        (cache, before), (i, u, given, is_known) = carry, now
        logits, cache = net.apply(variables, cache, before, i, method="step")  # type: ignore[misc]
        is_text = i < cfg.caption_length
        table = jax.nn.log_softmax(jnp.where(jnp.where(is_text, is_word, is_code), logits, -1e9))
        mixed = table[:num]
        if cfg.guidance:
            guided = (1 + cfg.guidance) * table[:num] - cfg.guidance * table[num:]
            guided = jnp.where(is_code, guided, -1e9)
            mixed = jnp.where(is_text, mixed, guided)
        total = jnp.cumsum(jax.nn.softmax(mixed), axis=-1)
        # Relative to the last sum, which rounding moves away from 1.
        new = jnp.sum(total <= u[:, None] * total[:, -1:], axis=-1)
        token = jnp.where(is_known, given, jnp.minimum(new, net.num_tokens - 1))
        unseen = jnp.where(is_text, no_caption(cfg), token)
        return (cache, jnp.concatenate([token, unseen][:times])), token

    start: Array = net.apply(variables, times * num, method="empty")  # type: ignore[assignment]
    each = (jnp.arange(net.length), u.T, given.T, is_known.T)
    return jax.lax.scan(step, (start, jnp.zeros(times * num, jnp.int32)), each)[1].T
