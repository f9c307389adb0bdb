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
