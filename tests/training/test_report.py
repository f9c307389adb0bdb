from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gengen.errors import InputError
from gengen.training.report import MAX_PICTURES, duration, write_report
from gengen.viz import curves
from gengen.viz.grid import grid, save_png

CONFIG = {
    "model": "ddpm",
    "family": "diffusion",
    "config": {"shape": [28, 28, 1], "timesteps": 1000, "learning_rate": 0.00021, "clip": None},
    "data": {
        "name": "mnist5k:train",
        "fingerprint": "sha256:9f2b",
        "num_examples": 4500,
        "shape": [28, 28, 1],
    },
    "seed": 7,
    "steps": 1200,
    "parameters": 520321,
    "versions": {"gengen": "0.1.0", "jax": "0.10.2"},
    "machine": {"platform": "cpu", "device": "AMD EPYC", "num_devices": 1, "cores": 2},
    "something_new": {"deep": {"er": "unforeseen"}},
}
VOID = {"meta", "link", "img"}
SVG_CLOSED = {"line", "path", "rect"}


class Page(HTMLParser):
    """Checks that tags nest; keeps text, attributes and tags."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG_CLOSED, f"HTML has no self-closing <{tag}/>"
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def _run(folder, rows=(), pictures=(), config=CONFIG, evaluation=None):
    (folder / "samples").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
    for step in pictures:
        image = np.random.default_rng(step).integers(256, size=(4, 8, 8, 1), dtype=np.uint8)
        save_png(folder / "samples" / f"step_{step:08d}.png", grid(image), scale=2)
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def _rows(num=50, **metrics):
    return [
        {"step": 24 * i, "seconds": 5.0 * i, "examples_per_s": 305.0, "loss": 3.0 / i, **metrics}
        for i in range(1, num + 1)
    ]


def _page(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_tells_the_run(tmp_path):
    evaluation = {
        "rows": [
            {"name": "recall", "value": 0.6341, "floor": 0.8912, "note": "k = 3", "std": 0.015},
            {"name": "KID", "value": -0.00125},
        ],
        "bits_per_dim": 3.02,
        "judge": {"accuracy": 0.973},
    }
    run = _run(tmp_path, _rows(), [600, 1200], evaluation=evaluation)
    assert write_report(run) == run / "report.html"
    text = _page(run).text
    for part in (
        *("ddpm", "diffusion", "mnist5k:train", "4,500 examples of 28 × 28 × 1", "520,321"),
        *("1,200 steps", "4 min 10 s", "305 examples per second", "0.52 million parameters"),
        *("Real held-out data", "recall 0.6341 0.8912 k = 3; std: 0.015", "KID −0.00125 –"),
        *("bits_per_dim 3.02", "judge.accuracy 0.973"),
        *("Samples at step 1,200", "Step 600", "loss", "last 0.06", "examples per second last 305"),
        *("timesteps 1000", "learning_rate 0.00021", "shape 28, 28, 1", "clip None", "sha256:9f2b"),
        *("jax 0.10.2", "AMD EPYC", "something_new.deep.er unforeseen"),
    ):
        assert part in text, part
    assert not list(run.glob("*.part"))


def test_loads_nothing_from_elsewhere(tmp_path):
    run = _run(tmp_path, _rows(), [600, 1200])
    page = _page(run)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 4  # icon, latest picture, two over time
    assert all(source.startswith("data:") for source in sources)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<iframe|<object", html)


def test_escapes_hostile_text(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    config = {
        "model": evil, "family": evil, "config": {evil: evil}, "data": {"name": evil},
        "machine": {"device": evil}, evil: evil,
    }  # fmt: skip
    rows = [row | {evil: 1.0} for row in _rows()]
    evaluation = {"rows": [{"name": evil, "value": evil, "note": evil}], evil: evil}
    page = _page(_run(tmp_path, rows, [1], config, evaluation))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>\"'&") >= 10
    assert ("aria-label", f"{evil} by step; last value 1") in page.attributes


def test_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = _page(tmp_path).text
    assert "No samples yet" in text and "No metrics yet" in text and "unnamed model" in text


@pytest.mark.parametrize(
    "config", [{"data": "mnist", "config": [1], "versions": None, "steps": "x"}]
)
def test_survives_an_odd_config(tmp_path, config):
    assert "mnist" in _page(_run(tmp_path, _rows(1), config=config)).text


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_refuses_what_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json"):
        write_report(tmp_path)


def test_ignores_a_half_written_line(tmp_path):
    run = _run(tmp_path, _rows(3))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 96, "lo')
    assert "72 of 1,200" in _page(run).text


def test_says_when_a_run_diverged(tmp_path):
    rows = _rows(20)
    for row in rows[15:]:
        row["loss"] = float("nan")
    text = _page(_run(tmp_path, rows)).text
    assert "loss not finite since step 384" in text and "5 values not finite" in text
    assert "last NaN" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300, 5])
@pytest.mark.parametrize("num", [1, 2, 30])
def test_draws_any_metric(tmp_path, value, num):
    html = write_report(_run(tmp_path, _rows(num, odd=value))).read_text(encoding="utf-8")
    numbers = re.findall(r'(?:\bd|x1|x2|y1|y2|x|y)="([^"]*)"', html)
    assert numbers and not any("nan" in n or "inf" in n for n in numbers)


def test_metrics_may_come_and_go_and_be_no_numbers(tmp_path):
    rows = _rows(4)
    rows[2] |= {"fid": 12.5}
    rows[3] |= {"note": "text", "flag": True, "none": None}
    text = _page(_run(tmp_path, rows)).text
    assert "fid last 12.5" in text and "note" not in text


def test_folds_many_metrics_away(tmp_path):
    page = _page(_run(tmp_path, _rows(5, **{f"m{i}": i for i in range(20)})))
    assert "9 more metrics" in page.text and "details" in page.tags


def test_shows_some_of_many_pictures_first_and_last_included(tmp_path):
    steps = range(1, 31)
    text = _page(_run(tmp_path, pictures=steps)).text
    shown = [int(n) for n in re.findall(r"Step (\d+)", text)]
    assert len(shown) == MAX_PICTURES and (shown[0], shown[-1]) == (1, 30)
    assert set(np.diff(shown)) <= {2, 3}
    assert f"{MAX_PICTURES} of 30 pictures" in text


def test_embeds_pictures_at_their_own_size(tmp_path):
    run = _run(tmp_path, pictures=[5])
    html = write_report(run).read_text(encoding="utf-8")
    match = re.search(r'class="pixels" src="data:image/png;base64,([^"]*)" width="(\d+)"', html)
    assert match
    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
        embedded = np.asarray(image)
    with Image.open(run / "samples" / "step_00000005.png") as image:
        # Half of the file's: it was written at twice the size.
        np.testing.assert_array_equal(embedded, np.asarray(image)[::2, ::2])
    assert int(match[2]) == 35 * 18  # the largest multiple of its 18 pixels within 640


def test_skips_a_broken_picture(tmp_path):
    run = _run(tmp_path, pictures=[1, 2])
    (run / "samples" / "step_00000003.png").write_bytes(b"\x89PNG no more")
    (run / "samples" / "notes.png").write_bytes(b"")
    assert "Samples at step 2" in _page(run).text


def test_stays_small(tmp_path):
    run = _run(tmp_path, _rows(2000, a=1.0, b=2.0))
    noise = np.random.default_rng(0).integers(256, size=(1100, 1100, 3), dtype=np.uint8)
    for step in range(3):
        save_png(run / "samples" / f"step_{step}.png", noise)
    assert write_report(run).stat().st_size < 2_000_000


@pytest.mark.parametrize("content", ["{", '"text"', "[1, 2]", '{"rows": 3}', "null"])
def test_survives_an_odd_evaluation(tmp_path, content):
    run = _run(tmp_path)
    (run / "evaluation.json").write_text(content)
    assert ("cannot be read" in _page(run).text) == (content == "{")


def test_a_page_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    run = _run(tmp_path)
    path = write_report(run)
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(run)
    assert path.read_text(encoding="utf-8") == before and not list(run.glob("*.part"))


def test_smooth_curve_is_the_local_mean():
    steps = np.arange(1, 2001)
    noisy = 1 + np.where(steps % 2, 0.1, -0.1)
    panel = curves.panel("loss", steps.tolist(), noisy.tolist())
    heights = [float(point.split(",")[1]) for point in panel.smooth[1:].split("L")]
    assert np.ptp(heights) < 1 and len(heights) == curves.MAX_POINTS and not panel.log
    middle = (curves.TOP + curves.BOTTOM) / 2
    assert abs(float(np.mean(heights)) - middle) < 1
    raw = [float(point.split(",")[1]) for point in panel.raw[1:].split("L")]
    assert np.ptp(raw) > 100  # thinned to extremes, not to means


def test_axis_is_logarithmic_only_where_that_tells_more():
    steps = list(range(100))
    assert curves.panel("a", steps, [10.0 ** (-i / 30) for i in steps]).log
    assert not curves.panel("a", steps, [10.0 ** (-i / 300) for i in steps]).log
    assert not curves.panel("a", steps, [10.0 ** (-i / 30) - 0.01 for i in steps]).log


def test_ticks():
    np.testing.assert_allclose(curves.ticks(0, 1200, 5), [0, 200, 400, 600, 800, 1000, 1200])
    np.testing.assert_allclose(curves.ticks(-0.31, 0.29, 4), [-0.2, 0, 0.2])
    np.testing.assert_allclose(curves.decades(-3.1, 0.2), [1e-3, 1e-2, 1e-1, 1])
    np.testing.assert_allclose(curves.decades(0.1, 1.1), [2, 5, 10])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.031268, "0.03127"), (-1234.5, "−1,234"), (0.0, "0"), (12, "12"), (520321, "520,321"),
        (2.5e-7, "2.5·10⁻⁷"), (1e-5, "10⁻⁵"), (1e9, "10⁹"), (float("nan"), "NaN"),
        (float("-inf"), "−∞"), (100.0, "100"), (0.9, "0.9"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert curves.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.99, "1 min 00 s"), (185, "3 min 05 s"), (7800.0, "2 h 10 min")],
)
def test_duration(seconds, text):
    assert duration(seconds).replace("\u00a0", " ") == text
