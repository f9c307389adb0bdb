"""Weights in PyTorch's form, arrays or tensors by name, checked one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gengen.types import InputError, Shape


def checked(state_dict: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The arrays named in `shapes`, as float32 on the host.

    Args:
        state_dict: arrays or tensors by name.
        shapes: what it must hold, all of it and nothing else.

    Raises:
        InputError: naming arrays that are missing, unexpected, of another shape, not of floats, or
            not finite.
    """
    missing, unexpected = shapes.keys() - state_dict.keys(), state_dict.keys() - shapes.keys()
    if missing or unexpected:
        told = [("lack", missing), ("have the unexpected", unexpected)]
        raise InputError(
            f"weights {' and '.join(f'{verb} {some(names)}' for verb, names in told if names)}: "
            "they are of another network, or of a part of it"
        )
    arrays = {name: _on_host(name, state_dict[name]) for name in shapes}
    wrong = [name for name, array in arrays.items() if array.shape != tuple(shapes[name])]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{name} has shape {list(arrays[name].shape)}, but {list(shapes[name])} is needed"
            f"{f' (and {len(wrong) - 1} more)' if wrong[1:] else ''}: they are of another network"
        )
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(f"{some(broken)}: NaN or infinity among the weights; get the file again")
    return arrays


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _on_host(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, perhaps a trained one on a GPU
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise InputError(f"{name} is {array.dtype}, but weights are floats")
    return array.astype(np.float32)
