"""NaN in a loss, and a clock that jumps."""

import numpy as np
import pytest

from tests.processes import (
    VECTOR_DDPM,
    assert_same_checkpoint,
    environment,
    gengen,
    logged,
    settings,
)

pytestmark = pytest.mark.slow


def base(steps, rate):
    words = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--steps", steps]
    words += ["--set", f"learning_rate={rate}", "--set", "clip_norm=1e30"]
    return [*words, "--log-every", 10, "--save-every", 10]


def test_a_nan_loss_stops(tmp_path, outcome, said):
    """A learning rate that no network survives, after ten good steps."""
    good = gengen(*base(10, 1e-3), "--out", "run", cwd=tmp_path)
    assert good.returncode == 0
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"learning_rate": 0.001', '"learning_rate": 1e36'))
    bad = gengen(*base(400, 1e36), "--out", "run", "--resume", cwd=tmp_path)
    assert bad.returncode == 1, bad.stderr
    line = said(bad)
    assert "training diverged at step" in line and "loss = " in line
    assert "checkpoints/" in line and "--on-nan skip" in line
    outcome("a loss that becomes NaN", f"exit code 1: {line}", "the steps since that checkpoint")


def test_a_bad_batch_is_skipped(tmp_path, outcome):
    """Vectors so large that their squares overflow: those batches' gradients are infinite."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    x[7] = 3e38
    np.savez(tmp_path / "x.npz", x=x)
    words = ["train", "ddpm", "--data", "x.npz", *settings(VECTOR_DDPM), "--steps", 64]
    words += ["--log-every", 64, "--out", "run"]
    stopped = gengen(*words, cwd=tmp_path)
    assert stopped.returncode == 1 and "diverged" in stopped.stderr
    skipped = gengen(*words[:-1], "skipped", "--on-nan", "skip", cwd=tmp_path)
    assert skipped.returncode == 0, skipped.stderr
    (row,) = logged(tmp_path / "skipped")
    assert row["skipped"] == pytest.approx(8 / 64)  # one batch of eight, in each of 8 epochs
    assert np.isfinite(row["loss"])
    outcome(
        "a batch whose gradient is not finite, with `--on-nan skip`",
        f"the step is left out; `metrics.jsonl` says `skipped`: {row['skipped']:.3f} of the steps",
        "those steps",
    )


CLOCK = """
import time
_time, _calls = time.time, [0]
def jumping():
    _calls[0] += 1
    return _time() - (86400 if _calls[0] > 20 else 0)
time.time = jumping
time.time_ns = lambda: int(jumping() * 1e9)
"""


def test_a_clock_that_is_moved_back(tmp_path, outcome):
    """By a day, soon after the start; then a resume under the right time."""
    whole = gengen(*base(40, 1e-3), "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    env = environment(first=[str(tmp_path / "clock")])
    for steps, resume in ((20, []), (30, ["--resume"])):
        words = [*base(steps, 1e-3), "--out", "run", *resume]
        jumped = gengen(*words, cwd=tmp_path, env=env)
        assert jumped.returncode == 0, jumped.stderr
    last = gengen(*base(40, 1e-3), "--out", "run", "--resume", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    ends = [tmp_path / name / "checkpoints" / "40" for name in ("whole", "run")]
    assert_same_checkpoint(*ends)
    rows = [row["step"] for row in logged(tmp_path / "run")]
    assert rows == [10, 20, 30, 40]
    outcome("the clock moved back by a day", "nothing: the newest checkpoint is by step", "nothing")
