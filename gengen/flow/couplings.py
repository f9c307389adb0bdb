"""Affine couplings, their networks, and the flow of Real NVP that is made of them.

`cfg` is a Config of `gengen.flow.realnvp`, or of a model built on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gengen.types import Array, Shape

# A function (outputs) -> a Flax module, such as a class of modules: see `realnvp.method`.
CouplingNet = Callable[[int], nn.Module]


# --- the networks --------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """Residual blocks at full resolution, x [B, H, W, C] → [B, H, W, out]; initially 0."""

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
    """A multilayer perceptron, x [B, D] → [B, out]; initially 0."""

    out: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for units in self.hidden:
            x = nn.relu(nn.Dense(units)(x))
        return nn.Dense(self.out, kernel_init=nn.initializers.zeros)(x)


# --- couplings -----------------------------------------------------------------------------------


def affine(s: Array, m: Array, v: Array, to_z: bool) -> tuple[Array, Array]:
    """Return x = exp(s)⊙z + m, or z of x (`to_z`), and ln |det ∂x/∂z| [B] in both cases."""
    log_det = jnp.sum(jnp.broadcast_to(s, v.shape).reshape(len(v), -1), axis=1)
    return (v - m) * jnp.exp(-s) if to_z else jnp.exp(s) * v + m, log_det


class ActNorm(nn.Module):
    """A constant s and m per channel, initialised to ln σ and the mean of the first batch."""

    @nn.compact
    def __call__(self, v: Array, to_z: bool) -> tuple[Array, Array]:
        axes = tuple(range(v.ndim - 1))
        m = self.param("m", lambda key: jnp.mean(v, axes))
        # Channels that are constant in the first batch are not scaled.
        s = self.param("s", lambda key: jnp.log(_where_positive(jnp.std(v, axes))))
        return affine(s, m, v, to_z)


def _where_positive(std: Array) -> Array:
    return jnp.where(std > 1e-3, std, 1.0)


class Coupling(nn.Module):
    """An affine coupling.

    Attributes:
        mask: (shape of one example) → b, 1 at dimensions that are kept.
        net: (outputs) → the network of s and m.
        bound: of |s|.
    """

    mask: Callable[[Shape], np.ndarray]
    net: CouplingNet
    bound: float

    @nn.compact
    def __call__(self, v: Array, to_z: bool) -> tuple[Array, Array]:
        b = jnp.asarray(self.mask(v.shape[1:]), v.dtype)
        s, m = jnp.split(self.net(2 * v.shape[-1])(b * v), 2, axis=-1)
        s = (1 - b) * self.bound * jnp.tanh(s / self.bound)
        return affine(s, (1 - b) * m, v, to_z)


def checkerboard(shape: Shape, parity: int) -> np.ndarray:
    """Return a mask: 1 where row + column, or the index of an entry, is even (parity 0) or odd."""
    places = np.indices(shape[:-1] or shape).sum(axis=0) % 2 == parity
    return np.broadcast_to(places.reshape(*places.shape, *(1,) * (len(shape) - places.ndim)), shape)


def halves(shape: Shape, parity: int) -> np.ndarray:
    """Return a mask: 1 in the first (parity 0) or second half of the channels or entries."""
    first = np.arange(shape[-1]) < shape[-1] // 2
    return np.broadcast_to(first != bool(parity), shape)


def fold(x: Array) -> Array:
    """Fold 2×2 pixels into channels: [B, H, W, C] → [B, H/2, W/2, 4C]."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H // 2, W // 2, 4 * C)


def unfold(x: Array) -> Array:
    """Invert `fold`."""
    B, H, W, C = x.shape
    x = x.reshape(B, H, W, 2, 2, C // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, 2 * H, 2 * W, C // 4)


# --- the flow ------------------------------------------------------------------------------------


def network(cfg: Any) -> CouplingNet:
    """Return the Config's network of a coupling, as a function of the number of outputs."""
    if len(cfg.shape) == 1:
        return partial(DenseNet, hidden=cfg.hidden)
    return partial(ConvNet, channels=cfg.hidden_channels, blocks=cfg.num_blocks)


class RealNVP(nn.Module):
    """The flow and its inverse.

    Attributes:
        cfg: of the model.
        net: (outputs) → a coupling's network; None: the Config's.
    """

    cfg: Any
    net: CouplingNet | None = None

    def setup(self) -> None:
        """Make the couplings of each level, from x to z."""
        cfg = self.cfg
        if len(cfg.shape) == 1:
            self.flat = self._couplings(checkerboard, halves)
            return
        levels = range(cfg.num_levels)
        self.before = [self._couplings(checkerboard) for _ in levels]  # folding
        self.after = [self._couplings(halves) for _ in levels]
        self.last = self._couplings(checkerboard, num=cfg.last_couplings)

    def _couplings(self, *kinds: Callable[..., np.ndarray], num: int = 0) -> list[nn.Module]:
        """Return couplings whose masks alternate with their complements; 0: num_couplings."""
        cfg, layers = self.cfg, []
        net = self.net or network(cfg)
        for i in range(num or cfg.num_couplings):
            mask = partial(kinds[i // 2 % len(kinds)], parity=i % 2)
            layers += [ActNorm()] if cfg.act_norm else []
            layers.append(Coupling(mask, net, cfg.scale_bound))
        return layers

    def to_z(self, x: Array) -> tuple[Array, Array]:
        """Map x [B, *shape] to z [B, D]; return z and ln |det ∂x/∂z| [B]."""
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
        """Map z [B, D] to x [B, *shape]; return x and ln |det ∂x/∂z| [B]."""
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


def split_shapes(cfg: Any) -> list[Shape]:
    """Return the shapes of the parts of z: one for each level of an image, and the remainder."""
    (H, W, C), shapes = cfg.shape, []
    for _ in range(cfg.num_levels):
        H, W, C = H // 2, W // 2, 2 * C
        shapes.append((H, W, C))
    return [*shapes, (H, W, C)]
