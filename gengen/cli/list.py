"""`gengen list`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from gengen.runs import discover

if TYPE_CHECKING:
    from gengen.runs.describe import Description


@dataclass(frozen=True)
class List:
    """Print the models; or of one, paper, Config and functions: gengen list ddpm."""

    model: Positional[str | None] = None
    """The model to describe; a file or dotted name for one of your own."""
    json: bool = False
    """As JSON, on stdout."""

    def __call__(self) -> None:
        """Run the command."""
        if self.model is None:
            _list(self.json)
            return
        from gengen.runs.describe import describe

        found = describe(discover.module(self.model))
        if self.json:
            values = found._asdict() | {"fields": [field._asdict() for field in found.fields]}
            print(json.dumps(values, indent=2))
        else:
            _print(found)


def _list(as_json: bool) -> None:
    """Print all models, by family."""
    models = discover.models()
    if as_json:
        print(json.dumps([model._asdict() for model in models], indent=2))
        return
    for family in dict.fromkeys(model.family for model in models):
        print(family)
        for model in models:
            if model.family == family:
                print(f"  {model.name:16} {model.title}")


def _print(found: Description) -> None:
    """Print what is known of a model."""
    how = {"method": "step by step", "stages": "in stages", "fit": "at once, by fit"}
    can = ", ".join(found.can) + (f" ({found.log_prob})" if found.log_prob else "")
    print(f"{found.name} ({found.family}): {found.title}")
    if found.reference:
        print(textwrap.fill(found.reference, 100, initial_indent="  ", subsequent_indent="  "))
    print(f"  trained    {how[found.trained_by]}")
    print(f"  functions  {can}")
    print(f"  condition  {'a class, an image, or part of one' if found.is_conditioned else 'none'}")
    print("fields of the Config, set by --set FIELD=VALUE; data and device may change defaults:")
    for field in found.fields:
        shown = f"  {field.name} = {_shown(field.default)}"
        lines = textwrap.wrap(field.comment, 62) or [""]
        start = [] if len(shown) < 36 else [shown]
        first = shown if not start else ""
        body = [f"{first if i == 0 else '':36}  {line}".rstrip() for i, line in enumerate(lines)]
        print("\n".join([*start, *body]))


def _shown(value: Any) -> str:
    """Return a default as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "()"
    return '""' if value == "" else str(value)
