"""k-means against scikit-learn's from the same start, and k-means++ against its probabilities."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from gengen.contract import Task
from gengen.data import load
from gengen.density import kmeans

KEY = jax.random.key(0)
X = load("mouse").arrays["x"][:2000]
START = np.array([[0.0, 0.2], [0.1, 0.2], [-0.1, -0.3], [0.5, 0.5]], np.float32)
CFG = kmeans.Config(num_clusters=4, num_starts=1, tolerance=0.0)


def theirs(x, start, steps):
    """scikit-learn's, in float64, for at most so many steps."""
    settings: Any = dict(init=start.astype(np.float64), n_init=1, max_iter=steps, tol=0)
    return KMeans(len(start), **settings).fit(np.float64(x))


def centers(variables):
    return np.asarray(variables["params"]["centers"])


@pytest.mark.parametrize("steps", [1, 3, 300])
def test_inertia_and_labels_are_scikit_learns(steps):
    cfg = dataclasses.replace(CFG, max_steps=steps)
    variables, other = kmeans.fit(cfg, X, KEY, start=START), theirs(X, START, steps)
    np.testing.assert_allclose(centers(variables), other.cluster_centers_, atol=1e-5)
    # a float32 sum of 2,000 squares
    assert float(kmeans.inertia(cfg, variables, X)) == pytest.approx(other.inertia_, rel=1e-5)
    np.testing.assert_array_equal(kmeans.encode(cfg, variables, X)[:, 0], other.labels_)


def test_the_inertia_of_a_run_is_that_of_its_centres():
    run = kmeans.lloyd(CFG, jnp.asarray(X), jnp.asarray(START))
    gap = X[:, None] - np.asarray(run.centers)
    want = (np.float64(gap) ** 2).sum(-1).min(1).sum()
    assert float(run.inertia) == pytest.approx(want, rel=1e-5)
    assert 5 < int(run.steps) < 300


@pytest.mark.parametrize("far", [[[9.0, 9.0]], [[9.0, 9.0], [-9.0, 8.0]]])
def test_empty_clusters_get_the_farthest_points_as_in_scikit_learn(far):
    start = np.array([[0.0, 0.2], [0.5, 0.5], *far], np.float32)
    cfg = dataclasses.replace(CFG, num_clusters=len(start), max_steps=1)
    got = centers(kmeans.fit(cfg, X, KEY, start=start))
    want = theirs(X, start, 1).cluster_centers_
    # which of the empty clusters gets which of the points is not defined
    np.testing.assert_allclose(sorted(got.tolist()), sorted(want.tolist()), atol=1e-5)
    counts = np.bincount(((X[:, None] - got) ** 2).sum(-1).argmin(1), minlength=len(start))
    assert counts.min() > 0


def test_more_clusters_than_distinct_points_stay_finite():
    x = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    variables = kmeans.fit(dataclasses.replace(CFG, num_starts=3), x, KEY)
    assert np.isfinite(centers(variables)).all()
    assert float(kmeans.inertia(CFG, variables, x)) < 1e-10


def test_the_tolerance_ends_a_run():
    start = jnp.asarray(START)
    all_steps = int(kmeans.lloyd(CFG, jnp.asarray(X), start).steps)
    run = kmeans.lloyd(dataclasses.replace(CFG, tolerance=1e-2), jnp.asarray(X), start)
    assert 1 < int(run.steps) < all_steps
    before = kmeans.lloyd(dataclasses.replace(CFG, max_steps=int(run.steps) - 1), jnp.asarray(X),
                          start)  # fmt: skip
    shift = ((np.asarray(run.centers) - np.asarray(before.centers)) ** 2).sum()
    assert shift <= 1e-2 * X.var(0).mean()


def test_plus_plus_draws_by_squared_distances():
    """Points 0, 1 and 3: the pair (first, second) has probability 1/3 · d² / Σ d²."""
    x, num = jnp.asarray([[0.0], [1.0], [3.0]]), 4000
    draw = jax.jit(jax.vmap(lambda key: kmeans.plus_plus(key, x, 2)))
    pairs = np.asarray(draw(jax.random.split(KEY, num)))[..., 0]
    squares = np.square(np.subtract.outer([0, 1, 3], [0, 1, 3]))
    want = squares / squares.sum(1, keepdims=True) / 3
    got = [[np.mean((pairs == [a, b]).all(1)) for b in (0, 1, 3)] for a in (0, 1, 3)]
    np.testing.assert_allclose(got, want, atol=4 * 0.5 / num**0.5)


def test_the_best_of_several_starts_counts():
    cfg = dataclasses.replace(CFG, num_clusters=6, num_starts=8)
    x = jnp.asarray(X) - X.mean(0)
    runs = [
        float(kmeans.lloyd(cfg, x, kmeans.plus_plus(key, x, 6)).inertia)
        for key in jax.random.split(KEY, 8)
    ]
    got = float(kmeans.inertia(cfg, kmeans.fit(cfg, X, KEY), X))
    assert got == pytest.approx(min(runs), rel=1e-5) and max(runs) > 1.01 * min(runs)


def test_data_far_from_the_origin_are_clustered_alike():
    near = kmeans.fit(CFG, X, KEY, start=START)
    far = kmeans.fit(CFG, X + np.float32(1000), KEY, start=START + np.float32(1000))
    np.testing.assert_allclose(centers(far) - 1000, centers(near), atol=2e-3)  # ulp: 6e-5
    same = kmeans.encode(CFG, far, X + np.float32(1000)) == kmeans.encode(CFG, near, X)
    assert same.mean() > 0.999


def test_the_gradient_of_the_inertia_is_2_n_times_the_gap_to_the_mean():
    variables = {"params": {"centers": jnp.asarray(START)}}
    got = jax.grad(lambda v: kmeans.inertia(CFG, v, X))(variables)["params"]["centers"]
    found = ((X[:, None] - START) ** 2).sum(-1).argmin(1)
    want = [2 * (START[k] - X[found == k]).sum(0) for k in range(4)]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_images_are_reconstructed_by_their_centres():
    x = load("digits").arrays["image"][:300].astype(np.float32) / 127.5 - 1
    cfg = kmeans.Config.for_task(Task(x.shape[1:]))
    variables = kmeans.fit(cfg, x, KEY)
    out = np.asarray(kmeans.reconstruct(cfg, variables, x))
    assert out.shape == x.shape
    found = np.asarray(kmeans.encode(cfg, variables, x))[:, 0]
    for k in range(10):  # each centre is the mean of its examples
        np.testing.assert_allclose(out[found == k][0], x[found == k].mean(0), atol=5e-2)


@pytest.mark.parametrize(
    "change",
    [dict(num_clusters=0), dict(num_starts=0), dict(tolerance=-1.0), dict(shape=()),
     dict(max_steps=0)],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(CFG, **change)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="3 rows; num_clusters = 4 needs at least 4"):
        kmeans.fit(CFG, X[:3], KEY)
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match="not finite, in row 7"):
        kmeans.fit(CFG, bad, KEY)
    with pytest.raises(ValueError, match="Config.shape"):
        kmeans.fit(kmeans.Config(shape=(3,)), X, KEY)
