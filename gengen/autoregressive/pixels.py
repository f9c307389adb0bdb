r"""What the models of pixels have in common: rows from above, pixels from the left, then R, G, B.

    p(x) = Π_i Π_j Π_c p(x_ijc | all rows above, x_i,<j, x_ij,<c)

A network gives all conditionals of an image in one pass. A draw must go pixel by pixel, but not
through the whole network: what the rows above have to say is computed once a row, and of the row
itself only the new pixel. `Network` says what a network must be able to do for that, `draw` does
it, in one compiled program; `draw_by_passes` is the plain way, a pass for each dimension.
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

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import conditionals
from gengen.autoregressive.conditionals import BINARISE, check_given, check_positive, observed
from gengen.autoregressive.heads import Head, head, level
from gengen.types import LAYOUT, Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """What every model of pixels is told."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1]
    head: str = "bernoulli"  # of a pixel's channel; or "categorical", "logistic", "gaussian"
    binarise: str = "dynamic"  # or "threshold", for Bernoulli: see gengen.vae.vae
    levels: int = 256  # of a categorical head: -1, ..., 1
    components: int = 5  # of a mixture
    one_hot: bool = False  # the network is given levels as such: codes of an atlas, not of a scale

    batch_size: int = 50  # examples a step
    learning_rate: float = 1e-3  # of Adam
    ema_decay: float = 0.999  # a step; warmed up

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        check_positive(self, "batch_size", "learning_rate", "components")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C)")
        if self.binarise not in BINARISE:
            raise InputError(f"Config.binarise = {self.binarise!r}, not one of {BINARISE}")
        if self.levels < 2:
            raise InputError(f"Config.levels = {self.levels}, but there are at least 2")
        if self.one_hot and self.head != "categorical":
            raise InputError(f"Config.one_hot is of levels, but Config.head = {self.head!r}")
        head_of(self)


def head_of(cfg: Config) -> Head:
    """The distribution of one dimension."""
    return head(cfg.head, cfg.levels, cfg.components)


def seen(cfg: Config, x: Array, key: Key | None) -> Array:
    """What the likelihood is of: x, or a binary image ±1 for a Bernoulli head."""
    return observed(cfg.binarise, x, key) if cfg.head == "bernoulli" else x


def entered(cfg: Config, x: Array) -> Array:
    """What a network is given of x [..., C]: x, or one-hot, channel by channel, [..., C·K]."""
    if not cfg.one_hot:
        return x
    return jax.nn.one_hot(level(x, cfg.levels), cfg.levels).reshape(*x.shape[:-1], -1)


def inputs(cfg: Config) -> int:
    """How many numbers a network is given of a pixel."""
    return cfg.shape[2] * (cfg.levels if cfg.one_hot else 1)


# --- masked convolutions -------------------------------------------------------------------------


