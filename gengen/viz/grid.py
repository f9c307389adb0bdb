"""Samples as one picture: images side by side, points in the plane, vectors as rows of colour.

Every picture is a uint8 array [H, W, C] on the host; `save_png` writes it. A diverged model can be
looked at too: what is not finite is painted magenta, or left out and counted.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gengen.errors import InputError

NOT_FINITE = (255, 0, 255)  # magenta: no photograph and no colour map used here has it
GAP = 24  # grey level between images: just apart from the black that many images are full of
MAX_POINTS = 5000  # of a scatter plot: more only blacken it
MAX_ROWS = 64  # of a heat map

REAL_COLOUR, SAMPLE_COLOUR, INK_COLOUR = "#b5b0a6", "#2456c4", "#6b675f"


def grid(images: ArrayLike, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Lay images out row by row.

    Args:
        images: [N, H, W, C], C of 1 or 3; uint8, or float meant to be in [-1, 1]: what lies outside
            is clipped, what is not finite is painted magenta.
        columns: images per row; if None, the fewest that make the grid no taller than wide in
            images, so 4 for 16 and 5 for 20. Never more than N.
        padding: pixels between images; there is none around the grid.

    Returns:
        uint8 [rows·H + (rows-1)·padding, columns·W + (columns-1)·padding, C]. C is 3, even where it
        was 1, if there is a pixel to paint magenta. Cells without an image look as the gaps do.

    Raises:
        InputError: for another shape, no images, columns < 1 or padding < 0.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        raise InputError(
            f"images have shape {x.shape}: they must be [N, H, W, C], C = 1 or 3, and N ≥ 1"
        )
    if (columns is not None and columns < 1) or padding < 0:
        raise InputError(f"columns = {columns}, padding = {padding}: they must be ≥ 1 and ≥ 0")
    num = len(x)
    columns = min(num, columns or math.ceil(math.sqrt(num)))
    rows = math.ceil(num / columns)
    x = _pixels(x)
    _, height, width, channels = x.shape
    cells = np.full((rows * columns, height + padding, width + padding, channels), GAP, np.uint8)
    cells[:num, :height, :width] = x
    cells = cells.reshape(rows, columns, *cells.shape[1:])
    whole = cells.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + padding), columns * (width + padding), channels
    )
    return np.ascontiguousarray(whole[: len(whole) - padding, : whole.shape[1] - padding])


def _pixels(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":  # which NumPy itself does not know
        raise InputError(f"images are {x.dtype}: they must be uint8, or float in [-1, 1]")
    x = x.astype(np.float32)
    bad = ~np.isfinite(x).all(axis=-1)
    pixels = np.rint((np.clip(np.nan_to_num(x), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    if bad.any():
        pixels = np.array(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))
        pixels[bad] = NOT_FINITE
    return pixels


def save_png(path: str | os.PathLike[str], array: ArrayLike, scale: int = 1) -> None:
    """Write a picture as PNG, atomically: a reader sees the old file or the new one.

    Args:
        path: where to; its folder exists.
        array: uint8 [H, W, C], C of 1 or 3, or [H, W].
        scale: each pixel becomes scale × scale pixels, so that small images can be seen.

    Raises:
        InputError: for another shape or dtype, or scale < 1.
        OSError: if the file cannot be written.
    """
    from PIL import Image

    x = np.asarray(array)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.dtype != np.uint8 or 0 in x.shape or not (x.ndim == 2 or x.ndim == 3 == x.shape[-1]):
        raise InputError(f"a picture is uint8 [H, W, 1 or 3]; this is {x.dtype} {x.shape}")
    if scale < 1:
        raise InputError(f"scale = {scale}: it must be at least 1")
    x = np.repeat(np.repeat(x, scale, axis=0), scale, axis=1)
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        Image.fromarray(x).save(part, format="PNG", optimize=True)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def picture(samples: ArrayLike, reference: ArrayLike | None = None) -> np.ndarray:
    """Samples as the picture that suits their shape.

    Args:
        samples: images [N, H, W, C] → `grid`; points [N, 2] → `scatter`; other vectors [N, D] →
            `heat_map`.
        reference: real data of the same shape but for N; drawn behind points, sets the colours of
            a heat map; not used for images.

    Returns:
        uint8 [H, W, C].

    Raises:
        InputError: for samples of another shape.
    """
    x = np.asarray(samples)
    if x.ndim == 4:
        return grid(x)
    if x.ndim == 2:
        return (scatter if x.shape[1] == 2 else heat_map)(x, reference)
    raise InputError(f"samples of shape {x.shape} have no picture: [N, H, W, C] and [N, D] have")


def save_samples(drawn: ArrayLike, reference: ArrayLike | None, path: str | Path) -> np.ndarray:
    """Write what a model drew as a PNG.

    Args:
        drawn: samples [N, ...], as `picture` takes them, or a finished picture uint8 [H, W, C].
        reference: real data, as in `picture`.
        path: of the file.

    Returns:
        The picture, uint8 [H, W, C].
    """
    x = np.asarray(drawn)
    finished = x.dtype == np.uint8 and x.ndim == 3
    image = x if finished else picture(x, reference=reference)
    save_png(path, image, scale=2 if finished or x.ndim == 4 else 1)
    return image


def scatter(points: ArrayLike, reference: ArrayLike | None = None, size: int = 480) -> np.ndarray:
    """Points in the plane, blue, over real data in grey.

    The frame is that of the real data if given, so that pictures of one run can be compared and a
    stray sample does not shrink the rest; how many points lie outside it is written below it.

    Args:
        points: [N, 2].
        reference: real data, [M, 2].
        size: width and height in pixels, at least 100.

    Returns:
        uint8 [size, size, 3].

    Raises:
        InputError: for other shapes, or a smaller size.
    """
    x = _matrix(points, "points", width=2)
    real = None if reference is None else _matrix(reference, "reference", width=2)
    if size < 100:
        raise InputError(f"size = {size}: it must be at least 100 pixels")

    finite = x[np.isfinite(x).all(axis=1)]
    lower, upper = _frame(finite if real is None else real[np.isfinite(real).all(axis=1)])
    inside = finite[((finite >= lower) & (finite <= upper)).all(axis=1)]

    figure, axes = _figure(size, size)
    for z, colour in ((real, REAL_COLOUR), (inside, SAMPLE_COLOUR)):
        if z is not None:
            z = z[:: math.ceil(len(z) / MAX_POINTS) or 1]
            axes.scatter(*z.T, s=5, c=colour, alpha=0.7, linewidths=0, rasterized=True)
    axes.set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]), aspect="equal")
    left_out = len(x) - len(inside)
    # Unseen rather than absent: the frame stays where it is in every picture of a run.
    note = f"{left_out:,} of {len(x):,} points lie outside"
    axes.set_xlabel(note, fontsize=8, color=INK_COLOUR if left_out else "none")
    return _render(figure)


def _frame(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a square around nearly all of x [N, 2]."""
    if not len(x):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = np.percentile(x, [0.2, 99.8], axis=0)
    half = max(0.57 * float((high - low).max()), 1e-6 + 1e-6 * float(np.abs(x).max()))
    return (low + high) / 2 - half, (low + high) / 2 + half


