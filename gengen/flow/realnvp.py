r"""Real NVP: a density that is exact, by a network that runs both ways.

Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP* (1605.08803); ActNorm:
Kingma & Dhariwal 2018, *Glow* (1807.03039).

    ln p(x) = ln N(z; 0, I) - ln |det ∂x/∂z|,    x = f_1 ∘ f_2 ∘ ... ∘ f_K (z)

Each f is an affine coupling: a mask b keeps some of the numbers, and they say what happens to the
others,

    x = b⊙z + (1-b)⊙(exp(s(b⊙z))⊙z + m(b⊙z)),    ln |det| = Σ (1-b)⊙s(b⊙z)

whose inverse needs no inverse of s or m, since b⊙x = b⊙z. |s| is bounded, and the last layer of the
networks starts at 0: an untrained flow is the identity, but for ActNorm, an s and m that are
constant, chosen so that the first batch has mean 0 and variance 1.

Images go through levels: couplings by a checkerboard, 2×2 pixels folded into channels, couplings by
halves of the channels; half of the channels are then z as they are, and the rest goes on. A pixel
v = 0..255 is dequantised and taken to the whole line (§4.1),

    y = (v + u)/256,  u ~ U[0,1);    x = logit(α + (1-2α) y)

and ln P(v) ≥ E_u ln p(y) - D ln 256, so what is reported of images is a bound, of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape

LEVELS = 256  # of a pixel


@dataclass(frozen=True)
class Config:
    """The paper's flow; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], of 8 bits; or (D,)

    alpha: float = 0.05  # how far logits keep from 0 and 1
    levels: int = 2  # at which 2×2 pixels are folded, for images
    couplings: int = 4  # of each kind at a level; of vectors, in all
    bound: float = 2.0  # |s| is less
    act_norm: bool = True  # one before each coupling

    channels: int = 32  # of the networks s, m of images
    blocks: int = 1  # residual blocks of theirs
    widths: tuple[int, ...] = (64, 64)  # their hidden layers, for vectors

    batch_size: int = 64  # examples a step
    learning_rate: float = 1e-3  # of Adam
    clip_norm: float = 50.0  # of the gradient of nats per example, over all parameters
    ema_decay: float = 0.999  # a step; warmed up

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if self.shape == (1,):
            raise InputError("Config.shape = (1,), but a coupling needs two numbers or more")
        for name in ("couplings", "channels", "batch_size", "bound", "learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"Config.alpha = {self.alpha}, but it is in (0, ½)")
        odd = len(self.shape) == 3 and any(n % 2**self.levels for n in self.shape[:2])
        if self.levels < 1 or odd:
            raise InputError(
                f"Config.levels = {self.levels}, but it is at least 1, and both sides of "
                f"Config.shape = {self.shape} are halved that often"
            )


# --- the networks --------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """x [B, H, W, C] → [B, H, W, out]: residual blocks at full resolution; 0 at first."""

    out: int
    channels: int
    blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Conv(self.channels, (3, 3))(x)
        for _ in range(self.blocks):
            inner = nn.relu(nn.Conv(self.channels, (1, 1))(nn.relu(h)))
            h = h + nn.Conv(self.channels, (3, 3))(inner)
        return nn.Conv(self.out, (3, 3), kernel_init=nn.initializers.zeros)(nn.relu(h))


class DenseNet(nn.Module):
    """x [B, D] → [B, out]; 0 at first."""

    out: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.out, kernel_init=nn.initializers.zeros)(x)


# --- the flow ------------------------------------------------------------------------------------


def affine(s: Array, m: Array, v: Array, to_z: bool) -> tuple[Array, Array]:
    """X = exp(s)⊙z + m of z, or z of x; and ln |det ∂x/∂z| [B], the same either way."""
    log_det = jnp.sum(jnp.broadcast_to(s, v.shape).reshape(len(v), -1), axis=1)
    return (v - m) * jnp.exp(-s) if to_z else jnp.exp(s) * v + m, log_det


class ActNorm(nn.Module):
    """An s and an m for each channel; at `init`, which goes to z, the batch's ln σ and mean."""

    @nn.compact
    def __call__(self, v: Array, to_z: bool) -> tuple[Array, Array]:
        axes = tuple(range(v.ndim - 1))
        m = self.param("m", lambda key: jnp.mean(v, axes))
        # What does not vary in the first batch is left as it is.
        s = self.param("s", lambda key: jnp.log(_where_positive(jnp.std(v, axes))))
        return affine(s, m, v, to_z)


def _where_positive(std: Array) -> Array:
    return jnp.where(std > 1e-3, std, 1.0)


class Coupling(nn.Module):
    """An affine coupling.

    Attributes:
        mask: (shape of one example) → b, 1 where numbers are kept.
        net: (outputs) → the network that gives s and m.
        bound: of |s|.
    """

    mask: Callable[[Shape], np.ndarray]
    net: Callable[[int], nn.Module]
    bound: float

    @nn.compact
    def __call__(self, v: Array, to_z: bool) -> tuple[Array, Array]:
        b = jnp.asarray(self.mask(v.shape[1:]), v.dtype)
        s, m = jnp.split(self.net(2 * v.shape[-1])(b * v), 2, axis=-1)
        s = (1 - b) * self.bound * jnp.tanh(s / self.bound)
        return affine(s, (1 - b) * m, v, to_z)


