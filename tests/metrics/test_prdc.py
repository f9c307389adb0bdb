"""Precision, recall, density and coverage: on a line by hand, and by full matrices."""

import numpy as np
import pytest

from gengen.metrics import prdc as module
from gengen.metrics.prdc import prdc
from gengen.types import InputError

REAL = np.array([0, 1, 2.5, 4.5])[:, None]
FAKE = np.array([0.4, 2, 9, 9.5])[:, None]


def plain(x, y, k):
    """The definitions, with all distances by differences."""
    d = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)  # noqa: E731
    rx, ry = np.sort(d(x, x), 1)[:, k], np.sort(d(y, y), 1)[:, k]
    xy = d(x, y)
    return (
        (xy <= rx[:, None]).any(0).mean(),
        (xy <= ry[None]).any(1).mean(),
        (xy < rx[:, None]).sum(0).mean() / k,
        (xy < rx[:, None]).any(1).mean(),
    )


def test_on_a_line_by_hand():
    """k = 1: radii 1, 1, 1.5, 2 of the real, 1.6, 1.6, .5, .5 of the fake.

    0.4 is in two balls. 2 is in that of 2.5 and on the edge of 1's, which density leaves out.
    """
    assert prdc(real=REAL, fake=FAKE, k=1)[:4] == (0.5, 0.75, 0.75, 0.75)
    assert prdc(real=REAL, fake=FAKE, k=2)[:4] == (0.5, 1.0, 0.75, 1.0)
    assert prdc(real=REAL, fake=FAKE, k=1)[4:] == (4, 4, None)


@pytest.mark.parametrize("block", [7, 1000])
def test_by_full_matrices(monkeypatch, block):
    """The same counts, whatever the blocks; sets of two sizes; far from the origin."""
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    x, y = 100 + rng.normal(size=(40, 3)), 100.3 + rng.normal(size=(25, 3))
    for k in (1, 3, 5):
        assert prdc(real=x, fake=y, k=k)[:4] == pytest.approx(plain(x, y, k), abs=1e-12)


def test_real_and_fake_are_not_exchangeable():
    got, turned = prdc(real=REAL, fake=FAKE, k=1), prdc(real=FAKE, fake=REAL, k=1)
    assert (got.precision, got.recall) == (turned.recall, turned.precision) == (0.5, 0.75)


def test_ties_and_copies():
    """On an integer lattice nearly every distance ties; in float64 the squares are exact."""
    lattice = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2) + 0.0
    shifted = lattice[:20] + np.array([1, 0])
    for k in (1, 2, 3, 5):
        wanted = plain(lattice, shifted, k)
        # A shift by 1/3 and a scale take the exactness away: rounding must not tell.
        moved = (lattice / 7 + 1e3 / 3, shifted / 7 + 1e3 / 3)
        assert prdc(real=lattice, fake=shifted, k=k)[:4] == pytest.approx(wanted, abs=1e-12)
        assert prdc(real=moved[0], fake=moved[1], k=k)[:4] == pytest.approx(wanted, abs=1e-12)


def test_duplicates_have_balls_without_width():
    """Each point twice, k = 1: radius 0. A copy is on the edge: inside for precision only."""
    x = np.random.default_rng(1).normal(size=(10, 64)).repeat(2, axis=0) * 1e3
    assert prdc(real=x, fake=x, k=1)[:4] == (1, 1, 0, 0)
    assert prdc(real=x, fake=x, k=2)[:2] == (1, 1)
    assert prdc(real=x, fake=x + 0.1, k=1)[:4] == (0, 0, 0, 0)


def test_collapse_and_dropped_modes():
    """Two clusters; fakes in one: precise, and half is missing. One point only: so is coverage."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(50, 2)), 100 + rng.normal(size=(50, 2))])
    got = prdc(real=x, fake=rng.normal(size=(100, 2)), k=5)
    assert got.precision > 0.9 and got.recall <= 0.5 and got.coverage <= 0.5
    got = prdc(real=x, fake=np.tile(x[:1], (100, 1)), k=5)
    assert got.precision == 1 and got.recall == 0.01 and got.coverage < 0.2


@pytest.mark.parametrize(
    ("real", "fake", "k", "says"),
    [
        (REAL, FAKE, 4, "real has 4 examples: at least 5"),
        (REAL, FAKE, 0, "k = 0"),
        (REAL, FAKE[:, [0, 0]], 1, "use one extractor"),
        (REAL, FAKE * np.nan, 1, "fake has NaN"),
        (REAL, np.array([[1, 2], [3]], object), 1, "features are real numbers"),
    ],
)
def test_bad_input_is_one_line(real, fake, k, says):
    with pytest.raises(InputError) as error:
        prdc(real=real, fake=fake, k=k)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_real_and_fake_are_named():
    with pytest.raises(TypeError, match="positional"):
        prdc(REAL, FAKE)  # pyright: ignore[reportCallIssue]
