r"""How alike two images are: PSNR, SSIM and MS-SSIM, per image and as a mean.

    PSNR = 10 log₁₀(L² / MSE)

Wang et al. 2004, *Image Quality Assessment*; local moments under an 11×11 Gaussian, σ = 1.5:

    l = (2μ_aμ_b + C₁) / (μ_a² + μ_b² + C₁),    cs = (2σ_ab + C₂) / (σ_a² + σ_b² + C₂)
    SSIM = mean of l·cs,    C₁ = (0.01 L)²,    C₂ = (0.03 L)²

over windows that lie wholly inside and over channels. Wang et al. 2003, *Multiscale Structural
Similarity*: with M scales, each half the last by 2×2 means, and β = (.0448, .2856, .3001, .2363,
.1333),

    MS-SSIM = Π_{j<M} mean(cs_j)^β_j · mean(l_M·cs_M)^β_M

L is `max_val`, the range of values: 255 of uint8, 2 of [-1, 1]. Identical images have PSNR ∞ and
SSIM 1. A scale needs 11 pixels a side, so 5 scales need more than 160: a smaller image gets as many
as fit, its β divided by their sum, and that is another metric: `num_scales` tells which. The mean
over pairs of *different* samples of one class is a (weak) sign of mode collapse.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.metrics.estimate import Estimate
from gengen.metrics.resampling import of_mean
from gengen.types import Array, InputError

WINDOW, SIGMA = 11, 1.5  # pixels
_BELL = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
WEIGHTS = tuple(float(w) for w in _BELL / _BELL.sum())  # of a window's rows, and of its columns
K1, K2 = 0.01, 0.03
BETA = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BLOCK = 250  # images at a time


def psnr(a: Any, b: Any, max_val: float) -> float:
    """Mean over images of the peak signal-to-noise ratio, dB; ∞ if one pair is identical.

    Args:
        a: images [N, H, W, C], or one, [H, W, C]; uint8, or floats.
        b: the same shape and kind.
        max_val: L, the range of values: 255 for uint8, 2 for [-1, 1].

    Raises:
        InputError: for differing shapes or kinds, NaN, or values that pass L.
    """
    return _mean(_each(per_image_psnr, *_checked(a, b, max_val), max_val))


def ssim(a: Any, b: Any, max_val: float) -> float:
    """Mean over images of the structural similarity, in [-1, 1]; the arguments of `psnr`.

    Raises:
        InputError: as `psnr`, and for images below 11×11.
    """
    a, b = _checked(a, b, max_val)
    _check_scales(a.shape, 1)
    return _mean(_each(per_image_ssim, a, b, max_val))


def ms_ssim(a: Any, b: Any, max_val: float, scales: int | None = None) -> float:
    """Mean over images of the multi-scale similarity, in [0, 1]; the arguments of `psnr`.

    Args:
        a: as in `psnr`.
        b: as in `psnr`.
        max_val: as in `psnr`.
        scales: M; as many as fit, up to 5, if None: see `num_scales`.

    Raises:
        InputError: as `psnr`, and for images too small for that many scales.
    """
    a, b = _checked(a, b, max_val)
    m = num_scales(*a.shape[1:3]) if scales is None else scales
    _check_scales(a.shape, m)
    return _mean(_each(partial(per_image_ms_ssim, scales=m), a, b, max_val))


def estimates(a: Any, b: Any, max_val: float) -> dict[str, Estimate]:
    """Return "l1" and "psnr" and, of 11 pixels a side or more, "ssim" and "ms_ssim", with errors.

    "l1" is the mean absolute difference of pixels, in the unit of max_val.

    The standard errors are those of the means over pairs of images; None where a pair is identical,
    which makes the mean of the PSNR infinite. The arguments are those of `psnr`.
    """
    a, b = _checked(a, b, max_val)
    functions: dict[str, Any] = {"l1": per_image_l1, "psnr": per_image_psnr}
    if scales := num_scales(*a.shape[1:3]):
        functions["ssim"] = per_image_ssim
        functions["ms_ssim"] = partial(per_image_ms_ssim, scales=scales)
    found = {}
    for name, function in functions.items():
        values = _each(function, a, b, max_val)
        error = of_mean(values) if np.isfinite(values).all() else None
        found[name] = Estimate(_mean(values), error, len(a))
    return found


def num_scales(height: int, width: int) -> int:
    """How many scales fit, 1 to 5: the largest M with both sides > 10·2^(M-1); 0 below 11."""
    return sum(min(height, width) > (WINDOW - 1) * 2**j for j in range(len(BETA)))


@jax.jit
def per_image_l1(a: Array, b: Array, max_val: ArrayLike) -> Array:
    """Mean absolute difference [N] of float images [N, H, W, C]; max_val is not used."""
    return jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))


@jax.jit
def per_image_psnr(a: Array, b: Array, max_val: ArrayLike) -> Array:
    """PSNR, dB [N], of float images [N, H, W, C]. Can be differentiated."""
    error = jnp.mean((a - b) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(max_val**2 / error)


@jax.jit
def per_image_ssim(a: Array, b: Array, max_val: ArrayLike) -> Array:
    """SSIM [N] of float images [N, H, W, C]. Can be differentiated."""
    _check_scales(a.shape, 1)
    l, cs = _terms(a, b, max_val)  # noqa: E741
    return jnp.mean(_mean_of_windows(l * cs), axis=1)


@partial(jax.jit, static_argnames="scales")
def per_image_ms_ssim(a: Array, b: Array, max_val: ArrayLike, scales: int) -> Array:
    """MS-SSIM [N] of float images [N, H, W, C]; a negative factor counts as 0."""
    _check_scales(a.shape, scales)
    beta = np.array(BETA[:scales]) / sum(BETA[:scales])
    # Per channel, and the mean over them last.
    product = jnp.ones((a.shape[0], a.shape[3]))
    for j in range(scales):
        l, cs = _terms(a, b, max_val)  # noqa: E741
        factor = _mean_of_windows(l * cs if j == scales - 1 else cs)
        product = product * jnp.maximum(factor, 0) ** beta[j]
        a, b = _halved(a), _halved(b)
    return product.mean(axis=1)


def _terms(a: Array, b: Array, max_val: ArrayLike) -> tuple[Array, Array]:
    """The local l and cs, [N, H - 10, W - 10, C] each."""
    # Moments of each row of a window, then of the rows: by the law of total variance these are the
    # window's. No variance is a difference of second moments, which float32 would cancel away.
    zero = jnp.zeros((), a.dtype)
    mu_a, mu_b, var_a, var_b, cov = _moments(*_moments(a, b, zero, zero, zero, axis=2), axis=1)
    c1, c2 = (K1 * max_val) ** 2, (K2 * max_val) ** 2
    l = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)  # noqa: E741
    return l, (2 * cov + c2) / (var_a + var_b + c2)


def _mean_of_windows(x: Array) -> Array:
    """Mean about one of the values, [N, C]: a float32 sum of many equal values drifts."""
    first = x[:, 0, 0]
    return first + jnp.mean(x - first[:, None, None], axis=(1, 2))


def _moments(
    a: Array, b: Array, var_a: Array, var_b: Array, cov: Array, axis: int
) -> tuple[Array, ...]:
    """Means, variances and covariance of a mixture of 11 neighbours along an axis.

    Neighbour k has the weight w_k, the means a and b, the variances and covariance given.
    """
    size = a.shape[axis] - WINDOW + 1

    def neighbours(x: Array) -> list[Array]:
        if not x.ndim:
            return [x] * WINDOW
        return [jax.lax.slice_in_dim(x, k, k + size, axis=axis) for k in range(WINDOW)]

    def mean(terms: Iterable[Array]) -> Array:
        return sum((w * x for w, x in zip(WEIGHTS, terms, strict=True)), start=jnp.zeros(()))

    near = list(zip(*map(neighbours, (a, b, var_a, var_b, cov)), strict=True))
    x0, y0, *_ = near[WINDOW // 2]  # differences from it: flat images have exact means
    mu_a, mu_b = x0 + mean(x - x0 for x, *_ in near), y0 + mean(y - y0 for _, y, *_ in near)
    return (
        mu_a,
        mu_b,
        mean(v + (x - mu_a) ** 2 for x, _, v, _, _ in near),
        mean(v + (y - mu_b) ** 2 for _, y, _, v, _ in near),
        mean(c + (x - mu_a) * (y - mu_b) for x, y, _, _, c in near),
    )


def _halved(x: Array) -> Array:
    """2×2 means; an odd last row or column is left out."""
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _check_scales(shape: tuple[int, ...], scales: int) -> None:
    fit = num_scales(*shape[1:3])
    if not 1 <= scales <= fit:
        raise InputError(
            f"{scales} scales of {shape[1]}×{shape[2]} images, but "
            + (f"1 to {fit} fit" if fit else f"a side has at least {WINDOW} pixels")
        )


def _checked(a: Any, b: Any, max_val: float) -> tuple[np.ndarray, np.ndarray]:
    """Both as [N, H, W, C] on the host."""
    a, b = np.asarray(a), np.asarray(b)
    if object in (a.dtype, b.dtype) or a.shape != b.shape or a.ndim not in (3, 4) or a.size == 0:
        raise InputError(
            f"a has shape {a.shape} and b {b.shape}: give both as [N, H, W, C] or both [H, W, C]"
        )
    if (a.dtype == np.uint8) != (b.dtype == np.uint8):
        raise InputError(f"a is {a.dtype} and b {b.dtype}: bring both to one range and kind")
    if not max_val > 0:
        raise InputError(f"max_val = {max_val}, but it is the range of values: 255 for uint8")
    for name, x in (("a", a), ("b", b)):
        low, high = float(x.min()), float(x.max())
        if not np.isfinite(low + high):
            raise InputError(f"{name} holds NaN or infinity: look at what made it")
        # A ten-thousandth for the rounding of a float that is meant to end at the edge.
        if high - low > max_val * 1.0001 or (x.dtype == np.uint8 and max_val < 255):
            raise InputError(
                f"{name} is {x.dtype} from {low:g} to {high:g}, but max_val = {max_val:g} is its "
                "range: 255 for uint8, 2 for [-1, 1]"
            )
    return (a[None], b[None]) if a.ndim == 3 else (a, b)


def _each(function: Any, a: np.ndarray, b: np.ndarray, max_val: float) -> np.ndarray:
    """Return a per-image function of all images, [N]: in blocks, the last one padded."""
    values = []
    size = min(BLOCK, len(a))
    for start in range(0, len(a), size):
        parts = [x[start : start + size].astype(np.float32) for x in (a, b)]
        count = len(parts[0])
        padded = [np.pad(x, ((0, size - count), (0, 0), (0, 0), (0, 0))) for x in parts]
        values.append(np.asarray(function(*map(jnp.asarray, padded), max_val))[:count])
    return np.concatenate(values)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))