def checkerboard(shape: Shape, parity: int) -> np.ndarray:
    """1 where the sum of a pixel's row and column, or an entry's number, is even (odd if 1)."""
    places = np.indices(shape[:-1] or shape).sum(axis=0) % 2 == parity
    return np.broadcast_to(places.reshape(*places.shape, *(1,) * (len(shape) - places.ndim)), shape)


def halves(shape: Shape, parity: int) -> np.ndarray:
    """1 in the first half of the channels, or of a vector's entries (in the second if 1)."""
    first = np.arange(shape[-1]) < shape[-1] // 2
    return np.broadcast_to(first != bool(parity), shape)


def fold(x: Array) -> Array:
    """2×2 pixels become channels: [B, H, W, C] → [B, H/2, W/2, 4C]."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H // 2, W // 2, 4 * C)


def unfold(x: Array) -> Array:
    """The inverse of `fold`."""
    B, H, W, C = x.shape
    x = x.reshape(B, H, W, 2, 2, C // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, 2 * H, 2 * W, C // 4)


class RealNVP(nn.Module):
    """The flow, both ways."""

    cfg: Config

    def setup(self) -> None:
        """The couplings of each level, those nearest to x first."""
        cfg = self.cfg
        if len(cfg.shape) == 1:
            self.flat = self._couplings(checkerboard, halves)
            return
        levels = range(cfg.levels)
        self.before = [self._couplings(checkerboard) for _ in levels]  # folding
        self.after = [self._couplings(halves) for _ in levels]
        self.last = self._couplings(checkerboard)

    def _couplings(self, *kinds: Callable[..., np.ndarray]) -> list[nn.Module]:
        """Masks of a kind come in pairs, each the other's complement."""
        cfg, layers = self.cfg, []
        net: Callable[[int], nn.Module] = partial(ConvNet, channels=cfg.channels, blocks=cfg.blocks)
        if len(cfg.shape) == 1:
            net = partial(DenseNet, widths=cfg.widths)
        for i in range(cfg.couplings):
            mask = partial(kinds[i // 2 % len(kinds)], parity=i % 2)
            layers += [ActNorm()] if cfg.act_norm else []
            layers.append(Coupling(mask, net, cfg.bound))
        return layers

    def to_z(self, x: Array) -> tuple[Array, Array]:
        """X [B, *shape] → z [B, D], ln |det ∂x/∂z| [B]."""
        total, parts = jnp.zeros(len(x)), []
        if len(self.cfg.shape) == 1:
            return _through(self.flat, x, total, True)
        for before, after in zip(self.before, self.after, strict=True):
            x, total = _through(before, x, total, True)
            x, total = _through(after, fold(x), total, True)
            done, x = jnp.split(x, 2, axis=-1)
            parts.append(done)
        x, total = _through(self.last, x, total, True)
        flat = [part.reshape(len(part), -1) for part in (*parts, x)]
        return jnp.concatenate(flat, axis=1), total

    def to_x(self, z: Array) -> tuple[Array, Array]:
        """Z [B, D] → x [B, *shape], ln |det ∂x/∂z| [B]."""
        total = jnp.zeros(len(z))
        if len(self.cfg.shape) == 1:
            return _through(self.flat[::-1], z, total, False)
        shapes = split_shapes(self.cfg)
        cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        flat = jnp.split(z, cuts.tolist(), axis=1)
        *parts, x = (p.reshape(len(z), *s) for p, s in zip(flat, shapes, strict=True))
        x, total = _through(self.last[::-1], x, total, False)
        levels = list(zip(self.before, self.after, parts, strict=True))
        for before, after, done in reversed(levels):
            x = jnp.concatenate([done, x], axis=-1)
            x, total = _through(after[::-1], x, total, False)
            x, total = _through(before[::-1], unfold(x), total, False)
        return x, total


def _through(layers: Any, v: Array, total: Array, to_z: bool) -> tuple[Array, Array]:
    for layer in layers:
        v, log_det = layer(v, to_z)
        total = total + log_det
    return v, total


def split_shapes(cfg: Config) -> list[Shape]:
    """Shapes of the parts of z: what leaves at each level of an image, and what is left."""
    (H, W, C), shapes = cfg.shape, []
    for _ in range(cfg.levels):
        H, W, C = H // 2, W // 2, 2 * C
        shapes.append((H, W, C))
    return [*shapes, shapes[-1]]


# --- pixels --------------------------------------------------------------------------------------


def to_line(cfg: Config, x: Array, u: Array) -> tuple[Array, Array]:
    """Images in [-1, 1] as logits of dequantised pixels; and ln |∂logit/∂v|, summed: [B]."""
    v = jnp.round((x + 1) * ((LEVELS - 1) / 2))
    p = cfg.alpha + (1 - 2 * cfg.alpha) * (v + u) / LEVELS
    logit = jnp.log(p) - jnp.log1p(-p)
    log_slope = float(np.log((1 - 2 * cfg.alpha) / LEVELS)) - jnp.log(p) - jnp.log1p(-p)
    return logit, jnp.sum(log_slope.reshape(len(x), -1), axis=1)


def to_unit(cfg: Config, logit: Array) -> Array:
    """Dequantised pixels of these logits, 2y - 1: in [-1, 1], or a little outside."""
    return 2 * (jax.nn.sigmoid(logit) - cfg.alpha) / (1 - 2 * cfg.alpha) - 1


def to_image(cfg: Config, logit: Array) -> Array:
    """The pixels whose dequantised values have these logits, in [-1, 1]."""
    y = (to_unit(cfg, logit) + 1) / 2
    v = jnp.clip(jnp.floor(y * LEVELS), 0, LEVELS - 1)
    return v * (2 / (LEVELS - 1)) - 1


# --- what the model can do -----------------------------------------------------------------------


def apply(cfg: Config, variables: PyTree, v: Array, name: str) -> Any:
    """`forward` ("to_z") or `inverse` ("to_x"), for a loss."""
    return RealNVP(cfg).apply(variables, v, method=name)


# Not for a loss: what a train step makes of it depends on the context it is traced in.
_compiled = jax.jit(apply, static_argnums=(0, 3))


def forward(cfg: Config, variables: PyTree, x: ArrayLike) -> tuple[Array, Array]:
    """X [B, *shape], of images logits (`to_line`), → z [B, D] and ln |det ∂x/∂z| [B]."""
    return _compiled(cfg, variables, check_shape({"x": x}, cfg.shape), "to_z")


def inverse(cfg: Config, variables: PyTree, z: ArrayLike) -> tuple[Array, Array]:
    """Z [B, D] → x [B, *shape], of images logits, and ln |det ∂x/∂z| [B].

    Raises:
        InputError: if z is of another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != (int(np.prod(cfg.shape)),):
        raise InputError(f"z has shape {z.shape}: give [B, D], D numbers for x of {cfg.shape}")
    return _compiled(cfg, variables, z, "to_x")


def log_density(cfg: Config, variables: PyTree, x: Array, key: Key) -> Array:
    """`log_prob`, for a loss."""
    slope = jnp.zeros(len(x))
    if len(cfg.shape) == 3:
        x, slope = to_line(cfg, x, rng.uniform(key, x.shape))
    z, log_det = apply(cfg, variables, x, "to_z")
    log_normal = -0.5 * (jnp.sum(z**2, axis=1) + z.shape[1] * float(np.log(2 * np.pi)))
    return log_normal - log_det + slope


_compiled_log_prob = jax.jit(log_density, static_argnums=0)


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """Ln p(x) of vectors; of images a bound of ln P(pixels), by one u each: [B], in nats.

    Args:
        cfg: of the model.
        variables: trained.
        x: [B, *shape]; images in [-1, 1], of 8 bits.
        key: of u; None: one of its own, the same at each call.
    """
    x = check_shape({"x": x}, cfg.shape)
    return _compiled_log_prob(cfg, variables, x, jax.random.key(0) if key is None else key)


def bits_per_dim(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """-log₂ P(pixels) over the number of dimensions, an upper bound of it: [B]."""
    return -log_prob(cfg, variables, x, key) / (np.log(2) * np.prod(cfg.shape))


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples: float32 [num, *shape], images in [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return _sample(cfg, variables, key, num)


@jax.jit(static_argnums=(0, 3))
def _sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    x, _ = inverse(cfg, variables, rng.normal(key, (num, int(np.prod(cfg.shape)))))
    return to_image(cfg, x) if len(cfg.shape) == 3 else x


def init_variables(cfg: Config, key: Key, batch: Batch) -> PyTree:
    """The flow's first variables; ActNorm's are those that whiten the batch."""
    x = check_shape(batch, cfg.shape)
    if len(cfg.shape) == 3:
        x, _ = to_line(cfg, x, jax.random.uniform(key, x.shape))
    return RealNVP(cfg).init(key, x, method="to_z")


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb ln p(x); `tx` in the place of Adam.

    Metrics: `loss`, -ln p(x) in nats per example; of images `bits_per_dim` too.
    """

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        nats = -jnp.mean(log_density(cfg, {"params": params, **mutables}, x, key))
        metrics: Metrics = {}
        if len(cfg.shape) == 3:
            metrics["bits_per_dim"] = nats / float(np.log(2) * np.prod(cfg.shape))
        return nats, (metrics, mutables)

    return close(
        partial(init_variables, cfg), with_ema(descent(loss, tx or optimizer(cfg)), cfg.ema_decay)
    )


def optimizer(cfg: Config) -> optax.GradientTransformation:
    """Adam, after clipping the gradient."""
    adam = optax.inject_hyperparams(optax.adam)(cfg.learning_rate)
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adam)
