r"""PixelCNN, gated: two stacks of masked convolutions, of the rows above and of the pixels left.

van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders* (1606.05328). The
vertical stack v sees all rows above, the horizontal one h the pixels to the left and, at each
layer, v: nothing that comes before a pixel is hidden from it (the first PixelCNN, 1601.06759, had
a blind spot). In both stacks and for a class y

    tanh(W_f * v + V_f y) ⊙ σ(W_g * v + V_g y)

and h is added to what its layer makes of it. Features are in groups of R, G and B: the first layer
of h has mask A (a group sees the channels before its own), all others mask B (and its own).

A draw computes v once a row and h once a pixel: the cached activations of Ramachandran et al. 2017
(1704.06001). The model also serves maps of codes: a categorical head, one-hot.
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
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, data_of


@dataclass(frozen=True)
class Config(pixels.Config):
    """That of the family, and of the layers."""

    features: int = 24  # of each stack; a multiple of the image's channels
    layers: int = 6  # gated, after the first
    first: int = 7  # side of the first layer's window, odd
    kernel: int = 3  # of the others', odd
    hidden: int = 48  # features of the last layer but one
    classes: int = 0  # of y, the batch's "label"; 0: none is asked

    @staticmethod
    def paper() -> Config:
        """The paper's on 32 × 32 colour images, of 256 levels."""
        return Config(
            shape=(32, 32, 3), head="categorical", features=384, layers=15, kernel=5, hidden=1536,
            batch_size=128, learning_rate=1e-4,
        )  # fmt: skip

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        check_positive(self, "features", "layers", "hidden")
        for name in ("first", "kernel"):
            if getattr(self, name) < 3 or getattr(self, name) % 2 == 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is odd, 3 or more")
        for name in ("features", "hidden"):
            if getattr(self, name) % self.shape[2]:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)}, but the {self.shape[2]} channels "
                    "share them equally"
                )
        if self.classes < 0:
            raise InputError(f"Config.classes = {self.classes}, but it is at least 0")


def gate(a: Array) -> Array:
    """Tanh of one half of the features times σ of the other: [..., 2F] → [..., F]."""
    f, g = jnp.split(a, 2, axis=-1)
    return jnp.tanh(f) * jax.nn.sigmoid(g)


class Layer(nn.Module):
    """A gated layer of both stacks."""

    F: int
    r: int
    channels: int

    def setup(self):
        known = partial(channels_mask, channels=self.channels)
        both = partial(known, gates=2)
        self.down = Conv(2 * self.F, self.r + 1, 2 * self.r + 1)
        self.right = Conv(2 * self.F, 1, self.r + 1, both)
        self.link = Conv(2 * self.F, bias=False)
        self.merge = Conv(self.F, mask=known)
        self.V_down = nn.Dense(2 * self.F, use_bias=False)
        self.V_right = nn.Dense(2 * self.F, use_bias=False)

    def vertical(self, v: Array, y: Array | None) -> tuple[Array, Array]:
        """Rows [B, r + H, W, F], the first r for their sake alone → v and v's word to h."""
        a = self.down(pad(v, left=self.r, right=self.r))
        word = self.link(a)
        if y is not None:
            a, word = a + self.V_down(y)[:, None, None], word + self.V_right(y)[:, None, None]
        return gate(a), word

    def horizontal(self, h: Array, word: Array) -> Array:
        """Columns [B, H, r + W, F], the first r for their sake alone → [B, H, W, F]."""
        return h[:, :, self.r :] + self.merge(gate(self.right(h) + word))


class PixelCNN(pixels.Network):
    """x [B, H, W, inputs] → η [B, H, W, C, parts]."""

    cfg: Config

    def setup(self):
        cfg, C = self.cfg, self.cfg.shape[2]
        self.first = First(cfg.features, self.r, C)
        self.stack = [Layer(cfg.features, cfg.kernel // 2, C) for _ in range(cfg.layers)]
        self.last = Last(cfg.hidden, C, pixels.head_of(cfg).parts)

    def __call__(self, x: Array, y: Array | None = None) -> Array:
        v, h = self.first(x)
        for layer in self.stack:
            v, word = layer.vertical(pad(v, top=layer.r), y)
            h = layer.horizontal(pad(h, left=layer.r), word)
        return self.last(h)

    def start(self, num: int, columns: int) -> tuple[list[Array], list[Array]]:
        above = [jnp.zeros((num, layer.r, columns, layer.F)) for layer in self.stack]
        return above, [jnp.zeros((num, 1, layer.r, layer.F)) for layer in self.stack]

    def row(self, above: list[Array], rows: Array, y: Array | None) -> tuple[PyTree, list[Array]]:
        v, words, keep = self.first.above(rows), [], []
        for layer, before in zip(self.stack, above, strict=True):
            window = jnp.concatenate([before, v], axis=1)
            keep.append(window[:, 1:])
            v, word = layer.vertical(window, y)
            words.append(word)
        return words, keep

    def pixel(
        self, context: list[Array], left: list[Array], pixels: Array
    ) -> tuple[Array, list[Array], PyTree]:
        h, keep = self.first.left(pixels), []
        for layer, word, before in zip(self.stack, context, left, strict=True):
            window = jnp.concatenate([before, h], axis=2)
            keep.append(window[:, :, 1:])
            h = layer.horizontal(window, word)
        return self.last(h), keep, ()

    def finish(self, above: list[Array], kept: PyTree, row: Array) -> list[Array]:
        return above


def network(cfg: Config) -> PixelCNN:
    """The network of a Config."""
    return PixelCNN(r=cfg.first // 2, cfg=cfg)


def condition(cfg: Config, y: ArrayLike | None, num: int) -> Array | None:
    """What the network is given of the classes y, integers [num]: one-hot [num, classes].

    Raises:
        InputError: if they are missing, of another shape, or there are none in the Config.
    """
    if not cfg.classes:
        if y is not None:
            raise InputError("y is given, but Config.classes = 0: this model knows no classes")
        return None
    if y is None or jnp.shape(y) != (num,) or not jnp.issubdtype(jnp.asarray(y).dtype, jnp.integer):
        raise InputError(f"y must be a class for each example, integers [{num}]")
    return jax.nn.one_hot(jnp.asarray(y), cfg.classes)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    y: ArrayLike | None = None,
) -> Array:
    """Ln p(x|y) of images x [B, *shape], classes y [B]: [B], in nats; `key` of the binarisation."""
    y = condition(cfg, y, len(jnp.asarray(x)))
    return pixels.log_prob(cfg, network(cfg), variables, x, key, y)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    y: ArrayLike | None = None,
    given: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Draw `num` images: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        y: classes, integers [num]; None: at random, all alike likely, if the model knows any.
        given: images to complete, [num, *shape] or what broadcasts to it.
        mask: true where they are known, first rows first: see `conditionals.check_given`.
    """
    if cfg.classes and y is None:
        y = jax.random.randint(jax.random.fold_in(key, 1), (num,), 0, cfg.classes)
    y = condition(cfg, y, num)
    return pixels.sample(cfg, network(cfg), variables, key, num, given, mask, y)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb ln p(x|y), y the batch's "label" if any; `tx` for Adam. Metric: `loss`, nats."""

    def of_batch(batch: Batch) -> Array | None:
        if cfg.classes and "label" not in batch:
            raise InputError(f'Config.classes = {cfg.classes}, but the data have no "label"')
        return condition(cfg, batch["label"] if cfg.classes else None, len(data_of(batch)))

    return pixels.maximum_likelihood(cfg, network(cfg), tx, of_batch)
