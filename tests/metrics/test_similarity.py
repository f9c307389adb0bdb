"""PSNR, SSIM and MS-SSIM beside plain float64 loops over windows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.metrics import similarity
from gengen.types import InputError


def pair(size, channels):
    """A pattern and a paler one, 0..255."""
    y, x, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(channels), indexing="ij")
    a = ((7 * y + 13 * x + 29 * c + (y * x) // 5) % 256).astype(float)
    return a, np.clip(0.75 * a + 10, 0, 255)


def window():
    g = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return np.outer(g, g) / np.outer(g, g).sum()


def terms(a, b, top):
    """Means over windows of l·cs and of cs, of one channel: a window at a time."""
    w, c1, c2 = window(), (0.01 * top) ** 2, (0.03 * top) ** 2
    full, contrast = [], []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            contrast.append((2 * cov + c2) / (vp + vq + c2))
            full.append((2 * mp * mq + c1) / (mp**2 + mq**2 + c1) * contrast[-1])
    return np.mean(full), np.mean(contrast)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (16, 3)])
def test_ssim_window_by_window(size, channels):
    """In float32, of 18² windows and moments up to 1e4 beside C₂ = 58: about 1e-6."""
    a, b = pair(size, channels)
    wanted = np.mean([terms(a[..., c], b[..., c], 255)[0] for c in range(channels)])
    assert similarity.ssim(a, b, 255) == pytest.approx(wanted, abs=2e-6)
    assert similarity.ssim(a / 127.5 - 1, b / 127.5 - 1, 2) != pytest.approx(wanted, abs=1e-3)
    assert similarity.ssim(a / 255, b / 255, max_val=1) == pytest.approx(wanted, abs=2e-6)


def test_ssim_of_known_images():
    """Values on which scikit-image 0.26 agrees in float64."""
    assert similarity.ssim(*pair(28, 1), 255) == pytest.approx(0.945606669605, abs=2e-6)
    assert similarity.ssim(*pair(32, 3), 255) == pytest.approx(0.945995066837, abs=2e-6)
    assert similarity.psnr(*pair(28, 1), 255) == pytest.approx(19.1704285649, abs=2e-6)


def test_ms_ssim_scale_by_scale():
    a, b = pair(28, 1)
    half = lambda x: x.reshape(14, 2, 14, 2).mean((1, 3))  # noqa: E731
    contrast = terms(a[..., 0], b[..., 0], 255)[1]
    full = terms(half(a[..., 0]), half(b[..., 0]), 255)[0]
    beta = np.array([0.0448, 0.2856]) / 0.3304
    wanted = contrast ** beta[0] * full ** beta[1]
    assert similarity.ms_ssim(a, b, 255) == pytest.approx(wanted, abs=2e-6)
    assert wanted == pytest.approx(0.948243773588)
    one = similarity.ms_ssim(a, b, 255, scales=1)
    assert one == pytest.approx(similarity.ssim(a, b, 255), abs=1e-6)


def test_psnr_by_hand():
    """A mean squared error of a hundredth of L² is 20 dB, whatever L; means are of images' dB."""
    zero = np.zeros((2, 8, 8, 1))
    off = zero + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert similarity.psnr(zero, off, 1) == pytest.approx((20 + 40) / 2, abs=1e-4)
    assert similarity.psnr(zero[0], 25.5 + zero[0], 255) == pytest.approx(20, abs=1e-4)


def test_identical_images():
    a = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    assert similarity.psnr(a, a, 255) == np.inf
    assert similarity.ssim(a, a, 255) == pytest.approx(1, abs=1e-6)
    assert similarity.ms_ssim(a, a, 255) == pytest.approx(1, abs=1e-6)


def test_flat_bright_images():
    """No variance at all, far from 0: l alone. float32 moments about 0 would be off by 1e-3."""
    a, b = np.full((12, 12, 1), 250.0), np.full((12, 12, 1), 240.0)
    wanted = (2 * 250 * 240 + 6.5025) / (250**2 + 240**2 + 6.5025)
    assert similarity.ssim(a, b, 255) == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("scale", [1, 255])
