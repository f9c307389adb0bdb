"""Nested dicts of arrays as flat ones, and back: what a safetensors file can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.types import InputError, PyTree


def flat(tree: PyTree, path: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """{"params/Dense_0/kernel": array} of nested dicts.

    Raises:
        InputError: for a name with a slash, which could not be distinguished from a path.
    """
    if not isinstance(tree, dict):
        return {"/".join(path): np.ascontiguousarray(tree).reshape(np.shape(tree))}
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if "/" in key:
            raise InputError(f"a variable is named {key!r}: names must not hold a slash")
        found |= flat(value, (*path, key))
    return found


def nested(arrays: dict[str, np.ndarray]) -> PyTree:
    """The inverse of `flat`.

    Raises:
        InputError: if one name is both an array and a folder of others.
    """
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise InputError(f"{name} lies inside of another array")
        if leaf in node:
            raise InputError(f"{name} is an array and a folder")
        node[leaf] = array
    return tree
