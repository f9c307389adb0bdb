"""The loop: its files, its resumes, and what it refuses; on a model of one dense layer."""

import dataclasses
import json
import os
import signal
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import loop
from gengen.data import Dataset, Stream
from gengen.data.npz import load_npy
from gengen.loop import Engine
from gengen.stages import Stage, continued
from gengen.steps import descent, method, with_ema
from gengen.training import run_dir
from gengen.types import InputError, TrainState


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


def reader(arrays):
    return lambda rows: {name: array[rows] for name, array in arrays.items()}


DATA = Dataset("points", {"x": np.random.default_rng(0).normal(size=(37, 2)).astype(np.float32)})
SETTINGS = {"model": "regression", "config": {"width": 2}}


def train(out, steps=20, **options) -> Any:
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
    many = train(tmp_path / "b", engine=Engine(mode="pmap", num_devices=4))
    inner = train(tmp_path / "c", engine=Engine(inner=5))
    split = train(tmp_path / "d", engine=Engine(num_devices=4))
    np.testing.assert_allclose(split.params["w"], plain.params["w"], rtol=1e-5)
    np.testing.assert_allclose(inner.params["w"], plain.params["w"], rtol=1e-5)
    # This model draws one noise for all: see gengen.rng. So only the shape of things is compared.
    assert many.params["w"].shape == (2, 1) and int(many.step) == 20


def test_inner_steps_resume_bit_for_bit(tmp_path):
    five = Engine(inner=5)
    whole = train(tmp_path / "a", 23, engine=five)
    train(tmp_path / "b", 10, engine=five)
    assert_same(train(tmp_path / "b", 23, engine=five, resume=True), whole)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_first_and_resumes_exactly(tmp_path, signum, monkeypatch):
    monkeypatch.setattr("gengen.training.actions.FREE", 1e6)  # no picture is left out
    whole = train(tmp_path / "whole", 30)
    calls = []

    def stop_at_second(variables, key):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signum)
        return np.zeros((4, 2))

    before = signal.getsignal(signum)
    with pytest.raises(loop.Interrupted, match="stopped at step 14 of 30"):
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
        (dict(engine=Engine(mode="pmap"), batch_size=9), "batch_size = 9"),
        (dict(engine=Engine(mode="eager")), "mode = 'eager'"),
        (dict(engine=Engine(num_devices=0)), "0 devices"),
        (dict(engine=Engine(accumulate=3)), "each taking 3 parts"),
        (dict(resume=True), "holds no run"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(out, **options)
        assert not out.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(accumulate=0), "accumulate = 0"),
        (dict(dtype="int8"), "dtype = 'int8'"),
        (dict(on_nan="pray"), "on_nan = 'pray'"),
        (dict(workers=-1), "workers = -1"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Engine(**options)


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


@pytest.mark.parametrize("streamed_first", [False, True])
def test_a_run_goes_on_whether_its_data_are_in_memory_or_streamed(
    tmp_path, monkeypatch, streamed_first
):
    np.save(tmp_path / "points.npy", DATA.arrays["x"])
    kept, streamed = (load_npy(tmp_path / "points.npy", stream=s) for s in (False, True))
    assert isinstance(kept, Dataset) and isinstance(streamed, Stream)
    first, then = (streamed, kept) if streamed_first else (kept, streamed)
    same: Any = {"batch_size": 8, "settings": SETTINGS}
    whole = loop.run(regression(), first, out=tmp_path / "whole", steps=6, **same)
    loop.run(regression(), first, out=tmp_path / "run", steps=3, **same)
    end = loop.run(regression(), then, out=tmp_path / "run", steps=6, resume=True, **same)
    assert_same(end, whole)
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "points.npy", DATA.arrays["x"] + np.float32(1))
    other = dataclasses.replace(load_npy(tmp_path / "other" / "points.npy"), name=kept.name)
    with pytest.raises(ValueError, match="data.fingerprint"):
        loop.run(regression(), other, out=tmp_path / "run", steps=9, resume=True, **same)


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ValueError, match="cannot write"):
        train(tmp_path / "file" / "run", 3)


