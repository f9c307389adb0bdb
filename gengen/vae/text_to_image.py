r"""Text to image: a transformer over the words of a caption and the codes of an image.

Ramesh et al. 2021, *Zero-Shot Text-to-Image Generation* (2102.12092), DALL·E. A codec, here the
VQ-VAE of `gengen.vae.vqvae`, is trained first. Then a causal transformer learns the joint
distribution of the T tokens c of a caption and the codes k of its image,

    p(c, k) = Π_t p(c_t | c_<t)  Π_i p(k_i | c, k_<i)

    loss = λ · mean of -ln p(c_t | ·) + (1 - λ) · mean of -ln p(k_i | ·),    λ = 1/8

Codes are in the order of columns, from the left. So the left part of an image comes first, and its
right part can be sampled exactly for any caption: `impute`.

With probability `condition_dropout` the caption is replaced in training by a token of its own. Then
samples can be guided (Ho & Salimans 2022, 2207.12598): ln p(k_i | c, k_<i) is replaced by

    (1 + w) ln p(k_i | c, k_<i) - w ln p(k_i | k_<i)

up to a constant. The differences from the paper: words are tokens, not byte pairs; the codec is a
VQ-VAE; attention is full; the network is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, require_num
from gengen.data import AnyData, Dataset, captions
from gengen.optim import learning_rate
from gengen.stages import Finished, Stage, coded, resident
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.vae import vqvae, vqvae_prior
from gengen.vae.tokens import check_caption, log_probs, network, sample_tokens, sequence
from gengen.vae.vqvae_prior import codec
from gengen.xla import jit

LOG_PROB = "lower bound"


@dataclass(frozen=True)
class Config(vqvae.ImageConfig):
    """That of the codec, and of the transformer."""

    words: tuple[str, ...] = captions.WORDS  # of captions; token 0 fills a caption up
    caption_length: int = captions.LENGTH  # T, tokens of a caption
    hidden_dim: int = 128  # width of the transformer
    num_layers: int = 4  # of the transformer
    num_heads: int = 4  # of attention
    dropout: float = 0.1  # rate, in the transformer
    max_shift: int = 1  # codes are also of images moved by up to so many pixels; 0: as they are
    text_weight: float = 0.125  # λ, weight of the caption's loss; that of the codes has 1 - λ
    condition_dropout: float = 0.1  # probability of dropping the caption; 0: no guidance
    guidance: float = 1.0  # w of classifier-free guidance, when sampling; 0: none
    prior_learning_rate: float = 1e-3  # of the transformer's Adam
    prior_share: float = 1.0  # of the steps, relative to the codec's

    RENAMED: ClassVar[dict[str, str | None]] = {}

    @classmethod
    def paper(cls) -> Self:
        """Return the model of 12 billion parameters of §2: 256 × 256 pixels, 32 × 32 codes.

        256 tokens of 16,384, 8,192 codes, 64 layers of 62 heads of 64 numbers. The codec is a
        VQ-VAE of the paper's three levels, not its dVAE; attention is full, not sparse; the text
        tokens, byte pairs in the paper, are numbered words. Embeddings of rows and columns are one
        of places.
        """
        fields: dict[str, Any] = vqvae.paper_fields((256, 256, 3)) | {
            "codebook_size": 8192, "channels": (256,) * 3, "batch_size": 1024, "ema_decay": 0.999,
        }  # fmt: skip
        return cls(
            **fields, words=tuple(f"token{i}" for i in range(1, 16_384)), caption_length=256,
            hidden_dim=62 * 64, num_layers=64, num_heads=62, dropout=0.0, max_shift=0,
            condition_dropout=0.0, guidance=0.0, prior_learning_rate=4.5e-4, warmup_steps=5000,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given images, see `vqvae.ImageConfig.for_task`.

        Raises:
            InputError: for vectors.
        """
        vqvae_prior.require_image(task.shape)
        return super().for_task(task)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        positive = ("caption_length", "hidden_dim", "num_layers", "num_heads")
        for name in (*positive, "prior_learning_rate", "prior_share"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        for name in ("guidance", "max_shift"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        for name in ("dropout", "condition_dropout", "text_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be in [0, 1)")
        if len({*self.words}) != len(self.words) or not self.words:
            raise InputError("Config.words has a word twice, or no word: name each word once")
        if len(self.shape) != 3:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C)")
        if self.guidance and not self.condition_dropout:
            raise InputError(
                f"Config.guidance = {self.guidance} needs a transformer that learns images without "
                "captions too: set condition_dropout above 0, or guidance = 0"
            )


# --- conditions ----------------------------------------------------------------------------------


def condition_of(cfg: Config, batch: Batch) -> Array:
    """Return the captions of a batch, tokens int32 [B, T].

    Raises:
        InputError: if it has none.
    """
    if "caption" not in batch:
        raise InputError(
            "the data have no captions: use captions:mnist5k, captions:digits or captions:usps"
        )
    return check_caption(cfg, batch["caption"], len(batch["caption"]))


def condition_of_text(cfg: Config, texts: Sequence[str]) -> np.ndarray:
    """Return the tokens of captions: int32 [N, T].

    Raises:
        InputError: for an unknown word, with the known ones; for no word, or too many.
    """
    return captions.to_tokens(texts, cfg.words, cfg.caption_length)


# --- training -----------------------------------------------------------------------------


def prior_method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train the transformer on batches of codes "x" float [B, h, w, 1] and "caption" [B, T].

    Metrics: `loss`; `text` -ln p(c) and `image` -ln p(k|c), in nats per example.
    """
    shape = (*vqvae.places(codec(cfg)), 1)

    def data(batch: Batch) -> tuple[Array, Array]:
        k = check_shape(batch, shape)[..., 0].astype(jnp.int32)
        return condition_of(cfg, batch), sequence(cfg, k)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        caption, codes = data(batch)
        return network(cfg).init(key, jnp.concatenate([caption, codes], axis=1)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        drop_key, dropout_key = jax.random.split(key)
        caption, codes = data(batch)
        is_dropped = rng.uniform(drop_key, (len(caption), 1)) < cfg.condition_dropout
        text, image = log_probs(
            cfg, {"params": params}, caption, codes, is_dropped,
            dropout_key if cfg.dropout else None,
        )  # fmt: skip
        # A dropped caption has no loss; the others stand for it.
        text = jnp.where(is_dropped, 0, text) / (1 - cfg.condition_dropout)
        value = -cfg.text_weight * text.mean() - (1 - cfg.text_weight) * image.mean()
        metrics = {"text": -text.sum(1).mean(), "image": -image.sum(1).mean()}
        return value, (metrics, mutables)

    tx = tx or optax.adam(learning_rate(cfg, cfg.prior_learning_rate))
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """Return two stages: the codec, then the transformer; `tx` instead of Adam, in both.

    Metrics: those of `vqvae.method`, and of `prior_method`.
    """

    def of_codes(before: Finished, data: AnyData) -> AnyData:
        own, variables = codec(cfg), before["codec"].variables
        maps = jit(often=False)(lambda x: vqvae.codes(own, variables, x)[..., None])
        return coded(shifted(resident(data), cfg.max_shift), maps, f"{data.name}, codes")

    return (
        Stage("codec", vqvae.method(codec(cfg), tx)),
        Stage("prior", prior_method(cfg, tx), data=of_codes, share=cfg.prior_share),
    )


def shifted(data: Dataset, most: int) -> Dataset:
    """Return images moved by up to `most` pixels, down and to the right: each at all such places.

    Pixels that enter are 0, black. Everything else of an example is repeated.
    """
    if not most:
        return data
    x = data.arrays["image"]
    wide = np.pad(x, ((0, 0), (most, most), (most, most), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, x.shape[1:3], axis=(1, 2))
    moved = windows.transpose(1, 2, 0, 4, 5, 3).reshape(-1, *x.shape[1:])
    times = (2 * most + 1) ** 2
    rest = {k: np.concatenate([a] * times) for k, a in data.arrays.items() if k != "image"}
    return Dataset(data.name, {"image": moved, **rest}, data.classes)


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return the quantised encodings z_q of x [B, *shape]: [B, h, w, D].

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1].
        key: of dynamic binarisation; None: by threshold.
        condition: captions [B, T], which only the transformer depends on; checked, not used.
    """
    z = vqvae.encode(codec(cfg), variables["codec"], x, key)
    _caption(cfg, condition, len(z))
    return z


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *, condition: ArrayLike | None = None
) -> Array:
    """Return E[x|z_q] for z_q [B, h, w, D]: [B, *shape]. For `condition`, see `encode`."""
    x = vqvae.decode(codec(cfg), variables["codec"], z)
    _caption(cfg, condition, len(x))
    return x


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return the decoded codes of x [B, *shape]: [B, *shape]. See `encode`."""
    return decode(cfg, variables, encode(cfg, variables, x, key), condition=condition)


def _caption(cfg: Config, condition: ArrayLike | None, num: int) -> Array | None:
    return None if condition is None else check_caption(cfg, condition, num)


def log_prior(
    cfg: Config, variables: PyTree, k: Array, condition: ArrayLike | None = None
) -> Array:
    """Return ln p(k|c) for maps of codes k [B, h, w] and captions c [B, T]: [B], in nats.

    Without captions it is ln p(k) as learnt where captions were dropped.
    """
    caption = _caption(cfg, condition, len(k))
    tokens = jnp.zeros((len(k), cfg.caption_length), jnp.int32) if caption is None else caption
    return _log_prior(cfg, variables["prior"], tokens, sequence(cfg, k), caption is None)


@jit(0, 4, often=False)
def _log_prior(
    cfg: Config, variables: PyTree, caption: Array, codes: Array, is_dropped: bool
) -> Array:
    return log_probs(cfg, variables, caption, codes, is_dropped)[1].sum(1)


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return ln p(x|z_q) + ln p(k|c), a lower bound of ln p(x|c): [B], in nats.

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1], [B, *shape].
        key: of dynamic binarisation; None: a fixed key.
        condition: captions [B, T]; None: without.
    """
    key = jax.random.key(0) if key is None else key
    prior_of = lambda k: log_prior(cfg, variables, k, condition)  # noqa: E731
    return vqvae_prior.bound(codec(cfg), variables["codec"], x, key, prior_of)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: ArrayLike | None = None
) -> Array:
    """Sample codes and decode them: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of both stages.
        key: of the samples.
        num: number of samples.
        condition: captions [num, T]; None: sampled first.
    """
    require_num(num)
    caption = _caption(cfg, condition, num)
    _, k = sample_tokens(cfg, variables["prior"], key, num, caption)
    return vqvae.decode_codes(codec(cfg), variables["codec"], np.asarray(k))


