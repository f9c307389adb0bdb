"""Settings and numbers as text."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value of a JSON file is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def literal(value: Any) -> str:
    """Return a setting as it was given: not rounded; lists as `--set` takes them."""
    if isinstance(value, list):
        return ", ".join(literal(v) for v in value)
    return str(value)


def flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested dicts, named "outer.inner"."""
    leaves = []
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves += flatten(value, f"{prefix}{name}.")
        else:
            leaves.append((prefix + name, value))
    return leaves
