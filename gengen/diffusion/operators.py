r"""Linear operators A of inverse problems, y = Ax + σ_y n.

    inpaint     the pixels of a mask
    grey        the luma of an image in colour
    box         means over f × f pixels: super-resolution
    bicubic     cubic, antialiased down-sampling: super-resolution
    convolve    a blur; kernels: `gaussian`, `motion`
    matrix      any A of vectors

Each is three functions of batches. Guidance and pseudo-inverses, A⁺ = Aᵀ (AAᵀ)⁻¹, use `solve`,
which is exact: every AAᵀ here is diagonal in a known basis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gengen.types import Array, InputError, Shape

FLOOR = 1e-6  # added to the eigenvalues of AAᵀ, which are about 1, in the pseudo-inverse
ZERO = 1e-12  # of the largest eigenvalue: smaller ones are 0 but for rounding in float64


class Operator(NamedTuple):
    """A linear A.

    Attributes:
        forward: x [B, ...] → Ax.
        adjoint: y → Aᵀy, ⟨Ax, y⟩ = ⟨x, Aᵀy⟩.
        solve: (y, r², s²) → (r² AAᵀ + s² I)⁻¹ of the part of y in A's range.
    """

    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    solve: Callable[[Array, Array | float, Array | float], Array]

    def pinv(self, y: Array) -> Array:
        """Return A⁺y, the x of least norm with Ax = y."""
        return self.adjoint(self.solve(y, 1.0, FLOOR))

    def in_range(self, y: Array) -> Array:
        """Return AA⁺y, the part of y that Ax can equal."""
        return self.forward(self.pinv(y))

    def project(self, x: Array, y: Array) -> Array:
        """Return the nearest x' to x with Ax' = y: x + A⁺(y - Ax)."""
        return x + self.pinv(y - self.forward(x))


def inpaint(mask: np.ndarray) -> Operator:
    """Return A that keeps x where the mask is True, [H, W, C] or broadcast to it; 0 elsewhere."""
    m = jnp.asarray(mask, jnp.float32)

    def forward(x: Array) -> Array:
        return m * x

    return Operator(forward, forward, lambda y, r2, s2: m * y / (r2 + s2))


def grey(weights: tuple[float, ...] = (0.299, 0.587, 0.114)) -> Operator:
    """Return A for the luma, [B, H, W, 3] to [B, H, W, 1]; default weights of ITU-R BT.601."""
    w = jnp.asarray(weights, jnp.float32)
    norm = float(np.sum(np.square(weights)))
    return Operator(
        lambda x: x @ w[:, None],
        lambda y: y * w,
        lambda y, r2, s2: y / (r2 * norm + s2),
    )


def box(shape: Shape, factor: int) -> Operator:
    """Return A for means over factor × factor pixels of images of shape (H, W, C)."""
    _check_factor(shape, factor)
    sides = [np.kron(np.eye(n // factor), np.ones(factor) / factor) for n in shape[:2]]
    return separable(*sides)


def bicubic(shape: Shape, factor: int) -> Operator:
    """Return A for cubic down-sampling (a = -½), antialiased; the border is repeated."""
    _check_factor(shape, factor)
    return separable(*(cubic_rows(n, factor) for n in shape[:2]))


def cubic_rows(n: int, factor: int) -> np.ndarray:
    """Return the weights [n / factor, n] of each output pixel; every row sums to 1."""
    centre = (np.arange(n // factor) + 0.5) * factor - 0.5
    reach = np.arange(-2 * factor, n + 2 * factor)
    away = np.abs(reach - centre[:, None]) / factor
    near = 1.5 * away**3 - 2.5 * away**2 + 1
    far = -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    cubic = np.where(away <= 1, near, np.where(away < 2, far, 0.0))
    rows = np.zeros((n // factor, n))
    for column, pixel in zip(cubic.T, np.clip(reach, 0, n - 1), strict=True):
        rows[:, pixel] += column
    return rows / rows.sum(1, keepdims=True)


def _check_factor(shape: Shape, factor: int) -> None:
    if len(shape) != 3 or factor < 1 or any(n % factor for n in shape[:2]):
        raise InputError(f"factor = {factor} does not divide the sides of images of shape {shape}")


def separable(rows: np.ndarray, columns: np.ndarray) -> Operator:
    """Return A for R X Cᵀ of every channel, with R [h, H] and C [w, W]."""
    r, c = (jnp.asarray(m, jnp.float32) for m in (rows, columns))
    # RRᵀ = U diag(p) Uᵀ, CCᵀ = V diag(q) Vᵀ: AAᵀ is diag(p qᵀ) in the basis U ⊗ V.
    (p, u), (q, v) = (np.linalg.eigh(m @ m.T) for m in (rows, columns))
    u, v = (jnp.asarray(m, jnp.float32) for m in (u, v))
    values = _eigenvalues(np.outer(p, q))[..., None]

    def solve(y: Array, r2: Array | float, s2: Array | float) -> Array:
        return _both(u, v, _both(u.T, v.T, y) * _inverse(values, r2, s2))

    return Operator(lambda x: _both(r, c, x), lambda y: _both(r.T, c.T, y), solve)


def _eigenvalues(values: np.ndarray) -> Array:
    """Return eigenvalues of AAᵀ, float64, as float32; those that are only rounding as 0."""
    return jnp.asarray(np.where(values > ZERO * values.max(), values, 0), jnp.float32)


def _inverse(values: Array, r2: Array | float, s2: Array | float) -> Array:
    """Return 1 / (r² λ + s²) of eigenvalues λ > 0, and 0 outside of A's range."""
    return jnp.where(values > 0, 1 / (r2 * values + s2), 0)


