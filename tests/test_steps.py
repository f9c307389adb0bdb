"""The algebra of steps, on problems small enough for pen and paper."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import rng
from gengen.steps import (
    accumulate,
    descent,
    mean_metrics,
    method,
    player,
    repeat,
    sequence,
    skip_nonfinite,
    with_ema,
)

KEY = jax.random.key(0)


def start(params, step, batch=None):
    m = method(lambda key, batch: {"params": params}, step)
    return m, m.init(KEY, batch or {"x": jnp.zeros((4, 1))})


def pull(params, mutables, key, batch):
    """½ Σ (p - mean x)²: its gradient is p - mean x."""
    value = 0.5 * jnp.sum((params["w"] - batch["x"].mean()) ** 2)
    return value, ({"seen": batch["x"].sum()}, mutables)


def test_descent_takes_one_step_of_the_optimiser():
    m, state = start({"w": jnp.array([3.0])}, descent(pull, optax.sgd(0.5)))
    state, metrics = m.train_step(KEY, state, {"x": jnp.ones((4, 1))})
    assert float(state.params["w"][0]) == 3 - 0.5 * (3 - 1)
    assert float(metrics["loss"]) == 2.0 and float(metrics["seen"]) == 4.0
    assert int(state.step) == 1


def test_players_move_alone_and_in_turn():
    """Alternating gradient play of min_x max_y xy, by hand."""

    def value(params, mutables, key, batch):
        return params["x"] * params["y"], ({}, mutables)

    game = sequence(player("y", value, optax.sgd(-0.5)), player("x", value, optax.sgd(0.5)))
    m, state = start({"x": jnp.array(1.0), "y": jnp.array(2.0)}, game)
    state, metrics = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
    y = 2.0 + 0.5 * 1.0
    assert float(state.params["y"]) == y
    assert float(state.params["x"]) == 1.0 - 0.5 * y  # sees the new y
    assert set(metrics) == {"y_loss", "x_loss", "y_gradient_norm", "x_gradient_norm"}


def test_steps_of_a_sequence_and_of_a_run_draw_fresh_noise():
    def noise(params, mutables, key, batch):
        return params["w"] * jax.random.normal(key), ({}, mutables)

    walk = descent(noise, optax.sgd(1.0))
    m, state = start({"w": jnp.array(0.0)}, sequence(walk, walk))
    once, state1 = start({"w": jnp.array(0.0)}, walk)
    batch = {"x": jnp.zeros((1, 1))}
    two, _ = m.train_step(KEY, state, batch)
    first, _ = once.train_step(KEY, state1, batch)
    second, _ = once.train_step(KEY, first, batch)
    halves = jax.random.split(jax.random.fold_in(KEY, 0))
    want = -sum(float(jax.random.normal(key)) for key in halves)
    np.testing.assert_allclose(two.params["w"], want, rtol=1e-6)
    steps = [-float(first.params["w"]), float(first.params["w"] - second.params["w"])]
    want = [float(jax.random.normal(jax.random.fold_in(KEY, t))) for t in (0, 1)]
    np.testing.assert_allclose(steps, want, rtol=1e-5)


def test_repeat_gives_each_inner_step_a_fresh_part_of_the_batch():
    m, state = start({"w": jnp.array([0.0])}, repeat(descent(pull, optax.sgd(1.0)), 2))
    x = jnp.arange(6.0)[:, None]  # parts: 0, 2, 4 and 1, 3, 5
    state, metrics = m.train_step(KEY, state, {"x": x})
    assert float(state.params["w"][0]) == 3.0  # lr 1 jumps to the mean of the last part
    assert float(metrics["seen"]) == (0 + 2 + 4 + 1 + 3 + 5) / 2


def test_repeat_draws_fresh_noise_each_time():
    def noisy(params, mutables, key, batch):
        return params["w"] * jax.random.normal(key), ({}, mutables)

    m, state = start({"w": jnp.array(0.0)}, repeat(descent(noisy, optax.sgd(1.0)), 2))
    once, state1 = start({"w": jnp.array(0.0)}, descent(noisy, optax.sgd(1.0)))
    two, _ = m.train_step(KEY, state, {"x": jnp.zeros((2, 1))})
    one, _ = once.train_step(KEY, state1, {"x": jnp.zeros((2, 1))})
    assert float(two.params["w"]) != 2 * float(one.params["w"])


def test_ema_is_the_recursion_by_hand():
    step = with_ema(descent(pull, optax.sgd(0.1)), 0.5, warmup=False)
    m, state = start({"w": jnp.array([4.0])}, step)
    w = ema = 4.0
    for _ in range(3):
        state, _ = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
        w *= 0.9
        ema = 0.5 * ema + 0.5 * w
        np.testing.assert_allclose(state.ema["w"], [ema], rtol=1e-6)
    np.testing.assert_array_equal(state.variables["params"]["w"], state.ema["w"])


def test_ema_warms_up():
    m, state = start({"w": jnp.array([4.0])}, with_ema(descent(pull, optax.sgd(0.5)), 0.999))
    state, _ = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
    d = 1 / 10  # (1 + 0) / (10 + 0)
    np.testing.assert_allclose(state.ema["w"], [d * 4 + (1 - d) * 2], rtol=1e-6)


def test_mutables_are_what_the_loss_returns():
    def loss(params, mutables, key, batch):
        return jnp.sum(params["w"]), ({}, {"stats": {"n": mutables["stats"]["n"] + 1}})

    m = method(
        lambda key, batch: {"params": {"w": jnp.ones(2)}, "stats": {"n": jnp.int32(0)}},
        descent(loss, optax.sgd(0.1)),
    )
    state = m.init(KEY, {"x": jnp.zeros((1, 1))})
    state, _ = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
    assert int(state.variables["stats"]["n"]) == 1


@pytest.mark.parametrize("make", [lambda s: repeat(s, 0), lambda s: with_ema(s, 1.0)])
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match="= (0|1.0)"):
        make(descent(pull, optax.sgd(0.1)))


def noisy(params, mutables, key, batch):
    """Noise by position, and a mutable that follows the batch."""
    x = batch["x"] + rng.normal(key, batch["x"].shape)
    seen = mutables["seen"]["mean"] * 0.5 + jnp.mean(x) * 0.5
    return jnp.mean((x - params["w"]) ** 2), ({}, {"seen": {"mean": seen}})


def noisy_method():
    variables = {"params": {"w": jnp.float32(0)}, "seen": {"mean": jnp.float32(0)}}
    return method(lambda key, batch: variables, descent(noisy, optax.adam(0.1)))


@pytest.mark.parametrize("n", [2, 4])
def test_gradients_taken_in_parts_are_those_of_the_whole_batch(n):
    """With the same noise for each example: only the order of sums differs."""
    x = jnp.linspace(-1, 1, 24).reshape(8, 3)
    finals = []
    for m in (noisy_method(), accumulate(noisy_method(), n)):
        state, metrics = m.init(KEY, {"x": x}), {}
        for _ in range(3):
            state, metrics = jax.jit(m.train_step)(KEY, state, {"x": x})
        finals.append((state.params["w"], metrics["loss"], metrics["gradient_norm"]))
    np.testing.assert_allclose(finals[1], finals[0], rtol=1e-5, atol=1e-6)


def test_parts_need_the_memory_of_a_part(monkeypatch):
    """In a loop, as on accelerators: an n-th of the activations is alive at a time."""
    monkeypatch.setattr("gengen.xla.on_cpu", lambda: False)

    def deep(params, mutables, key, batch):
        h = batch["x"]
        for w in params["w"]:
            h = jnp.tanh(h @ w)
        return jnp.mean(h**2), ({}, mutables)

    weights = [jax.random.normal(k, (64, 64)) for k in jax.random.split(KEY, 8)]
    variables = {"params": {"w": weights}}
    m = method(lambda key, batch: variables, descent(deep, optax.sgd(0.1)))
    batch, sizes = {"x": jnp.ones((1024, 64))}, []
    for one in (m, accumulate(m, 16)):
        state = one.init(KEY, batch)
        analysis = jax.jit(one.train_step).lower(KEY, state, batch).compile().memory_analysis()
        assert analysis is not None
        sizes.append(analysis.temp_size_in_bytes)
    assert sizes[1] < sizes[0] / 2


def test_a_batch_that_has_no_such_parts_is_refused():
    m = accumulate(noisy_method(), 3)
    with pytest.raises(ValueError, match="multiple of 3"):
        m.train_step(KEY, m.init(KEY, {"x": jnp.ones((8, 3))}), {"x": jnp.ones((8, 3))})


def test_a_nonfinite_step_is_skipped_and_counted():
    m = skip_nonfinite(noisy_method(), in_a_row=2)
    good, bad = {"x": jnp.ones((4, 3))}, {"x": jnp.full((4, 3), jnp.nan)}
    state = m.init(KEY, good)
    state, metrics = m.train_step(KEY, state, good)
    assert float(metrics["skipped"]) == 0 and float(metrics["loss"]) > 0
    after, metrics = m.train_step(KEY, state, bad)
    assert float(metrics["skipped"]) == 1 and int(after.opt_state.in_a_row) == 1
    chex.assert_trees_all_equal((after.params, after.mutables), (state.params, state.mutables))
    chex.assert_trees_all_equal(after.opt_state.inner, state.opt_state.inner)
    assert int(after.step) == 2
    again, metrics = m.train_step(KEY, after, good)
    assert float(metrics["skipped"]) == 0 and again.params["w"] != state.params["w"]
    assert int(again.opt_state.in_a_row) == 0
    for _ in range(3):  # the third in a row is applied
        state, metrics = m.train_step(KEY, state, bad)
    assert not np.isfinite(state.params["w"]) and float(metrics["skipped"]) == 0


def nan_loss(params, mutables, key, batch):
    """A loss that is NaN where x is negative, with the gradient 1 everywhere."""
    bad = jnp.where(batch["x"].mean() < 0, jnp.nan, 0.0)
    return jnp.sum(params["w"]) + jax.lax.stop_gradient(bad), ({}, mutables)


def infinite_mutable(params, mutables, key, batch):
    """A mutable that is infinite where x is negative; the loss and its gradient are finite."""
    seen = jnp.where(batch["x"].mean() < 0, jnp.inf, 1.0)
    return jnp.sum(params["w"]), ({}, {"seen": {"mean": seen}})


@pytest.mark.parametrize("loss", [nan_loss, infinite_mutable])
def test_a_step_with_a_finite_gradient_may_be_skipped(loss):
    variables = {"params": {"w": jnp.float32(1)}, "seen": {"mean": jnp.float32(0)}}
    m = skip_nonfinite(method(lambda key, batch: variables, descent(loss, optax.sgd(0.5))))
    state = m.init(KEY, {"x": jnp.ones((2, 1))})
    state, metrics = jax.jit(m.train_step)(KEY, state, {"x": -jnp.ones((2, 1))})
    assert float(metrics["skipped"]) == 1 and float(metrics["gradient_norm"]) == 1
    assert float(state.params["w"]) == 1 and float(state.mutables["seen"]["mean"]) == 0
    state, metrics = jax.jit(m.train_step)(KEY, state, {"x": jnp.ones((2, 1))})
    assert float(metrics["skipped"]) == 0 and float(state.params["w"]) == 0.5


def test_a_player_does_not_move_where_the_other_fails():
    """The whole step is skipped: no player is a step ahead."""

    def bad(params, mutables, key, batch):
        return params["x"] * jnp.nan, ({}, mutables)

    def good(params, mutables, key, batch):
        return params["y"], ({}, mutables)

    game = sequence(player("y", good, optax.sgd(0.5)), player("x", bad, optax.sgd(0.5)))
    m, _ = start({"x": jnp.array(1.0), "y": jnp.array(2.0)}, game)
    m = skip_nonfinite(m)
    state = m.init(KEY, {"x": jnp.zeros((1, 1))})
    state, metrics = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
    assert float(metrics["skipped"]) == 1 and float(state.params["y"]) == 2.0


def test_numbers_that_are_infinite_from_the_start_are_no_failure():
    """Such as the best loss before the first: only what becomes infinite counts."""
    variables = {"params": {"w": jnp.float32(1)}, "seen": {"mean": jnp.float32(jnp.inf)}}
    loss = lambda p, mutables, key, batch: (p["w"], ({}, mutables))  # noqa: E731
    m = method(lambda key, batch: variables, descent(loss, optax.sgd(0.5)))
    m = skip_nonfinite(m)
    state = m.init(KEY, {"x": jnp.zeros((1, 1))})
    state, metrics = m.train_step(KEY, state, {"x": jnp.zeros((1, 1))})
    assert float(metrics["skipped"]) == 0 and float(state.params["w"]) == 0.5


def test_means_leave_skipped_steps_out():
    metrics = {"loss": jnp.array([1.0, jnp.nan, 3.0]), "skipped": jnp.array([0.0, 1.0, 0.0])}
    means = mean_metrics(metrics)
    assert float(means["loss"]) == 2.0
    np.testing.assert_allclose(means["skipped"], 1 / 3)
    plain = mean_metrics({"loss": metrics["loss"]})
    assert np.isnan(plain["loss"])  # nothing is hidden where nothing is skipped


def test_a_learning_rate_that_the_optimiser_holds_is_a_metric():
    tx = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 4))
    m, state = start({"w": jnp.array([0.0])}, descent(pull, tx))
    for want in (1.0, 0.75):
        state, metrics = m.train_step(KEY, state, {"x": jnp.ones((2, 1))})
        assert float(metrics["learning_rate"]) == want
