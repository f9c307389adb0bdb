"""Damaged and older files: the newest valid checkpoint is used, the bad one is named."""

import json
import shutil

import pytest

from gengen.training.checkpoint import MANIFEST, steps_in
from tests.processes import VECTOR_DDPM, assert_same_checkpoint, gengen, settings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("damage")]

BASE = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--seed", 5, "--save-every", 10]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 40 steps, and where an unbroken one of 60 ends."""
    folder = tmp_path_factory.mktemp("damage")
    for name, steps in (("run", 40), ("whole", 60)):
        done = gengen(*BASE, "--steps", steps, "--out", name, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def largest(step):
    files = [p for p in step.rglob("*") if p.is_file() and p.name != MANIFEST]
    return max(files, key=lambda p: p.stat().st_size)


def truncate(step):
    file = largest(step)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(step):
    file = largest(step)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def remove(step):
    largest(step).unlink()


def half_a_manifest(step):
    path = step / MANIFEST
    path.write_text(path.read_text()[:100])


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


@pytest.mark.parametrize(
    "damage, fault",
    [
        (truncate, "a truncated checkpoint file"),
        (flip, "one flipped bit in a checkpoint file"),
        (remove, "a missing checkpoint file"),
        (half_a_manifest, "a truncated manifest of hashes"),
        (empty, "an empty checkpoint folder"),
    ],
)
def test_the_newest_valid_checkpoint_is_used(trained, tmp_path, damage, fault, outcome):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    assert steps_in(run / "checkpoints") == [40, 30]
    damage(run / "checkpoints" / "40")
    resumed = gengen(*BASE, "--steps", 60, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    lines = [line for line in resumed.stderr.splitlines() if "checkpoint 40 is not used" in line]
    assert len(lines) == 1 and "resuming run at step 30" in resumed.stderr
    assert_same_checkpoint(run / "checkpoints" / "60", trained / "whole" / "checkpoints" / "60")
    outcome(fault, lines[0], "the steps since the checkpoint before; the end is the same, bitwise")


def test_all_checkpoints_damaged(trained, tmp_path, outcome):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    for step in steps_in(run / "checkpoints"):
        flip(run / "checkpoints" / str(step))
    resumed = gengen(*BASE, "--steps", 60, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint 40 is not used" in resumed.stderr
    assert "checkpoint 30 is not used" in resumed.stderr
    assert_same_checkpoint(run / "checkpoints" / "60", trained / "whole" / "checkpoints" / "60")
    outcome(
        "every checkpoint damaged",
        "each is named; training begins again at step 0",
        "all steps; the end is the same, bitwise",
    )


def test_an_older_schema_is_migrated(trained, tmp_path, outcome):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    config = json.loads((run / "config.json").read_text())
    del config["engine"]  # schema 1 knew no engine
    (run / "config.json").write_text(json.dumps(config | {"schema": 1}))
    resumed = gengen(*BASE, "--steps", 60, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_checkpoint(run / "checkpoints" / "60", trained / "whole" / "checkpoints" / "60")
    migrated = json.loads((run / "config.json").read_text())
    assert migrated["schema"] == 3 and migrated["engine"]["dtype"] == "float32"
    outcome("a run of config schema 1 (this is 3)", "it is migrated, and goes on", "nothing")


@pytest.mark.parametrize("schema", [4, 0, "x", None])
def test_an_unknown_schema_is_refused(trained, tmp_path, schema, outcome, said):
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"schema": schema}))
    resumed = gengen(*BASE, "--steps", 60, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 2 and "reads schemas 1 to 3" in said(resumed)
    if schema == 4:
        outcome("a run of a later config schema", f"exit code 2: {said(resumed)}", "nothing")