def test_a_stream_trains_as_the_same_data_in_memory_do(tmp_path):
    """The same batches, bit for bit, with and without an interruption."""
    stream = Stream("points", reader(DATA.arrays), len(DATA), DATA.shape, DATA.fingerprint)
    whole = train(tmp_path / "memory", 23)
    options: dict = dict(batch_size=8, settings=SETTINGS, save_every=10)
    assert_same(loop.run(regression(), stream, out=tmp_path / "a", steps=23, **options), whole)
    loop.run(regression(), stream, out=tmp_path / "b", steps=12, **options)
    resumed = loop.run(regression(), stream, out=tmp_path / "b", steps=23, resume=True, **options)
    assert_same(resumed, whole)


def two_stages():
    """The second learns on residuals of the first, and starts with a copy of its weights."""

    def residuals(before, data):
        x = data.arrays["x"]
        return Dataset("residuals", {"x": x - np.asarray(x @ before["first"].params["w"])})

    def start(before, state):
        copy = jax.tree.map(jnp.copy, before["first"].params)
        return state.replace(params=copy)

    return [
        Stage("first", regression()),
        Stage("second", regression(), data=residuals, start=start, share=2.0),
    ]


@pytest.mark.parametrize("cut", [1, 7, 10, 23])
def test_stages_share_the_steps_and_resume_bit_for_bit(tmp_path, cut, monkeypatch):
    """Stopped in the first stage, or inside the second."""
    seen = []
    preview = lambda variables, key: seen.append(sorted(variables)) or np.zeros((4, 2))  # noqa: E731
    whole = train(tmp_path / "whole", 30, method=two_stages(), preview=preview, preview_every=10)
    assert isinstance(whole, dict) and list(whole) == ["first", "second"]
    assert [int(state.step) for state in whole.values()] == [10, 20]
    assert seen == [["first", "second"]] * 2  # the last stage's pictures alone
    rows = run_dir.read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert run_dir.read(tmp_path / "whole")["parameters"] == 4

    steps = iter(range(1, 100))
    monkeypatch.setattr(loop.distributed, "asked_to_stop", lambda step, stop: next(steps) == cut)
    with pytest.raises(loop.Interrupted, match=f"stopped at step {cut} of 30"):
        train(tmp_path / "cut", 30, method=two_stages(), save_every=4)
    resumed = train(tmp_path / "cut", 30, method=two_stages(), resume=True)
    for name in whole:
        assert_same(resumed[name], whole[name])
    assert {s.step.dtype for s in resumed.values()} == {np.dtype("int32")}


def test_a_longer_run_of_stages_leaves_finished_ones_as_they_are(tmp_path, monkeypatch):
    """10 and 20 steps, then 60 in all: 10 and 50, not 20 and 40; the same bits if cut again."""
    ends = {}
    for name, cuts in (("once", []), ("twice", [1, 25])):
        first = train(tmp_path / name, 30, method=two_stages())
        for cut in cuts:
            steps = iter(range(1, 100))
            with monkeypatch.context() as patch:
                stop = lambda step, stop: next(steps) == cut  # noqa: B023, E731
                patch.setattr(loop.distributed, "asked_to_stop", stop)
                with pytest.raises(loop.Interrupted, match="of 60"):
                    train(tmp_path / name, 60, method=two_stages(), resume=True)
        ends[name] = train(tmp_path / name, 60, method=two_stages(), resume=True)
        assert [int(state.step) for state in ends[name].values()] == [10, 50]
        assert_same(ends[name]["first"], first["first"])
        settings = run_dir.read(tmp_path / name)
        assert (settings["steps"], settings["stage_steps"]) == (60, [10, 50])
        rows = run_dir.read_metrics(tmp_path / name / "metrics.jsonl")
        assert {5, 10, 30, 35, 60} <= {row["step"] for row in rows} and rows[-1]["step"] == 60
        shorter = train(
            tmp_path / name, 45, method=two_stages(), resume=True
        )  # it has more already
        assert_same(shorter, ends[name])
        assert run_dir.read(tmp_path / name)["stage_steps"] == [10, 50]
    assert_same(ends["twice"], ends["once"])


