"""Fréchet distance: closed forms, singular covariances, and a slow exact way beside the quick."""

import numpy as np
import pytest

from gengen.metrics import fid, statistics
from gengen.types import InputError

A = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], float)
B = np.array([(1, 1), (3, 1), (1, 2), (3, 2)], float)


def root_trace(cov1, cov2):
    """Tr (Σ₁Σ₂)^½ = Tr (S Σ₂ S)^½, S = Σ₁^½, by two eigendecompositions."""
    values, vectors = np.linalg.eigh(cov1)
    s = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(s @ cov2 @ s), 0)).sum()


def spd(rng, dims, rank=None):
    x = rng.normal(size=(rank or 3 * dims, dims))
    return x.T @ x / len(x)


def test_gaussians_in_closed_form():
    """Diagonal covariances: ‖Δμ‖² + Σ(σ₁ - σ₂)²; float64 rounding only."""
    d = fid.frechet_distance
    assert d(np.zeros(3), np.eye(3), [1, 2, 2], 4 * np.eye(3)) == pytest.approx(12, rel=1e-14)
    got = d([0, 0, 0], np.diag([1, 4, 9]), [1, -1, 0.5], np.diag([4, 1, 16]))
    assert got == pytest.approx(5.25, rel=1e-14)
    assert d([2], [[9]], [5], [[1]]) == pytest.approx(9 + 4, rel=1e-14)


