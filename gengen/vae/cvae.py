r"""CVAE: the conditional VAE.

Sohn, Lee & Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative
Models* (NeurIPS).

    ln p(x|y) ≥ E_{q(z|x,y)} ln p(x|z,y) - KL(q(z|x,y) ‖ p(z))

y stands beside the encoder's input and beside z. It is one of

- a class, or weights of classes: [0, ½, ½, 0, ...] asks for a blend, which no example was;
- a part of the image, the rectangle `known`: draws for one y are several ways to complete it.

z is told nothing of y by the prior, so what y says need not be coded in z: one z decoded with
every class is one hand writing ten digits. The protocol of binary images is that of `vae`; the
known part of one is binarised with the rest of it, and what its pixels cost is counted too: next to
nothing, as they can be copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen.nn.codec import Decoder, Encoder
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.vae import vae


@dataclass(frozen=True)
class Config(vae.Config):
    """That of the VAE, and what y is."""

    classes: int = 10  # of y
    known: tuple[
        int, ...
    ] = ()  # y is rows a..b-1, columns c..d-1 as (a, b, c, d); (): y is a class
    features: int = 64  # that the decoder is given of a known part

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        for name in ("classes", "features"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 1")
        if len(self.code) != 1:
            raise InputError(f"Config.code = {self.code}, but here it is (D,), for y stands beside")
        if self.known and not _inside(self.known, self.shape):
            raise InputError(
                f"Config.known = {self.known}, but it is (a, b, c, d), rows a..b-1 and columns "
                f"c..d-1 of an image of shape {self.shape}"
            )


def _inside(known: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(known) != 4 or len(shape) != 3:
        return False
    a, b, c, d = known
    return 0 <= a < b <= shape[0] and 0 <= c < d <= shape[1]


# --- the networks --------------------------------------------------------------------------------


class CVAE(nn.Module):
    """The encoder, (x, y) → q(z|x,y), and the decoder, (z, y) → η; y as `condition` gives it."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        levels: Any = dict(channels=cfg.channels, strides=cfg.strides, widths=cfg.widths)
        *space, last = cfg.shape
        beside, features = (last, cfg.features) if cfg.known else (cfg.classes, cfg.classes)
        self.encoder = Encoder((*space, last + beside), vae.numbers_of_q(cfg), **levels)
        self.decoder = Decoder(vae.outputs(cfg), (cfg.code[0] + features,), **levels)
        self.head = vae.Head(cfg)
        if cfg.known:
            self.look = Encoder(cfg.shape, (features,), **levels)

    def posterior(self, x: Array, y: Array) -> dist.Normal:
        if not self.cfg.known:  # planes of the classes' weights, as far as x reaches
            y = jnp.broadcast_to(
                y.reshape(len(y), *(1,) * (x.ndim - 2), -1), (*x.shape[:-1], y.shape[-1])
            )
        return vae.normal_of(self.cfg, self.encoder(jnp.concatenate([x, y], axis=-1)))

    def eta(self, z: Array, y: Array) -> Array:
        y = self.look(y) if self.cfg.known else y
        return self.head(self.decoder(jnp.concatenate([z, y], axis=-1)))

    def __call__(self, x: Array, y: Array) -> Array:
        return self.eta(self.posterior(x, y).mean, y)


def condition(cfg: Config, y: ArrayLike, num: int) -> Array:
    """What the networks are given of y.

    Args:
        cfg: of the model.
        y: classes, integers [num]; weights of classes [num, classes]; or, where the Config has a
            `known` part, images [num, *shape], of which only that part is looked at.
        num: of examples.

    Returns:
        Weights [num, classes], or images that are 0 where unknown.

    Raises:
        InputError: for anything else.
    """
    y = jnp.asarray(y)
    if cfg.known:
        if y.shape != (num, *cfg.shape):
            raise InputError(f"y has shape {y.shape}: images {(num, *cfg.shape)} of a known part")
        return y * known_mask(cfg)
    if y.shape == (num,) and jnp.issubdtype(y.dtype, jnp.integer):
        if not isinstance(y, Tracer) and bool(((y < 0) | (y >= cfg.classes)).any()):
            raise InputError(f"y holds {y.min()}..{y.max()}, but Config.classes = {cfg.classes}")
        return jax.nn.one_hot(y, cfg.classes)
    if y.shape == (num, cfg.classes) and jnp.issubdtype(y.dtype, jnp.floating):
        return y
    raise InputError(
        f"y is {y.dtype} {y.shape}: classes int [{num}], or weights float [{num}, {cfg.classes}]"
    )


def known_mask(cfg: Config) -> np.ndarray:
    """1 where a pixel is known, 0 elsewhere: float32 [H, W, 1]."""
    a, b, c, d = cfg.known
    mask = np.zeros((*cfg.shape[:2], 1), np.float32)
    mask[a:b, c:d] = 1
    return mask


def _apply(cfg: Config, variables: PyTree, name: str, *args: Array) -> Any:
    return CVAE(cfg).apply(variables, *args, method=name)


_compiled = jax.jit(_apply, static_argnums=(0, 2))  # for calls from outside