def test_a_longer_run_that_ends_in_its_first_stage(tmp_path, monkeypatch):
    """Cut in the first stage, whose share grows with the run's."""
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(loop.distributed, "asked_to_stop", lambda step, stop: next(steps) == 4)
        with pytest.raises(loop.Interrupted):
            train(tmp_path / "run", 30, method=two_stages())
    longer = train(tmp_path / "run", 60, method=two_stages(), resume=True)
    assert_same(longer, train(tmp_path / "whole", 60, method=two_stages()))


def test_a_stage_has_a_batch_size_and_pictures_of_its_own(tmp_path, capsys):
    """Each of the first stage's 10 steps is of 2 examples, not 4; its lines count 2 each."""
    seen, sizes = [], []

    def shown(variables, key):
        seen.append(sorted(variables))
        return np.zeros((4, 2))

    def noted(method):
        def train_step(key, state, batch):
            sizes.append(len(batch["x"]))
            return method.train_step(key, state, batch)

        return method._replace(train_step=train_step)

    first, second = two_stages()
    first = first._replace(method=noted(first.method), batch_size=2, preview=shown)
    second = second._replace(method=noted(second.method))
    train(tmp_path / "run", 30, method=[first, second], preview=shown, preview_every=10)
    assert sizes == [2, 8]
    assert seen == [["first"]] + [["first", "second"]] * 2
    names = [p.name for p in sorted((tmp_path / "run" / "samples").iterdir())]
    assert names == ["step_00000010.png", "step_00000020.png", "step_00000030.png"]
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("stage ")]
    assert len(lines) == 2
    assert lines[0].startswith("stage first: 2 parameters, batch size 2, 10 steps, ")
    assert lines[1].startswith("stage second: 2 parameters, batch size 8, 20 steps, ")
    assert all(" ms each, state " in line and "temporaries " in line for line in lines)

    train(tmp_path / "none", 30, method=[first, second])  # none are asked for
    assert not list((tmp_path / "none" / "samples").iterdir())
    with pytest.raises(InputError, match="batch_size = 2 is no multiple of the 8 devices"):
        train(tmp_path / "many", 30, method=[first, second], engine=Engine(num_devices=8))


def test_parameters_of_networks_that_go_on_are_counted_once(tmp_path):
    first, second = two_stages()
    train(tmp_path / "run", 30, method=[first, second._replace(replaces=True)])
    settings = run_dir.read(tmp_path / "run")
    assert settings["parameters"] == 2 and settings["parameters_of"] == {"second": 2}


def test_a_stage_goes_on_with_the_state_of_the_one_before():
    """All arrays of the same place and shape: not a new layer, a larger one, or a schedule."""
    tx = optax.adam(optax.linear_schedule(1.0, 0.0, 10))

    def state(size, names, value):
        params = {name: jnp.full(3, value) for name in names} | {"last": jnp.full(size, value)}
        opt_state, mutables = tx.init(params), {"seen": jnp.float32(value)}
        grads = jax.tree.map(jnp.ones_like, params)
        opt_state = tx.update(grads, opt_state, params)[1] if value else opt_state
        return TrainState(jnp.int32(value), params, opt_state, mutables, params)

    old, fresh = state(2, "ab", 5.0), state(4, "bc", 0.0)
    new = continued({"zero": fresh, "one": old}, fresh)
    assert continued({}, fresh) is fresh
    assert {k: np.ravel(v).tolist() for k, v in new.params.items()} == {
        "b": [5, 5, 5], "c": [0, 0, 0], "last": [0, 0, 0, 0]
    }  # fmt: skip
    adam, schedule = new.opt_state
    assert (int(adam.count), int(schedule.count)) == (1, 0)
    np.testing.assert_array_equal(adam.nu["b"], old.opt_state[0].nu["b"])
    assert not np.any(adam.nu["c"]) and np.all(old.opt_state[0].nu["b"] > 0)
    np.testing.assert_array_equal(new.ema["b"], [5, 5, 5])
    assert (int(new.step), float(new.mutables["seen"])) == (0, 0)


