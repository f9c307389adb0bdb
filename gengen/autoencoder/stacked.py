r"""Stacked autoencoder: greedy layer-wise pretraining, then fine-tuning.

Bengio, Lamblin, Popovici & Larochelle 2006, *Greedy Layer-Wise Training of Deep Networks* (NIPS);
with `nu` > 0 the stacked denoising autoencoder of Vincent et al. 2010 (JMLR 11).

    layer1      h¹ = s(x W₁ + b₁),   x̂ = h¹ V₁ + c₁     reconstructs x
    layer2      h² = s(h¹ W₂ + b₂),  ĥ¹ = h² V₂ + c₂    reconstructs h¹; layer 1 stays as it is
    ...
    finetune    all layers at once, from there: by the labels, with a linear classifier on the last
                code; or, where `classes` is 0, to reconstruct x through the whole stack

Where what is reconstructed lies in [0, 1], images (0 is black) and the codes of sigmoid units, the
error is the cross-entropy, and ‖·‖² elsewhere.

A linear stack ends as PCA. With tied weights pretraining is enough: then W is orthonormal, a code
is a rotation of the principal components, and so are those of the code. Without, the code is any
linear map of them, whose own principal components are others: the fine-tuning finds the data's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.autoencoder.autoencoder import cross_entropy
from gengen.autoencoder.denoising import mask
from gengen.data import AnyData, Dataset
from gengen.distributions import total
from gengen.nn.mirror import ACTIVATIONS, MirrorMLP
from gengen.stages import Finished, Stage, coded, resident
from gengen.steps import descent
from gengen.steps import method as close
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    PyTree,
    Shape,
    TrainState,
    check_shape,
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The stack, and how its layers are trained."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    widths: tuple[int, ...] = (500, 250, 100)  # units of each layer
    activation: str = "sigmoid"  # s, or "tanh", "relu", "linear"
    tied: bool = False  # V_i = W_iᵀ
    nu: float = 0.0  # share of each layer's input that is set to 0 while that layer is pretrained

    classes: int = 10  # to fine-tune by; 0: fine-tune to reconstruct
    labelled: int = 0  # examples, the first ones, whose labels are used; 0: all
    finetune_share: float = 1.0  # of the steps, where each layer's is 1

    batch_size: int = 100  # examples a step
    learning_rate: float = 1e-3  # of Adam, in all stages

    @staticmethod
    def paper() -> Config:
        """Three layers of 500 units, as the paper's best on MNIST (it tried 100 to 1000)."""
        return Config(widths=(500, 500, 500))

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"Config.widths = {self.widths}, but at least one layer of units ≥ 1")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"Config.activation = {self.activation!r}, not of {[*ACTIVATIONS]}")
        if not 0 <= self.nu < 1:
            raise InputError(f"Config.nu = {self.nu}, but it is a share in [0, 1)")
        for name in ("classes", "labelled"):
            if getattr(self, name) < 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 0")
        for name in ("finetune_share", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")


class Stack(nn.Module):
    """All layers, and the classifier on the last code where there are classes."""

    cfg: Config

    def setup(self) -> None:
        """As `MirrorMLP`, whose Wᵢ, bᵢ, Vᵢ and cᵢ are the layers'."""
        self.layers = MirrorMLP(
            (_size(self.cfg), *self.cfg.widths), self.cfg.activation, True, self.cfg.tied
        )
        if self.cfg.classes:
            self.head = nn.Dense(self.cfg.classes)

    def encode(self, x: Array) -> Array:
        """The last code of x [B, D]."""
        return self.layers.encode(x)

    def decode(self, z: Array) -> Array:
        """Through all layers back: [B, D], logits of images."""
        return self.layers.decode(z)

    def classify(self, x: Array) -> Array:
        """Class scores (logits) [B, classes] of x [B, D]."""
        return self.head(self.layers.encode(x))

    def __call__(self, x: Array) -> Array:
        return self.classify(x) if self.cfg.classes else self.decode(self.encode(x))


def _size(cfg: Config) -> int:
    return math.prod(cfg.shape)


def _flat(x: Array) -> Array:
    """[B, D]; images from 0 to 1."""
    return (x.reshape(x.shape[0], -1) + 1) / 2 if x.ndim == 4 else x


def _in_unit_interval(cfg: Config, layer: int) -> bool:
    """Whether what `layer` (0, 1, ...) reconstructs, and the units that code it, lie in [0, 1]."""
    return cfg.activation == "sigmoid" and (layer > 0 or len(cfg.shape) == 3)


def _distance(cfg: Config, layer: int, x: Array, out: Array) -> Array:
    if _in_unit_interval(cfg, layer):
        return cross_entropy(x, out)
    return total((x - out) ** 2)


# --- the stages ----------------------------------------------------------------------------------


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """One stage for each layer, then fine-tuning; `tx` in the place of Adam, in all of them.

    Metrics of each: `loss`, of an example: cross-entropy in nats, or squared error. Where the
    fine-tuning is by labels, `accuracy` too, on the batch before the step.
    """
    tx = tx or optax.adam(cfg.learning_rate)
    layers = [
        Stage(
            f"layer{i + 1}",
            layer_method(cfg, i, tx),
            data=lambda before, data, i=i: codes(cfg, before, data, i),
        )
        for i in range(len(cfg.widths))
    ]
    finetune = Stage(
        "finetune",
        finetune_method(cfg, tx),
        data=lambda before, data: first(cfg, data),
        start=lambda before, state: assembled(before, state),
        share=cfg.finetune_share,
    )
    return (*layers, finetune)


def layer_method(cfg: Config, layer: int, tx: optax.GradientTransformation) -> Method:
    """Train one layer to reconstruct what the layer below gives, or, of the first, the data."""
    shape = cfg.shape if layer == 0 else (cfg.widths[layer - 1],)
    net = MirrorMLP((math.prod(shape), cfg.widths[layer]), cfg.activation, True, cfg.tied)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, _flat(check_shape(batch, shape)[:1]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = _flat(check_shape(batch, shape))
        out = jnp.asarray(net.apply({"params": params}, mask(key, x, cfg.nu)))
        return _distance(cfg, layer, x, out).mean(), ({}, mutables)

    return close(init_variables, descent(loss, tx))


def finetune_method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train the whole stack at once: alone, the network from random weights."""
    net = Stack(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, _flat(check_shape(batch, cfg.shape)[:1]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = _flat(check_shape(batch, cfg.shape))
        out = jnp.asarray(net.apply({"params": params}, x))
        if not cfg.classes:
            return _distance(cfg, 0, x, out).mean(), ({}, mutables)
        labels = _labels(batch)
        right = jnp.mean(out.argmax(-1) == labels)
        value = optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()
        return value, ({"accuracy": right}, mutables)

    return close(init_variables, descent(loss, tx or optax.adam(cfg.learning_rate)))


def _labels(batch: Batch) -> Array:
    if "label" not in batch:
        raise InputError(
            f'Config.classes > 0, but a batch has {sorted(batch)} and no "label": set classes=0'
        )
    return jnp.asarray(batch["label"])


def codes(cfg: Config, before: Finished, data: AnyData, layer: int) -> AnyData:
    """What `layer` (0, 1, ...) is trained on: the data, or their codes in the layers below it."""
    if layer == 0:
        return data
    net = MirrorMLP((_size(cfg), *cfg.widths[:layer]), cfg.activation, True, cfg.tied)
    params = _joined(before, layer)
    encode = jax.jit(lambda x: net.apply({"params": params}, _flat(x), method="encode"))
    return coded(data, encode, f"{data.name}, layer {layer}")


def first(cfg: Config, data: AnyData) -> AnyData:
    """The examples whose labels may be used: the first `cfg.labelled`."""
    if not (cfg.classes and cfg.labelled):
        return data
    data = resident(data)
    if cfg.labelled > len(data):
        raise InputError(f"Config.labelled = {cfg.labelled}, but there are {len(data)} examples")
    arrays = {name: array[: cfg.labelled] for name, array in data.arrays.items()}
    return Dataset(f"{data.name}, first {cfg.labelled}", arrays, data.classes)


def _joined(before: Finished, num: int) -> PyTree:
    """The parameters of the first `num` layers as those of one `MirrorMLP`."""
    return {
        f"{name[0]}{i}": jnp.copy(array)
        for i in range(1, num + 1)
        for name, array in before[f"layer{i}"].params.items()
    }


def assembled(before: Finished, state: TrainState) -> TrainState:
    """The state in which the fine-tuning begins: the layers as they were pretrained."""
    return state.replace(params={**state.params, "layers": _joined(before, len(before))})


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """The last codes of x [B, *shape]: [B, widths[-1]].

    Args:
        cfg: of the model.
        variables: of all stages, {stage: variables}; the last one's are used.
        x: images or vectors.
    """
    return _apply(cfg, variables, "encode", _flat(check_shape({"x": x}, cfg.shape)))


def decode(cfg: Config, variables: PyTree, z: ArrayLike) -> Array:
    """What codes z [B, widths[-1]] stand for: [B, *shape], images in [-1, 1].

    After fine-tuning by labels the decoder is still the one that pretraining left.

    Raises:
        InputError: for codes of another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != cfg.widths[-1:]:
        raise InputError(f"codes have shape {z.shape}, but they are [B, {cfg.widths[-1]}]")
    out = _apply(cfg, variables, "decode", z)
    if _in_unit_interval(cfg, 0):
        out = jax.nn.sigmoid(out)
    if len(cfg.shape) == 3:
        out = jnp.clip(2 * out - 1, -1, 1)
    return out.reshape(-1, *cfg.shape)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """X [B, *shape] through the whole stack and back: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x))


def classify(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """P(class | x) for x [B, *shape]: [B, classes].

    Raises:
        InputError: if the stack was fine-tuned to reconstruct.
    """
    if not cfg.classes:
        raise InputError("Config.classes = 0: this stack has no classifier")
    x = _flat(check_shape({"x": x}, cfg.shape))
    return jax.nn.softmax(_apply(cfg, variables, "classify", x))


@jax.jit(static_argnums=(0, 2))
def _apply(cfg: Config, variables: PyTree, name: str, x: Array) -> Array:
    return jnp.asarray(Stack(cfg).apply(variables["finetune"], x, method=name))
