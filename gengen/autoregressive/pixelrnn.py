r"""PixelRNN: long short-term memories over the rows or diagonals of an image.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, *Pixel Recurrent Neural Networks* (1601.06759). With
a layer's input x and the preceding states h⁻, c⁻ of each place,

    [o, f, i, g] = σ, σ, σ, tanh (K^ss * h⁻ + K^is * x),   c = f ⊙ c⁻ + i ⊙ g,   h = o ⊙ tanh c

Row LSTM: row by row from the top; K^ss is a convolution of width 3 over the row above, and c⁻ is
that of the place above. A pixel depends on the triangle above it: pixels of the row above to the
right of the first layer's window are not used, as in the paper.

Diagonal BiLSTM: diagonal by diagonal, from the upper left corner and, mirrored, from the upper
right; K^ss acts on the places to the left (right) and above. The states from the right are shifted
down by a row before they are added, so that a pixel depends on all earlier pixels and no others.
For this the right direction gets the image besides the layer's input: with the input alone, as in
the paper, mask A would hide the last pixel of a row from most of the next one.

Each layer adds a projection of its states to its input. Only matrix products are inside the scans:
on a CPU the gradient of a convolution in a loop is dozens of times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import pixels
from gengen.autoregressive.conditionals import check_positive
from gengen.autoregressive.masked import Conv, First, Last, channels_mask, pad
from gengen.contract import Task, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = ["Config", "PixelRNN", "condition_of", "log_prob", "method", "network", "sample"]

LOG_PROB = "exact"  # of the binarised image, with a Bernoulli head


@dataclass(frozen=True)
class Config(pixels.Config):
    """The fields of `pixels.Config`, and the layers."""

    layer_type: str = "diagonal"  # or "row"
    hidden_channels: int = 16  # of a state; a layer's input has twice as many
    num_layers: int = 4  # recurrent layers
    first_kernel_size: int = 7  # side of the first convolution's window, in pixels, odd
    head_channels: int = 32  # of the last layer but one; a multiple of the image's channels

    RENAMED: ClassVar[dict[str, str | None]] = {
        "kind": "layer_type", "features": "hidden_channels", "layers": "num_layers",
        "first": "first_kernel_size", "hidden": "head_channels",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's Diagonal BiLSTM for binary MNIST.

        The paper trains by RMSProp at rates set by hand, which it does not state. The right
        direction differs as said above.
        """
        return cls(
            shape=(28, 28, 1), layer_type="diagonal", hidden_channels=16, num_layers=7,
            head_channels=32, batch_size=16, optimizer="rmsprop", ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given images, as in `experiments/binary_likelihoods.py`."""
        return cls.for_image(
            task, hidden_channels=16, num_layers=2, head_channels=32, learning_rate=5e-3
        )

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        check_positive(self, "num_layers")
        if self.layer_type not in LAYERS:
            raise InputError(
                f"Config.layer_type = {self.layer_type!r}; it must be one of {tuple(LAYERS)}"
            )
        self.check_odd("first_kernel_size")
        self.check_features("hidden_channels", "head_channels")


def lstm(a: Array, c: Array) -> tuple[Array, Array]:
    """Return h and c [..., F] for the sums a [..., 4F] and the preceding c⁻ [..., F]."""
    o, f, i, g = jnp.split(a, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


class RowLSTM(nn.Module):
    """A layer: input x [B, H, W, 2F] → states h [B, H, W, F]; the image is unused."""

    F: int
    channels: int

    def setup(self):
        self.K_is = Conv(4 * self.F, 1, 2, partial(channels_mask, channels=self.channels, gates=4))
        # For three adjacent places.
        self.K_ss = self.param("K_ss", nn.initializers.lecun_normal(), (3 * self.F, 4 * self.F))

    def state(self, h: Array) -> Array:
        """Return K^ss * h⁻ of a row [B, W, F]: [B, W, 4F]."""
        wide = jnp.pad(h, ((0, 0), (1, 1), (0, 0)))
        return jnp.concatenate([wide[:, :-2], h, wide[:, 2:]], axis=-1) @ self.K_ss

    def __call__(self, x: Array, image: Array) -> Array:
        def row(carry: tuple[Array, Array], a: Array):
            h, c = carry
            carry = lstm(a + self.state(h), c)
            return carry, carry[0]

        a = jnp.moveaxis(self.K_is(pad(x, left=1)), 1, 0)
        none = jnp.zeros((*a.shape[1:3], self.F))
        return jnp.moveaxis(jax.lax.scan(row, (none, none), a)[1], 0, 1)

    # Row by row and pixel by pixel: `above` is (h, c) of the row above, `left` the input there.

    def start(self, num: int, columns: int) -> tuple[PyTree, PyTree]:
        none = jnp.zeros((num, 1, columns, self.F))
        return (none, none), jnp.zeros((num, 1, 1, 2 * self.F))

    def row(self, above: PyTree) -> PyTree:
        h, c = above
        return self.state(h[:, 0])[:, None], c

    def pixel(self, context: PyTree, left: PyTree, x: Array) -> tuple[Array, PyTree, PyTree]:
        state, c = context
        h, c = lstm(self.K_is(jnp.concatenate([left, x], axis=2)) + state, c)
        return h, x, (h, c)

    def finish(self, above: PyTree, kept: PyTree, image: Array) -> PyTree:
        return kept


class DiagonalBiLSTM(nn.Module):
    """A layer: input x [B, H, W, 2F] and image → sum of both directions' states [B, H, W, F]."""

    F: int
    channels: int

    def setup(self):
        self.from_left = Conv(
            4 * self.F, mask=partial(channels_mask, channels=self.channels, gates=4)
        )
        self.from_right = Conv(4 * self.F)  # of a row above, with all channels
        # For the preceding place, and the one above.
        size, normal = (2 * self.F, 4 * self.F), nn.initializers.lecun_normal()
        self.K_left = self.param("K_left", normal, size)
        self.K_right = self.param("K_right", normal, size)

    def __call__(self, x: Array, image: Array) -> Array:
        left = _sweep(self.from_left(x), self.K_left)
        a = self.from_right(jnp.concatenate([x, image], axis=-1))
        right = _sweep(a[:, :, ::-1], self.K_right)[:, :, ::-1]
        return left + pad(right, top=1)[:, :-1]

    # Row by row and pixel by pixel: `above` is h of both directions in the row above, `left` (h, c)
    # of the pixel to the left.

    def start(self, num: int, columns: int) -> tuple[PyTree, PyTree]:
        none = jnp.zeros((num, 1, columns, self.F))
        return (none, none), (none[:, :, :1], none[:, :, :1])

    def row(self, above: PyTree) -> PyTree:
        h, right = above
        return h @ self.K_left[self.F :], right

    def pixel(self, context: PyTree, left: PyTree, x: Array) -> tuple[Array, PyTree, PyTree]:
        (state, right), (h, c) = context, left
        h, c = lstm(self.from_left(x) + state + h @ self.K_left[: self.F], c)
        return h + right, (h, c), (h, x)

    def finish(self, above: PyTree, kept: PyTree, image: Array) -> PyTree:
        (_, right), (h, x) = above, kept
        a = self.from_right(jnp.concatenate([x, image], axis=-1))
        a = a + right @ self.K_right[self.F :]

        def step(carry: tuple[Array, Array], a: Array):
            h, c = carry
            carry = lstm(a + h @ self.K_right[: self.F], c)
            return carry, carry[0]

        none = jnp.zeros((len(h), self.F))
        _, right = jax.lax.scan(step, (none, none), jnp.moveaxis(a[:, 0], 1, 0), reverse=True)
        return h, jnp.moveaxis(right, 0, 1)[:, None]


def _sweep(a: Array, K: Array) -> Array:
    """Return states [B, H, W, F] along the diagonals from the upper left, for a [B, H, W, 4F]."""
    _, H, W, width = a.shape
    inside = _skew(jnp.ones((1, H, W, 1)))  # no state outside of the image

    def diagonal(carry: tuple[Array, Array], now: tuple[Array, Array]):
        (h, c), (a, inside) = carry, now
        above = jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        h, c = lstm(a + jnp.concatenate([h, above], axis=-1) @ K, c)
        return (h * inside, c * inside), h

    none = jnp.zeros((len(a), H, width // 4))
    h = jax.lax.scan(diagonal, (none, none), (_skew(a), inside))[1]
    return _unskew(h, W)


def _skew(a: Array) -> Array:
    """Return the diagonals [H + W - 1, B, H, F] of [B, H, W, F]: row i is shifted right by i."""
    B, H, W, F = a.shape
    wide = jnp.pad(a, ((0, 0), (0, 0), (0, H), (0, 0))).reshape(B, H * (W + H), F)
    return jnp.moveaxis(wide[:, : H * (W + H - 1)].reshape(B, H, W + H - 1, F), 2, 0)


def _unskew(a: Array, W: int) -> Array:
    """Invert `_skew`."""
    _, B, H, F = a.shape
    flat = jnp.moveaxis(a, 0, 2).reshape(B, H * (W + H - 1), F)
    return jnp.pad(flat, ((0, 0), (0, H), (0, 0))).reshape(B, H, W + H, F)[:, :, :W]


LAYERS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}


class PixelRNN(pixels.Network):
    """The network: x [B, H, W, inputs] → η [B, H, W, C, parts]."""

    cfg: Config

    def setup(self):
        cfg, C = self.cfg, self.cfg.shape[2]
        known = partial(channels_mask, channels=C)
        self.first = First(2 * cfg.hidden_channels, self.r, C)
        layers, F = range(cfg.num_layers), cfg.hidden_channels
        self.stack = [LAYERS[cfg.layer_type](F, C) for _ in layers]
        self.up = [Conv(2 * F, mask=known) for _ in layers]
        self.last = Last(cfg.head_channels, C, pixels.head_of(cfg).parts)

    def __call__(self, x: Array, y: Array | None = None) -> Array:
        image, (above, left) = x, self.first(x)
        x = above + left
        for layer, up in zip(self.stack, self.up, strict=True):
            x = x + up(layer(x, image))
        return self.last(x)

    def start(self, num: int, columns: int) -> tuple[PyTree, PyTree]:
        each = [layer.start(num, columns) for layer in self.stack]
        return [above for above, _ in each], [left for _, left in each]

    def row(self, above: PyTree, rows: Array, y: Array | None) -> tuple[PyTree, PyTree]:
        each = [layer.row(h) for layer, h in zip(self.stack, above, strict=True)]
        return (self.first.above(rows), each), above

    def pixel(self, context: PyTree, left: PyTree, pixels: Array) -> tuple[Array, PyTree, PyTree]:
        above, contexts = context
        x, after, kept = above + self.first.left(pixels), [], []
        for layer, up, mine, before in zip(self.stack, self.up, contexts, left, strict=True):
            h, next_left, keep = layer.pixel(mine, before, x)
            x = x + up(h)
            after.append(next_left)
            kept.append(keep)
        return self.last(x), after, kept

    def finish(self, above: PyTree, kept: PyTree, row: Array) -> PyTree:
        each = zip(self.stack, above, kept, strict=True)
        return [layer.finish(h, keep, row) for layer, h, keep in each]


def network(cfg: Config) -> PixelRNN:
    """Return the network of a Config."""
    return PixelRNN(r=cfg.first_kernel_size // 2, cfg=cfg)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: pixels.Network | None = None,
) -> Array:
    """Return ln p of images x [B, *shape]: [B], in nats; key None: a fixed binarisation."""
    refuse_condition(condition)
    return pixels.log_prob(cfg, net or network(cfg), variables, x, key, None)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: pixels.Network | None = None,
    observation: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Return `num` images: float32 [num, *shape], in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise.
        num: number of samples.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
        observation: images to complete, [num, *shape] or broadcastable to it.
        mask: true where they are observed, upper rows first: see `conditionals.check_observation`.
    """
    refuse_condition(condition)
    return pixels.sample(cfg, net or network(cfg), variables, key, num, observation, mask)


def method(
    cfg: Config,
    tx: optax.GradientTransformation | None = None,
    net: pixels.Network | None = None,
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a `pixels.Network` instead of the Config's: see `pixelcnn.method`.
    """
    return pixels.maximum_likelihood(cfg, net or network(cfg), tx)
