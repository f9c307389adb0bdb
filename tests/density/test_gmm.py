"""EM against scikit-learn's from the same start; what must hold at every step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

from gengen.contract import Task
from gengen.data import load
from gengen.density import gmm
from gengen.distributions import Mixture

NORMAL: Any = stats.multivariate_normal
KEY = jax.random.key(0)
X = load("mouse").arrays["x"][:2000]
KINDS = {"full": "full", "diagonal": "diag", "spherical": "spherical"}


def start() -> Mixture:
    means = jnp.float32([[0.0, 0.2], [-1.2, 0.8], [0.8, 1.3]])
    return Mixture(jnp.log(jnp.float32([0.5, 0.2, 0.3])), means, jnp.stack([0.5 * jnp.eye(2)] * 3))


def theirs(kind: str, steps: int) -> GaussianMixture:
    precision: Any = {"full": [4 * np.eye(2)] * 3, "diagonal": [[4, 4]] * 3, "spherical": [4] * 3}[
        kind
    ]
    return GaussianMixture(
        3, covariance_type=KINDS[kind], max_iter=steps, tol=0, precisions_init=precision,
        weights_init=[0.5, 0.2, 0.3], means_init=np.asarray(start().means, np.float64),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # tol=0: all steps
@pytest.mark.parametrize("kind", KINDS)
def test_ten_steps_are_scikit_learns(kind):
    cfg = gmm.Config(covariance=kind, max_steps=10, tolerance=0)
    variables = gmm.fit(cfg, X, KEY, start=start())
    other = theirs(kind, 10).fit(np.float64(X))
    got = np.asarray(gmm.log_prob(cfg, variables, X), np.float64)
    assert got.mean() == pytest.approx(other.score(np.float64(X)), abs=1e-4)
    np.testing.assert_allclose(got, other.score_samples(np.float64(X)), atol=1e-3)
    np.testing.assert_allclose(variables["params"]["means"], np.asarray(other.means_), atol=1e-4)
    r = gmm.responsibilities(cfg, variables, X)
    np.testing.assert_allclose(r, other.predict_proba(np.float64(X)), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likelihood_increases_at_every_step(kind):
    cfg, step = gmm.Config(covariance=kind), jax.jit(gmm.em_step, static_argnums=0)
    now, values = start(), []
    for _ in range(30):
        now, value = step(cfg, now, jnp.asarray(X))
        values.append(float(value))
    # 1e-5: the floor's effect, and the rounding of a float32 mean of 2,000.
    assert np.diff(values).min() > -1e-5 and values[-1] > values[0] + 0.1


def test_em_stops_at_a_smaller_increase_than_the_tolerance():
    cfg = gmm.Config(tolerance=1e-4)
    mixture = gmm.mixture(gmm.fit(cfg, X, KEY, start=start()))
    one, before = gmm.em_step(cfg, mixture, jnp.asarray(X))
    after = gmm.em_step(cfg, one, jnp.asarray(X))[1]
    assert 0 <= float(after - before) < 1e-4
    longer = gmm.fit(gmm.Config(tolerance=0, max_steps=2), X, KEY, start=start())
    assert not np.allclose(longer["params"]["means"], mixture.means, atol=1e-3)  # and not before


def test_the_parts_of_the_mouse_are_found():
    cfg = gmm.Config(num_components=3)
    variables = gmm.fit(cfg, X, jax.random.key(1))
    mode = np.asarray(
        gmm.responsibilities(cfg, variables, jnp.asarray([[-1.0, 1], [1, 1], [0, 0]]))
    )
    assert sorted(mode.argmax(1)) == [0, 1, 2] and mode.max(1).min() > 0.9
    x = np.asarray(gmm.sample(cfg, variables, jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.cov(x.T), np.cov(X.T), atol=0.05)  # EM keeps the data's moments
    np.testing.assert_allclose(x.mean(0), X.mean(0), atol=0.05)


def test_log_prob_is_the_mixtures_density():
    cfg, params = gmm.Config(), start()._asdict()
    parts = [
        w * np.exp(NORMAL.logpdf(X[:50], m, 0.25 * np.eye(2)))
        for w, m in zip([0.5, 0.2, 0.3], np.asarray(start().means), strict=True)
    ]
    got = gmm.log_prob(cfg, {"params": params}, X[:50])
    np.testing.assert_allclose(got, np.log(np.sum(parts, 0)), atol=1e-5)


def test_more_components_than_distinct_points_stay_finite():
    """Ten copies of two points and four components: nothing becomes NaN."""
    x = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    variables = gmm.fit(gmm.Config(num_components=4), x, KEY)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    "change",
    [dict(num_components=0), dict(covariance="tied"), dict(covariance_floor=0.0), dict(shape=()),
     dict(max_steps=0)],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(gmm.Config(), **change)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="2 rows; num_components = 3 needs at least 3"):
        gmm.fit(gmm.Config(), X[:2], KEY)
    with pytest.raises(ValueError, match="finite"):
        gmm.fit(gmm.Config(), np.full_like(X, np.nan), KEY)
    with pytest.raises(ValueError, match="Config.shape"):
        gmm.fit(gmm.Config(shape=(3,)), X, KEY)


def test_a_singular_covariance_is_named():
    """Points on a line, in units in which the floor is less than the rounding of the variance."""
    line = 1e4 * np.repeat(np.linspace(-1, 1, 200, dtype=np.float32)[:, None], 2, axis=1)
    with pytest.raises(ValueError, match="component . became singular.*covariance_floor"):
        gmm.fit(gmm.Config(num_components=2), line, KEY)


def test_the_start_depends_on_the_key():
    cfg = gmm.Config(max_steps=1)
    means = [gmm.fit(cfg, X, jax.random.key(seed))["params"]["means"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(means[0], means[1])
    assert not np.array_equal(means[0], means[2])


def test_the_default_fits_images():
    """Pixels of digits that never vary do not make the covariance singular."""
    x = load("digits").arrays["image"][:300].astype(np.float32) / 127.5 - 1
    cfg = gmm.Config.for_task(Task(x.shape[1:]))
    variables = gmm.fit(cfg, x, KEY)
    assert np.isfinite(gmm.log_prob(cfg, variables, x)).all()
    assert gmm.sample(cfg, variables, KEY, 2).shape == (2, *x.shape[1:])
    with pytest.raises(ValueError, match="4096"):
        gmm.Config.for_task(Task((64, 64, 3)))
