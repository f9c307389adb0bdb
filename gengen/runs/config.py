"""Turning `--set field=value` into a Config, and a Config into JSON and back."""

from __future__ import annotations

import dataclasses
import io
from contextlib import redirect_stderr
from typing import Any, get_type_hints

import tyro

from gengen.errors import InputError
from gengen.runs.discover import suggestion


def configure(default: Any, settings: tuple[str, ...]) -> Any:
    """A copy of the Config `default` with fields set, as in ("channels=32,64", "T=100").

    Raises:
        InputError: for an unknown field, with what may have been meant, or a value of another type.
    """
    changes = {}
    names = [field.name for field in dataclasses.fields(default)]
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: write it as FIELD=VALUE")
        if name not in names:
            raise InputError(f"Config has no field {name!r}{suggestion(name, names)}")
        changes[name] = _value(name, text, get_type_hints(type(default))[name])
    return dataclasses.replace(default, **changes)


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        words = text.strip("()[]").replace(",", " ").split()
        with redirect_stderr(io.StringIO()):  # tyro draws a box; ours is one line
            return tyro.cli(tyro.conf.Positional[kind], args=words, console_outputs=False)
    except SystemExit:
        wanted = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
        wanted = str(wanted).replace("typing.", "")
        raise InputError(f"{name} = {text!r} cannot be read as {wanted}") from None


def from_json(config_type: type, values: dict[str, Any]) -> Any:
    """A Config from what `dataclasses.asdict` and JSON made of it.

    Raises:
        InputError: if it was written for a Config with other fields.
    """
    unknown = sorted({*values} - {field.name for field in dataclasses.fields(config_type)})
    if unknown:
        raise InputError(f"the run's Config has {', '.join(unknown)}, unknown to this gengen")
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return config_type(**tuples)
