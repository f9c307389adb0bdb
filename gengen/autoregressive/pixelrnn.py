r"""PixelRNN: rows and diagonals of an image, read by long short-term memories.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, *Pixel Recurrent Neural Networks* (1601.06759). At
each place, with x the layer's input and h⁻ the states that come before,

    [o, f, i, g] = σ, σ, σ, tanh (K^ss * h⁻ + K^is * x),   c = f ⊙ c⁻ + i ⊙ g,   h = o ⊙ tanh c

Row LSTM: row by row from the top; K^ss is three wide over the row above, c⁻ that of the place
above. A pixel sees the triangle above it: what lies in the row above to the right of the first
layer's window stays hidden, as the paper says.

Diagonal BiLSTM: diagonal by diagonal, from the left upper corner and, mirrored, from the right;
K^ss is over the places to the left (the right) and above. The states from the right are moved one
row down before they are added, so that a pixel sees all that comes before it, and nothing else:
for this the right direction is told the image beside the layer's input. Of that alone, as printed,
mask A would keep the last pixel of a row from most of the next one.

Each layer adds a projection of its states to its input. Only products of matrices are inside the
scans: on a CPU the gradient of a convolution in a loop is dozens of times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import pixels
from gengen.autoregressive.conditionals import check_positive
from gengen.autoregressive.pixels import Conv, First, Last, channels_mask, pad
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(pixels.Config):
    """That of the family, and of the layers."""

    kind: str = "diagonal"  # or "row"
    features: int = 16  # of a state; the layers' input has twice as many
    layers: int = 4
    first: int = 7  # side of the first convolution's window, odd
    hidden: int = 32  # features of the last layer but one

    @staticmethod
    def paper() -> Config:
        """The paper's Diagonal BiLSTM for binary digits."""
        return Config(features=16, layers=7, hidden=32, batch_size=16)

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        check_positive(self, "features", "layers", "hidden")
        if self.kind not in LAYERS:
            raise InputError(f"Config.kind = {self.kind!r}, not one of {tuple(LAYERS)}")
        if self.first < 3 or self.first % 2 == 0:
            raise InputError(f"Config.first = {self.first}, but it is odd, 3 or more")
        for name in ("features", "hidden"):
            if getattr(self, name) % self.shape[2]:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)}, but the {self.shape[2]} channels "
                    "share them equally"
                )


def lstm(a: Array, c: Array) -> tuple[Array, Array]:
    """H and c [..., F] by the sums a [..., 4F] and the c⁻ before [..., F]."""
    o, f, i, g = jnp.split(a, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


class RowLSTM(nn.Module):
    """A layer's input x [B, H, W, 2F] → its states h [B, H, W, F]; it needs no image."""

    F: int
    channels: int

    def setup(self):
        self.K_is = Conv(4 * self.F, 1, 2, partial(channels_mask, channels=self.channels, gates=4))
        # Of three places side by side.
        self.K_ss = self.param("K_ss", nn.initializers.lecun_normal(), (3 * self.F, 4 * self.F))

    def state(self, h: Array) -> Array:
        """K^ss * h⁻ of a row [B, W, F]: [B, W, 4F]."""
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
    """A layer's input x [B, H, W, 2F], the image → both directions' states h [B, H, W, F]."""

    F: int
    channels: int

    def setup(self):
        self.from_left = Conv(
            4 * self.F, mask=partial(channels_mask, channels=self.channels, gates=4)
        )
        self.from_right = Conv(4 * self.F)  # a row above: all its channels are known
        # Of the place before, and of the one above.
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
    """States [B, H, W, F] along the diagonals from the left upper corner, by a [B, H, W, 4F]."""
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
    """[B, H, W, F] → the diagonals [H + W - 1, B, H, F]: row i is moved i places to the right."""
    B, H, W, F = a.shape
    wide = jnp.pad(a, ((0, 0), (0, 0), (0, H), (0, 0))).reshape(B, H * (W + H), F)
    return jnp.moveaxis(wide[:, : H * (W + H - 1)].reshape(B, H, W + H - 1, F), 2, 0)


def _unskew(a: Array, W: int) -> Array:
    """The inverse of `_skew`."""
    _, B, H, F = a.shape
    flat = jnp.moveaxis(a, 0, 2).reshape(B, H * (W + H - 1), F)
    return jnp.pad(flat, ((0, 0), (0, H), (0, 0))).reshape(B, H, W + H, F)[:, :, :W]


LAYERS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}


class PixelRNN(pixels.Network):
    """x [B, H, W, inputs] → η [B, H, W, C, parts]."""

    cfg: Config

    def setup(self):
        cfg, C = self.cfg, self.cfg.shape[2]
        known = partial(channels_mask, channels=C)
        self.first = First(2 * cfg.features, self.r, C)
        self.stack = [LAYERS[cfg.kind](cfg.features, C) for _ in range(cfg.layers)]
        self.up = [Conv(2 * cfg.features, mask=known) for _ in range(cfg.layers)]
        self.last = Last(cfg.hidden, C, pixels.head_of(cfg).parts)

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
        for layer, up, word, before in zip(self.stack, self.up, contexts, left, strict=True):
            h, next_left, keep = layer.pixel(word, before, x)
            x = x + up(h)
            after.append(next_left)
            kept.append(keep)
        return self.last(x), after, kept

    def finish(self, above: PyTree, kept: PyTree, row: Array) -> PyTree:
        each = zip(self.stack, above, kept, strict=True)
        return [layer.finish(h, keep, row) for layer, h, keep in each]


def network(cfg: Config) -> PixelRNN:
    """The network of a Config."""
    return PixelRNN(r=cfg.first // 2, cfg=cfg)


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """Ln p of images x [B, *shape]: [B], in nats; `key` of the binarisation."""
    return pixels.log_prob(cfg, network(cfg), variables, x, key, None)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    given: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Draw `num` images: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        given: images to complete, [num, *shape] or what broadcasts to it.
        mask: true where they are known, first rows first: see `conditionals.check_given`.
    """
    return pixels.sample(cfg, network(cfg), variables, key, num, given, mask)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb ln p(x); `tx` in the place of Adam. Metric: `loss`, nats per example."""
    return pixels.maximum_likelihood(cfg, network(cfg), tx)