def _seen(cfg: Config, x: ArrayLike, y: ArrayLike | None, key: Key | None) -> tuple[Array, Array]:
    """Observed x and its condition. A known part is that of the observed image: y is not used."""
    x = vae.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    if cfg.known:
        return x, condition(cfg, x, len(x))
    if y is None:
        raise InputError("y = None, but without Config.known it is a class: give one an example")
    return x, condition(cfg, y, len(x))


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, y: ArrayLike | None, key: Key | None = None
) -> Array:
    """The mean of q(z|x,y) for x [B, *shape]: [B, D]. Without a key binarised by threshold."""
    return _compiled(cfg, variables, "posterior", *_seen(cfg, x, y, key)).mean


def decode(cfg: Config, variables: PyTree, z: ArrayLike, y: ArrayLike) -> Array:
    """E[x|z,y] for z [B, D]: [B, *shape]; a known part as it is given."""
    z = vae.check_code(cfg, z)
    y = condition(cfg, y, len(z))
    return _with_known(cfg, vae.picture(cfg, _compiled(cfg, variables, "eta", z, y)), y)


def _with_known(cfg: Config, x: Array, y: Array) -> Array:
    return jnp.where(known_mask(cfg) > 0, y, x) if cfg.known else x


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, y: ArrayLike | None, key: Key | None = None
) -> Array:
    """The decoded mean code of x [B, *shape]: [B, *shape]."""
    x, y = _seen(cfg, x, y, key)
    return decode(cfg, variables, _compiled(cfg, variables, "posterior", x, y).mean, y)


def elbo(cfg: Config, variables: PyTree, x: ArrayLike, y: ArrayLike | None, key: Key) -> Array:
    """A bound of ln p(x|y) for x [B, *shape]: [B], in nats."""
    see_key, noise_key = jax.random.split(key)
    return _elbo(cfg, variables, *_seen(cfg, x, y, see_key), noise_key)


@jax.jit(static_argnums=0)
def _elbo(cfg: Config, variables: PyTree, x: Array, y: Array, key: Key) -> Array:
    parts = vae.terms(cfg, CVAE(cfg), variables, x, key, y)
    return -parts["reconstruction"] - parts["kl"]


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, y: ArrayLike | None, key: Key | None = None,
    num: int = 64,
) -> Array:  # fmt: skip
    """The importance-weighted bound of ln p(x|y) by `num` codes, for x [B, *shape]: [B], nats."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 code is drawn")
    see_key, noise_key = jax.random.split(jax.random.key(0) if key is None else key)
    x, y = _seen(cfg, x, y, see_key)
    return _log_prob(cfg, variables, x, y, noise_key, num)


@jax.jit(static_argnums=(0, 5))
def _log_prob(cfg: Config, variables: PyTree, x: Array, y: Array, key: Key, num: int) -> Array:
    def one(i: Array) -> Array:
        return vae.log_ratio(cfg, CVAE(cfg), variables, x, jax.random.fold_in(key, i), y)

    return jax.nn.logsumexp(jax.lax.map(one, jnp.arange(num)), axis=0) - np.log(num)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    y: ArrayLike | None = None,
    mean: bool | None = None,
) -> Array:
    """Draw `num` codes and decode them with y: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        y: see `condition`; None: classes at random, all alike likely; a known part that is black.
        mean: E[x|z,y], or a draw from p(x|z,y); None: the mean of images, a draw of vectors.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    y_key, key = jax.random.split(key)
    if y is None and cfg.known:
        y = jnp.full((num, *cfg.shape), -1.0)
    elif y is None:
        y = jax.random.randint(y_key, (num,), 0, cfg.classes)
    y = condition(cfg, y, num)
    return _sample(cfg, variables, key, y, len(cfg.shape) == 3 if mean is None else mean)


@jax.jit(static_argnums=(0, 4))
def _sample(cfg: Config, variables: PyTree, key: Key, y: Array, mean: bool) -> Array:
    z_key, x_key = jax.random.split(key)
    eta = _apply(cfg, variables, "eta", vae.draw_prior(cfg, z_key, len(y)), y)
    return _with_known(cfg, vae.picture(cfg, eta, None if mean else x_key), y)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb the bound of ln p(x|y), y the batch's "label" or the known part; `tx` for Adam.

    Metrics, nats per example: `reconstruction` -E ln p(x|z,y), `kl`, `loss`.
    """
    net = CVAE(cfg)

    def seen(batch: Batch, key: Key | None) -> tuple[Array, Array]:
        x = check_shape(batch, cfg.shape)
        if not cfg.known and "label" not in batch:
            raise InputError('the batch has no "label": take data with classes, or Config.known')
        return _seen(cfg, x, batch.get("label"), key)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x, y = seen(batch, None)
        return net.init(key, x[:1], y[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        see_key, noise_key = jax.random.split(key)
        x, y = seen(batch, see_key)
        parts = vae.terms(cfg, net, {"params": params, **mutables}, x, noise_key, y)
        return vae.weigh(cfg, parts), (vae.means(parts), mutables)

    tx = tx or optax.adam(cfg.learning_rate)
    return close(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
