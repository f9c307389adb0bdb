from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import gengen
from gengen.cli import main
from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs import pictures as runs_pictures
from gengen.training.report import MAX_PICTURES, write_report
from gengen.training.reporting import pictures
from gengen.training.reporting.measures import plus_minus
from gengen.viz import curves
from gengen.viz.grid import save_png
from tests.pages import CONFIG, EVALUATION, Page, rows_of, run_in


def _page(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_tells_therun_in(tmp_path):
    evaluation = {
        "rows": [
            {"name": "recall", "value": 0.6341, "floor": 0.8912, "note": "k = 3", "std": 0.015},
            {"name": "KID", "value": -0.00125},
        ],
        "bits_per_dim": 3.02,
        "judge": {"accuracy": 0.973},
    }
    run = run_in(tmp_path, rows_of(), [600, 1200], evaluation=evaluation)
    assert write_report(run) == run / "report.html"
    text = _page(run).text
    for part in (
        *("ddpm", "diffusion", "mnist5k:train", "4,500 examples of 28 × 28 × 1", "520,321"),
        *("1,200 steps", "4 min 10 s", "305 examples per second", "0.52 million parameters"),
        *("Real data", "recall ↑ 0.6341 0.8912 k = 3; std: 0.015", "KID ↓ −0.00125 –"),
        "↓ lower is better. ↑ higher is better. “Real data” is what real held-out examples",
        *("bits_per_dim ↓ 3.02", "judge.accuracy 0.973"),
        *("Samples at step 1,200", "Step 600", "loss", "last 0.06", "examples_per_s last 305"),
        *("timesteps 1000", "learning_rate 0.00021", "shape 28, 28, 1", "clip None", "sha256:9f2b"),
        *("jax 0.10.2", "AMD EPYC", "something_new.deep.er unforeseen"),
    ):
        assert part in text, part
    assert not list(run.glob("*.part"))


def test_loads_nothing_from_elsewhere(tmp_path):
    run = run_in(tmp_path, rows_of(), [600, 1200])
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
    rows = [row | {evil: 1.0} for row in rows_of()]
    evaluation = {"rows": [{"name": evil, "value": evil, "note": evil}], evil: evil}
    page = _page(run_in(tmp_path, rows, [1], config, evaluation))
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
    assert "mnist" in _page(run_in(tmp_path, rows_of(1), config=config)).text


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_refuses_what_is_norun_in(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="config.json"):
        write_report(tmp_path)


def test_ignores_a_half_written_line(tmp_path):
    run = run_in(tmp_path, rows_of(3))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 96, "lo')
    assert "72 of 1,200" in _page(run).text


def test_says_when_a_run_diverged(tmp_path):
    rows = rows_of(20)
    for row in rows[15:]:
        row["loss"] = float("nan")
    text = _page(run_in(tmp_path, rows)).text
    assert "loss not finite since step 384" in text and "5 values not finite" in text
    assert "last NaN" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300, 5])
@pytest.mark.parametrize("num", [1, 2, 30])
def test_draws_any_metric(tmp_path, value, num):
    html = write_report(run_in(tmp_path, rows_of(num, odd=value))).read_text(encoding="utf-8")
    numbers = re.findall(r'(?:\bd|x1|x2|y1|y2|x|y)="([^"]*)"', html)
    assert numbers and not any("nan" in n or "inf" in n for n in numbers)


def test_metrics_may_come_and_go_and_be_no_numbers(tmp_path):
    rows = rows_of(4)
    rows[2] |= {"fid": 12.5}
    rows[3] |= {"note": "text", "flag": True, "none": None}
    text = _page(run_in(tmp_path, rows)).text
    assert "fid last 12.5" in text and "note" not in text


def test_folds_many_metrics_away(tmp_path):
    page = _page(run_in(tmp_path, rows_of(5, **{f"m{i}": i for i in range(20)})))
    assert "9 more metrics" in page.text and "details" in page.tags


def test_shows_some_of_many_pictures_first_and_last_included(tmp_path):
    steps = range(1, 31)
    text = _page(run_in(tmp_path, pictures=steps)).text
    shown = [int(n) for n in re.findall(r"Step (\d+)", text)]
    assert len(shown) == MAX_PICTURES and (shown[0], shown[-1]) == (1, 30)
    assert set(np.diff(shown)) <= {2, 3}
    assert f"{MAX_PICTURES} of 30 pictures" in text


def test_embeds_pictures_at_their_own_size(tmp_path):
    run = run_in(tmp_path, pictures=[5])
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
    run = run_in(tmp_path, pictures=[1, 2])
    (run / "samples" / "step_00000003.png").write_bytes(b"\x89PNG no more")
    (run / "samples" / "notes.png").write_bytes(b"")
    assert "Samples at step 2" in _page(run).text


def test_stays_small(tmp_path):
    run = run_in(tmp_path, rows_of(2000, a=1.0, b=2.0))
    noise = np.random.default_rng(0).integers(256, size=(1100, 1100, 3), dtype=np.uint8)
    for step in range(3):
        save_png(run / "samples" / f"step_{step}.png", noise)
    assert write_report(run).stat().st_size < 2_000_000


