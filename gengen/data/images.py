"""One image file to one array: orientation, colours, size; and no more memory than it deserves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gengen.data_options import DataOptions

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**26  # of one image; a file of a few bytes can claim any number

# What Pillow raises on a damaged file, by decoder; `Warning` where warnings are errors.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, Warning, MemoryError,
          Image.DecompressionBombError)  # fmt: skip

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_EXIF_ORIENTATION = 0x0112


class BadImage(ValueError):
    """A file that is no whole image; the message says why."""


def header(content: bytes) -> tuple[int, int, bool]:
    """Height and width as they will be shown, and whether the image is grey, without decoding.

    Raises:
        BadImage: if the file is none, or claims too many pixels.
    """
    try:
        with _opened(content) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
            return height, width, image.mode in _GREY
    except BROKEN as error:
        raise BadImage(_why(error)) from None


def decode(content: bytes, options: DataOptions, grey: bool) -> np.ndarray:
    """An image file's bytes as uint8 [H, W, 1] if `grey`, else [H, W, 3].

    EXIF orientation is applied; transparent pixels lie over white; 16 bits a channel become 8.
    Resizing is bicubic with antialiasing.

    Raises:
        BadImage: if it cannot be read.
    """
    try:
        with _opened(content) as opened:
            image = _to_8_bits(ImageOps.exif_transpose(opened))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return resized(np.asarray(image.convert("L" if grey else "RGB")), options)
    except BROKEN as error:
        raise BadImage(_why(error)) from None


def resized(pixels: np.ndarray, options: DataOptions) -> np.ndarray:
    """Pixels [H, W] or [H, W, C], uint8, brought to `options.size`: [size, size, C]."""
    size = options.size
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    if size is None or planes.shape[:2] == (size, size):
        return planes
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    square, method = (size, size), Image.Resampling.BICUBIC
    if options.crop == "stretch":
        image = image.resize(square, method)
    elif options.crop == "pad":
        image = ImageOps.pad(image, square, method)
    else:
        image = ImageOps.fit(image, square, method)
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Colour [H, W, 3] as grey [H, W, 1], uint8: ITU-R 601-2 luma, as Pillow's."""
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def _opened(content: bytes) -> Any:
    # Bytes, not a file: where a chunk claims 512 MB, a file's read would allocate them first.
    image = Image.open(io.BytesIO(content))
    width, height = image.size
    if width * height > MAX_PIXELS:  # before anything is decoded
        image.close()
        raise ValueError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS}")
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16 and 32 bits as 8: Pillow would clip instead of scaling them."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        most = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
        return Image.fromarray(np.rint(np.clip(values / most, 0, 1) * 255).astype(np.uint8))
    return image


def _why(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
