"""The loop: its files, its resumes, and what it refuses; on a model of one dense layer."""

import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import loop, run_dir
from gengen.data import Dataset
from gengen.steps import descent, method, with_ema


def regression(nan_at=None):
    def loss(params, mutables, key, batch):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        value = jnp.mean((x @ params["w"] - 1) ** 2)
        if nan_at is not None:
            value = jnp.where(mutables["count"]["n"] == nan_at, jnp.nan, value)
        return value, ({}, {"count": {"n": mutables["count"]["n"] + 1}})

    return method(
        lambda key, batch: {
            "params": {"w": jax.random.normal(key, (2, 1))},
            "count": {"n": jnp.int32(0)},
        },
        with_ema(descent(loss, optax.adam(0.01)), 0.9),
    )


DATA = Dataset("points", {"x": np.random.default_rng(0).normal(size=(37, 2)).astype(np.float32)})
SETTINGS = {"model": "regression", "config": {"width": 2}}


def train(out, steps=20, **options):
    options = {"batch_size": 8, "settings": SETTINGS, "log_every": 5, "save_every": 10} | options
    return loop.run(options.pop("method", regression()), DATA, out=out, steps=steps, **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_writes_what_the_design_promises(tmp_path):
    out = tmp_path / "run"
    preview = lambda variables, key: jax.random.normal(key, (50, 2))  # noqa: E731
    state = train(out, preview=preview, preview_every=10)
    assert int(state.step) == 20
    settings = json.loads((out / "config.json").read_text())
    assert settings["data"]["fingerprint"] == DATA.fingerprint
    assert settings["parameters"] == 2 and settings["steps"] == 20 and settings["seed"] == 0
    assert {"jax", "gengen", "python"} <= set(settings["versions"])
    rows = run_dir.read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert all(row["loss"] > 0 and row["examples_per_s"] > 0 for row in rows)
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "step_00000010.png", "step_00000020.png",
    ]  # fmt: skip
    assert "<html" in (out / "report.html").read_text()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["10", "20"]


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", 20)
    train(tmp_path / "parts", 7)
    parts = train(tmp_path / "parts", 20, resume=True)
    assert_same(whole, parts)
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["steps"] == 20


def test_lines_after_the_checkpoint_are_written_once(tmp_path):
    out = tmp_path / "run"
    train(out, 10)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "seconds": 1.0, "loss": 9.0}\n{"step": 2')  # killed at 15
    train(out, 20, resume=True)
    steps = [row["step"] for row in run_dir.read_metrics(out / "metrics.jsonl")]
    assert steps == [5, 10, 15, 20]


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    out = tmp_path / "run"
    state = train(out)
    before = (out / "metrics.jsonl").read_bytes()
    assert_same(train(out, resume=True), state)
    assert (out / "metrics.jsonl").read_bytes() == before
    assert "nothing to do" in capsys.readouterr().err


def test_pmap_and_inner_steps_end_where_jit_does(tmp_path):
    plain = train(tmp_path / "a")
    many = train(tmp_path / "b", mode="pmap", num_devices=4)
    inner = train(tmp_path / "c", inner=5)
    np.testing.assert_allclose(inner.params["w"], plain.params["w"], rtol=1e-5)
    # This model draws one noise for all: see gengen.rng. So only the shape of things is compared.
    assert many.params["w"].shape == (2, 1) and int(many.step) == 20


def test_inner_steps_resume_bit_for_bit(tmp_path):
    whole = train(tmp_path / "a", 23, inner=5)
    train(tmp_path / "b", 10, inner=5)
    assert_same(train(tmp_path / "b", 23, inner=5, resume=True), whole)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_first_and_resumes_exactly(tmp_path, signum):
    whole = train(tmp_path / "whole", 30)
    calls = []

    def stop_at_second(variables, key):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signum)
        return np.zeros((4, 2))

    before = signal.getsignal(signum)
    with pytest.raises(loop.Interrupted, match="stopped at step 15 of 30"):
        train(tmp_path / "cut", 30, save_every=100, preview=stop_at_second, preview_every=7)
    assert signal.getsignal(signum) is before
    assert_same(train(tmp_path / "cut", 30, resume=True, preview_every=7), whole)


def test_runs_in_a_thread_where_signals_cannot_be_caught(tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(train(tmp_path / "run", 3)))
    thread.start()
    thread.join()
    assert int(states[0].step) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(loop.Diverged, match="step 15: loss = nan"):
        train(out, 30, method=regression(nan_at=12))
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["10"]


def test_bad_input_is_refused_and_nothing_written(tmp_path):
    out = tmp_path / "run"
    for options, message in [
        (dict(steps=0), "steps = 0"),
        (dict(steps=-1), "steps = -1"),
        (dict(batch_size=0), "batch_size = 0"),
        (dict(log_every=0), "log_every = 0"),
        (dict(mode="pmap", batch_size=9), "batch_size = 9"),
        (dict(mode="eager"), "mode = 'eager'"),
        (dict(resume=True), "holds no run"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(out, **options)
        assert not out.exists()


def test_a_run_is_never_overwritten(tmp_path):
    out = tmp_path / "run"
    train(out, 3)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="holds a run already: pass --resume"):
        train(out, 3)
    for options, fields in [
        (dict(settings={"model": "regression", "config": {"width": 3}}), "width was 2, now 3"),
        (dict(seed=1), "seed was 0, now 1"),
    ]:
        with pytest.raises(ValueError, match=fields):
            train(out, 5, resume=True, **options)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match="something else"):
        train(tmp_path / "other", 3)


def test_another_data_set_is_refused_on_resume(tmp_path):
    train(tmp_path / "run", 3)
    other = Dataset("points", {"x": DATA.arrays["x"] + np.float32(1)})
    with pytest.raises(ValueError, match="data.fingerprint"):
        loop.run(
            regression(), other, out=tmp_path / "run", steps=5, batch_size=8, resume=True,
            settings=SETTINGS,
        )  # fmt: skip


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ValueError, match="cannot write"):
        train(tmp_path / "file" / "run", 3)
