"""Compiling: what jit, pmap and inner steps promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import rng
from gengen.compile import compile_step, use_compilation_cache
from gengen.steps import descent, method, skip_nonfinite


def noisy_regression(params, mutables, key, batch):
    x = batch["x"] + rng.normal(key, batch["x"].shape)
    return jnp.mean((x @ params["w"] - 1) ** 2), ({"size": jnp.float32(len(x))}, mutables)


@pytest.fixture
def model():
    return method(
        lambda key, batch: {"params": {"w": jax.random.normal(key, (3, 1))}},
        descent(noisy_regression, optax.adam(0.1)),
    )


def batches(num):
    draws = np.random.default_rng(0).normal(size=(num, 16, 3))
    return {"x": jnp.asarray(draws, jnp.float32)}


def first(batch):
    return {"x": batch["x"][0]}


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_noise_and_gradients_do_not_depend_on_the_number_of_devices(model, mode):
    results = []
    for devices in (1, 2, 8):
        step = compile_step(model.train_step, mode, num_devices=devices)
        state, metrics = model.init(jax.random.key(0), first(batches(1))), {}
        for i in range(3):
            state, metrics = step(jax.random.key(1), state, {"x": batches(3)["x"][i]})
        assert step.num_devices == devices
        per_program = 16 / devices if mode == "pmap" else 16
        assert metrics["loss"].shape == () and float(metrics["size"]) == per_program
        results.append(np.asarray(step.get(state).params["w"]))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5)


@pytest.mark.parametrize("mode, devices", [("jit", 1), ("jit", 8), ("pmap", 8)])
def test_inner_steps_are_the_same_steps(model, mode, devices):
    many = compile_step(model.train_step, mode, inner=4, num_devices=devices)
    one = compile_step(model.train_step)
    data = batches(4)
    a, mean = many(jax.random.key(1), model.init(jax.random.key(0), first(data)), data)
    b, losses = model.init(jax.random.key(0), first(data)), []
    for i in range(4):
        b, metrics = one(jax.random.key(1), b, {"x": data["x"][i]})
        losses.append(float(metrics["loss"]))
    a = many.get(a)
    assert int(a.step) == 4
    np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-5)
    assert float(mean["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_what_is_shared_is_not_split(model):
    def step(key, state, indices, arrays):
        return model.train_step(key, state, {"x": arrays["x"][indices]})

    finals = []
    for mode, devices in (("jit", 1), ("jit", 8), ("pmap", 8)):
        compiled = compile_step(step, mode, num_devices=devices)
        arrays = compiled.put({"x": batches(1)["x"][0]})
        state = compiled.put(model.init(jax.random.key(0), first(batches(1))))
        rows = compiled.place(np.arange(16))  # once: a second time would split the parts again
        state, _ = compiled(jax.random.key(1), state, rows, arrays)
        finals.append(np.asarray(compiled.get(state).params["w"]))
    np.testing.assert_allclose(finals[1], finals[0], rtol=1e-5)
    np.testing.assert_allclose(finals[2], finals[0], rtol=1e-5)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_many_devices_compile_once_for_put_and_for_their_own_output(model, mode):
    traces = []

    def step(*args):
        traces.append(1)
        return model.train_step(*args)

    compiled = compile_step(step, mode, num_devices=8)
    state = model.init(jax.random.key(0), first(batches(1)))
    for _ in range(3):
        state, _ = compiled(jax.random.key(1), state, first(batches(1)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda step: compile_step(step, "tpu"), "mode = 'tpu'"),
        (lambda step: compile_step(step, inner=0), "inner = 0"),
        (lambda step: compile_step(step, "pmap", num_devices=99), "99 devices"),
    ],
)
def test_bad_settings_are_refused(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model.train_step)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_batch_that_devices_cannot_share_is_refused(model, mode):
    step = compile_step(model.train_step, mode, num_devices=8)
    state = model.init(jax.random.key(0), first(batches(1)))
    with pytest.raises(ValueError, match="multiple of 8"):
        step(jax.random.key(0), state, {"x": jnp.zeros((12, 3))})


@pytest.mark.parametrize("mode, inner", [("jit", 1), ("jit", 3), ("pmap", 1), ("pmap", 3)])
def test_a_bad_example_on_one_device_skips_the_step_on_all(model, mode, inner):
    """The second of three steps has a NaN; metrics are means over the other two."""
    data = batches(3)
    bad = {"x": data["x"].at[1, 5].set(jnp.nan)}
    key, init = jax.random.key(1), jax.random.key(0)
    skipping = skip_nonfinite(model)
    step = compile_step(skipping.train_step, mode, inner=inner, num_devices=4)
    state, found = skipping.init(init, first(data)), []
    for i in range(0, 3, inner):
        part = bad["x"][i] if inner == 1 else bad["x"][i : i + inner]
        state, metrics = step(key, state, {"x": part})
        found.append(jax.device_get(metrics))
    plain = compile_step(model.train_step)
    want, losses = model.init(init, first(data)), []
    for i in (0, 2):
        want = want.replace(step=jnp.int32(i))
        want, metrics = plain(key, want, {"x": data["x"][i]})
        losses.append(float(metrics["loss"]))
    got = step.get(state)
    assert int(got.step) == 3
    np.testing.assert_allclose(got.params["w"], want.params["w"], rtol=1e-5)
    if inner == 3:
        np.testing.assert_allclose(found[0]["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(np.mean([m["skipped"] for m in found]), 1 / 3, rtol=1e-6)


def test_programs_are_kept_in_the_users_cache_or_where_jax_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = jax.config.values["jax_compilation_cache_dir"]
    names = ("jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes")  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    use_compilation_cache()
    assert jax.config.values["jax_compilation_cache_dir"] == chosen  # what the tests chose
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        use_compilation_cache()
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "gengen" / "xla")
    finally:
        for name, value in {**before, "jax_compilation_cache_dir": chosen}.items():
            jax.config.update(name, value)