@pytest.mark.parametrize("content", ["{", '"text"', "[1, 2]", '{"rows": 3}', "null"])
def test_survives_an_odd_evaluation(tmp_path, content):
    run = run_in(tmp_path)
    (run / "evaluation.json").write_text(content)
    assert ("cannot be read" in _page(run).text) == (content == "{")


def test_a_page_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    run = run_in(tmp_path)
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
    (line,) = panel.lines
    heights = [float(point.split(",")[1]) for point in line.smooth[1:].split("L")]
    assert np.ptp(heights) < 1 and len(heights) == curves.MAX_POINTS and not panel.log
    middle = (curves.TOP + curves.BOTTOM) / 2
    assert abs(float(np.mean(heights)) - middle) < 1
    raw = [float(point.split(",")[1]) for point in line.raw[1:].split("L")]
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
    assert curves.duration(seconds) == text


def test_scores_have_a_direction_an_error_and_what_real_data_score(tmp_path):
    text = _page(run_in(tmp_path, evaluation=EVALUATION)).text
    assert (
        "fid ↓ 351\u00a0±\u00a031 12.6\u00a0±\u00a03.3 4,500 / 500".replace("\u00a0", " ") in text
    )
    assert "c2st ≈ 0.97 0.5 k = 1" in text
    assert "↓ lower is better. ≈ best near the score of real data." in text
    assert "higher is better" not in text
    assert "against: mnist5k:train real data: mnist5k:test features: mnist-v1" in text
    assert "checkpoint" not in text and "seed of the samples: 3" in text


@pytest.mark.parametrize(
    "value, error, text",
    [
        (2197.04, 30.52, "2,197 ± 31"), (-0.00125, 0.00034, "−0.00125 ± 0.00034"),
        (0.5, 0.0, "0.5"), (0.106, 0.0293, "0.106 ± 0.029"), (float("nan"), 1.0, "NaN"),
        ("text", None, "text"), (3e-9, 2e-9, "3·10⁻⁹ ± 2·10⁻⁹"),
    ],
)  # fmt: skip
def test_plus_minus(value, error, text):
    assert plus_minus(value, error).replace("\u00a0", " ") == text


def test_samples_scores_and_the_loss_come_before_what_is_technical(tmp_path):
    rows = [
        {"step": i, "host_wait": 0.1, "gradient_norm": 1.0, "kl": 2.0, "loss": 3.0}
        for i in range(1, 4)
    ]
    run = run_in(tmp_path, rows, [1, 2], CONFIG | {"command": "gengen train ddpm --steps 3"})
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    (run / "validation.jsonl").write_text('{"step": 2, "loss": 7.25}\n')
    text = _page(run).text
    parts = ["Samples at step 2", "fid ↓", "loss last 3", "held-out loss last 7.25", "kl last 2"]
    parts += ["Samples over time", "host_wait last 0.1", "gradient_norm last 1", "Details"]
    parts += ["gengen train ddpm --steps 3", "timesteps 1000"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"picture": "reconstructions"}, "Reconstructions at step 5, each below its example"),
        ({"picture": "conditional"}, "Samples at step 5; in each row: condition, samples, example"),
        ({"picture": "classes"}, "Samples at step 5, of each class in turn"),
        ({"data": {"shape": [2]}}, "Samples at step 5, blue; data, grey"),
    ],
)
def test_a_caption_says_what_a_picture_shows(tmp_path, changes, text):
    assert text in _page(run_in(tmp_path, pictures=[5], config=CONFIG | changes)).text


@pytest.mark.parametrize(
    "name, shown",
    [("vae", "samples"), ("cgan", "classes"), ("autoencoder", "reconstructions")],
)
def test_a_run_notes_what_its_pictures_show(name, shown):
    module = discover.module(name)
    classes = {"num_classes": 10} if shown == "classes" else {}
    assert runs_pictures.shown(module, module.Config(shape=(8, 8, 1), **classes)) == shown


def test_a_picture_is_encoded_once_however_often_the_report_is_written(tmp_path, monkeypatch):
    run = run_in(tmp_path, rows_of(), [600, 1200])
    page = write_report(run).read_text()
    monkeypatch.setattr(pictures, "_encode", lambda image: pytest.fail("encoded again"))
    assert write_report(run).read_text() == page


def test_a_fitted_model_has_likelihood_and_samples_and_no_steps(tmp_path):
    """Written by the fit, and again by `gengen report`."""
    out = tmp_path / "mixture"
    data = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", data)
    words = ["train", "gmm", "--data", str(tmp_path / "points.npy"), "--set", "num_components=2"]
    assert main([*words, "--out", str(out)]) == 0
    before = (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text(encoding="utf-8") == before
    text = Page(before).text
    run = gengen.load(out)
    likelihood = curves.number(float(np.mean(run.log_prob(data))), 4)
    parts = ["fitted to", f"Log-likelihood, nats per example {likelihood}"]
    parts += ["Samples, blue; data, grey", "Gaussian mixture model", "Dempster, Laird & Rubin 1977"]
    assert all(part in text for part in [*parts, "gengen train gmm --data"])
    assert not re.search(r"\d steps|No metrics|No samples|Training time|Steps", text)
