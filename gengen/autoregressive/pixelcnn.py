r"""PixelCNN: gated masked convolutions in two stacks, over the rows above and the pixels left.

van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders* (1606.05328). The
vertical stack v depends on all rows above, the horizontal stack h on the pixels to the left and, at
each layer, on v. A pixel thus depends on all earlier ones in the receptive field; the first
PixelCNN (1601.06759) had a blind spot. Both stacks are gated, with one-hot labels y,

    tanh(W_f * v + V_f y) ⊙ σ(W_g * v + V_g y)

and h has residual connections. Features are in groups of R, G and B. The first layer of h has mask
A, a group depends on the channels before its own; all others have mask B, which adds its own.

Sampling computes v once per row and h once per pixel: the cached activations of Ramachandran et al.
2017 (1704.06001). The model also serves as a prior of maps of codes: a categorical head, one-hot.
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
from gengen.contract import Task, check_labels, refuse_condition, require_num
from gengen.contract import labels_of as condition_of
from gengen.types import Array, Batch, InputError, Key, Method, PyTree

__all__ = ["Config", "PixelCNN", "condition_of", "log_prob", "method", "network", "sample"]

LOG_PROB = "exact"  # of the binarised image, with a Bernoulli head


@dataclass(frozen=True)
class Config(pixels.Config):
    """The fields of `pixels.Config`, the layers and the labels."""

    hidden_channels: int = 24  # of each stack; a multiple of the image's channels
    num_layers: int = 6  # gated layers, after the first
    first_kernel_size: int = 7  # side of the first layer's window, in pixels, odd
    kernel_size: int = 3  # side of the other layers' windows, in pixels, odd
    head_channels: int = 48  # of the last layer but one; a multiple of the image's channels
    num_classes: int = 0  # of the labels that the model is conditioned on; 0: unconditional

    RENAMED: ClassVar[dict[str, str | None]] = {
        "features": "hidden_channels", "layers": "num_layers", "first": "first_kernel_size",
        "kernel": "kernel_size", "hidden": "head_channels", "classes": "num_classes",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the network and batch on ImageNet, 32×32 (§3.2): 20 layers of 384 channels, 5×5.

        The paper refers to 1601.06759 for the rest: a first window of 7×7, RMSProp at rates chosen
        by hand, and 1024 channels before the last layer, here 1026 to be a multiple of 3.
        """
        return cls(
            shape=(32, 32, 3), head="categorical", intensity_levels=256, hidden_channels=384,
            num_layers=20, first_kernel_size=7, kernel_size=5, head_channels=1026, num_classes=0,
            batch_size=1024, optimizer="rmsprop", learning_rate=1e-4, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given images, as in `experiments/binary_likelihoods.py`."""
        return cls.for_image(
            task, hidden_channels=16, num_layers=5, head_channels=32, learning_rate=3e-3
        )

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        check_positive(self, "num_layers")
        self.check_odd("first_kernel_size", "kernel_size")
        self.check_features("hidden_channels", "head_channels")
        if self.num_classes < 0:
            raise InputError(f"Config.num_classes = {self.num_classes}; it must be at least 0")


def gate(a: Array) -> Array:
    """Return tanh of the first half of the features times σ of the second: [..., F]."""
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
        """Map rows [B, r + H, W, F], the first r as context, to v and its input to h."""
        a = self.down(pad(v, left=self.r, right=self.r))
        link = self.link(a)
        if y is not None:
            a, link = a + self.V_down(y)[:, None, None], link + self.V_right(y)[:, None, None]
        return gate(a), link

    def horizontal(self, h: Array, link: Array) -> Array:
        """Map columns [B, H, r + W, F], the first r as context, to h [B, H, W, F]."""
        return h[:, :, self.r :] + self.merge(gate(self.right(h) + link))


class PixelCNN(pixels.Network):
    """The network: (x [B, H, W, inputs], y) → η [B, H, W, C, parts]."""

    cfg: Config

    def setup(self):
        cfg, C = self.cfg, self.cfg.shape[2]
        self.first = First(cfg.hidden_channels, self.r, C)
        self.stack = [
            Layer(cfg.hidden_channels, cfg.kernel_size // 2, C) for _ in range(cfg.num_layers)
        ]
        self.last = Last(cfg.head_channels, C, pixels.head_of(cfg).parts)

    def __call__(self, x: Array, y: Array | None = None) -> Array:
        v, h = self.first(x)
        for layer in self.stack:
            v, link = layer.vertical(pad(v, top=layer.r), y)
            h = layer.horizontal(pad(h, left=layer.r), link)
        return self.last(h)

    def start(self, num: int, columns: int) -> tuple[list[Array], list[Array]]:
        above = [jnp.zeros((num, layer.r, columns, layer.F)) for layer in self.stack]
        return above, [jnp.zeros((num, 1, layer.r, layer.F)) for layer in self.stack]

    def row(self, above: list[Array], rows: Array, y: Array | None) -> tuple[PyTree, list[Array]]:
        v, links, keep = self.first.above(rows), [], []
        for layer, before in zip(self.stack, above, strict=True):
            window = jnp.concatenate([before, v], axis=1)
            keep.append(window[:, 1:])
            v, link = layer.vertical(window, y)
            links.append(link)
        return links, keep

    def pixel(
        self, context: list[Array], left: list[Array], pixels: Array
    ) -> tuple[Array, list[Array], PyTree]:
        h, keep = self.first.left(pixels), []
        for layer, link, before in zip(self.stack, context, left, strict=True):
            window = jnp.concatenate([before, h], axis=2)
            keep.append(window[:, :, 1:])
            h = layer.horizontal(window, link)
        return self.last(h), keep, ()

    def finish(self, above: list[Array], kept: PyTree, row: Array) -> list[Array]:
        return above


def network(cfg: Config) -> PixelCNN:
    """Return the network of a Config."""
    return PixelCNN(r=cfg.first_kernel_size // 2, cfg=cfg)


def _one_hot(cfg: Config, condition: PyTree, num: int) -> Array | None:
    """Return labels one-hot, [num, num_classes]; None if the model is unconditional.

    Raises:
        InputError: if labels are missing, are not classes, or the model is unconditional.
    """
    if not cfg.num_classes:
        refuse_condition(condition)
        return None
    if condition is None:
        raise InputError(
            f"this model is conditioned on a class: pass condition=, integers [{num}] in "
            f"0..{cfg.num_classes - 1}"
        )
    return jax.nn.one_hot(check_labels(condition, num, cfg.num_classes), cfg.num_classes)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: pixels.Network | None = None,
) -> Array:
    """Return ln p(x|y) of images x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1].
        key: of the binarisation, for a Bernoulli head; None: a fixed key.
        condition: labels [B], if the model is conditioned on a class.
        net: the network that was trained instead of the Config's.
    """
    y = _one_hot(cfg, condition, len(jnp.asarray(x)))
    return pixels.log_prob(cfg, net or network(cfg), variables, x, key, y)


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
        condition: labels [num]; None: uniformly random ones, if the model is conditioned on a
            class.
        net: the network that was trained instead of the Config's.
        observation: images to complete, [num, *shape] or broadcastable to it.
        mask: true where they are observed, upper rows first: see `conditionals.check_observation`.
    """
    require_num(num)
    if cfg.num_classes and condition is None:
        label_key = jax.random.fold_in(key, 1)
        condition = jax.random.randint(label_key, (num,), 0, cfg.num_classes)
    y = _one_hot(cfg, condition, num)
    return pixels.sample(cfg, net or network(cfg), variables, key, num, observation, mask, y)


