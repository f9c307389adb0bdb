"""SIGKILL at any moment, SIGTERM, two trainings at once: what is lost, and what goes on."""

import random
import signal
import time
from pathlib import Path

import pytest

from gengen.training.checkpoint import newest_valid, steps_in
from tests.processes import (
    VECTOR_DDPM,
    arrays,
    assert_same_checkpoint,
    gengen,
    logged,
    settings,
    start,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 20
ALPHA = "['mutables']['fade']['generator']['alpha']"


def base(steps, save=20):
    words = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--steps", steps]
    return [*words, "--seed", 5, "--save-every", save, "--log-every", 20, "--preview-every", 10**6]


def newest(run):
    path = newest_valid(run / "checkpoints")
    return int(path.name) if path else 0


def test_sigkill_at_random_moments_also_during_a_save(tmp_path, outcome):
    """Killed 20 times, resumed 20 times: the end is the unbroken run's, bit for bit.

    Every other kill strikes while a save is under way: Orbax's unfinished folder is there, or the
    manifest is not yet.
    """
    rng, steps = random.Random(0), 10**6
    run, last, during_save, lost = tmp_path / "run", 0, 0, []
    for kill in range(KILLS):
        resume = ["--resume"] if run.exists() and (run / "config.json").exists() else []
        process = start(*base(steps), "--out", "run", *resume, cwd=tmp_path)
        checkpoints = run / "checkpoints"
        wait_for(lambda: newest(run) > last, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.5))
        if kill % 2:
            wait_for(lambda: _is_saving(checkpoints), process)  # noqa: B023
            during_save += 1
        process.kill()
        process.communicate()
        now = newest(run)
        assert now > last  # nothing that was whole is lost
        rows = logged_steps(run)
        lost.append(max(rows, default=0) - now)
        last = now
    end = last + 40
    resumed = gengen(*base(end), "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = gengen(*base(end), "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    ends = [tmp_path / name / "checkpoints" / str(end) for name in ("whole", "run")]
    assert_same_checkpoint(*ends)
    assert logged(tmp_path / "whole") == logged(run)
    outcome(
        f"SIGKILL at {KILLS} random moments, {during_save} of them during a save",
        f"`--resume` goes on each time; after {end} steps every array and every logged metric is "
        "bit for bit that of the run never killed",
        f"the steps since the last whole checkpoint (saved every 20): at most {max(lost)} logged",
    )


def _is_saving(checkpoints):
    """An unfinished folder, or one without its manifest."""
    try:
        names = [p.name for p in checkpoints.iterdir()]
    except FileNotFoundError:
        return False
    unfinished = any("tmp" in name for name in names)
    return unfinished or any(
        not (checkpoints / name / "MANIFEST.json").exists() for name in names if name.isdigit()
    )


def logged_steps(run):
    import json

    steps = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:  # the line that was being written
            break
    return steps


def test_sigterm_saves_first(tmp_path, outcome, said):
    process = start(*base(10**6, save=10**6), "--out", "run", cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    (step,) = steps_in(tmp_path / "run" / "checkpoints")
    assert newest(tmp_path / "run") == step
    line = said(err)
    assert f"stopped at step {step} of" in line and "--resume" in line
    outcome("SIGTERM (preemption)", f"exit code 1: {line}", "nothing: that step is saved first")


def test_two_trainings_in_one_directory(tmp_path, outcome, said):
    first = start(*base(10**6, save=10), "--out", "run", cwd=tmp_path)
    try:
        wait_for(lambda: newest(tmp_path / "run") > 0, first)
        second = gengen(*base(10**6), "--out", "run", "--resume", cwd=tmp_path)
        assert second.returncode == 2 and first.poll() is None
        line = said(second)
        assert "another process trains there" in line
    finally:
        first.kill()  # its lock dies with it
        first.communicate()
    end = newest(tmp_path / "run") + 10
    again = gengen(*base(end), "--out", "run", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    outcome("a second training in the same directory", f"exit code 2: {line}", "nothing")


def test_sigkill_inside_a_fade(tmp_path, outcome):
    """Networks that grow: killed where α is between 0 and 1, resumed to the same bits."""
    words = ["latent_dim=4", "channels=4,8", "batch_size=16", "fade_steps=2000", "last_share=1"]
    line = ["train", "progressive", "--data", "digits", *settings(words), "--steps", 4000]
    line += ["--save-every", 20, "--log-every", 20, "--preview-every", 10**6]
    stage = Path("checkpoints", "pixels8")

    def saved():
        path = newest_valid(tmp_path / "run" / stage)
        return int(path.name) if path else 0

    process = start(*line, "--out", "run", cwd=tmp_path)
    wait_for(lambda: saved() >= 100, process)  # of the 2,000 steps of this stage's fade
    process.kill()
    process.communicate()
    killed = saved()
    assert 100 <= killed < 2000
    assert 0 < arrays(newest_valid(tmp_path / "run" / stage))[ALPHA] < 1
    resumed = gengen(*line, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = gengen(*line, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert_same_checkpoint(*(tmp_path / name / stage / "2000" for name in ("whole", "run")))
    assert logged(tmp_path / "whole") == logged(tmp_path / "run")
    outcome(
        "SIGKILL inside the fade of a growing GAN",
        "`--resume` goes on inside the fade; the end is that of the run never killed, bit for bit",
        "the steps since the last whole checkpoint",
    )