def _both(rows: Array, columns: Array, x: Array) -> Array:
    return jnp.einsum("hH,wW,BHWC->BhwC", rows, columns, x)


def convolve(shape: Shape, kernel: np.ndarray) -> Operator:
    """Return A for the convolution of every channel with a kernel [a, b] of odd sides, sum 1.

    Images wrap around at their borders, so that A is diagonal in the Fourier basis.
    """
    a, b = kernel.shape
    if a % 2 == 0 or b % 2 == 0 or a > shape[0] or b > shape[1]:
        raise InputError(
            f"kernel of {a} × {b}: its sides must be odd and no larger than those of images {shape}"
        )
    padded = np.zeros(shape[:2])
    padded[:a, :b] = kernel
    centred = np.roll(padded, (-(a // 2), -(b // 2)), (0, 1))
    k = np.fft.rfft2(centred)
    f = jnp.asarray(k, jnp.complex64)[..., None]
    power = _eigenvalues(np.abs(k) ** 2)[..., None]

    def times(x: Array, factor: Array) -> Array:
        return jnp.fft.irfft2(factor * jnp.fft.rfft2(x, axes=(1, 2)), s=shape[:2], axes=(1, 2))

    return Operator(
        lambda x: times(x, f),
        lambda y: times(y, f.conj()),
        lambda y, r2, s2: times(y, _inverse(power, r2, s2)),
    )


def gaussian(std: float) -> np.ndarray:
    """Return a Gaussian kernel of standard deviation `std` pixels, cut at 3 std; sums to 1."""
    if not std > 0:
        raise InputError(f"std = {std}; it must be positive")
    at = np.arange(-int(np.ceil(3 * std)), int(np.ceil(3 * std)) + 1)
    line = np.exp(-0.5 * (at / std) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def motion(length: int, angle: float = 45.0) -> np.ndarray:
    """Return the kernel of a motion by `length` pixels in one direction; sums to 1.

    Args:
        length: odd; the kernel is [length, length].
        angle: degrees, anticlockwise from the right.
    """
    if length < 1 or length % 2 == 0:
        raise InputError(f"length = {length}; it must be odd and at least 1")
    kernel, half = np.zeros((length, length)), length // 2
    turn = np.deg2rad(angle)
    for along in np.linspace(-half, half, 8 * length + 1):
        row, column = half - along * np.sin(turn), half + along * np.cos(turn)
        i, j = int(np.floor(row + 1e-9)), int(np.floor(column + 1e-9))
        for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):  # bilinear weights
            share = (1 - abs(row - i - di)) * (1 - abs(column - j - dj))
            if share > 1e-9:
                kernel[i + di, j + dj] += share
    return kernel / kernel.sum()


def matrix(A: np.ndarray) -> Operator:
    """Return the operator of a matrix A [d, D], for vectors [B, D]."""
    a = jnp.asarray(A, jnp.float32)
    values, u = np.linalg.eigh(np.asarray(A, np.float64) @ np.asarray(A, np.float64).T)
    basis, spread = jnp.asarray(u, jnp.float32), _eigenvalues(values)

    def solve(y: Array, r2: Array | float, s2: Array | float) -> Array:
        return (y @ basis * _inverse(spread, r2, s2)) @ basis.T

    return Operator(lambda x: x @ a.T, lambda y: y @ a, solve)
