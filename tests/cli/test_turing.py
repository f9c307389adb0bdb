"""A blind test of real and generated images: its order, its key, its score."""

import base64
import io
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import brentq

from gengen.cli import main, turing
from gengen.data import load
from gengen.runs import conditions, scores, trained, translations
from tests.pages import Page


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run whose samples are black."""
    found = SimpleNamespace(
        name="vae", cfg=SimpleNamespace(shape=(8, 8, 1)), settings={}, module=None
    )
    monkeypatch.setattr(trained, "load", lambda path, *rest, **say: found)
    monkeypatch.setattr(translations, "translates", lambda module: False)
    monkeypatch.setattr(conditions, "held_out", lambda settings: load("digits:test"))
    black = lambda run, data, num, *rest: (np.zeros((num, 8, 8, 1), np.uint8), "", None)  # noqa: E731
    monkeypatch.setattr(scores, "samples", black)
    return tmp_path


def is_real_in(page):
    """Which images of a page are not black."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]*)"', page)
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]
    return np.array([image.max() > 0 for image in pixels])


def test_half_are_real_in_an_order_by_the_seed():
    first = turing.order(20, 0)
    assert first.sum() == 10 and len(first) == 20
    np.testing.assert_array_equal(first, turing.order(20, 0))
    assert (first != turing.order(20, 1)).any() and first[:10].any() and first[10:].any()


@pytest.mark.parametrize("right, num", [(15, 20), (12, 24), (1, 10), (23, 24)])
def test_the_interval_is_wilsons(right, num):
    """Its ends are the p that lie 1.96 of their own standard errors away from the share."""
    low, high = turing.interval(right, num)
    share = right / num

    def away(p):
        return (share - p) ** 2 - turing.Z**2 * p * (1 - p) / num

    ends: list[Any] = [brentq(away, 1e-9, share), brentq(away, share, 1 - 1e-9)]
    np.testing.assert_allclose((low, high), ends, atol=1e-8)


def test_the_page_has_the_images_in_the_order_of_the_key(run):
    page = turing.write(run, None, 20, 3).read_text()
    is_real = turing.order(20, 3)
    np.testing.assert_array_equal(is_real_in(page), is_real)
    key = re.findall(r'atob\("([^"]*)"\)', page)[0]
    mask, under = np.frombuffer(base64.b64decode(key), np.uint8).reshape(2, 20)
    np.testing.assert_array_equal((mask ^ under) & 1, is_real)
    assert len(np.unique(under)) > 10  # not the answers themselves
    assert page == turing.write(run, None, 20, 3).read_text()
    assert page != turing.write(run, None, 20, 4).read_text()


def test_the_page_loads_nothing_and_shows_no_answer(run):
    page = turing.write(run, None, 4, 0).read_text()
    parsed = Page(re.sub("<script>.*</script>", "", page, flags=re.DOTALL))
    sources = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert all(value.startswith("data:") for value in sources if value)
    assert "default-src 'none'" in page
    assert "digits:test" in parsed.text and "0 of 4 answered" in parsed.text


def test_answers_are_scored(tmp_path, capsys):
    is_real = turing.order(24, 5)
    answers = [turing.ANSWERS[0 if real else 1] for real in is_real]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps({"seed": 5, "answers": answers}))
    assert main(["report", "--answers", str(file)]) == 0
    assert "24 of 24 right: 100 %, 95 % interval 86 to 100 %" in capsys.readouterr().out
    answers[:12] = [turing.ANSWERS[1 if real else 0] for real in is_real[:12]]
    file.write_text(json.dumps({"seed": 5, "answers": answers}))
    assert "12 of 24 right: 50 %" in turing.scored(file) and "lies within" in turing.scored(file)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--turing", "--num", "5"], "--num 5: it must be even"),
        (["other", "--turing"], "of one run"),
        (["--answers", "no.json"], "no file of answers"),
        (["--turing", "--num", "2000"], "held-out images"),
    ],
)
def test_what_cannot_work_is_refused(run, words, message, capsys):
    assert main(["report", str(run), *words]) == 2
    assert message in capsys.readouterr().err
