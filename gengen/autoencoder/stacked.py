r"""Stacked autoencoder: greedy layer-wise pretraining, then fine-tuning.

Bengio, Lamblin, Popovici & Larochelle 2006, *Greedy Layer-Wise Training of Deep Networks* (NIPS);
with `mask_fraction` > 0 the stacked denoising autoencoder of Vincent et al. 2010 (JMLR 11).

    layer1      h¹ = s(x W₁ + b₁),   x̂ = h¹ V₁ + c₁     reconstructs x
    layer2      h² = s(h¹ W₂ + b₂),  ĥ¹ = h² V₂ + c₂    reconstructs h¹; layer 1 is fixed
    ...
    finetune    all layers at once, from there: by labels, with a linear classifier of the last
                layer's latents; or, if `num_classes` is 0, to reconstruct x through the whole stack

Where the targets lie in [0, 1], images (0 is black) and the latents of sigmoid units, the error is
the cross-entropy, elsewhere ‖·‖².

A linear stack converges to PCA. With tied weights pretraining is enough: then W is orthonormal, and
the latents are a rotation of the principal components. Without tied weights they are any linear map
of them, with other principal components, and only the fine-tuning finds the data's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.autoencoder.autoencoder import cross_entropy
from gengen.autoencoder.denoising import mask
from gengen.contract import Task, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.data import AnyData, Dataset
from gengen.distributions import total
from gengen.nn.mirror import ACTIVATIONS, MirrorMLP
from gengen.optim import OptimizerConfig, optimizer
from gengen.stages import Finished, Stage, coded, resident
from gengen.steps import descent
from gengen.steps import method as build
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
from gengen.xla import jit

__all__ = [
    "Config", "classify", "codes", "condition_of", "decode", "encode", "finetune_method", "first",
    "layer_method", "reconstruct", "stages",
]  # fmt: skip


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """The stack, and how its layers are trained."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    hidden: tuple[int, ...] = (500, 250, 100)  # units of each layer
    activation: str = "sigmoid"  # s, or "tanh", "relu", "linear"
    tied: bool = False  # V_i = W_iᵀ
    # Of a layer's input, set to 0 while that layer is pretrained: see `denoising`.
    mask_fraction: float = 0.25

    num_classes: int = 10  # of the labels to fine-tune by; 0: fine-tune to reconstruct
    num_labelled: int = 0  # examples, the first ones, whose labels are used; 0: all
    finetune_share: float = 1.0  # of the steps, relative to each layer's

    batch_size: int = 100  # examples per step
    learning_rate: float = 1e-3  # of the optimiser, in all stages

    RENAMED: ClassVar[dict[str, str | None]] = {
        "widths": "hidden", "nu": "mask_fraction", "classes": "num_classes",
        "labelled": "num_labelled",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return three layers of 500 units, for MNIST (§5.1), trained by gradient descent.

        The paper chose sizes between 100 and 1000 units, and rates between 0.0005 and 0.1.
        """
        return cls(
            shape=(28, 28, 1), hidden=(500, 500, 500), activation="sigmoid", mask_fraction=0.0,
            num_classes=10, optimizer="sgd", learning_rate=0.1,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: fine-tuned by labels if there are any."""
        return dataclasses.replace(cls(), shape=task.shape, num_classes=task.num_classes)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"Config.hidden = {self.hidden}; it must be one or more sizes ≥ 1")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"Config.activation = {self.activation!r}; it must be one of {[*ACTIVATIONS]}"
            )
        if not 0 <= self.mask_fraction < 1:
            raise InputError(f"Config.mask_fraction = {self.mask_fraction}; it must be in [0, 1)")
        for name in ("num_classes", "num_labelled"):
            if getattr(self, name) < 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        for name in ("finetune_share", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")


class Stack(nn.Module):
    """All layers, and with classes a linear classifier of the last one."""

    cfg: Config

    def setup(self) -> None:
        """Create the layers Wᵢ, bᵢ, Vᵢ and cᵢ of a `MirrorMLP`."""
        self.layers = MirrorMLP(
            (_size(self.cfg), *self.cfg.hidden), self.cfg.activation, True, self.cfg.tied
        )
        if self.cfg.num_classes:
            self.head = nn.Dense(self.cfg.num_classes)

    def encode(self, x: Array) -> Array:
        """Return the latents of x [B, D]."""
        return self.layers.encode(x)

    def decode(self, z: Array) -> Array:
        """Return the reconstruction through all layers: [B, D], logits for images."""
        return self.layers.decode(z)

    def classify(self, x: Array) -> Array:
        """Return the logits of the classes [B, num_classes] for x [B, D]."""
        return self.head(self.layers.encode(x))

    def __call__(self, x: Array) -> Array:
        return self.classify(x) if self.cfg.num_classes else self.decode(self.encode(x))


def _size(cfg: Config) -> int:
    return math.prod(cfg.shape)


def _flat(x: Array) -> Array:
    """Return x as [B, D]; images from 0 to 1."""
    return (x.reshape(x.shape[0], -1) + 1) / 2 if x.ndim == 4 else x


def _in_unit_interval(cfg: Config, layer: int) -> bool:
    """Return whether the targets of `layer` (0, 1, ...), and its units, lie in [0, 1]."""
    return cfg.activation == "sigmoid" and (layer > 0 or len(cfg.shape) == 3)


def _distance(cfg: Config, layer: int, x: Array, out: Array) -> Array:
    if _in_unit_interval(cfg, layer):
        return cross_entropy(x, out)
    return total((x - out) ** 2)


# --- the stages ----------------------------------------------------------------------------------


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """Return one stage for each layer, then fine-tuning; `tx` instead of Adam, in all of them.

    Metrics of each: `loss`, of an example: cross-entropy in nats, or squared error. If the
    fine-tuning is by labels, `accuracy` too, on the batch before the step.
    """
    tx = tx or optimizer(cfg)
    layers = [
        Stage(
            f"layer{i + 1}",
            layer_method(cfg, i, tx),
            data=lambda before, data, i=i: codes(cfg, before, data, i),
        )
        for i in range(len(cfg.hidden))
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
    """Train one layer to reconstruct the latents of the layer below or, the first, the data."""
    shape = cfg.shape if layer == 0 else (cfg.hidden[layer - 1],)
    net = MirrorMLP((math.prod(shape), cfg.hidden[layer]), cfg.activation, True, cfg.tied)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, _flat(check_shape(batch, shape)[:1]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = _flat(check_shape(batch, shape))
        out = jnp.asarray(net.apply({"params": params}, mask(key, x, cfg.mask_fraction)))
        return _distance(cfg, layer, x, out).mean(), ({}, mutables)

    return build(init_variables, descent(loss, tx))


def finetune_method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train the whole stack at once; without earlier stages, from random weights."""
    net = Stack(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, _flat(check_shape(batch, cfg.shape)[:1]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = _flat(check_shape(batch, cfg.shape))
        out = jnp.asarray(net.apply({"params": params}, x))
        if not cfg.num_classes:
            return _distance(cfg, 0, x, out).mean(), ({}, mutables)
        labels = _labels(batch)
        accuracy = jnp.mean(out.argmax(-1) == labels)
        value = optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()
        return value, ({"accuracy": accuracy}, mutables)

    return build(init_variables, descent(loss, tx or optimizer(cfg)))


def _labels(batch: Batch) -> Array:
    if "label" not in batch:
        raise InputError(
            f'Config.num_classes > 0, but a batch has {sorted(batch)} and no "label": set '
            "num_classes=0"
        )
    return jnp.asarray(batch["label"], jnp.int32)


def codes(cfg: Config, before: Finished, data: AnyData, layer: int) -> AnyData:
    """Return the training data of `layer` (0, 1, ...): the data, or latents of the layers below."""
    if layer == 0:
        return data
    net = MirrorMLP((_size(cfg), *cfg.hidden[:layer]), cfg.activation, True, cfg.tied)
    params = _joined(before, layer)
    encode = jit(often=False)(lambda x: net.apply({"params": params}, _flat(x), method="encode"))
    return coded(data, encode, f"{data.name}, layer {layer}")


def first(cfg: Config, data: AnyData) -> AnyData:
    """Return the examples whose labels may be used: the first `cfg.num_labelled`."""
    if not (cfg.num_classes and cfg.num_labelled):
        return data
    data = resident(data)
    if cfg.num_labelled > len(data):
        raise InputError(
            f"Config.num_labelled = {cfg.num_labelled}, but there are {len(data)} examples"
        )
    arrays = {name: array[: cfg.num_labelled] for name, array in data.arrays.items()}
    return Dataset(f"{data.name}, first {cfg.num_labelled}", arrays, data.classes)


def _joined(before: Finished, num: int) -> PyTree:
    """Return the parameters of the first `num` layers as those of one `MirrorMLP`."""
    return {
        f"{name[0]}{i}": jnp.copy(array)
        for i in range(1, num + 1)
        for name, array in before[f"layer{i}"].params.items()
    }


def assembled(before: Finished, state: TrainState) -> TrainState:
    """Return the first state of the fine-tuning: the layers as they were pretrained."""
    return state.replace(params={**state.params, "layers": _joined(before, len(before))})


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the latents of x [B, *shape], those of the last layer: [B, hidden[-1]].

    Args:
        cfg: of the model.
        variables: of all stages, {stage: variables}; the last one's are used.
        x: images in [-1, 1], or vectors.
        condition: None, as the model is unconditional.
    """
    refuse_condition(condition)
    return _apply(cfg, variables, "encode", _flat(check_shape({"x": x}, cfg.shape)))


def decode(cfg: Config, variables: PyTree, z: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the reconstruction for latents z [B, hidden[-1]]: [B, *shape], images in [-1, 1].

    Fine-tuning by labels leaves the decoder as it was pretrained.

    Raises:
        InputError: for latents of another shape, or if there is a condition.
    """
    refuse_condition(condition)
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != cfg.hidden[-1:]:
        raise InputError(f"latents have shape {z.shape}; they must be [B, {cfg.hidden[-1]}]")
    out = _apply(cfg, variables, "decode", z)
    if _in_unit_interval(cfg, 0):
        out = jax.nn.sigmoid(out)
    if len(cfg.shape) == 3:
        out = jnp.clip(2 * out - 1, -1, 1)
    return out.reshape(-1, *cfg.shape)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the reconstruction of x [B, *shape] through the whole stack: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, condition=condition))


def classify(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Return P(class | x) for x [B, *shape]: [B, num_classes].

    Raises:
        InputError: if the stack was fine-tuned to reconstruct.
    """
    if not cfg.num_classes:
        raise InputError("Config.num_classes = 0: this stack has no classifier")
    x = _flat(check_shape({"x": x}, cfg.shape))
    return jax.nn.softmax(_apply(cfg, variables, "classify", x))


@jit(0, 2, often=False)
def _apply(cfg: Config, variables: PyTree, name: str, x: Array) -> Array:
    return jnp.asarray(Stack(cfg).apply(variables["finetune"], x, method=name))
