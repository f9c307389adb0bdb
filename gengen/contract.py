"""The contract of a model module, with the helpers that keep its functions alike in every family.

A module of a model is a file that defines `Config` and one of `method`, `stages` and `fit`. What it
can do besides is what it defines, always under these names and with these parameters:

    method(cfg, tx=None, net=None) -> Method
    stages(cfg, tx=None, ...) -> tuple[Stage, ...]             trained one after the other
    fit(cfg, x, key) -> variables                              fitted in closed form, or by EM

    sample(cfg, variables, key, num, *, condition=None)        [num, *shape], images in [-1, 1]
    log_prob(cfg, variables, x, key=None, *, condition=None)   [B], nats; LOG_PROB says of what kind
    encode(cfg, variables, x, *, condition=None)               latents [B, ...]
    decode(cfg, variables, z, *, condition=None)               [B, *shape]
    reconstruct(cfg, variables, x, *, condition=None)          [B, *shape]
    impute(cfg, variables, x, mask, key, *, condition=None)    x, filled in where mask is false
    translate(cfg, variables, x, key, *, condition=None)       images x as those of the other kind
    with_direction(cfg, direction)                             a Config that translates that way
    condition_of(cfg, batch)                                   the condition, from a batch; or None
    condition_of_text(cfg, texts)                              the condition, from captions
    evaluations(cfg)                                           network evaluations of one sample
    with_evaluations(cfg, num)                                 a Config that samples with so many

`Config.paper()` is the network and the training of the paper; `Config.for_task(task)` the default
for given data, where setting the shape is not enough. `variables` has a collection "params"; that
of a staged model is {stage: variables}. A model that takes `net`, a Flax module to use instead of
the Config's own, takes it in `method`, `sample`, `log_prob` and the others alike.

A model of two kinds of images, a and b, defines `translate`. In a batch a is "image"; b is "target"
where each example has both, or "other" where there are no pairs. `condition_of` gives the images to
translate. A model that is trained in both directions, "ab" and "ba", defines `with_direction`; all
others translate a to b.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gengen.types import Array, Batch, InputError, PyTree, Shape

# What a log_prob is. "exact": ln p(x). "lower bound": the ELBO, or a bound by dequantisation.
# "importance weighted": the bound of several weighted samples, which tends to ln p(x).
LOG_PROBS = ("exact", "lower bound", "importance weighted")

DIRECTIONS = ("ab", "ba")  # of a translation: from a batch's "image", or to it


class Task(NamedTuple):
    """The data, the number of steps and the device that a default Config adapts to.

    Attributes:
        shape: of one example: (H, W, C) or (D,).
        num_classes: number of classes of the labels; 0 without labels.
        steps: train steps of the run.
        accelerator: whether it trains on a GPU or TPU rather than a CPU.
        target_shape: of the target of an example; None if the data are no pairs.
        other_shape: of an image of the second set; None if the data are not two sets.
    """

    shape: Shape
    num_classes: int = 0
    steps: int = 1000
    accelerator: bool = False
    target_shape: Shape | None = None
    other_shape: Shape | None = None


# --- conditions ----------------------------------------------------------------------------------


def unconditional(cfg: Any, batch: Batch) -> None:
    """Return None, as `condition_of` of a model that is not conditioned on anything."""
    return None


def refuse_condition(condition: PyTree) -> None:
    """Check that a model without a condition is given none.

    Raises:
        InputError: if there is one.
    """
    if condition is not None:
        raise InputError("condition is given, but this model is unconditional: leave it out")


def check_labels(labels: ArrayLike, num: int, num_classes: int) -> Array:
    """Return labels as an int32 array [num].

    Args:
        labels: integers of any type, or bool, one for each example. Their range is checked where
            values are known, that is outside of jit.
        num: number of examples.
        num_classes: labels lie in 0..num_classes - 1.

    Raises:
        InputError: for another shape, another dtype, or a label that is not a class.
    """
    # NumPy's: jnp.asarray would cut labels of 64 bits to 32 before their range is checked.
    y = labels if isinstance(labels, Tracer) else np.asarray(labels)
    if y.shape != (num,) or not _counts(y.dtype):
        raise InputError(f"labels are {y.dtype} {list(y.shape)}; they must be integers [{num}]")
    if not isinstance(y, Tracer) and num and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise InputError(
            f"labels lie in {int(y.min())}..{int(y.max())}, but Config.num_classes = "
            f"{num_classes} allows 0..{num_classes - 1}"
        )
    return jnp.asarray(y.astype(np.int32))


def labels_of(cfg: Any, batch: Batch) -> Array | None:
    """Return the labels [B] of a batch if `cfg.num_classes` is above 0, else None.

    Raises:
        InputError: if the model is conditioned on a class and the batch has no "label".
    """
    if not cfg.num_classes:
        return None
    if "label" not in batch:
        raise InputError(
            f"Config.num_classes = {cfg.num_classes}, but the data have no labels: use labelled "
            "data, or num_classes = 0 where the model allows it"
        )
    return check_labels(batch["label"], len(batch["label"]), cfg.num_classes)


# --- Configs -------------------------------------------------------------------------------------


class AcceptsOldNames(type):
    """Metaclass of Configs: a field's earlier name works in the constructor too.

    `RENAMED` maps earlier names to present ones, or to None where a field is gone. Subclasses
    inherit it. `current_names` applies it to what runs and command lines say.
    """

    if not TYPE_CHECKING:  # type checkers read the dataclass's own signature

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **current_names(cls, kwargs))


class BaseConfig(metaclass=AcceptsOldNames):
    """Base of Configs that once had fields of other names."""

    RENAMED: ClassVar[dict[str, str | None]] = {}


def current_names(config_type: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` under the present names of the fields of a Config class.

    Fields that are gone are left out. Where a field is given under both names, the earlier one
    counts: `dataclasses.replace(cfg, old=1)` passes both. An earlier name may be the present name
    of another field: it is taken for the earlier one where that other field has its own earlier
    name, and the field that it became is missing, as in a run of that time.
    """
    renamed: dict[str, str | None] = {}
    for base in reversed(config_type.__mro__):
        renamed |= vars(base).get("RENAMED", {})
    fields = {field.name for field in dataclasses.fields(config_type)}
    retired = {old: new for old, new in renamed.items() if old not in fields}
    replaced = {new for old, new in retired.items() if old in values}
    earlier = retired | {
        old: new
        for old, new in renamed.items()
        if old in fields and old in replaced and new not in values
    }
    found = {name: value for name, value in values.items() if name not in earlier}
    for old, new in earlier.items():
        if old in values and new is not None:
            found[new] = values[old]
    return found


