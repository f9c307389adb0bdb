"""The run-time type checker of the tests."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable) -> Any:
    """Check the annotations of a function at each call; one that returns Self is left alone.

    The import hook decorates methods one by one, and beartype knows Self only inside of a class
    that it decorates as a whole.
    """
    hints = getattr(function, "__annotations__", {}).values()
    return function if any(hint in (Self, "Self") for hint in hints) else _check(function)
