"""The run-time type checker of the tests."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
_seen: set[Any] = set()  # code of functions defined inside others


def check(function: Callable) -> Any:
    """Check the annotations of a function at each call; one that returns Self is left alone.

    The import hook decorates methods one by one, and beartype knows Self only inside of a class
    that it decorates as a whole. A function defined inside another is defined anew at each call of
    that: the first one is checked. To check all of them takes a tenth of the time of the suite.
    """
    hints = getattr(function, "__annotations__", {}).values()
    if any(hint in (Self, "Self") for hint in hints):
        return function
    if "<locals>" in function.__qualname__:
        if function.__code__ in _seen:
            return function
        _seen.add(function.__code__)
    return _check(function)