def test_stages_must_have_names_and_steps(tmp_path):
    for stages, steps, message in [
        ([], 5, "at least one"),
        ([Stage("a", regression()), Stage("a", regression())], 5, "word of its own"),
        ([Stage("1", regression())], 5, "word"),
        ([Stage("a", regression(), share=0.0)], 5, "each stage takes some"),
        (two_stages(), 1, "each of the 2 stages needs one"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "run", steps, method=stages)
    assert not (tmp_path / "run").exists()


def test_what_the_engine_computes_may_not_change_on_resume(tmp_path):
    train(tmp_path / "run", 4, engine=Engine(accumulate=2))
    assert run_dir.read(tmp_path / "run")["engine"]["accumulate"] == 2
    with pytest.raises(ValueError, match="engine.accumulate was 2, now 1"):
        train(tmp_path / "run", 8, resume=True)


def test_skipped_steps_are_left_out_of_the_means(tmp_path):
    state = train(tmp_path / "run", 15, method=regression(nan_at=12), engine=Engine(on_nan="skip"))
    rows = run_dir.read_metrics(tmp_path / "run" / "metrics.jsonl")
    # The count of steps, a mutable, stands at 12 once that step is skipped: so are all later ones.
    assert [row["skipped"] for row in rows] == [0, 0, pytest.approx(3 / 5)]
    assert rows[2]["loss"] == pytest.approx(rows[1]["loss"], rel=0.5)
    assert int(state.step) == 15 and np.all(np.isfinite(state.params["w"]))


@pytest.mark.parametrize("engine", [Engine(on_nan="skip"), Engine(on_nan="skip", inner=5)])
def test_lines_without_an_applied_step_end_nothing(tmp_path, engine):
    """Until 100 steps in a row were skipped: then the next is applied, and training diverges."""
    model = regression(nan_at=12)
    state = train(tmp_path / "run", 40, method=model, engine=engine, log_every=1)
    rows = run_dir.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert int(state.step) == 40 and rows[-1]["skipped"] == 1 and "loss" not in rows[-1]
    assert all(np.isfinite(row["loss"]) for row in rows if row["skipped"] < 1)
    with pytest.raises(loop.Diverged, match="loss = nan"):
        train(tmp_path / "run", 160, method=model, engine=engine, log_every=1, resume=True)


def test_tensorboard_and_profile_are_written(tmp_path):
    out = tmp_path / "run"
    preview = lambda variables, key: np.zeros((4, 8, 8, 1), np.float32)  # noqa: E731
    engine = Engine(tensorboard=True, profile=2)
    train(out, 20, engine=engine, preview=preview, preview_every=20)
    (events,) = (out / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(
        word in content for word in (b"loss", b"gradient_norm", b"examples_per_s", b"samples")
    )
    assert list((out / "profile").rglob("*.xplane.pb"))


def test_what_goes_wrong_is_said_when_it_begins(tmp_path, capsys):
    """Twice ill with a healthy line between: said twice; not at every line."""
    words = {3: ["the loss is 3"], 4: ["the loss is 3"], 6: ["the loss is 3"]}
    lines = iter(range(1, 9))
    model = regression()._replace(warn=lambda metrics: words.get(next(lines), []))
    train(tmp_path / "run", 8, method=model, log_every=1)
    said = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert said == [f"gengen: warning: at step {n}: the loss is 3" for n in (3, 6)]


def test_a_second_training_is_refused(tmp_path):
    out = tmp_path / "run"
    train(out, 3)
    with (
        run_dir.locked(out, resume=True),
        pytest.raises(ValueError, match="another process trains"),
    ):
        train(out, 5, resume=True)
    assert int(train(out, 5, resume=True).step) == 5


def test_a_failed_save_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(out, 10)
    full = lambda path: (_ for _ in ()).throw(OSError(28, "full"))  # noqa: E731
    monkeypatch.setattr("gengen.training.checkpoint.write_manifest", full)
    with pytest.raises(RuntimeError, match=r"cannot save checkpoint 20 .*full.*good one is .*/10"):
        train(out, 20, resume=True)
