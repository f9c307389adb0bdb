"""Conditions for sampling, taken from real examples.

A model says by `condition_of(cfg, batch)` what it is conditioned on. Labels can be chosen freely;
an image, or a part of one, is taken from held-out data where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.contract import check_labels, is_caption, is_label
from gengen.data import AnyData, DataOptions, normalise, open_data
from gengen.data.derived import TRANSFORMS, split_classes
from gengen.data.pairs import two
from gengen.errors import InputError
from gengen.runs import discover
from gengen.types import Batch, PyTree, Shape


def kind(module: ModuleType, cfg: Any) -> str:
    """Return what a model is conditioned on: "nothing", "label", "caption", or "image".

    With an image there may be a label. The model is asked with one blank example.
    """
    condition_of = getattr(module, "condition_of", None)
    if condition_of is None or not getattr(cfg, "shape", ()):
        return "nothing"
    condition = condition_of(cfg, blank_of(cfg))
    if condition is None:
        return "nothing"
    if is_caption(condition):
        return "caption"
    return "label" if is_label(condition) else "image"


def blank_of(cfg: Any) -> Batch:
    """Return a batch of one blank example of a model's shapes."""
    shape: Shape = cfg.shape
    blank: dict[str, Any] = {"label": np.zeros(1, np.int32)}
    if hasattr(cfg, "caption_length"):
        blank["caption"] = np.zeros((1, cfg.caption_length), np.int32)
    if len(shape) == 3:
        shapes = {"target": "target_shape", "other": "other_shape"}
        blank["image"] = np.zeros((1, *shape), np.float32)
        for name, field in shapes.items():
            blank[name] = np.zeros((1, *(getattr(cfg, field, None) or shape)), np.float32)
    else:
        blank["x"] = np.zeros((1, *shape), np.float32)
    return blank


def examples(data: AnyData, rows: np.ndarray) -> Batch:
    """Return some examples as a batch: float32 images in [-1, 1], or vectors, with their labels.

    Args:
        data: that is read.
        rows: of `Dataset.read`.
    """
    return normalise({k: jnp.asarray(a) for k, a in data.read(rows).items()})


def some(data: AnyData, num: int, seed: int = 0) -> Batch:
    """Return `num` examples, or all if there are fewer, in a seeded order."""
    return examples(data, data.rows(min(num, len(data)), seed, 0))


def held_out_of(spec: str) -> str | None:
    """Return the spec of the test part of a data set whose training part `spec` is, if known."""
    name, colon, split = spec.partition(":")
    if colon and name in (*TRANSFORMS, "captions"):
        inner = held_out_of(split)
        return None if inner is None else f"{name}:{inner}"
    if colon and name == "unpaired":
        parts = [held_out_of(part) for part in two(split, name)]
        doubled = [part.replace(",", ",,") for part in parts if part is not None]
        return f"unpaired:{','.join(doubled)}" if len(doubled) == 2 else None
    whole, classes = split_classes(spec)
    if classes:
        inner = held_out_of(whole)
        return None if inner is None else f"{inner}:classes={'+'.join(classes)}"
    start, last, end = spec.rpartition(":")
    if name in ("folder", "tfds") or start.endswith(".npz"):
        return f"{start}:test" if last and end == "train" else None
    if "." in name or name in ("pairs", "halves") or (colon and split != "train"):
        return None
    return f"{name}:test"


def held_out(settings: dict[str, Any], options: DataOptions = DataOptions()) -> AnyData:  # noqa: B008
    """Open the held-out part of a run's data or, where none is known, the data themselves.

    Args:
        settings: of the run.
        options: how images are read; as in the run if they are the default.

    Raises:
        InputError: if the data cannot be opened, such as an array that was given in Python.
    """
    if options == DataOptions():
        options = DataOptions(**settings.get("data_options", {}))
    spec = settings["data"]["name"]
    other = held_out_of(spec)
    if other is not None:
        with suppress(InputError):  # there is no such part
            return open_data(other, options)
    try:
        return open_data(spec, options)
    except InputError as error:
        raise InputError(f"the run's data cannot be opened ({error}): pass --data") from None


def chosen(
    module: ModuleType,
    cfg: Any,
    classes: Sequence[Any],
    num: int,
    names: Sequence[str] | None = None,
) -> jax.Array:
    """Return labels that take given classes in turn: int32 [num].

    Args:
        module: of the model.
        cfg: its Config.
        classes: numbers from 0, or names; a string that is no name may be a number. The case of
            names does not matter.
        num: number of labels.
        names: of the classes; None if they have none.

    Raises:
        InputError: for a model that is not conditioned on a class, or an unknown class.
    """
    name, num_classes = discover.name_of(module), getattr(cfg, "num_classes", 0)
    if not num_classes or kind(module, cfg) == "nothing":
        cure = ": train it with --set num_classes=..." if hasattr(cfg, "num_classes") else ""
        raise InputError(f"classes: this {name} is not conditioned on a class{cure}")
    if not len(classes):
        raise InputError("classes is empty: give at least one, or None")
    numbers = [_number(each, names) for each in classes]
    for each, number in zip(classes, numbers, strict=True):
        if number is None:
            known = f" 0 to {num_classes - 1}"
            cure = discover.suggestion(str(each), list(names)) if names else f": give{known}"
            raise InputError(f"classes: no class is called {each!r}{cure}")
        if not 0 <= number < num_classes:
            raise InputError(f"classes: {each}, but this {name} knows 0 to {num_classes - 1}")
    return check_labels(np.resize(np.array(numbers, np.int64), num), num, num_classes)


def of_text(module: ModuleType, cfg: Any, texts: Sequence[str], num: int) -> np.ndarray:
    """Return captions that are taken in turn, as a model takes them: `num` rows.

    Args:
        module: of the model.
        cfg: its Config.
        texts: at least one caption.
        num: number of rows.

    Raises:
        InputError: for a model that is not conditioned on text, or an unknown word.
    """
    if not hasattr(module, "condition_of_text"):
        raise InputError(f"text: this {discover.name_of(module)} is not conditioned on text")
    found = np.asarray(module.condition_of_text(cfg, list(texts)))
    return found[np.arange(num) % len(found)]


def _number(given: Any, names: Sequence[str] | None) -> int | None:
    """Return the number of a class; None if no class is called so."""
    if not isinstance(given, str):
        return int(given)
    lower = [name.lower() for name in names or ()]
    for known, word in ((list(names or ()), given), (lower, given.lower())):
        if word in known:
            return known.index(word)
    return int(given) if given.removeprefix("-").isdecimal() else None


def in_turn(num_classes: int, num: int) -> np.ndarray:
    """Return labels 0, 1, ..., num_classes - 1, 0, ...: int32 [num]."""
    return np.resize(np.arange(num_classes, dtype=np.int32), num)


def repeated(condition: PyTree, times: int) -> PyTree:
    """Return a condition whose every row stands `times` times in a row."""
    return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), times, axis=0), condition)
