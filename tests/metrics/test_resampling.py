"""Standard errors: by hand, and by how often an interval covers what it is of."""

import numpy as np
import pytest

from gengen.metrics import fid, inception_score, kid, modes, prdc, resampling, similarity, sliced
from gengen.metrics.c2st import c2st
from gengen.metrics.estimate import Estimate
from gengen.metrics.memorisation import nearest_distances
from gengen.runs import evaluation

WIDTH = 1.645  # standard errors: 90 % of a Gaussian
DRAWS = 60


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=10)
    left_out = [np.delete(x, i).mean() for i in range(10)]
    assert resampling.jackknife(left_out) == pytest.approx(resampling.of_mean(x), rel=1e-12)
    both = resampling.jackknife(np.stack([left_out, left_out], axis=1))
    assert both.tolist() == pytest.approx([resampling.of_mean(x)] * 2, rel=1e-12)


def test_groups_are_even_and_the_same_for_a_seed():
    counts = np.bincount(resampling.groups_of(103))
    assert len(counts) == resampling.GROUPS and set(counts) == {10, 11}
    np.testing.assert_array_equal(resampling.groups_of(103), resampling.groups_of(103))
    assert sorted(resampling.groups_of(4)) == [0, 1, 2, 3]


def test_shares_of_none_and_all_have_an_error():
    assert resampling.of_share(0.5, 100) == pytest.approx(0.05)
    assert 0 < resampling.of_share(0, 100) == pytest.approx(resampling.of_share(1, 100))
    assert resampling.of_mean([1.0]) is None


def coverage(metric, draw, draws=DRAWS):
    """Share of draws whose interval holds the mean over all: of values with errors, [K] each."""
    found = [metric(*draw(np.random.default_rng(seed))) for seed in range(draws)]
    values = np.array([[estimate.value for estimate in each] for each in found])
    errors = np.array([[estimate.standard_error for estimate in each] for each in found], float)
    return (np.abs(values - values.mean(axis=0)) <= WIDTH * errors).mean(axis=0)


def points(rng, n=200, dims=4):
    """Two Gaussians that differ in mean and scale."""
    return rng.normal(size=(n, dims)), 0.7 + 0.8 * rng.normal(size=(n, dims))


def of_prdc(x, y):
    found = prdc.prdc(real=x, fake=y, errors=True)
    errors = found.errors or ()
    return [Estimate(v, e, len(y)) for v, e in zip(found[:4], errors, strict=True)]


def of_modes(x, y):
    """Few of many modes: 40 samples of grid25, some of them far away."""
    found = modes.grid25(y)
    share = float(found.high_quality or 0)
    return [
        Estimate(found.found, found.found_error, len(y)),
        Estimate(share, resampling.of_share(share, len(y)), len(y)),
    ]


def grid(rng, n=40):
    centres = modes.toy.grid25_centres()
    std = np.where(rng.random((n, 1)) < 0.8, 1, 5) * modes.toy.GRID25_STD
    return None, centres[rng.integers(len(centres), size=n)] + std * rng.normal(size=(n, 2))


TRAINING = np.random.default_rng(100).normal(size=(300, 4))


def of_nearest(x, y):
    found = nearest_distances(y, TRAINING)
    return [Estimate(found.mean(), resampling.of_mean(found), len(y))]


def of_classes(x, y):
    """The inception score of ten classes, and the share of one of them."""
    scores = np.exp(2 * y @ np.linspace(-1, 1, 40).reshape(4, 10))
    probs = scores / scores.sum(axis=1, keepdims=True)
    share = float((probs.argmax(axis=1) == 0).mean())
    return [
        inception_score.inception_score(probs),
        Estimate(share, resampling.of_share(share, len(y)), len(y)),
    ]


def images(rng, n=60):
    x = rng.integers(0, 256, (n, 12, 12, 1)).astype(np.float32)
    return x, np.clip(x + rng.normal(size=x.shape) * rng.uniform(5, 40, (n, 1, 1, 1)), 0, 255)


CHEAP = {
    "fid": (lambda x, y: [fid.fid(real=x, fake=y)], points),
    "kid": (lambda x, y: [kid.kid(real=x, fake=y)], points),
    "sw": (lambda x, y: [sliced.sliced_wasserstein(real=x, fake=y, directions=50)], points),
    "modes": (of_modes, grid),
    "nearest": (of_nearest, points),
    "is, class": (of_classes, points),
    "l1, psnr, ssim, ms_ssim": (lambda a, b: [*similarity.estimates(a, b, 255).values()], images),
}
SLOW = {
    "prdc": (of_prdc, points),
    "c2st": (lambda x, y: [c2st(real=x, fake=y, hidden=5)], lambda rng: points(rng, 50, 2)),
    "fid_infinity": (
        lambda x, y: [fid.fid_infinity(real=x, fake=y, smallest=100)],
        lambda rng: points(rng, 400),
    ),
    "fid, fewer examples than features": CHEAP["fid"][:1] + (lambda rng: points(rng, 60, 100),),
}


@pytest.mark.parametrize("name", CHEAP)
def test_intervals_of_90_percent_cover(name):
    metric, draw = CHEAP[name]
    covered = coverage(metric, draw, 50)
    assert ((covered >= 0.8) & (covered <= 1)).all(), covered


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHEAP, *SLOW])
def test_intervals_are_neither_too_narrow_nor_too_wide(name):
    """200 draws: within 80 % and 97 % but for 3 % of chance."""
    metric, draw = (CHEAP | SLOW)[name]
    covered = coverage(metric, draw, 60 if name == "c2st" else 200)
    assert ((covered >= 0.8) & (covered <= 0.985)).all(), covered


def test_every_metric_is_covered_here():
    here = {word for name in CHEAP | SLOW for word in name.split(", ")}
    same = {"nats", "bits", "cycle_l1"}  # means, as nearest; as l1
    assert here >= set(evaluation.METRICS) - same