def heat_map(vectors: ArrayLike, reference: ArrayLike | None = None, size: int = 480) -> np.ndarray:
    """Vectors as rows of colour: the first 64 of them; what is not finite is magenta.

    Args:
        vectors: [N, D].
        reference: real data [M, D]: the colours span its 1st to 99th percentile; that of the
            vectors if None.
        size: width and height in pixels, at least 100.

    Returns:
        uint8 [size, size, 3].

    Raises:
        InputError: for other shapes, or a smaller size.
    """
    x = _matrix(vectors, "vectors")
    scale = x if reference is None else _matrix(reference, "reference", width=x.shape[1])
    if size < 100:
        raise InputError(f"size = {size}: it must be at least 100 pixels")
    scale = scale[np.isfinite(scale)]
    low, high = np.percentile(scale, [1, 99]) if len(scale) else (0.0, 1.0)

    import matplotlib

    figure, axes = _figure(size, size)
    image = axes.imshow(
        np.ma.masked_invalid(x[:MAX_ROWS]),
        aspect="auto",
        interpolation="nearest",
        cmap=matplotlib.colormaps["viridis"].with_extremes(bad="magenta"),
        vmin=low,
        vmax=high if high > low else low + 1,
    )
    axes.set_xlabel("dimension", fontsize=8, color=INK_COLOUR)
    axes.set_ylabel("sample", fontsize=8, color=INK_COLOUR)
    bar = figure.colorbar(image, ax=axes, fraction=0.05)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    _quiet(bar.ax)
    return _render(figure)


def _matrix(x: ArrayLike, name: str, width: int | None = None) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape or (width is not None and x.shape[1] != width):
        wanted = "D ≥ 1" if width is None else width
        raise InputError(f"{name} has shape {x.shape}: it must be [N ≥ 1, {wanted}]")
    return x.astype(np.float64)


def _figure(width: int, height: int):
    """A figure of that many pixels and its axes; pyplot, with its global state, is not touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    _quiet(axes)
    return figure, axes


def _quiet(axes: Any) -> None:
    axes.tick_params(labelsize=8, length=0, labelcolor=INK_COLOUR)
    for spine in axes.spines.values():
        spine.set(color="#dedad1", linewidth=0.8)


def _render(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()
