"""One image file to one array: orientation, colours, size; and no more memory than it deserves."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gengen.data.options import DataOptions

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**26  # of one image; a file of a few bytes can claim any number
MAX_BYTES = 2**29  # of one file: that many pixels in RGBA of 16 bits, uncompressed

# By content, whatever the name says. Left to itself Pillow tries all it knows, and hands PostScript
# to another program.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Larger images are decoded one at a time, not one a thread: some take 16 bytes a pixel meanwhile.
_LARGE = 2**23  # pixels
_one_large = threading.Lock()

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101


class BadImage(ValueError):
    """A file that is no whole image; the message says why."""


def content_of(file: Path) -> bytes:
    """A file's bytes.

    Raises:
        BadImage: if it cannot be read, or is larger than any image that `decode` takes.
    """
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise BadImage(f"it has {size} bytes, more than {MAX_BYTES}")
        return file.read_bytes()
    except OSError as error:
        raise BadImage(_why(error)) from None


def header(content: bytes) -> tuple[int, int, bool]:
    """Height and width as they will be shown, and whether the image is grey, without decoding.

    Raises:
        BadImage: if the file is none, or claims too many pixels.
    """
    try:
        with _opened(content) as image:
            width, height = _stored_size(image)
            if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
            return height, width, image.mode in _GREY
    except Exception as error:  # Pillow's decoders raise anything: KeyError, struct.error, ...
        raise BadImage(_why(error)) from None


def _stored_size(image: Any) -> tuple[int, int]:
    """Width and height before orientation; Pillow has swapped those of a TIFF on opening it."""
    if image.format != "TIFF":
        return image.size
    return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]


def decode(content: bytes, options: DataOptions, grey: bool) -> np.ndarray:
    """An image file's bytes as uint8 [H, W, 1] if `grey`, else [H, W, 3].

    EXIF orientation is applied; transparent pixels lie over white; 16 bits a channel become 8.
    Resizing is bicubic with antialiasing; a JPEG of more than three times the size is decoded at a
    half, a quarter or an eighth of its own.

    Raises:
        BadImage: if it cannot be read.
    """
    try:
        with _opened(content) as opened:
            if options.size is not None:
                opened.draft(None, (3 * options.size, 3 * options.size))
            width, height = opened.size
            with _one_large if width * height > _LARGE else nullcontext():
                return resized(_pixels(opened, grey), options)
    except Exception as error:  # as above
        raise BadImage(_why(error)) from None


def _pixels(opened: Image.Image, grey: bool) -> np.ndarray:
    """Decode: uint8 [H, W] if `grey`, else [H, W, 3]."""
    image = _to_8_bits(ImageOps.exif_transpose(opened))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("L" if grey else "RGB"))


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
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:  # whose own words are the address of the bytes
        raise ValueError(f"it is none of {' '.join(_FORMATS)}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:  # before anything is decoded
        image.close()
        raise ValueError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS}")
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16 and 32 bits as 8: Pillow would clip instead of scaling them."""
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinity")
        most = 1 if values.max(initial=0) <= 1 else 65535
        return Image.fromarray(np.rint(np.clip(values * (255 / most), 0, 255)).astype(np.uint8))
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257
    return image


def _why(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
