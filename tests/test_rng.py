"""Noise by position in the global batch."""

import jax
import jax.numpy as jnp
import numpy as np

from gengen import rng

KEY = jax.random.key(3)


def over_devices(draw, devices=8):
    """What `devices` replicas draw for their parts, laid end to end."""
    parts = jax.pmap(lambda _: draw(), axis_name=rng.AXIS)(jnp.zeros(devices))
    return np.asarray(parts).reshape(-1, *parts.shape[2:])


def test_replicas_draw_what_one_device_draws():
    for draw in (
        lambda num: rng.normal(KEY, (num, 3)),
        lambda num: rng.uniform(KEY, (num, 2), -1, 1),
        lambda num: rng.stratified(KEY, num, copies=2),
    ):
        np.testing.assert_array_equal(over_devices(lambda: draw(4)), draw(32))  # noqa: B023


def test_examples_differ_and_have_the_right_moments():
    x = np.asarray(rng.normal(KEY, (50_000, 2)))
    assert abs(x.mean()) < 4 / np.sqrt(x.size) and abs(x.std() - 1) < 4 / np.sqrt(2 * x.size)
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 4 / np.sqrt(len(x))
    u = np.asarray(rng.uniform(KEY, (1000,), -2, 3))
    assert u.min() >= -2 and u.max() < 3 and abs(u.mean() - 0.5) < 4 * 5 / np.sqrt(12 * 1000)


def test_stratified_puts_one_in_each_part_and_spreads_copies():
    u = np.asarray(rng.stratified(KEY, 10))
    np.testing.assert_array_equal(np.floor(u * 10), np.arange(10))
    u = np.asarray(rng.stratified(KEY, 12, copies=3))  # 4 examples, 3 times each
    np.testing.assert_array_equal(np.sort(np.floor(u * 12)), np.arange(12))
    assert np.diff(u.reshape(4, 3), axis=1).min() > 0.2
