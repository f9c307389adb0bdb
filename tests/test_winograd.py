"""Winograd's convolution is the convolution, and nn.Conv's parameters are what they were."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from gengen.types import LAYOUT
from gengen.xla import winograd


def case(sides: tuple[int, int], channels: int, features: int) -> tuple[jax.Array, jax.Array]:
    x, kernel = jax.random.key(0), jax.random.key(1)
    shape = 3, 3, channels, features
    return jax.random.normal(x, (2, *sides, channels)), jax.random.normal(kernel, shape)


@pytest.mark.parametrize("sides", [(2, 2), (4, 6), (8, 2)])
def test_is_the_sum_over_neighbours(sides):
    """float64 by scipy; float32 keeps about 6 digits of sums of 9 · 5 products."""
    x, kernel = case(sides, 5, 3)
    expected = [
        [
            sum(
                correlate2d(np.float64(image[..., c]), np.float64(kernel[..., c, f]), mode="same")
                for c in range(5)
            )
            for f in range(3)
        ]
        for image in x
    ]
    expected = np.moveaxis(np.array(expected), 1, -1)
    np.testing.assert_allclose(winograd.convolve(x, kernel), expected, atol=2e-5)


def test_derivatives_are_the_convolutions():
    x, kernel = case((4, 4), 2, 3)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)

    found, expected = (
        jax.grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1))(x, kernel)
        for f in (winograd.convolve, reference)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    _, along = jax.jvp(lambda x: winograd.convolve(x, kernel), (x,), (x,))  # it is linear
    np.testing.assert_allclose(along, reference(x, kernel), atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "features", "options", "taken"),
    [((64, 32), 64, {}, True), ((63, 64), 64, {}, False), ((64, 64), 32, {}, False)]
    + [((64, 64), 64, {"strides": 2}, False), ((16, 16), 64, {}, False)]
    + [((64, 64), 64, {"kernel_dilation": 2}, False), ((64, 64), 64, {"padding": 1}, False)]
    + [((64, 64), 64, {"feature_group_count": 2}, False)],
)
def test_is_taken_where_it_pays(monkeypatch, sides, features, options, taken):
    seen = []
    monkeypatch.setattr(winograd, "convolve", lambda x, k: seen.append(k) or x)
    options = {"conv_general_dilated": winograd.conv_general_dilated} | options
    layer = nn.Conv(features, (3, 3), **options)
    jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.zeros((2, *sides, 64)))
    assert bool(seen) == taken
