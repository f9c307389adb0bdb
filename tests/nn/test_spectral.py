"""Spectral normalisation: the largest singular value by SVD, the gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gengen.nn.spectral import SpectralConv, SpectralDense, normalised

DRAW = np.random.default_rng(0)
W = DRAW.normal(size=(7, 5)).astype(np.float32)
U = DRAW.normal(size=5)
U = (U / np.linalg.norm(U)).astype(np.float32)


def test_one_step_of_the_power_iteration():
    v = np.float64(W) @ U
    v /= np.linalg.norm(v)
    u = np.float64(W).T @ v
    u /= np.linalg.norm(u)
    kernel, new = normalised(jnp.asarray(W), jnp.asarray(U))
    np.testing.assert_allclose(new, u, atol=1e-6)
    np.testing.assert_allclose(kernel, W / (v @ np.float64(W) @ u), atol=1e-6)


def test_the_gradient_is_the_papers():
    """∂L/∂W = (G - ⟨G, W̄⟩ v uᵀ) / σ, u and v held fixed (§2.1, equations 10 to 12)."""
    G = DRAW.normal(size=W.shape)
    v = np.float64(W) @ U
    v /= np.linalg.norm(v)
    u = np.float64(W).T @ v
    u /= np.linalg.norm(u)
    sigma = v @ np.float64(W) @ u
    wanted = (G - np.sum(G * W) / sigma * np.outer(v, u)) / sigma
    got = jax.grad(lambda W: jnp.sum(G * normalised(W, jnp.asarray(U))[0]))(jnp.asarray(W))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize(
    "layer, base, shape",
    [
        (SpectralDense(5), nn.Dense(5), (4, 7)),
        (SpectralConv(5, (3, 3)), nn.Conv(5, (3, 3)), (4, 6, 6, 2)),
        (SpectralConv(5, (4, 4), (2, 2)), nn.Conv(5, (4, 4), (2, 2)), (4, 6, 6, 2)),
    ],
)
def test_after_some_calls_the_norm_is_1(layer, base, shape):
    """The layer is then that of W / σ, σ by SVD; a call that may not change u leaves it."""
    x = jnp.asarray(DRAW.normal(size=shape), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    step = jax.jit(lambda v: layer.apply(v, x, mutable=["spectral"])[1])
    for _ in range(300):
        variables = {**variables, **step(variables)}
    kernel = np.float64(variables["params"]["kernel"])
    sigma = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    assert abs(sigma - 1) > 0.05  # there is something to normalise
    plain = {"params": {**variables["params"], "kernel": jnp.asarray(kernel / sigma, jnp.float32)}}
    out = layer.apply(variables, x)
    # The iteration converges like the ratio of singular values, here within float32.
    np.testing.assert_allclose(out, base.apply(plain, x), atol=1e-4)
    moved = step(variables)["spectral"]["u"]
    np.testing.assert_allclose(moved, variables["spectral"]["u"], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(moved), 1, rtol=1e-6)


def test_u_moves_where_it_may():
    layer, x = SpectralDense(5), jnp.ones((2, 7))
    variables = layer.init(jax.random.key(0), x)
    _, changed = layer.apply(variables, x, mutable=["spectral"])
    again = layer.init(jax.random.key(0), x)
    first, moved, same = (np.asarray(v["spectral"]["u"]) for v in (variables, changed, again))
    assert np.abs(moved - first).max() > 1e-4
    np.testing.assert_array_equal(same, first)
    np.testing.assert_allclose(np.linalg.norm(first), 1, rtol=1e-6)


def test_it_computes_in_the_dtype_of_the_layer():
    layer, x = SpectralDense(5, dtype=jnp.bfloat16), jnp.ones((2, 7))
    variables = layer.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert jnp.asarray(layer.apply(variables, x)).dtype == jnp.bfloat16
