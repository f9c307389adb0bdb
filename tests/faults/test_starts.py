"""A start that fails leaves no directory: the next attempt is not blocked."""

import numpy as np
import pytest

from tests.processes import VECTOR_DDPM, gengen, settings

pytestmark = pytest.mark.slow


def test_a_start_that_fails_leaves_nothing(tmp_path, outcome, said):
    """Of a model for data of another shape, noticed when its parameters are made."""
    np.savez(tmp_path / "x.npz", x=np.zeros((16, 2), np.float32))
    words = ["train", "ddpm", "--data", "x.npz", *settings(VECTOR_DDPM), "--steps", 2]
    failed = gengen(*words, "--set", "shape=3", "--out", "run", cwd=tmp_path)
    assert failed.returncode == 2 and not (tmp_path / "run").exists()
    again = gengen(*words, "--out", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    outcome(
        "a start that fails before the first train step",
        f"exit code 2: {said(failed)}; the run directory is removed again",
        "nothing: the same command works once the fault is mended",
    )


def test_a_directory_with_characters_of_patterns(tmp_path, outcome):
    name = "run[1]*?"
    words = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--out", name]
    assert gengen(*words, "--steps", 4, cwd=tmp_path).returncode == 0
    resumed = gengen(*words, "--steps", 6, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0 and "at step 4" in resumed.stderr, resumed.stderr
    sampled = gengen("sample", name, "--num", 2, "--out", "x.npz", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    outcome("a run directory named `run[1]*?`", "nothing: it works as any other", "nothing")
