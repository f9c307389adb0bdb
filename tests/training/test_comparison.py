"""`gengen report` of several runs: one page, with what differs and curves on the same axes."""

import json
import re

import pytest

from gengen.cli import main
from gengen.viz import curves
from tests.pages import CONFIG, EVALUATION, Page, rows_of, run_in


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """Runs that differ in a field of the Config and in the seed; the second one is better."""
    monkeypatch.chdir(tmp_path)
    for name, seed, value in (("a", 0, 351.27), ("b", 1, 40.0)):
        folder = tmp_path / name
        folder.mkdir()
        config = CONFIG["config"] | {"timesteps": 1000 - 500 * seed}
        rows = [EVALUATION["rows"][0] | {"value": value}]
        run_in(
            folder, rows_of(30, host_wait=0.1), [600 + seed],
            evaluation=EVALUATION | {"rows": rows},
            config=CONFIG | {"seed": seed, "config": config, "machine": {"device": name}},
        )  # fmt: skip
    return tmp_path


def test_several_runs_on_one_page(two_runs, capsys):
    assert main(["report", "a", "b"]) == 0
    assert "report: comparison.html" in capsys.readouterr().err
    html = (two_runs / "comparison.html").read_text(encoding="utf-8")
    text = Page(html).text
    for part in (
        *("2 runs side by side", "a Samples at step 600", "b Samples at step 601"),
        *("fid ↓ 351 ± 31 40 ± 31 12.6 ± 3.3", "timesteps 1000 500", "seed 0 1"),
        *("loss", "a 0.1 b 0.1", "host_wait"),
    ):
        assert part in text, part
    assert 'class="num best">40' in html and html.count("num best") == 1
    assert "shape" not in text and "AMD" not in text  # the same in both; not a setting
    assert not re.search(r"https?://|url\(|@import|<script", html)
    places = [text.index(part) for part in ("Samples at", "fid", "timesteps", "loss", "host_wait")]
    assert places == sorted(places)


def test_a_page_is_never_overwritten_unasked(two_runs, capsys):
    for words in (["a", "b"], ["a"]):
        assert main(["report", *words, "--out", "page.html"]) == 0
        (two_runs / "page.html").write_text("mine")
        assert main(["report", *words, "--out", "page.html"]) == 2
        assert "pass --overwrite" in capsys.readouterr().err
        assert (two_runs / "page.html").read_text() == "mine"
        assert main(["report", *words, "--out", "page.html", "--overwrite"]) == 0
        assert "<html" in (two_runs / "page.html").read_text()
        (two_runs / "page.html").unlink()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no run is given"),
        (["a", "none"], "none holds no run"),
        (["a", "a"], "a is named twice"),
        (["a"] * 9, "9 runs: a comparison takes 2 to 8"),
        (["a", "b", "--out", "page.txt"], "must end in .html"),
        (["a", "b", "--out", "no/page.html"], "no is no directory"),
    ],
)
def test_bad_input_is_refused(two_runs, capsys, words, message):
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (two_runs / "comparison.html").exists()


def test_different_extractors_are_pointed_out(two_runs):
    path = two_runs / "b" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extractor": "inception"}))
    assert main(["report", "a", "b"]) == 0
    text = Page((two_runs / "comparison.html").read_text(encoding="utf-8")).text
    assert "scored against different data or with different features: features" in text


def test_overlaid_curves_have_the_same_axes():
    """Equal values lie at equal heights, and the longest run gives the width."""
    found = curves.overlay("loss", {"a": ([1, 2], [0.0, 1.0]), "b": ([1, 4], [1.0, 9.0])})
    a, b = ([tuple(map(float, p.split(","))) for p in x.raw[1:].split("L")] for x in found.lines)
    assert a[1][1] == b[0][1] and b[1][1] < b[0][1] < a[0][1]
    assert b[1][0] == curves.RIGHT and a[0][0] == b[0][0]
    assert curves.TOP <= b[1][1] and a[0][1] <= curves.BOTTOM
    assert [line.last for line in found.lines] == [1.0, 9.0]
