"""Every log-likelihood can be maximised: its gradient is that of its values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.autoregressive import ar
from gengen.density import gmm, ppca
from gengen.runs import discover
from tests.cases import CASES, batch

KEY = jax.random.key(0)
LEARNED = ("ddpm-vectors", "conditional", "score_sde", "realnvp", "flow_gan", "fvsbn", "nade",
           "made", "pixelcnn", "vae-vectors", "cvae", "hvi", "vqvae-gradient")  # fmt: skip


@pytest.mark.parametrize("name", LEARNED)
def test_the_gradient_of_a_log_likelihood_is_the_slope_of_its_values(name):
    case = CASES[name]
    module, data = discover.module(case.model), batch(case, 4)
    x, condition = data["x" if "x" in data else "image"], module.condition_of(case.cfg, data)
    variables = dict(case.method(case.cfg).init(KEY, batch(case)).variables)
    params = variables.pop("params")
    # Last layers start at zero, where whole parts of a network have no gradient.
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.05 * noise.normal(size=p.shape).astype("f"), params)
    moving = {k: v for k, v in params.items() if k in ("decoder", "Decoder_0", "flow")} or params

    def mean(part):
        own = {"params": {**params, **part}, **variables}
        return module.log_prob(case.cfg, own, x, KEY, condition=condition).mean()

    value, grads = jax.jit(jax.value_and_grad(mean))(moving)
    norm = optax.tree.norm(grads)
    assert norm > 1e-3
    # A step that changes the value by some thousandths: above rounding, below curvature.
    step = 3e-3 * max(1.0, abs(float(value))) / float(norm)
    values = [mean(jax.tree.map(lambda p, g, a=a: p + a * g, moving, grads))
              for a in (-step / norm, step / norm)]  # fmt: skip
    np.testing.assert_allclose((values[1] - values[0]) / (2 * step), norm, rtol=0.05)


def test_the_score_of_a_fitted_gaussian_is_known():
    """-C⁻¹ (x - μ), for each model that can be one."""
    x = np.random.default_rng(1).normal(size=(200, 3)) @ np.array([[1, 0, 0], [1, 2, 0], [0, 1, 1]])
    x = (x + [1, 2, 3]).astype(np.float32)
    d = np.float64(x[:5]) - np.float64(x).mean(0)
    full = np.cov(x.T, ddof=0)
    values, vectors = np.linalg.eigh(full)
    noise = values[:2].mean()
    W = vectors[:, 2:] * np.sqrt(values[2] - noise)
    fits = [
        (gmm, gmm.Config(shape=(3,), num_components=1, covariance_floor=1e-9), full),
        (ppca, ppca.Config(shape=(3,), latent_dim=1), W @ W.T + noise * np.eye(3)),
    ]
    for module, cfg, covariance in fits:
        variables = module.fit(cfg, x, KEY)
        score = jax.grad(lambda x, m=module, c=cfg, v=variables: jnp.sum(m.log_prob(c, v, x)))
        want = -np.linalg.solve(covariance, d.T).T
        np.testing.assert_allclose(score(jnp.asarray(x[:5])), want, rtol=2e-3, atol=1e-3)


def test_the_score_of_a_series_is_known():
    """Of x_T it is -(x_T - c - φ x_{T-1}) / σ², under an AR(1)."""
    model = {"params": {"c": 0.3, "phi": np.array([0.8], np.float32), "variance": 0.36}}
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 6)), jnp.float32)
    cfg = ar.Config(shape=(6,), order=1)
    score = jax.grad(lambda x: jnp.sum(ar.log_prob(cfg, model, x)))(x)
    want = -(x[:, -1] - 0.3 - 0.8 * x[:, -2]) / 0.36
    np.testing.assert_allclose(score[:, -1], want, rtol=1e-4)
