r"""Masked networks of pixels: rows from the top, pixels from the left, then R, G, B.

    p(x) = Π_i Π_j Π_c p(x_ijc | all rows above, x_i,<j, x_ij,<c)

A network gives all conditionals of an image in one pass. Sampling goes pixel by pixel, but does not
need a full pass for each: the contribution of the rows above is computed once per row, and within
the row only the new pixel. `Network` defines the methods that a network needs for this,
`sample_by_pixels` uses them in one compiled program, and `sample_by_passes` is the plain way, with
a full pass for each dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import conditionals
from gengen.autoregressive.conditionals import BINARISE, check_observation, check_positive
from gengen.autoregressive.heads import Head, head, level
from gengen.contract import Task, require_num
from gengen.optim import OptimizerConfig
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """What every model of pixels has."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1]
    head: str = "bernoulli"  # of each dimension; or "categorical", "logistic", "gaussian"
    binarise: str = "dynamic"  # or "threshold", for "bernoulli": see `gengen.distributions`
    intensity_levels: int = 256  # of a categorical head: -1, ..., 1
    num_components: int = 5  # of a mixture
    one_hot: bool = False  # whether levels enter the network one-hot: codes, which have no order

    batch_size: int = 50  # examples per step
    learning_rate: float = 1e-3  # of the optimiser
    ema_decay: float = 0.999  # of the parameters' average, per step; warmed up

    RENAMED: ClassVar[dict[str, str | None]] = {
        "levels": "intensity_levels", "components": "num_components",
    }  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        check_positive(self, "batch_size", "learning_rate", "num_components")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C)")
        if self.binarise not in BINARISE:
            raise InputError(f"Config.binarise = {self.binarise!r}; it must be one of {BINARISE}")
        if self.intensity_levels < 2:
            raise InputError(
                f"Config.intensity_levels = {self.intensity_levels}; it must be at least 2"
            )
        if self.one_hot and self.head != "categorical":
            raise InputError(
                f"Config.one_hot needs head = 'categorical', but Config.head = {self.head!r}"
            )
        head_of(self)

    def check_features(self, *names: str) -> None:
        """Check that the image's channels share the features of each of these fields equally."""
        check_positive(self, *names)
        for name in names:
            if getattr(self, name) % self.shape[2]:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)}; it must be a multiple of the "
                    f"{self.shape[2]} channels of Config.shape"
                )

    def check_odd(self, *names: str) -> None:
        """Check that the sides of windows are odd, and at least 3."""
        for name in names:
            if getattr(self, name) < 3 or getattr(self, name) % 2 == 0:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)}; it must be odd and at least 3"
                )

    @classmethod
    def for_image(cls, task: Task, **fields: Any) -> Self:
        """Return a Config for images of any number of channels.

        Images of one channel are binarised. Others have 8-bit pixels, a mixture of logistics.

        Args:
            task: the data.
            **fields: of the Config; numbers of features are rounded up to a multiple of the
                channels.

        Raises:
            InputError: for vectors.
        """
        if len(task.shape) != 3:
            raise InputError(
                "this model needs images (H, W, C); vectors are modelled by realnvp, flow_gan, gmm "
                "and ppca, binary vectors by made, nade and fvsbn"
            )
        channels = task.shape[2]
        for name in ("hidden_channels", "head_channels"):
            fields[name] = -(-fields[name] // channels) * channels
        head = "bernoulli" if channels == 1 else "logistic"
        return cls(shape=task.shape, head=head, **fields)


def head_of(cfg: Config) -> Head:
    """Return the distribution of one dimension."""
    return head(cfg.head, cfg.intensity_levels, cfg.num_components)


def observed(cfg: Config, x: Array, key: Key | None) -> Array:
    """Return the data of the likelihood: x, or a binary image ±1 for a Bernoulli head."""
    if cfg.head != "bernoulli":
        return x
    return conditionals.observed(cfg.binarise, x, key)


def network_input(cfg: Config, x: Array) -> Array:
    """Return a network's input for x [..., C]: x, or its levels one-hot, [..., C·K]."""
    if not cfg.one_hot:
        return x
    levels = cfg.intensity_levels
    return jax.nn.one_hot(level(x, levels), levels).reshape(*x.shape[:-1], -1)


def num_inputs(cfg: Config) -> int:
    """Return the number of a network's inputs per pixel."""
    return cfg.shape[2] * (cfg.intensity_levels if cfg.one_hot else 1)


# --- sampling ------------------------------------------------------------------------------------


class Network(nn.Module):
    """A network of pixels, (x [B, H, W, inputs], y) → η [B, H, W, C, parts], and its parts.

    y are one-hot labels [B, num_classes], or None. The other methods do the same step by step, for
    `sample_by_pixels`. `above` is the state of the rows above, `left` that of the pixels to the
    left in each layer; the sampler itself keeps the last r rows and columns of pixels.

    Attributes:
        r: radius of the first layer's window.
    """

    r: int

    def start(self, num: int, columns: int) -> tuple[PyTree, PyTree]:
        """Return `above` of the first row, and `left` of each row's first pixel."""
        raise NotImplementedError

    def row(self, above: PyTree, rows: Array, y: Array | None) -> tuple[PyTree, PyTree]:
        """Return the context of a row from the rows above, [B, 1, W, ...] each; and its state.

        Args:
            above: of the rows above.
            rows: the last r of the image, [B, r, W, inputs].
            y: one-hot labels [B, num_classes], or None.
        """
        raise NotImplementedError

    def pixel(self, context: PyTree, left: PyTree, pixels: Array) -> tuple[Array, PyTree, PyTree]:
        """Return a pixel's η [B, 1, 1, C, parts], the next `left`, and what `finish` needs.

        Args:
            context: of the pixel's column, from `row`, [B, 1, 1, ...] each.
            left: state of the pixels to the left.
            pixels: the last r pixels and this one, [B, 1, r + 1, inputs].
        """
        raise NotImplementedError

    def finish(self, above: PyTree, kept: PyTree, row: Array) -> PyTree:
        """Return `above` of the next row, from what `pixel` kept and the row [B, 1, W, ...]."""
        raise NotImplementedError


def sample_by_pixels(
    cfg: Config, net: Network, variables: PyTree, u: Array, x: Array, known: Array, y: Array | None
) -> Array:
    """Return images [B, H, W, C] that are x where known, by uniform u [B, H, W, C, 2]."""
    (num, _, columns, channels), r = x.shape, net.r
    apply: Any = partial(net.apply, variables)
    enter, sample_one = partial(network_input, cfg), head_of(cfg).sample

    def pixel(carry: tuple[PyTree, Array], now: tuple[PyTree, Array, Array, Array]):
        (left, before), (context, u, x, known) = carry, now
        out, after, kept = jnp.zeros_like(x), left, ()
        for c in range(channels):  # a channel is an input of the next ones only
            window = jnp.concatenate([before, enter(out)[:, None, None]], axis=2)
            eta, after, kept = apply(context, left, window, method="pixel")
            new = jnp.where(known[:, c], x[:, c], sample_one(u[:, c], eta[:, 0, 0, c]))
            out = out.at[:, c].set(new)
        window = jnp.concatenate([before, enter(out)[:, None, None]], axis=2)
        return (after, window[:, :, 1:]), (out, kept)

    def row(carry: tuple[PyTree, Array], now: tuple[Array, ...]):
        above, rows = carry
        context, above = apply(above, rows, y, method="row")
        u, x, known = (jnp.moveaxis(a, 1, 0) for a in now)
        each, before = (_split(context), u, x, known), jnp.zeros((num, 1, r, num_inputs(cfg)))
        _, (out, kept) = jax.lax.scan(pixel, (left, before), each)
        out = jnp.moveaxis(out, 0, 1)
        done = enter(out)[:, None]
        above = apply(above, _join(kept), done, method="finish")
        rows = jnp.concatenate([rows, done], axis=1)[:, 1:]
        return (above, rows), out

    above, left = apply(num, columns, method="start")
    start = above, jnp.zeros((num, r, columns, num_inputs(cfg)))
    each = tuple(jnp.moveaxis(a, 1, 0) for a in (u, x, known))
    return jnp.moveaxis(jax.lax.scan(row, start, each)[1], 0, 1)


def _split(tree: PyTree) -> PyTree:
    """[B, 1, W, ...] → [W, B, 1, 1, ...]."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 2, 0)[:, :, :, None], tree)


def _join(tree: PyTree) -> PyTree:
    """[W, B, 1, 1, ...] → [B, 1, W, ...]."""
    return jax.tree.map(lambda a: jnp.moveaxis(a[:, :, :, 0], 0, 2), tree)


def sample_by_passes(
    cfg: Config, net: Network, variables: PyTree, u: Array, x: Array, known: Array, y: Array | None
) -> Array:
    """Return what `sample_by_pixels` does, by a pass of the whole network for each dimension."""
    shape, sample_one = x.shape[1:], head_of(cfg).sample

    def step(i: Array, out: Array) -> Array:
        place = (slice(None), *jnp.unravel_index(i, shape))
        eta: Any = net.apply(variables, network_input(cfg, out), y)
        return out.at[place].set(
            jnp.where(known[place], x[place], sample_one(u[place], eta[place]))
        )

    return jax.lax.fori_loop(0, int(np.prod(shape)), step, jnp.zeros_like(x))


# --- functions of a network ----------------------------------------------------------------------


def log_prob(
    cfg: Config, net: Network, variables: PyTree, x: ArrayLike, key: Key | None, y: Array | None
) -> Array:
    """Return ln p(x|y) of images x [B, *shape]: [B], in nats; key None: a fixed binarisation."""
    key = jax.random.key(0) if key is None else key
    x = observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return _log_prob(cfg, net, variables, x, y)


@jit(0, 1, often=False)
def _log_prob(cfg: Config, net: Network, variables: PyTree, x: Array, y: Array | None) -> Array:
    eta: Any = net.apply(variables, network_input(cfg, x), y)
    return dist.total(head_of(cfg).log_p(x, eta))


def sample(
    cfg: Config,
    net: Network,
    variables: PyTree,
    key: Key,
    num: int,
    observation: ArrayLike | None,
    mask: ArrayLike | None,
    y: Array | None = None,
    fast: bool = True,
) -> Array:
    """Return images in [-1, 1], float32 [num, *shape], equal to `observation` where masked."""
    require_num(num)
    order = np.arange(np.prod(cfg.shape))
    x, known = check_observation(cfg.shape, num, observation, mask, order)
    see_key, key = jax.random.split(key)
    x = observed(cfg, x.astype(jnp.float32), see_key)
    return jnp.clip(_sample(cfg, net, variables, key, x, known, y, fast), -1, 1)


@jit(0, 1, 7, often=False)
def _sample(
    cfg: Config, net: Network, variables: PyTree, key: Key, x: Array, known: Array,
    y: Array | None, fast: bool,
) -> Array:  # fmt: skip
    u = rng.uniform(key, (*x.shape, 2))
    return (sample_by_pixels if fast else sample_by_passes)(cfg, net, variables, u, x, known, y)


def maximum_likelihood(
    cfg: Config,
    net: Network,
    tx: optax.GradientTransformation | None,
    labels: Callable[[Batch], Array | None] = lambda batch: None,
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        net: its network.
        tx: the optimiser; None: the Config's.
        labels: batch → one-hot labels [B, num_classes], or None.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)
        y = labels(batch)
        return net.init(key, network_input(cfg, x[:1]), None if y is None else y[:1])

    def log_p(variables: PyTree, key: Key, batch: Batch) -> Array:
        x = observed(cfg, check_shape(batch, cfg.shape), key)
        return _log_prob(cfg, net, variables, x, labels(batch))

    return conditionals.maximum_likelihood(cfg, init_variables, log_p, tx)
