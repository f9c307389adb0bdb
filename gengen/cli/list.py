"""`gengen list`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gengen.runs import discover


@dataclass(frozen=True)
class List:
    """Print the models."""

    json: bool = False
    """As JSON, on stdout."""

    def __call__(self) -> None:
        """Run the command."""
        models = discover.models()
        if self.json:
            print(json.dumps([model._asdict() for model in models], indent=2))
            return
        for family in dict.fromkeys(model.family for model in models):
            print(family)
            for model in models:
                if model.family == family:
                    print(f"  {model.name:16} {model.title}")
