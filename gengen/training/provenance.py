"""Where a run comes from: the command that started it, and the commit of gengen's source."""

from __future__ import annotations

import subprocess
from contextvars import ContextVar
from pathlib import Path

import gengen

# The command line of this process, as a shell takes it; None if gengen is called from Python.
COMMAND: ContextVar[str | None] = ContextVar("command", default=None)


def provenance() -> dict[str, str]:
    """Return what is known of "command" and "commit"; the commit ends in "-dirty" if changed."""
    found = {"command": COMMAND.get(), "commit": commit()}
    return {name: value for name, value in found.items() if value}


def commit() -> str | None:
    """Return the commit of the checkout that gengen is imported from; None if it is installed."""
    root = Path(gengen.__file__).parents[1]
    if not (root / ".git").exists():  # a checkout above site-packages is another project's
        return None
    words = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=12",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
