"""Pictures of a run as a page embeds them: small, and sharp on any screen."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

LARGE, SMALL = 640, 256  # px: room for the latest picture, and for one of a strip
MAX_BYTES = {LARGE: 700_000, SMALL: 80_000}  # a larger PNG is reduced: the page stays portable


@dataclass(frozen=True)
class Picture:
    """A PNG as the page shows it: `width` in CSS pixels; `pixelated` where its pixels matter."""

    step: int
    uri: str
    width: int
    pixelated: bool


def found_in(folder: Path) -> list[tuple[int, Path]]:
    """Return the pictures `step_*.png` of a folder and their steps, in order."""
    found = [(re.fullmatch(r"step_(\d+)\.png", path.name), path) for path in folder.glob("*.png")]
    return sorted((int(match[1]), path) for match, path in found if match)


def embedded(step: int, path: Path, room: int) -> Picture | None:
    """Return a PNG for `room` CSS pixels; None if it cannot be read.

    A report is written many times during a run: each picture is encoded once.
    """
    try:
        return _embedded(step, path, path.stat().st_mtime_ns, room)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _embedded(step: int, path: Path, modified: int, room: int) -> Picture:
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("L" if file.mode in ("L", "1") else "RGB")
    # Written enlarged, it is embedded small and enlarged again by the browser: fewer bytes, and
    # sharp on a screen of any density.
    image, factor = _undo_scale(image)
    pixelated = factor > 1 or image.width < LARGE // 2
    width = image.width * max(1, room // image.width)
    if width > room:
        # Shrunk here, to twice the room for dense screens: smoother than a browser does it.
        image.thumbnail((2 * room, 2 * room), Image.Resampling.LANCZOS)
        pixelated, width = False, room
    uri = "data:image/png;base64," + base64.b64encode(_reduced(image, room)).decode()
    return Picture(step, uri, width, pixelated)


def _reduced(image: Any, room: int) -> bytes:
    """Return a PNG of at most `MAX_BYTES`, where fewer pixels or colours reach that."""
    from PIL import Image

    png = _encode(image)
    while len(png) > MAX_BYTES[room] and image.width > room:
        image.thumbnail((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        png = _encode(image)
    return _encode(image.quantize(64)) if len(png) > MAX_BYTES[room] else png


def _undo_scale(image: Any) -> tuple[Any, int]:
    """The image before each pixel became factor × factor of them, factor a power of 2."""
    from PIL import Image

    x, factor = np.asarray(image), 1
    while min(x.shape[:2]) > 32 and x.shape[0] % 2 == 0 == x.shape[1] % 2:
        half = x[::2, ::2]
        if not (np.repeat(np.repeat(half, 2, axis=0), 2, axis=1) == x).all():
            break
        x, factor = half, 2 * factor
    return Image.fromarray(np.ascontiguousarray(x)), factor


def _encode(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
