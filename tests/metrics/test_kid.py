"""Kernel distance: by hand, by plain loops, and its error by simulation."""

import numpy as np
import pytest

from gengen.metrics import kid
from gengen.types import InputError

X = np.array([(1, 0), (0, 1), (1, 1)], float)
Y = np.array([(0, 0), (2, 0), (0, 2)], float)


def by_loops(x, y):
    k = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    own_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_by_hand():
    """Own pairs of X: 1, 1.5³, 1.5³; of Y: 1, 1, 1; across: (1, 8, 1; 1, 1, 8; 1, 8, 8)/9."""
    wanted = (1 + 2 * 1.5**3) / 3 + 1 - 2 * 37 / 9
    assert kid.kid(real=X, fake=Y).value == pytest.approx(wanted, rel=1e-14)
    assert wanted == pytest.approx(-4.638888888889)
    got = kid.kid_of_subsets(real=X, fake=Y, subsets=4, subset_size=3)
    assert got.value == pytest.approx(wanted, rel=1e-14)
    assert got.standard_error == pytest.approx(0, abs=1e-14)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 5)), 1 + rng.normal(size=(31, 5))
    monkeypatch.setattr(kid, "BLOCK", 7)
    assert kid.kid(real=x, fake=y).value == pytest.approx(by_loops(x, y), rel=1e-12)
    assert kid.kid(real=y, fake=x).value == pytest.approx(by_loops(x, y), rel=1e-12)
    got = kid.kid_of_subsets(real=x, fake=y, subsets=3, subset_size=9, seed=1)
    draw, values = np.random.RandomState(1), []
    for _ in range(3):
        b = y[draw.choice(31, 9, replace=False)]
        values.append(by_loops(x[draw.choice(23, 9, replace=False)], b))
    assert got.value == pytest.approx(np.mean(values), rel=1e-12)
    assert got.standard_error == pytest.approx(np.std(values, ddof=1) / 3**0.5, rel=1e-11)


def test_unbiased_and_its_standard_error():
    """Over 300 pairs of sets: same distribution, mean 0 within 4 errors; another, the spread.

    A spread of 300 is known to 4 %, and the linear part leaves out a little: 20 %.
    """
    rng = np.random.default_rng(1)
    draw = lambda shift: shift + rng.normal(size=(50, 3))  # noqa: E731
    same = [kid.kid(real=draw(0), fake=draw(0)).value for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 300**0.5
    apart = [kid.kid(real=draw(0), fake=draw(1)) for _ in range(300)]
    spread = np.std([e.value for e in apart])
    assert np.mean([e.standard_error or 0 for e in apart]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kid.kid(real=X[:1], fake=Y), "real has 1 examples: at least 2"),
        (lambda: kid.kid_of_subsets(real=X, fake=Y), "real has 3 examples: at least 1000"),
        (lambda: kid.kid(real=X, fake=Y[:, :1]), "use one extractor"),
        (lambda: kid.kid(real=X * np.inf, fake=Y), "NaN or infinity"),
        (lambda: kid.kid_of_subsets(real=X, fake=Y, subsets=0), "subsets = 0"),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(InputError) as error, np.errstate(invalid="ignore"):
        call()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_real_and_fake_are_named():
    with pytest.raises(TypeError, match="positional"):
        kid.kid(X, Y)  # pyright: ignore[reportCallIssue]


def test_far_from_the_origin_no_digits_are_lost():
    """Kernels near 3e8 whose differences are near 6: the judge is float64."""
    numbers = np.random.default_rng(0)
    x, y = (
        (30 + scale * numbers.normal(size=(num, 16))).astype(np.float32)
        for num, scale in ((60, 0.010), (50, 0.011))
    )
    k = lambda a, b: (a.astype(float) @ b.astype(float).T / 16 + 1) ** 3  # noqa: E731
    within = [(k(a, a).sum() - np.trace(k(a, a))) / len(a) / (len(a) - 1) for a in (x, y)]
    want = sum(within) - 2 * k(x, y).mean()
    assert kid.kid(real=x, fake=y).value == pytest.approx(want, rel=1e-5)
