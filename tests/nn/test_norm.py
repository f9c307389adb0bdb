"""Normalisation against float64 and against the definition."""

from typing import Any, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.norm import GroupNorm, batch_norm
from gengen.rng import AXIS


def apply(module: nn.Module, *args) -> Any:
    return module.apply(*args)


def group_norm64(x, groups, scale, bias, epsilon=1e-5):
    b, c = x.shape[0], x.shape[-1]
    g = np.float64(x).reshape(b, -1, groups, c // groups)
    mean, var = g.mean((1, 3), keepdims=True), g.var((1, 3), keepdims=True)
    return ((g - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * scale + bias


def test_group_norm_is_the_definition_in_float64():
    rng = np.random.default_rng(0)
    x = rng.normal(0.7, 2, (3, 5, 4, 12)).astype(np.float32)
    x = jnp.asarray(x)
    scale, bias = rng.normal(size=(2, 12))
    params = {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}
    got = apply(GroupNorm(4), {"params": params}, x)
    np.testing.assert_allclose(got, group_norm64(x, 4, scale, bias), atol=2e-6)
    flax = apply(nn.GroupNorm(num_groups=4, epsilon=1e-5), {"params": params}, x)
    np.testing.assert_allclose(got, np.asarray(flax), atol=5e-6)


def test_group_norm_far_from_zero_loses_digits_as_it_says():
    """At a mean of 30 deviations, E x² - (E x)² keeps 7 - log₁₀ 30² ≈ 4 digits."""
    x = np.random.default_rng(0).normal(30, 1, (2, 8, 8, 8)).astype(np.float32)
    x = jnp.asarray(x)
    got = apply(GroupNorm(2), {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x)
    np.testing.assert_allclose(got, group_norm64(x, 2, 1, 0), atol=2e-3)


@pytest.mark.parametrize(("mean", "error"), [(1, 2e-6), (30, 2e-3), (300, 0.1)])
def test_batch_norm_far_from_zero_loses_digits_as_it_says(mean, error):
    x = np.random.default_rng(0).normal(mean, 1, (64, 8)).astype(np.float32)
    net = batch_norm(True)
    got, state = cast(Any, net).init_with_output(jax.random.key(0), x)
    wide = np.float64(x)
    want = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(got, want, atol=error)
    assert jnp.all(state["batch_stats"]["var"] >= 0)


def test_its_gradient_is_that_of_the_definition():
    """By autodiff of means and products alone: of x, scale, bias and what modulates."""
    keys = jax.random.split(jax.random.key(3), 4)
    x, dy = (jax.random.normal(k, (3, 5, 4, 8)) + 1 for k in keys[:2])
    m = jax.random.normal(keys[2], (3, 16))
    net = GroupNorm(2)
    variables = net.init(keys[3], x, m)

    def plain(variables, x, m):
        groups = x.reshape(3, 20, 2, 4)
        mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
        normal = ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
        p, (m1, m2) = variables["params"], jnp.split(m[:, None, None], 2, axis=-1)
        return (normal * p["scale"] + p["bias"]) * (1 + m1) + m2

    def gradients(f):
        return jax.grad(lambda *inputs: jnp.sum(f(*inputs) * dy), argnums=(0, 1, 2))

    ours, wanted = (gradients(f)(variables, x, m) for f in (net.apply, plain))
    # float32 sums of 60 terms of size 1: a few times 1e-6.
    chex.assert_trees_all_close(ours, wanted, atol=3e-5)


def test_modulation_is_folded_in():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    m = jax.random.normal(jax.random.key(1), (2, 8))
    params = {"params": {"scale": jnp.full(4, 1.5), "bias": jnp.full(4, 0.3)}}
    plain = apply(GroupNorm(2), params, x)
    want = plain * (1 + m[:, None, None, :4]) + m[:, None, None, 4:]
    np.testing.assert_allclose(apply(GroupNorm(2), params, x, m), np.asarray(want), atol=1e-5)


def test_bfloat16_in_bfloat16_out_with_float32_moments():
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 4), jnp.bfloat16) + 3
    params = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    got = apply(GroupNorm(2), params, x)
    assert got.dtype == jnp.bfloat16
    want = group_norm64(np.asarray(x, np.float64), 2, 1, 0)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.02)  # 8 bits of mantissa


def test_batch_norm_sees_the_global_batch():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return batch_norm(train=True)(x)

    x = jax.random.normal(jax.random.key(0), (16, 3)) * jnp.arange(16)[:, None]
    variables = Net().init(jax.random.key(0), x)
    apply = lambda x: Net().apply(variables, x, mutable=["batch_stats"])  # noqa: E731
    whole, stats = apply(x)
    parts, part_stats = jax.pmap(apply, axis_name=AXIS)(x.reshape(8, 2, 3))
    np.testing.assert_allclose(parts.reshape(16, 3), whole, atol=1e-5)
    for a, b in zip(jax.tree.leaves(part_stats), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-5)
