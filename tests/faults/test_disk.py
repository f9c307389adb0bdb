"""A full disk and a read-only one: training stops in one line, what was whole stays whole."""

import os
import shutil
import subprocess

import pytest

from gengen.training.checkpoint import newest_valid
from tests.processes import VECTOR_DDPM, assert_same_checkpoint, gengen, settings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("disk")]

BASE = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--seed", 5]


def mount(folder, *options):
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    if os.geteuid() != 0 or not mount(folder, "size=3m"):
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_disk_full(small_disk, tmp_path, outcome, said):
    whole = gengen(*BASE, "--steps", 60, "--save-every", 10, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    words = [*BASE, "--save-every", 10, "--out", small_disk / "run"]
    first = gengen(*words, "--steps", 20, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    left = shutil.disk_usage(small_disk).free
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(max(0, left - 20_000)))
    full = gengen(*words, "--steps", 60, "--resume", cwd=tmp_path)
    assert full.returncode == 1, full.stderr
    line = said(full)
    assert "No space left" in line and ("--resume" in line or "cannot save checkpoint" in line)
    kept = newest_valid(small_disk / "run" / "checkpoints")
    assert kept is not None and kept.name == "20"
    ballast.unlink()
    again = gengen(*words, "--steps", 60, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    last = small_disk / "run" / "checkpoints" / "60"
    assert_same_checkpoint(last, tmp_path / "whole" / "checkpoints" / "60")
    outcome(
        "disk full during a save",
        f"exit code 1: {line}",
        "the steps since the last whole checkpoint; once there is space, `--resume` ends bitwise "
        "where the unbroken run does",
    )


def test_read_only(small_disk, tmp_path, outcome, said):
    run = small_disk / "run"
    first = gengen(*BASE, "--steps", 10, "--out", run, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    resumed = gengen(*BASE, "--steps", 20, "--out", run, "--resume", cwd=tmp_path)
    assert resumed.returncode == 2 and "cannot write" in said(resumed)
    new = gengen(*BASE, "--steps", 20, "--out", small_disk / "run2", cwd=tmp_path)
    assert new.returncode == 2 and "cannot write" in said(new)
    sampled = gengen("sample", run, "--num", 4, "--out", "x.npz", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr  # reading is no writing
    outcome("a read-only directory", f"exit code 2: {said(new)}", "nothing; sampling still works")