def impute(
    cfg: Config, variables: PyTree, x: ArrayLike, mask: ArrayLike, key: Key, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return x [B, *shape], completed for captions where mask is false.

    A code is known if all its pixels are. The other codes are sampled; then pixels that are not
    known are those of the decoded codes.

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1]; pixels where mask is false do not matter.
        mask: true at known pixels; broadcasts to x.
        key: of the samples.
        condition: captions [B, T]; None: sampled from the model, for any images.

    Raises:
        InputError: if a known code follows an unknown one in the order of columns.
    """
    own, x = codec(cfg), check_shape({"x": jnp.asarray(x)}, cfg.shape)
    known = np.broadcast_to(np.asarray(mask, bool), x.shape)
    height, width = vqvae.places(own)
    rows, columns = (-(-side // n) for side, n in zip(cfg.shape[:2], (height, width), strict=True))
    cells = np.ones((len(x), height * rows, width * columns), bool)
    cells[:, : cfg.shape[0], : cfg.shape[1]] = known.all(3)
    is_known = np.asarray(cells.reshape(-1, height, rows, width, columns).all(axis=(2, 4)))
    first = is_known.swapaxes(1, 2).reshape(len(x), -1)
    if np.any(first[:, 1:] & ~first[:, :-1]):
        raise InputError(
            "mask leaves known codes behind unknown ones, in the order of columns from the left: "
            "known pixels must come first, such as the left half"
        )
    caption = _caption(cfg, condition, len(x))
    k = vqvae.codes(own, variables["codec"], jnp.where(known, x, -1.0))
    _, k = sample_tokens(cfg, variables["prior"], key, len(x), caption, k, jnp.asarray(first))
    new = vqvae.decode_codes(own, variables["codec"], np.asarray(k))
    return jnp.where(known, x, new)