# Fields of a Config with the shape of the second image, and the data that have one.
SECOND_SHAPES = {
    "target_shape": "pairs: use pairs:A,B, halves:PATH, edges:DATA or grey:DATA",
    "other_shape": "two sets of images: use unpaired:A,B",
}


def default_config(config_type: type, task: Task) -> Any:
    """Return the default Config for a task: its shape and, where needed, its number of classes.

    A Config class that needs to adapt more defines `for_task(task)`.

    Raises:
        InputError: if the model cannot be trained on such data.
    """
    if hasattr(config_type, "for_task"):
        return config_type.for_task(task)
    return adapt(config_type(), task)


def adapt(cfg: Any, task: Task) -> Any:
    """Return `cfg` with the task's shapes, and its number of classes where `cfg` has any.

    Raises:
        InputError: if the model needs labels, targets or a second set that the data do not have.
    """
    fields = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    changes: dict[str, Any] = {"shape": task.shape} if "shape" in fields else {}
    for name, kind in SECOND_SHAPES.items():
        if name in fields:
            changes[name] = getattr(task, name)
            if changes[name] is None:
                raise InputError(f"this model is trained on {kind}")
    if fields.get("num_classes"):
        if not task.num_classes:
            raise InputError("this model is conditioned on a class, but the data have no labels")
        changes["num_classes"] = task.num_classes
    return dataclasses.replace(cfg, **changes)


def check_latents(z: ArrayLike, latent_dim: int) -> Array:
    """Return latents as float32 [B, latent_dim].

    Raises:
        InputError: for another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != (latent_dim,):
        raise InputError(
            f"latents have shape {z.shape}; they must be [B, latent_dim = {latent_dim}]"
        )
    return z


def require_num(num: int) -> None:
    """Check the number of samples.

    Raises:
        InputError: if it is below 1.
    """
    if num < 1:
        raise InputError(f"num = {num}; it must be at least 1")


def is_label(condition: PyTree) -> bool:
    """Return whether a condition is an array of class labels: integers or bool [N]."""
    leaf = condition
    return hasattr(leaf, "dtype") and jnp.ndim(leaf) == 1 and _counts(leaf.dtype)


def is_caption(condition: PyTree) -> bool:
    """Return whether a condition is an array of captions: tokens, integers [N, T]."""
    return hasattr(condition, "dtype") and jnp.ndim(condition) == 2 and _counts(condition.dtype)


def _counts(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_))


def rows_of(condition: PyTree, rows: Any) -> PyTree:
    """Return some rows of a condition: an array, a dict of arrays, or None."""
    return jax.tree.map(lambda leaf: leaf[rows], condition)