def test_flat_images_of_different_levels(scale):
    a = np.full((32, 32, 1), 0.2 * scale)
    wanted = (2 * 0.16 + 1e-4) / (0.04 + 0.64 + 1e-4)
    assert similarity.ssim(a, 4 * a, scale) == pytest.approx(wanted, abs=3e-7)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_faint_texture_far_from_the_mean_of_its_image(level):
    """Half of each image is flat at 1; the variance of the other half is 1e-6."""
    rng = np.random.default_rng(0)
    noise = 1e-3 * rng.normal(size=(2, 24, 12))
    a, b = (np.concatenate([level + n, np.ones((24, 12))], axis=1) for n in noise)
    wanted = terms(a, b, 1)[0]
    assert similarity.ssim(a[..., None], b[..., None], 1) == pytest.approx(wanted, abs=1e-6)


def test_opposite_images_are_below_zero_but_ms_ssim_is_not_nan():
    a = pair(28, 1)[0]
    assert similarity.ssim(a, 255 - a, 255) < 0
    assert similarity.ms_ssim(a, 255 - a, 255) == 0


def test_batches_are_padded_and_no_image_counts_twice(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 4)
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (10, 16, 16, 1), np.uint8)
    b = rng.integers(0, 256, (10, 16, 16, 1), np.uint8)
    for metric in (similarity.psnr, similarity.ssim):
        wanted = np.mean([metric(x, y, 255) for x, y in zip(a, b, strict=True)])
        assert metric(a, b, 255) == pytest.approx(wanted, abs=1e-6)


def test_gradients_are_finite_at_equal_images():
    a = jnp.asarray(pair(28, 1)[0][None] / 255, jnp.float32)
    loss = lambda b: similarity.per_image_ms_ssim(a, b, 1.0, 2).sum()  # noqa: E731
    assert bool(jnp.isfinite(jax.grad(loss)(a)).all())


def test_scales_that_fit():
    """More than 160 a side for five."""
    sides = (10, 11, 20, 21, 28, 40, 41, 80, 81, 160, 161, 500)
    wanted = [0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [similarity.num_scales(n, 999) for n in sides] == wanted
    assert similarity.num_scales(999, 11) == 1


def ones(*shape, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: similarity.ssim(ones(10, 99, 1), ones(10, 99, 1), 1), "at least 11 pixels"),
        (lambda: similarity.ms_ssim(ones(9, 9, 1), ones(9, 9, 1), 1), "at least 11 pixels"),
        (lambda: similarity.ms_ssim(ones(28, 28, 1), ones(28, 28, 1), 1, 5), "1 to 2 fit"),
        (lambda: similarity.ssim(ones(28, 28), ones(28, 28), 1), "[N, H, W, C]"),
        (lambda: similarity.psnr(ones(8, 8, 1), ones(8, 9, 1), 1), "b (8, 9, 1)"),
        (lambda: similarity.psnr(ones(8, 8, 1, dtype=np.uint8), ones(8, 8, 1), 1), "b float32"),
        (lambda: similarity.psnr(ones(8, 8, 1) * np.nan, ones(8, 8, 1), 1), "NaN"),
        (lambda: similarity.psnr(ones(8, 8, 1), np.eye(8)[..., None] * 9, 1), "from 0 to 9"),
        (
            lambda: similarity.psnr(
                ones(8, 8, 1, dtype=np.uint8), ones(8, 8, 1, dtype=np.uint8), 1
            ),
            "255 for uint8",
        ),
        (lambda: similarity.psnr(ones(8, 8, 1), ones(8, 8, 1), 0), "max_val = 0"),
        (
            lambda: similarity.per_image_ssim(jnp.ones((1, 5, 5, 1)), jnp.ones((1, 5, 5, 1)), 1.0),
            "11 pixels",
        ),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(InputError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)