def method(
    cfg: Config,
    tx: optax.GradientTransformation | None = None,
    net: pixels.Network | None = None,
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's.
        net: a `pixels.Network` instead of the Config's, called as `net(x, y)`: it maps images
            [B, H, W, C] (or their levels one-hot), and one-hot labels [B, num_classes] or None, to
            the head's parameters [B, H, W, C, parts]. A pixel must depend on earlier pixels only.
            Sampling calls the network's other methods, pixel by pixel.

    Example:
        >>> class Rows(pixels.Network):  # each pixel depends on the row above
        ...     def setup(self):
        ...         self.dense = nn.Dense(1)
        ...     def __call__(self, x, y=None):
        ...         return self.dense(pad(x[:, :-1], top=1))[..., None]
        ...     def start(self, num, columns):
        ...         return (), ()
        ...     def row(self, above, rows, y):
        ...         return self.dense(rows)[..., None], ()
        ...     def pixel(self, context, left, pixels):
        ...         return context, (), ()
        ...     def finish(self, above, kept, row):
        ...         return ()
        >>> cfg, batch = Config(shape=(4, 4, 1)), {"image": jnp.ones((8, 4, 4, 1))}
        >>> net = Rows(r=1)
        >>> m = method(cfg, net=net)
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3, net=net).shape
        (3, 4, 4, 1)
    """

    def labels(batch: Batch) -> Array | None:
        y = condition_of(cfg, batch)
        return None if y is None else _one_hot(cfg, y, len(y))

    return pixels.maximum_likelihood(cfg, net or network(cfg), tx, labels)
