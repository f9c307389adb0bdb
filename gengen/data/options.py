"""How images are read: size, colours, and what becomes of a file that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from gengen.errors import InputError


def default(words: str) -> object:
    """What --help says of a field that is None where it is not given."""
    return arg(help_behavior_hint=f"(default: {words})")


@dataclass(frozen=True)
class DataOptions:
    """What `load` does to images, and how."""

    size: Annotated[int | None, default("as they are")] = None
    """Bring images to SIZE x SIZE pixels."""
    crop: Literal["center", "stretch", "pad"] = "center"
    """With --size: keep the square at the centre, stretch to a square, or pad with black."""
    grey: bool = False
    """Read images as grey."""
    skip_bad_images: bool = False
    """Leave out files that cannot be read, and say which."""
    stream: Annotated[bool | None, default("only what memory does not hold")] = None
    """Read from disk while training."""
    download: bool = False
    """Let TensorFlow Datasets download and prepare a set that is not on disk."""

    def check(self) -> None:
        """Refuse what cannot be, naming the field; `open_data` asks."""
        if self.size is not None and not 1 <= self.size <= 8192:
            raise InputError(f"size = {self.size}, but an image has 1 to 8192 pixels a side")
        if self.crop not in ("center", "stretch", "pad"):
            raise InputError(f'crop = {self.crop!r}, but it is "center", "stretch" or "pad"')