def channels_mask(
    given: int, out: int, channels: int, strict: bool = False, gates: int = 1
) -> np.ndarray:
    """Of features in `channels` equal groups, [given, out]: which group may know which.

    Args:
        given: features below.
        out: features above.
        channels: R, G, B: the groups.
        strict: mask A, to group c from those before it; else mask B, from itself as well.
        gates: how many times over the features above are in groups.
    """
    below = np.arange(given)[:, None] * channels // given
    above = np.tile(np.arange(out // gates) * channels * gates // out, gates)
    return (below < above if strict else below <= above).astype(np.float32)


class Conv(nn.Module):
    """A convolution without padding; `mask` [in, out] is on the last place of the kernel."""

    features: int
    rows: int = 1
    columns: int = 1
    mask: Callable[[int, int], np.ndarray] | None = None
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H + rows - 1, W + columns - 1, C] → [B, H, W, features]."""
        size = (self.rows, self.columns, x.shape[-1], self.features)
        W = self.param("W", nn.initializers.lecun_normal(), size)
        if self.mask is not None:
            W = W.at[-1, -1].multiply(self.mask(*size[2:]))
        if x.shape[1:3] == size[:2]:  # one place: a product of matrices
            y = (x.reshape(len(x), -1) @ W.reshape(-1, self.features))[:, None, None]
        elif size[:2] == (1, 1):
            y = x @ W[0, 0]
        else:
            y = jax.lax.conv_general_dilated(x, W, (1, 1), "VALID", dimension_numbers=LAYOUT)
        return y + self.param("b", nn.initializers.zeros, size[3:]) if self.bias else y


def pad(x: Array, top: int = 0, left: int = 0, right: int = 0) -> Array:
    """Zeros around images [B, H, W, C]."""
    return jnp.pad(x, ((0, 0), (top, 0), (left, right), (0, 0)))


class First(nn.Module):
    """The first layer, mask A: what a place may see within a window of (2r+1)²."""

    features: int
    r: int
    channels: int

    def setup(self):
        strict = partial(channels_mask, channels=self.channels, strict=True)
        self.rows_above = Conv(self.features, self.r, 2 * self.r + 1)
        self.pixels_left = Conv(self.features, 1, self.r + 1, strict)

    def above(self, x: Array) -> Array:
        """Of r rows and those below them but the last [B, r + H - 1, W, ...]: [B, H, W, F]."""
        return self.rows_above(pad(x, left=self.r, right=self.r))

    def left(self, x: Array) -> Array:
        """Of r columns and those to their right [B, H, r + W, ...]: [B, H, W, F]."""
        return self.pixels_left(x)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Whole images [B, H, W, ...]: both, [B, H, W, F]."""
        return self.above(pad(x[:, :-1], top=self.r)), self.left(pad(x, left=self.r))


class Last(nn.Module):
    """Two layers of 1 x 1 and mask B, to the head's numbers [B, H, W, C, parts]."""

    features: int
    channels: int
    parts: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        known = partial(channels_mask, channels=self.channels)
        h = Conv(self.features, mask=known, name="hidden")(nn.relu(h))
        eta = Conv(self.channels * self.parts, mask=known, name="out")(nn.relu(h))
        return eta.reshape(*eta.shape[:3], self.channels, self.parts)


# --- drawing -------------------------------------------------------------------------------------


class Network(nn.Module):
    """A network of pixels, x [B, H, W, inputs] → η [B, H, W, C, parts], and its parts for a draw.

    `above` is what it must keep of the rows above, `left` of the pixels to the left in each layer;
    of the pixels themselves `draw` keeps the last r rows and columns.
    """

    r: int

    def start(self, num: int, columns: int) -> tuple[PyTree, PyTree]:
        """`above` of the first row, and `left` of every row's first pixel."""
        raise NotImplementedError

    def row(self, above: PyTree, rows: Array, y: Array | None) -> tuple[PyTree, PyTree]:
        """What the rows above say of a row, [B, 1, W, ...] each; and what is kept of it.

        Args:
            above: of the rows above.
            rows: the last r of the image, [B, r, W, inputs].
            y: the condition, [B, classes].
        """
        raise NotImplementedError

    def pixel(self, context: PyTree, left: PyTree, pixels: Array) -> tuple[Array, PyTree, PyTree]:
        """One pixel's η [B, 1, 1, C, parts], the next `left`, and what `finish` wants of it.

        Args:
            context: of its column, from `row`, [B, 1, 1, ...] each.
            left: of the pixels to its left.
            pixels: the last r and itself, [B, 1, r + 1, inputs].
        """
        raise NotImplementedError

    def finish(self, above: PyTree, kept: PyTree, row: Array) -> PyTree:
        """`above` of the next row, by what `pixel` kept and the row [B, 1, W, ...] that is done."""
        raise NotImplementedError


def draw(
    cfg: Config, net: Network, variables: PyTree, u: Array, x: Array, known: Array, y: Array | None
) -> Array:
    """Images [B, H, W, C] that are x where known, by uniform u [B, H, W, C, 2]."""
    (num, _, columns, channels), r = x.shape, net.r
    apply: Any = partial(net.apply, variables)
    enter, draw_one = partial(entered, cfg), head_of(cfg).draw

    def pixel(carry: tuple[PyTree, Array], now: tuple[PyTree, Array, Array, Array]):
        (left, before), (context, u, x, known) = carry, now
        out, after, kept = jnp.zeros_like(x), left, ()
        for c in range(channels):  # a channel changes what the next ones see, and nothing else
            window = jnp.concatenate([before, enter(out)[:, None, None]], axis=2)
            eta, after, kept = apply(context, left, window, method="pixel")
            new = jnp.where(known[:, c], x[:, c], draw_one(u[:, c], eta[:, 0, 0, c]))
            out = out.at[:, c].set(new)
        window = jnp.concatenate([before, enter(out)[:, None, None]], axis=2)
        return (after, window[:, :, 1:]), (out, kept)

    def row(carry: tuple[PyTree, Array], now: tuple[Array, ...]):
        above, rows = carry
        context, above = apply(above, rows, y, method="row")
        u, x, known = (jnp.moveaxis(a, 1, 0) for a in now)
        each, before = (_split(context), u, x, known), jnp.zeros((num, 1, r, inputs(cfg)))
        _, (out, kept) = jax.lax.scan(pixel, (left, before), each)
        out = jnp.moveaxis(out, 0, 1)
        done = enter(out)[:, None]
        above = apply(above, _join(kept), done, method="finish")
        rows = jnp.concatenate([rows, done], axis=1)[:, 1:]
        return (above, rows), out

    above, left = apply(num, columns, method="start")
    start = above, jnp.zeros((num, r, columns, inputs(cfg)))
    each = tuple(jnp.moveaxis(a, 1, 0) for a in (u, x, known))
    return jnp.moveaxis(jax.lax.scan(row, start, each)[1], 0, 1)


def _split(tree: PyTree) -> PyTree:
    """[B, 1, W, ...] → [W, B, 1, 1, ...]."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 2, 0)[:, :, :, None], tree)


def _join(tree: PyTree) -> PyTree:
    """[W, B, 1, 1, ...] → [B, 1, W, ...]."""
    return jax.tree.map(lambda a: jnp.moveaxis(a[:, :, :, 0], 0, 2), tree)


def draw_by_passes(
    cfg: Config, net: Network, variables: PyTree, u: Array, x: Array, known: Array, y: Array | None
) -> Array:
    """What `draw` gives, by a pass of the whole network for each dimension."""
    shape, draw_one = x.shape[1:], head_of(cfg).draw

    def step(i: Array, out: Array) -> Array:
        place = (slice(None), *jnp.unravel_index(i, shape))
        eta: Any = net.apply(variables, entered(cfg, out), y)
        return out.at[place].set(jnp.where(known[place], x[place], draw_one(u[place], eta[place])))

    return jax.lax.fori_loop(0, int(np.prod(shape)), step, jnp.zeros_like(x))


# --- what such a network can do ------------------------------------------------------------------


def log_prob(
    cfg: Config, net: Network, variables: PyTree, x: ArrayLike, key: Key | None, y: Array | None
) -> Array:
    """Ln p(x|y) of images x [B, *shape]: [B], in nats; binarised by a fixed draw without a key."""
    key = jax.random.key(0) if key is None else key
    x = seen(cfg, check_shape({"x": x}, cfg.shape), key)
    return _log_prob(cfg, net, variables, x, y)


@jax.jit(static_argnums=(0, 1))
def _log_prob(cfg: Config, net: Network, variables: PyTree, x: Array, y: Array | None) -> Array:
    eta: Any = net.apply(variables, entered(cfg, x), y)
    return dist.total(head_of(cfg).log_p(x, eta))


def sample(
    cfg: Config,
    net: Network,
    variables: PyTree,
    key: Key,
    num: int,
    given: ArrayLike | None,
    mask: ArrayLike | None,
    y: Array | None = None,
    fast: bool = True,
) -> Array:
    """Draw `num` images in [-1, 1], float32 [num, *shape], as `given` where `mask` is true."""
    x, known = check_given(cfg.shape, num, given, mask, np.arange(np.prod(cfg.shape)))
    see_key, key = jax.random.split(key)
    x = seen(cfg, x.astype(jnp.float32), see_key)
    return jnp.clip(_sample(cfg, net, variables, key, x, known, y, fast), -1, 1)


@jax.jit(static_argnums=(0, 1, 7))
def _sample(
    cfg: Config, net: Network, variables: PyTree, key: Key, x: Array, known: Array,
    y: Array | None, fast: bool,
) -> Array:  # fmt: skip
    u = rng.uniform(key, (*x.shape, 2))
    return (draw if fast else draw_by_passes)(cfg, net, variables, u, x, known, y)


def maximum_likelihood(
    cfg: Config,
    net: Network,
    tx: optax.GradientTransformation | None,
    condition: Callable[[Batch], Array | None] = lambda batch: None,
) -> Method:
    """Climb the mean of ln p; Adam if `tx` is None. Metric: `loss`, nats per example."""

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)
        y = condition(batch)
        return net.init(key, entered(cfg, x[:1]), None if y is None else y[:1])

    def log_p(variables: PyTree, key: Key, batch: Batch) -> Array:
        x = seen(cfg, check_shape(batch, cfg.shape), key)
        return _log_prob(cfg, net, variables, x, condition(batch))

    return conditionals.maximum_likelihood(cfg, init_variables, log_p, tx)
