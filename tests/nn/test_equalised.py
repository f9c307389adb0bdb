"""Equalised layers: He's constant at run time; pixel norm by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.equalised import EqualisedConv, EqualisedDense, pixel_norm

RNG = np.random.default_rng(0)


def initial(layer: nn.Module, x: jax.Array) -> Any:
    """What a layer makes of x with its first weights, and these."""
    out, variables = layer.init_with_output(jax.random.key(0), x)
    return out, variables["params"]


def test_pixel_norm_by_hand():
    """(3, 4) has the mean square 12.5; 1e-4 · (3, 4) that of 1.25e-7, where ε = 1e-8 counts."""
    x = jnp.asarray([[3.0, 4.0], [3e-4, 4e-4]])
    wanted = np.array([[3.0, 4.0], [3.0, 4.0]]) / np.sqrt([[12.5], [12.5 + 1.0]])
    np.testing.assert_allclose(pixel_norm(x), wanted, rtol=1e-6)


def test_each_pixel_is_normalised_by_its_own_channels():
    x = RNG.normal(size=(2, 3, 4, 5))
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(pixel_norm(jnp.asarray(x, jnp.float32)), wanted, rtol=2e-6)


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_effective_weights_of_a_dense_layer(gain):
    """x (w · gain / √D) + b."""
    w, b, x = RNG.normal(size=(6, 3)), RNG.normal(size=3), RNG.normal(size=(4, 6))
    variables = {"params": {"kernel": jnp.float32(w), "bias": jnp.float32(b)}}
    got = np.asarray(EqualisedDense(3, gain=gain).apply(variables, jnp.float32(x)))
    np.testing.assert_allclose(got, x @ (w * gain / np.sqrt(6)) + b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_effective_weights_of_a_convolution(gain):
    """What a single pixel of one channel becomes is the turned kernel · gain / √(3 · 3 · C)."""
    w, b = RNG.normal(size=(3, 3, 2, 4)), RNG.normal(size=4)
    variables = {"params": {"kernel": jnp.float32(w), "bias": jnp.float32(b)}}
    x = np.zeros((1, 5, 5, 2), np.float32)
    x[0, 2, 2, 1] = 1
    got = EqualisedConv(4, gain=gain).apply(variables, jnp.asarray(x))
    wanted = np.zeros((5, 5, 4))
    wanted[1:4, 1:4] = w[::-1, ::-1, 1] * gain / np.sqrt(18)
    np.testing.assert_allclose(got[0], wanted + b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [EqualisedDense, EqualisedConv])
@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_the_variance_of_outputs_is_that_of_inputs_times_gain_squared(layer, gain):
    """Of ≥ 100,000 outputs of 400 weights each: the standard error is about 1 %."""
    shape = (64, 8, 8, 36)
    x = jnp.asarray(RNG.normal(0, 3, size=shape), jnp.float32)
    out, params = initial(layer(400, gain=gain), x)
    inner = np.asarray(out)[:, 1:-1, 1:-1]  # zeros are padded around
    assert inner.var() / 9 == pytest.approx(gain**2, rel=0.04)
    assert np.std(params["kernel"]) == pytest.approx(1, rel=0.04)  # what is trained is N(0, 1)
    assert not np.any(params["bias"])


def test_layers_compute_in_the_type_they_are_told():
    x = jnp.ones((2, 4, 4, 3))
    for layer in (EqualisedDense(5, dtype=jnp.bfloat16), EqualisedConv(5, dtype=jnp.bfloat16)):
        out, params = initial(layer, x)
        assert out.dtype == jnp.bfloat16 and params["kernel"].dtype == jnp.float32
