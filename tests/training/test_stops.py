"""Ctrl-C while a picture is drawn: answered at once, and nothing is lost."""

import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from gengen import loop
from gengen.training import run_dir
from tests.processes import arrays, checkpoints_in, command, environment, start, wait_for
from tests.test_loop import assert_same, train

# A VAE whose sampler keeps XLA busy for minutes.
SLOW_SAMPLER = """
import jax
import jax.numpy as jnp

from gengen.vae.vae import Config, condition_of, method


@jax.jit
def slow(x):
    return jax.lax.fori_loop(0, 10**9, lambda i, x: jnp.sin(x + i), x)


def sample(cfg, variables, key, num):
    return slow(jnp.ones((num, *cfg.shape)))
"""

# One whose first step keeps XLA busy for minutes, as compilation does.
SLOW_STEP = """
import jax
import jax.numpy as jnp

from gengen.vae import vae
from gengen.vae.vae import Config, condition_of, sample


def method(cfg):
    fast = vae.method(cfg)

    def train_step(key, state, batch):
        state, metrics = fast.train_step(key, state, batch)
        long = jax.lax.fori_loop(0, 10**9, lambda i, x: jnp.sin(x + i), metrics["loss"])
        return state, metrics | {"long": long}

    return fast._replace(train_step=train_step)
"""


@pytest.fixture(autouse=True)
def every_picture_is_drawn(monkeypatch):
    """However long one takes on a busy machine."""
    monkeypatch.setattr("gengen.training.actions.FREE", 1e6)


def interrupted_at_second_picture(started):
    """Return a preview that takes 3 s the second time, and is interrupted meanwhile."""
    calls = []

    def preview(variables, key):
        calls.append(1)
        if len(calls) == 2:
            started.append(time.monotonic())
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(3)
        return np.zeros((4, 2))

    return preview


@pytest.mark.parametrize("every, step", [(7, 14), (15, 30)])
def test_a_picture_is_abandoned_and_nothing_lost(tmp_path, capsys, every, step):
    """Between checkpoints, and at the last step, where the run is complete."""
    whole = train(tmp_path / "whole", 30)
    started = []
    options: dict = dict(preview=interrupted_at_second_picture(started), preview_every=every)
    if step < 30:
        with pytest.raises(loop.Interrupted, match=f"stopped at step {step} of 30"):
            train(tmp_path / "cut", 30, save_every=100, **options)
    else:
        assert_same(train(tmp_path / "cut", 30, save_every=100, **options), whole)
    assert time.monotonic() - started[0] < 2
    assert "stopping" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == [str(step)]
    rows = run_dir.read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert rows[-1]["step"] == step
    assert f"{step} of 30" in (tmp_path / "cut" / "report.html").read_text() or step == 30
    assert_same(train(tmp_path / "cut", 30, resume=True, preview_every=every), whole)
    steps = [row["step"] for row in run_dir.read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert steps == sorted({5, 10, step, 15, 20, 25, 30})


def test_a_stop_draws_no_more_pictures(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(loop.distributed, "asked_to_stop", lambda step, stop: step == 6)
    with pytest.raises(loop.Interrupted):
        train(tmp_path / "run", 30, preview=lambda *_: drawn.append(1) or np.zeros((4, 2)),
              preview_every=3)  # fmt: skip
    assert len(drawn) == 1


def test_the_report_exists_during_the_run_and_after_it_diverged(tmp_path, monkeypatch):
    out, seen = tmp_path / "run", []

    def preview(variables, key):
        path = out / "report.html"
        seen.append(path.exists() and "5 of 30" in path.read_text())
        return np.zeros((4, 2))

    from tests.test_loop import regression

    with pytest.raises(loop.Diverged):
        train(out, 30, method=regression(nan_at=12), preview=preview, preview_every=5)
    assert seen == [False, True]
    assert "the run diverged" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_command_answers_ctrl_c_in_a_picture_within_two_seconds(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_SAMPLER)
    words = ["train", "./slow.py", "--data", "digits", "--steps", "6", "--preview-every", "3"]
    words += ["--save-every", "6", "--out", "run"]
    process = start(*words, cwd=tmp_path, env=environment())
    rows = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and len(rows.read_text().splitlines()) == 3, process)
    time.sleep(2)  # the sampler compiles, then runs
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - since < 2
    assert process.returncode == 1
    assert "stopping" in said and "stopped at step 3 of 6" in said and "--resume" in said
    (kept,) = checkpoints_in(tmp_path / "run")
    assert kept.name == "3" and len(arrays(kept)) > 4
    assert "3 of 6" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_ctrl_c_is_answered_while_xla_holds_the_main_thread_and_a_second_one_ends(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_STEP)
    words = ["train", "./slow.py", "--data", "digits", "--steps", "6", "--out", "run"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command(words), cwd=tmp_path, env=environment(), stderr=log)
    said = lambda: (tmp_path / "log").read_text()  # noqa: E731
    wait_for(lambda: "compiling the train step" in said(), process)
    time.sleep(3)
    since = time.monotonic()
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in said(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 1
    assert time.monotonic() - since < 3
    assert said().count("stopping") == 1 and said().endswith("gengen: interrupted\n")
