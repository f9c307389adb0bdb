"""Pictures of a space of codes: what lies where in it, and what is between.

`decode` is any function from codes [N, D] to images [N, H, W, C] in [-1, 1], such as
`partial(vae.decode, cfg, variables)`. Pictures are uint8 arrays on the host, for `grid.save_png`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gengen.errors import InputError
from gengen.viz.grid import GAP, grid

Decode = Callable[[np.ndarray], Any]

# Okabe & Ito's colours, told apart by the colour-blind too; the last two make up ten.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000",
    "#8c6bb1", "#9a9a9a",
)  # fmt: skip


def interpolate(start: ArrayLike, end: ArrayLike, num: int, spherical: bool = False) -> np.ndarray:
    """Codes on the way from `start` to `end`, both included.

    Args:
        start: [N, D].
        end: [N, D].
        num: of codes on each way, at least 2.
        spherical: along great circles (Shoemake 1985), lengths going evenly from one to the other:
            under N(0, I) in many dimensions codes lie near a sphere, and the straight line's middle
            is where there are none.

    Returns:
        float64 [N, num, D].

    Raises:
        InputError: for codes of differing shapes, or num < 2.
    """
    a, b = (_codes(z) for z in (start, end))
    if a.shape != b.shape or num < 2:
        raise InputError(f"codes {a.shape} and {b.shape}, num = {num}: of one shape, and num ≥ 2")
    t = np.linspace(0, 1, num)[:, None]
    a, b = a[:, None], b[:, None]
    if not spherical:
        return (1 - t) * a + t * b
    lengths = [np.linalg.norm(z, axis=-1, keepdims=True) for z in (a, b)]
    u, v = (z / np.maximum(length, 1e-12) for z, length in zip((a, b), lengths, strict=True))
    angle = np.arccos(np.clip((u * v).sum(-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    # Where codes have (nearly) one direction, opposite ones or none, there is no circle: straight.
    flat = (sine < 1e-6) | (lengths[0] < 1e-12) | (lengths[1] < 1e-12)
    sine = np.where(flat, 1, sine)
    along = np.where(flat, 1 - t, np.sin((1 - t) * angle) / sine) * u
    along = along + np.where(flat, t, np.sin(t * angle) / sine) * v
    way = along * ((1 - t) * lengths[0] + t * lengths[1])
    return np.where(flat, (1 - t) * a + t * b, way)


def interpolations(
    decode: Decode, start: ArrayLike, end: ArrayLike, num: int = 10, spherical: bool = False
) -> np.ndarray:
    """A row of images for each pair of codes: its ends are the decoded codes themselves."""
    z = interpolate(start, end, num, spherical)
    return grid(_decoded(decode, z.reshape(-1, z.shape[-1])), columns=num)


def manifold(
    decode: Decode, side: int = 15, within: float = 0.98, codes: ArrayLike | None = None
) -> np.ndarray:
    """A plane of codes, decoded: the k-th row and column at percentiles of the codes' law.

    So each image stands for as much of it as any other (Kingma & Welling 2014, figure 4).

    Args:
        decode: of 2-D codes.
        side: images of a side.
        within: the share of the law, in each dimension, that is shown.
        codes: whose percentiles, [N, 2]: samples of another prior, or the data's; None: N(0, 1)'s.
    """
    from scipy.stats import norm

    if side < 1 or not 0 < within < 1:
        raise InputError(f"side = {side}, within = {within}: at least 1, and between 0 and 1")
    shares = 0.5 + within * (np.linspace(0, 1, side) - 0.5) if side > 1 else np.array([0.5])
    if codes is None:
        across = upwards = norm.ppf(shares)
    else:
        across, upwards = np.quantile(_plane(codes), shares, axis=0).T
    # The second dimension grows upwards, as in a plot.
    z = np.stack(np.meshgrid(across, upwards[::-1]), axis=-1).reshape(-1, 2)
    return grid(_decoded(decode, z), columns=side)


def _plane(codes: ArrayLike) -> np.ndarray:
    z = _codes(codes)
    if z.shape[1] != 2:
        raise InputError(f"codes are {z.shape}, but a manifold is drawn of [N, 2]")
    return z


def traversals(
    decode: Decode,
    z: ArrayLike,
    dims: Sequence[int] | None = None,
    num: int = 9,
    far: ArrayLike = 3.0,
    centre: ArrayLike = 0.0,
) -> np.ndarray:
    """One code with one dimension at a time moved about the centre: a row for each dimension.

    Args:
        decode: of codes.
        z: the code, [D].
        dims: which dimensions; None: all.
        num: images of a row.
        far: how far to each side, in the units of z, or for each dimension [D].
        centre: of the ways, or of each [D]: of the prior N(0, I), 0.
    """
    code = _codes(np.asarray(z)[None])[0]
    far, centre = (np.broadcast_to(np.asarray(v, float), code.shape) for v in (far, centre))
    dims = tuple(range(len(code))) if dims is None else tuple(dims)
    if not len(dims) or min(dims) < 0 or max(dims) >= len(code) or num < 2:
        raise InputError(f"dims = {dims}, num = {num}: of 0..{len(code) - 1}, and num ≥ 2")
    rows = np.tile(code, (len(dims), num, 1))
    for row, dim in zip(rows, dims, strict=True):
        row[:, dim] = centre[dim] + np.linspace(-far[dim], far[dim], num)
    return grid(_decoded(decode, rows.reshape(-1, len(code))), columns=num)


def reconstructions(x: ArrayLike, out: ArrayLike, columns: int = 10) -> np.ndarray:
    """Rows of images, each above the row of what came back of them.

    Args:
        x: images [N, H, W, C].
        out: the same shape.
        columns: images of a row.
    """
    x, out = np.asarray(x), np.asarray(out)
    if x.shape != out.shape or x.ndim != 4 or columns < 1:
        raise InputError(f"x is {x.shape}, out {out.shape}: images of one shape; and columns ≥ 1")
    columns = min(columns, len(x))
    num = -len(x) % columns  # what the last row lacks looks as the gaps do

    def rows(images: np.ndarray) -> np.ndarray:
        blank = GAP if images.dtype == np.uint8 else GAP / 127.5 - 1
        fill = np.full((num, *x.shape[1:]), blank, images.dtype)
        return np.concatenate([images, fill]).reshape(-1, columns, *x.shape[1:])

    both = np.stack([rows(x), rows(out)], axis=1)
    return grid(both.reshape(-1, *x.shape[1:]), columns)


def attribute(z: ArrayLike, has: ArrayLike) -> np.ndarray:
    """The attribute's vector: the mean code of examples that have it less that of the others: [D].

    Args:
        z: codes [N, D].
        has: true for each example that has the attribute, [N].

    Raises:
        InputError: if all or none have it.
    """
    codes, mask = _codes(z), np.asarray(has, bool)
    if mask.shape != (len(codes),) or mask.all() or not mask.any():
        raise InputError(f"has is {mask.shape}, {mask.sum()} true: [{len(codes)}], some, not all")
    return codes[mask].mean(0) - codes[~mask].mean(0)


def arithmetic(
    decode: Decode, z: ArrayLike, vector: ArrayLike, strengths: Sequence[float] = (-1, 0, 1)
) -> np.ndarray:
    """Each code less and plus an attribute: a row a code, a column a strength.

    Args:
        decode: of codes.
        z: codes [N, D].
        vector: of the attribute, [D].
        strengths: how many times the vector is added.
    """
    z, v = _codes(z), np.asarray(vector, np.float64)
    if v.shape != z.shape[1:] or not len(strengths):
        raise InputError(f"vector is {v.shape}: a code is {z.shape[1:]}; and at least 1 strength")
    moved = z[:, None] + np.asarray(strengths)[:, None] * v
    return grid(_decoded(decode, moved.reshape(-1, len(v))), columns=len(strengths))


def _codes(z: ArrayLike) -> np.ndarray:
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or 0 in z.shape or not np.isfinite(z).all():
        raise InputError(f"codes are {z.shape}: they must be [N ≥ 1, D ≥ 1], all finite")
    return z


def _decoded(decode: Decode, z: np.ndarray) -> np.ndarray:
    return np.asarray(decode(z.astype(np.float32)))