def test_singular_covariances_in_closed_form():
    """Of rank one: |u|² + |v|² - 2|uᵀv|, here 25 + 5 - 22."""
    u, v, zero = np.array([3.0, 4.0]), np.array([1.0, 2.0]), np.zeros(2)
    d = fid.frechet_distance
    assert d(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(8, rel=1e-12)
    assert d(zero, np.diag([1.0, 0]), zero, np.diag([0, 1.0])) == pytest.approx(2, rel=1e-14)
    assert d(zero, np.zeros((2, 2)), zero, np.eye(2)) == pytest.approx(2, rel=1e-14)


def test_commuting_and_general_covariances():
    """Well conditioned (the quick way) and not (singular values), beside two eigh's."""
    rng = np.random.default_rng(0)
    cov1, cov2, gap = spd(rng, 20), spd(rng, 20), rng.normal(size=20)
    wanted = gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * root_trace(cov1, cov2)
    got = fid.frechet_distance(gap, cov1, np.zeros(20), cov2)
    assert got == pytest.approx(wanted, rel=1e-11)  # eigh's rounding, 20 roots, a cancellation
    # Of rank 7: the slow way rounds zeros to √ε, hence its 1e-6.
    low = spd(rng, 20, rank=7)
    wanted = np.trace(cov1) + np.trace(low) - 2 * root_trace(cov1, low)
    for pair in ((cov1, low), (low, cov1)):
        got = fid.frechet_distance(np.zeros(20), pair[0], np.zeros(20), pair[1])
        assert got == pytest.approx(wanted, rel=1e-6)


def test_ill_conditioned_is_exact_where_the_quick_way_is_not():
    """Diagonals from 1 to 1e-14 in a random basis: what is lost is the input's own rounding.

    An entry is rounded by ε, so roots of eigenvalues below are off by up to √ε each: 1e-7 in all.
    """
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    s1, s2 = np.logspace(0, -7, 30), np.logspace(0, -7, 30)[::-1]
    got = fid.frechet_distance(
        np.zeros(30), (basis * s1**2) @ basis.T, np.zeros(30), (basis * s2**2) @ basis.T
    )
    assert got == pytest.approx(np.sum((s1 - s2) ** 2), abs=2e-7)


def test_small_eigenvalues_that_the_quick_way_would_lose():
    """Half of the deviations 2e-4 in both: their product's square, 4e-15, is near ε.

    Roots of eigenvalues are then off by some percent of 4e-8, fifty times; singular values are not.
    """
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    s1 = np.repeat([1.0, 2e-4], 50)
    s2 = s1 * np.tile([1.0, 1.5], 50)
    first, second = ((basis * s**2) @ basis.T for s in (s1, s2))
    a, b = (statistics.Statistics(np.zeros(100), cov) for cov in (first, second))
    assert fid._trace_of_root(a, b) == pytest.approx(s1 @ s2, abs=1e-10)


def test_divides_by_n_minus_one():
    """3.5 would be a division by n."""
    assert fid.fid(real=A, fake=B).value == pytest.approx(3.5 + 1 / 12, rel=1e-13)
    assert fid.fid(real=A, fake=B).n == 4


@pytest.mark.parametrize("n", [15, 300])
def test_identical_sets_are_at_distance_zero(n):
    """Also for n < D: 0 within 1e-6 of the trace, about 40."""
    x = np.random.default_rng(2).normal(size=(n, 40))
    assert fid.fid(real=x, fake=x).value < 1e-6
    assert fid.frechet_distance(x.mean(0), np.cov(x.T), x.mean(0), np.cov(x.T)) < 1e-6


def test_fewer_examples_than_features():
    """Beside the nuclear norm of centred features, ‖X₁X₂ᵀ‖_*/√((n₁-1)(n₂-1)), exact."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(12, 30)), 0.5 + rng.normal(size=(17, 30))
    norm = np.linalg.norm((x - x.mean(0)) @ (y - y.mean(0)).T, "nuc") / np.sqrt(11 * 16)
    gap = x.mean(0) - y.mean(0)
    wanted = gap @ gap + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * norm
    assert fid.fid(real=x, fake=y).value == pytest.approx(wanted, rel=1e-12)
    # From covariances alone, rounded to ε: each zero eigenvalue may count √ε.
    got = fid.frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert got == pytest.approx(wanted, rel=1e-7)


def test_the_reference_can_be_used_again():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(200, 8)), rng.normal(size=(150, 8))
    reference = statistics.of_features(x)
    alone, both = fid.fid(real=reference, fake=y), fid.fid(real=x, fake=y)
    assert alone.value == both.value and alone.n == both.n == 150
    assert alone.standard_error and both.standard_error  # the latter counts both sets
    assert alone.standard_error < both.standard_error
    assert fid.fid(real=reference, fake=statistics.of_features(y)) == (alone.value, None, 150)
    assert reference.cholesky is reference.cholesky


@pytest.mark.parametrize(("n", "dims", "low", "high"), [(400, 4, 0.85, 1.15), (60, 100, 0.9, 2)])
def test_standard_error_is_the_spread_over_independent_sets(n, dims, low, high):
    """Far from 0, where the error's linear part rules; with few examples it is too large."""
    rng = np.random.default_rng(5)
    reference = statistics.Statistics(np.zeros(dims), np.eye(dims))
    draw = lambda: 1.0 + rng.normal(size=(n, dims))  # noqa: E731
    values = [fid.fid(real=reference, fake=draw()).value for _ in range(200)]
    errors = [fid.fid(real=reference, fake=draw()).standard_error for _ in range(20)]
    assert low < np.mean(np.array(errors, float)) / np.std(values) < high


def test_influences_are_the_changes_by_weights(monkeypatch):
    """A copy of one example more: n times the change of d² is its influence, to first order."""
    rng, seen = np.random.default_rng(8), []
    monkeypatch.setattr(fid, "of_mean", lambda values: seen.append(values - values.mean()))
    for dims in (5, 20):
        seen.clear()
        reference = statistics.Statistics(np.zeros(dims), np.eye(dims))
        x = 1 + rng.normal(size=(200, dims)) * np.linspace(0.5, 2, dims)
        value = fid.fid(real=reference, fake=x).value
        for i in range(3):
            more = fid.fid(real=reference, fake=np.concatenate([x, x[i : i + 1]])).value
            change = 201 * (more - value)
            # What is left out is of order 1/n, beside the bias that n changes.
            assert abs(change - seen[0][i]) < 0.05 * np.abs(seen[0]).max(), (dims, i)


def test_extrapolation_takes_the_bias_away():
    """Truth 0. The bias of 250 examples is about D/2n·..., some 0.1; its errors a tenth of that."""
    rng = np.random.default_rng(6)
    reference = statistics.Statistics(np.zeros(16), np.eye(16))
    x = rng.normal(size=(2000, 16))
    plain = fid.fid(real=reference, fake=x).value
    got = fid.fid_infinity(real=reference, fake=x, smallest=200)
    assert abs(got.value) < plain / 3
    assert got.standard_error and got.standard_error < plain


def test_extrapolation_is_the_intercept_of_least_squares():
    x = np.array([1.0, 2.0, 4.0, 5.0])
    assert fid._intercept(x, 3 + 2 * x) == pytest.approx((3, 0), abs=1e-12)
    value, error = fid._intercept(x, np.array([1.0, 2.0, 2.0, 4.0]))
    line, cov = np.polyfit(x, [1.0, 2.0, 2.0, 4.0], 1, cov=True)
    assert (value, error) == pytest.approx((line[1], np.sqrt(cov[1, 1])), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fid.fid(real=A, fake=B[:1]), "fake has 1 examples: at least 2"),
        (lambda: fid.fid(real=A, fake=B[:, :1]), "real has 2 features and fake 1"),
        (lambda: fid.fid(real=A, fake=B * np.nan), "fake has NaN or infinity in 4 of 4"),
        (lambda: fid.fid(real=A[0], fake=B), "real has shape"),
        (lambda: fid.fid(real=A, fake=B.astype(str)), "features are real numbers"),
        (lambda: fid.fid_infinity(real=A, fake=B), "smallest = 5000"),
        (lambda: fid.frechet_distance([0], [[1]], [0, 0], np.eye(2)), "1 features and the other 2"),
        (lambda: fid.frechet_distance([0], [[1]], [np.nan], [[1]]), "NaN"),
        (lambda: fid.frechet_distance([0, 0], [[1, 2], [0, 1]], [0, 0], np.eye(2)), "symmetric"),
        (lambda: fid.frechet_distance([0], [[-1]], [0], [[1]]), "not a covariance"),
        (lambda: fid.frechet_distance([0], [1], [0], [1]), "give [D] and [D, D]"),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(InputError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_real_and_fake_are_named():
    with pytest.raises(TypeError, match="positional"):
        fid.fid(A, B)  # pyright: ignore[reportCallIssue]
