"""Minibatch layers by hand: identical rows, every order of rows, groups, several replicas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.gan import minibatch
from gengen.gan.minibatch import MinibatchDiscrimination, closeness, deviation, with_deviation
from gengen.rng import AXIS

DRAW = np.random.default_rng(0)
M = DRAW.normal(size=(8, 3, 2)).astype(np.float32)
X = DRAW.normal(size=(8, 4, 4, 2)).astype(np.float32)


def by_hand(M, itself=True):
    """Σⱼ exp(-‖M_ib - M_jb‖₁), loop by loop, in float64."""
    out = np.zeros(M.shape[:2])
    for i, b in np.ndindex(out.shape):
        for j in range(len(M)):
            if itself or j != i:
                out[i, b] += np.exp(-np.abs(np.float64(M[i, b]) - M[j, b]).sum())
    return out


@pytest.mark.parametrize("itself", [True, False])
def test_closeness(itself):
    # 8 terms of at most 1, in float32
    np.testing.assert_allclose(closeness(jnp.asarray(M), 0, itself), by_hand(M, itself), atol=2e-6)


def test_closeness_of_groups():
    """Groups of 4 of 8 rows: even rows and odd rows."""
    got = closeness(jnp.asarray(M), 4)
    for k in range(2):
        np.testing.assert_allclose(got[k::2], by_hand(M[k::2]), atol=2e-6)


def test_deviation():
    wanted = np.sqrt(np.float64(X).reshape(8, -1).var(0) + 1e-8).mean()
    got = deviation(jnp.asarray(X))
    np.testing.assert_allclose(got, np.full(8, wanted), rtol=1e-5)
    groups = deviation(jnp.asarray(X), 4)
    for k in range(2):
        wanted = np.sqrt(np.float64(X[k::2]).reshape(4, -1).var(0) + 1e-8).mean()
        np.testing.assert_allclose(groups[k::2], np.full(4, wanted), rtol=1e-5)


def test_identical_rows():
    """Discrimination says B, or B - 1 without itself; the deviation √ε."""
    same = jnp.tile(jnp.asarray(M[:1]), (8, 1, 1))
    np.testing.assert_array_equal(closeness(same), np.full((8, 3), 8.0))
    np.testing.assert_array_equal(closeness(same, 0, False), np.full((8, 3), 7.0))
    images = jnp.tile(jnp.asarray(X[:1]), (8, 1, 1, 1))
    np.testing.assert_allclose(deviation(images), np.full(8, 1e-4), rtol=1e-5)
    np.testing.assert_allclose(deviation(images, epsilon=0.04), np.full(8, 0.2), rtol=1e-5)


def test_another_order_of_rows_is_another_order_of_outputs():
    order = DRAW.permutation(8)
    layer = MinibatchDiscrimination(3, 2)
    f = jnp.asarray(DRAW.normal(size=(8, 5)), jnp.float32)
    variables = layer.init(jax.random.key(0), f)
    a, b = (np.asarray(layer.apply(variables, x)) for x in (f, f[order]))
    np.testing.assert_allclose(a[order], b, atol=2e-6)
    np.testing.assert_array_equal(a[:, :5], f)
    np.testing.assert_allclose(
        deviation(jnp.asarray(X[order])), deviation(jnp.asarray(X)), rtol=1e-6
    )


def test_the_layer_multiplies_by_a_tensor():
    layer = MinibatchDiscrimination(3, 2)
    f = DRAW.normal(size=(8, 5)).astype(np.float32)
    T = DRAW.normal(size=(5, 3, 2)).astype(np.float32)
    got = layer.apply(
        {"params": {"Dense_0": {"kernel": jnp.asarray(T.reshape(5, 6))}}}, jnp.asarray(f)
    )
    wanted = by_hand(np.einsum("ia,abc->ibc", np.float64(f), T))
    np.testing.assert_allclose(np.asarray(got)[:, 5:], wanted, atol=1e-5)


def test_the_deviation_is_a_channel():
    out = np.asarray(with_deviation(jnp.asarray(X)))
    assert out.shape == (8, 4, 4, 3)
    np.testing.assert_array_equal(out[..., :2], X)
    assert len(np.unique(out[..., 2])) == 1


@pytest.mark.parametrize("group", [0, 4])
def test_replicas_see_the_whole_batch(group):
    """Two replicas of four rows each: the rows, and the gradient, of one with eight."""

    def total(M):
        return jnp.sum(closeness(M, group) ** 2) + jnp.sum(deviation(M, group))

    halves = jnp.asarray(M.reshape(2, 4, 3, 2))
    close = jax.pmap(lambda M: closeness(M, group), AXIS)(halves)
    np.testing.assert_allclose(close.reshape(8, 3), closeness(jnp.asarray(M), group), atol=2e-6)
    grads = jax.pmap(jax.grad(total), AXIS)(halves)
    wanted = jax.grad(total)(jnp.asarray(M))
    np.testing.assert_allclose(grads.reshape(8, 3, 2), wanted, atol=1e-5)


@pytest.mark.parametrize("layer", minibatch.LAYERS)
def test_the_discriminator_looks_at_other_rows(layer):
    cfg = minibatch.Config(
        shape=(2,), hidden=(8,), num_kernels=3, kernel_dim=2, layer=layer, batch_size=4
    )
    net = minibatch.Discriminator(cfg)
    x = jnp.asarray(DRAW.normal(size=(4, 2)), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    other = x.at[3].set(-x[3])
    a, b = net.apply(variables, x), net.apply(variables, other)
    assert abs(float(a[0] - b[0])) > 1e-5


@pytest.mark.parametrize(
    "change, message",
    [(dict(layer="mean"), "Config.layer"), (dict(num_kernels=0), "Config.num_kernels"),
     (dict(group_size=3), "Config.group_size")],
)  # fmt: skip
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(minibatch.Config(), **change)


def test_groups_that_a_batch_does_not_have_are_refused():
    with pytest.raises(ValueError, match="groups of 3"):
        deviation(jnp.asarray(X), 3)
