"""Writing a page: a template of this folder, filled in, in the place of the old page."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from gengen.viz import curves


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Macros that are imported see globals only.
    found.globals |= {"axes": curves, "number": curves.number}
    return found


def write_page(path: Path, template: str, context: dict[str, Any]) -> Path:
    """Write a page atomically: a reader sees the old one or the new one.

    Raises:
        OSError: if it cannot be written.
    """
    page = _environment().get_template(template).render(context)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
