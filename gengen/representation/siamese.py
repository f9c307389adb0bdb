r"""Siamese network: an embedding in which examples of one class lie close together.

Koch, Zemel & Salakhutdinov 2015, *Siamese Neural Networks for One-shot Image Recognition* (ICML
Deep Learning Workshop), after Bromley et al. 1993. One network f embeds both images of a pair,
z = f(x) and z' = f(x'). The pair has y = 1 if both are of one class, else 0.

    p = σ(Σ_k α_k |z_k - z'_k| + b)
    L = -y ln p - (1-y) ln(1-p) + λ‖w‖²           loss = "cross-entropy"

The paper prints the first two terms of L without the minus. Its p has no b; but then a pair of
equal images has p = ½ whatever α is. The alternative is of Neculoiu, Versteegh & Rotaru 2016,
*Learning Text Similarity with Siamese Recurrent Networks*, with the cosine c of z and z':

    L₊ = ¼(1 - c)²,   L₋ = c² if c > m else 0      loss = "cosine"

What is learnt applies to classes that were never seen: a query is given the class of the support
image that it is most similar to (`gengen.metrics.one_shot`).

A train step embeds its batch once. Each example is paired with another one of the batch: by the
position in the global batch, one pair in 1 + `unlike_ratio` is of one class, the others of two.
The partner is drawn uniformly from the examples that qualify; a pair without any has no loss, so a
batch should be several times as large as the number of classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from gengen import rng, steps
from gengen.contract import Task, labels_of, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.gan.minibatch import of_all_replicas
from gengen.nn.mlp import MLP
from gengen.optim import ScheduledConfig, learning_rate
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape

__all__ = [
    "Config", "Pairs", "condition_of", "cosine_loss", "cross_entropy_loss", "encode",
    "map_sizes", "method", "pairs", "score", "similarity",
]  # fmt: skip

LOSSES = ("cross-entropy", "cosine")


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """Data, network, pairs and training."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) or (D,)
    num_classes: int = 10  # number of classes of the labels, at least 2
    # Convolutions without padding, each with ReLU; between two of them a 2×2 max-pool. (): images
    # are vectors of pixels.
    channels: tuple[int, ...] = (32, 64, 64)
    kernel_sizes: tuple[int, ...] = (5, 3, 3)  # of each convolution, in pixels
    hidden: tuple[int, ...] = ()  # units of the layers between the maps, or a vector, and z
    latent_dim: int = 128  # dimensions of z
    loss: str = "cross-entropy"  # or "cosine"
    margin: float = 0.0  # m: an unlike pair below this cosine has no loss
    weight_decay: float = 1e-4  # λ, of all kernels and α; not of biases
    unlike_ratio: float = 2.0  # pairs of two classes for each pair of one class

    batch_size: int = 128  # examples per step, and pairs
    learning_rate: float = 1e-3  # of Adam

    @classmethod
    def paper(cls) -> Self:
        """Return the network of the paper for Omniglot, 105×105 pixels.

        Differences: the paper chooses λ and the momentum of each layer by a search, and trains by
        gradient descent; this has Adam, and one λ. Its pairs are drawn beforehand, half of them of
        one class; as there, images are distorted by `gengen.training.augmentation.affine`.
        """
        return cls(
            shape=(105, 105, 1), num_classes=964, channels=(64, 128, 128, 256),
            kernel_sizes=(10, 7, 4, 4), latent_dim=4096, unlike_ratio=1.0, batch_size=128,
            learning_rate=1e-4, weight_decay=2e-4,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data; vectors are embedded by a perceptron.

        Raises:
            InputError: for data without at least two classes.
        """
        if task.num_classes < 2:
            raise InputError(
                f"the data have {task.num_classes} classes, but pairs need at least 2: use "
                "labelled data"
            )
        cfg = dataclasses.replace(cls(), num_classes=task.num_classes)
        if len(task.shape) == 1:
            return dataclasses.replace(cfg, shape=task.shape, channels=(), kernel_sizes=(),
                                       hidden=(128,), latent_dim=32)  # fmt: skip
        if min(task.shape[:2]) < 16:
            cfg = dataclasses.replace(cfg, channels=(32, 64), kernel_sizes=(3, 2))
        return dataclasses.replace(cfg, shape=task.shape)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        for name in ("latent_dim", "batch_size", "learning_rate", "unlike_ratio"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if self.num_classes < 2:
            raise InputError(
                f"Config.num_classes = {self.num_classes}; pairs need at least 2 classes"
            )
        if self.loss not in LOSSES:
            raise InputError(f"Config.loss = {self.loss!r}; it must be one of {', '.join(LOSSES)}")
        if not -1 <= self.margin < 1:
            raise InputError(f"Config.margin = {self.margin}; a cosine, it must be in [-1, 1)")
        if self.weight_decay < 0:
            raise InputError(f"Config.weight_decay = {self.weight_decay}; it must be at least 0")
        map_sizes(self)


def map_sizes(cfg: Config) -> list[tuple[int, int]]:
    """Return the height and width after each convolution, before the pool.

    Raises:
        InputError: if the convolutions do not fit the images.
    """
    if len(cfg.shape) == 1:
        return []
    if len(cfg.channels) != len(cfg.kernel_sizes):
        raise InputError(
            f"Config.channels = {cfg.channels}, kernel_sizes = {cfg.kernel_sizes}; give one size "
            "for each convolution"
        )
    sizes, now = [], cfg.shape[:2]
    for kernel in cfg.kernel_sizes:
        now = (now[0] - kernel + 1, now[1] - kernel + 1)
        if kernel < 1 or min(now) < 1:
            raise InputError(
                f"Config.kernel_sizes = {cfg.kernel_sizes} do not fit images of "
                f"{cfg.shape[0]}×{cfg.shape[1]} pixels: use fewer or smaller ones"
            )
        sizes.append((now[0], now[1]))
        now = (now[0] // 2, now[1] // 2)
    return sizes


class Siamese(nn.Module):
    """The twin network f and the weights α of the distance."""

    cfg: Config

    def setup(self) -> None:
        """Create the convolutions, the layers to z, and the unit that compares two z."""
        cfg = self.cfg
        if len(cfg.shape) == 3:
            sizes = zip(cfg.channels, cfg.kernel_sizes, strict=True)
            self.convs = [nn.Conv(n, (k, k), padding="VALID") for n, k in sizes]
        else:
            self.convs = []
        self.top = MLP((*cfg.hidden, cfg.latent_dim))
        self.alpha = nn.Dense(1)

    def embed(self, x: Array) -> Array:
        """Return z of x [B, *shape]: [B, latent_dim]; in (0, 1) for the cross-entropy."""
        for i, conv in enumerate(self.convs):
            x = x if i == 0 else nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(conv(x))
        z = self.top(x.reshape(x.shape[0], -1))
        return nn.sigmoid(z) if self.cfg.loss == "cross-entropy" else z

    def compare(self, z: Array, other: Array) -> Array:
        """Return the logit of p, or the cosine, of pairs z, other [B, D]: [B]."""
        if self.cfg.loss == "cosine":
            return cosine(z, other)
        return self.alpha(jnp.abs(z - other))[:, 0]

    def __call__(self, x: Array) -> Array:
        z = self.embed(x)
        return self.compare(z, z[::-1])


def cosine(z: Array, other: Array) -> Array:
    """Return the cosine of the angle between z and other [B, D]: [B]; 0 for a vector of zeros."""
    square = jnp.sum(z**2, axis=1) * jnp.sum(other**2, axis=1)
    return jnp.sum(z * other, axis=1) / jnp.sqrt(square + 1e-12)


# --- losses and pairs ----------------------------------------------------------------------------


def cross_entropy_loss(logit: Array, same: Array) -> Array:
    """Return -y ln p - (1-y) ln(1-p) of each pair: [B], nats."""
    return optax.sigmoid_binary_cross_entropy(logit, same)


def cosine_loss(c: Array, same: Array, margin: float) -> Array:
    """Return ¼(1-c)² of pairs of one class; c² if c > margin, else 0, of others: [B]."""
    unlike = jnp.where(c > margin, c**2, 0.0)
    return jnp.where(same > 0, 0.25 * (1 - c) ** 2, unlike)


class Pairs(NamedTuple):
    """A partner for each example.

    Attributes:
        partner: its row in the global batch, int32 [B].
        same: y, 1 for a pair of one class, else 0 [B].
        valid: 1 if there is such a partner, else 0 [B].
    """

    partner: Array
    same: Array
    valid: Array


def pairs(key: Key, label: Array, unlike_ratio: float) -> Pairs:
    """Pair each of this replica's examples with another one of the global batch.

    Args:
        key: of the choice.
        label: classes of this replica's examples, int32 [B].
        unlike_ratio: pairs of two classes for each pair of one class. Of any number of positions
            in a row, the share is exact up to one pair.
    """
    place, _ = rng.positions(len(label))
    share = 1 / (1 + unlike_ratio)
    same = jnp.floor((place + 1) * share) > jnp.floor(place * share)
    labels, places = of_all_replicas(label), of_all_replicas(place)
    alike = label[:, None] == labels[None]
    other = place[:, None] != places[None]
    allowed = jnp.where(same[:, None], alike & other, ~alike)
    drawn = jnp.where(allowed, rng.uniform(key, allowed.shape), -1.0)
    return Pairs(jnp.argmax(drawn, 1), same.astype(jnp.float32), allowed.any(1).astype(jnp.float32))


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train on pairs of the examples of a batch.

    Args:
        cfg: of the model.
        tx: an optimiser; None: Adam.
        net: a Flax module with the methods `embed(x) -> z` [B, D], `compare(z, other)`, the logit
            of p or the cosine [B], and a call that uses both; None: the Config's.

    Metrics: `loss`, nats of a pair and λ‖w‖²; `penalty`, λ‖w‖²; `same`, the mean p, or cosine, of
    pairs of one class, `different`, that of others.
    """
    network = net or Siamese(cfg)

    def init(key: Key, batch: Batch) -> dict[str, PyTree]:
        return dict(network.init(key, _examples(cfg, batch)[0]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, label = _examples(cfg, batch)
        chosen = pairs(key, label, cfg.unlike_ratio)
        variables = {"params": params, **mutables}
        z = encode(cfg, variables, x, net=net)
        output = _output(cfg, variables, z, of_all_replicas(z)[chosen.partner], net)
        each = (
            cross_entropy_loss(output, chosen.same)
            if cfg.loss == "cross-entropy"
            else cosine_loss(output, chosen.same, cfg.margin)
        )
        penalty = cfg.weight_decay * _square_of_kernels(params)
        return jnp.mean(each * chosen.valid) + penalty, (
            {"penalty": penalty, **_means(cfg, output, chosen)}, mutables,
        )  # fmt: skip

    step = steps.descent(loss, tx or optax.adam(learning_rate(cfg)))
    return _needs_two_classes(cfg, steps.method(init, step))


def _examples(cfg: Config, batch: Batch) -> tuple[Array, Array]:
    """Return x [B, *shape] and labels [B] of a batch."""
    x, label = check_shape(batch, cfg.shape), labels_of(cfg, batch)
    assert label is not None  # num_classes ≥ 2
    return x, label


def _means(cfg: Config, output: Array, chosen: Pairs) -> Metrics:
    value = nn.sigmoid(output) if cfg.loss == "cross-entropy" else output

    def mean(weight: Array) -> Array:
        return jnp.sum(value * weight) / jnp.maximum(weight.sum(), 1.0)

    same = chosen.valid * chosen.same
    return {"same": mean(same), "different": mean(chosen.valid - same)}


def _square_of_kernels(params: PyTree) -> Array:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if path[-1] == jax.tree_util.DictKey("kernel")]
    return jnp.sum(jnp.stack([jnp.sum(kernel**2) for kernel in kernels]))


def _needs_two_classes(cfg: Config, inner: Method) -> Method:
    """Return the method, whose `init` refuses a first batch of one class."""

    def init(key: Key, batch: Batch):
        label = batch.get("label")
        if label is not None and not isinstance(label, Tracer) and len(np.unique(label)) == 1:
            raise InputError(
                f"all {len(label)} examples of the first batch have label "
                f"{int(np.asarray(label)[0])}, but pairs need at least 2 classes"
            )
        return inner.init(key, batch)

    # What `steps.while_traced` traces.
    vars(init)["__wrapped__"] = vars(inner.init)["__wrapped__"]
    return inner._replace(init=init)


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return z of x [B, *shape]: [B, latent_dim]; `condition` is None."""
    refuse_condition(condition)
    x = check_shape({"x": x}, cfg.shape)
    z: Any = (net or Siamese(cfg)).apply(variables, x, method="embed")
    return z


def similarity(
    cfg: Config, variables: PyTree, z: ArrayLike, other: ArrayLike, *, net: nn.Module | None = None
) -> Array:
    """Return the probability that pairs of codes z, other [B, D] are of one class: [B].

    With loss = "cosine": the cosine.
    """
    output = _output(cfg, variables, jnp.asarray(z), jnp.asarray(other), net)
    return nn.sigmoid(output) if cfg.loss == "cross-entropy" else output


def _output(cfg: Config, variables: PyTree, z: Array, other: Array, net: nn.Module | None) -> Array:
    """Return the logit of p, or the cosine, of pairs of codes: [B]."""
    output: Any = (net or Siamese(cfg)).apply(variables, z, other, method="compare")
    return output


def score(
    cfg: Config, variables: PyTree, x: ArrayLike, other: ArrayLike, *, net: nn.Module | None = None
) -> Array:
    """Return `similarity` of pairs of examples x, other [B, *shape]: [B]."""
    z, z_other = (encode(cfg, variables, a, net=net) for a in (x, other))
    return similarity(cfg, variables, z, z_other, net=net)
