"""`gengen data inspect`: what it prints and draws."""

import json

import numpy as np
import pytest
from PIL import Image

from gengen.cli import main


def inspect(*words):
    return main(["data", "inspect", *map(str, words)])


def test_facts_as_lines_and_as_json(capsys):
    assert inspect("digits:test") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["shape", "8", "8", "1"] for line in lines)
    assert inspect("digits:test", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [8, 8, 1] and facts["dtype"] == "uint8" and facts["range"] == [0, 255]
    assert sum(facts["classes"].values()) == facts["examples"]
    assert len(facts["fingerprint"]) == 64 and facts["kept"] == "in memory"


@pytest.mark.parametrize("data", ["digits", "ring8", "folder", "stream", "pairs", "unpaired"])
def test_a_picture_of_each_kind(data, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    words = {
        "folder": [f"folder:{tmp_path / 'a'}"],
        "stream": [f"folder:{tmp_path / 'a'}", "--stream", "True"],
        "pairs": [f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}"],
        "unpaired": ["unpaired:digits,digits:test"],
    }.get(data, [data])
    assert inspect(*words, "--out", tmp_path / "x.png", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kept"].startswith("on disk" if data == "stream" else "in memory")
    with Image.open(tmp_path / "x.png") as picture:
        assert min(picture.size) > 20
    before = (tmp_path / "x.png").read_bytes()
    assert inspect(*words, "--out", tmp_path / "x.png") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "x.png").read_bytes() == before


def test_both_images_of_a_pair_are_counted_and_drawn(tmp_path, capsys):
    for name, level in (("a", 50), ("b", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((6, 8, 3), level, np.uint8)).save(tmp_path / name / f"{i}.png")
    a, b = tmp_path / "a", tmp_path / "b"
    for spec, more in (
        (f"pairs:{a},{b}", []),
        (f"pairs:{a},{b}", ["--stream", "True"]),
        (f"unpaired:folder:{a},folder:{b}", []),
    ):
        out = tmp_path / "x.png"
        assert inspect(spec, *more, "--out", out, "--json", "--overwrite") == 0
        assert json.loads(capsys.readouterr().out)["bytes"] == 2 * 3 * 6 * 8 * 3
        with Image.open(out) as picture:
            levels, counts = np.unique(np.asarray(picture), return_counts=True)
        assert len(set(counts[np.isin(levels, [50, 200])])) == 1  # as much of each


@pytest.mark.parametrize(
    "words, message",
    [
        (["digitz"], "did you mean 'digits'"),
        (["digits", "--size", "0"], "size = 0"),
        (["digits", "--out", "x.gif"], "must end in .png"),
        (["folder:/no/such/place"], "no such folder"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert inspect(*words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("gengen: ")
