"""A corrupt image in a folder: named; or skipped, when that is asked for."""

import numpy as np
import pytest
from PIL import Image

from tests.processes import SMALL_DDPM, gengen, settings

pytestmark = pytest.mark.slow


def test_a_corrupt_image(tmp_path, outcome, said):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    bad = folder / "07.png"
    bad.write_bytes(bad.read_bytes()[:40])
    words = ["train", "ddpm", "--data", f"folder:{folder}", *settings(SMALL_DDPM), "--steps", 2]
    refused = gengen(*words, "--out", "run", cwd=tmp_path)
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    line = said(refused)
    assert "07.png cannot be read" in line and "--skip-bad-images" in line
    skipped = gengen(*words, "--out", "run", "--skip-bad-images", cwd=tmp_path)
    assert skipped.returncode == 0 and "07.png is skipped" in skipped.stderr
    outcome("a corrupt image in a folder", f"exit code 2: {line}", "nothing; that image, if asked")
