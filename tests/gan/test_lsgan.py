"""LSGAN: least squares by hand, and the χ² that its generator descends."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from gengen import divergences
from gengen.gan import lsgan

GRID = np.linspace(-9, 9, 4001)
DX = float(GRID[1] - GRID[0])
P, Q = norm.pdf(GRID), norm.pdf(GRID, 1.0, 0.8)


def test_the_losses_by_hand():
    losses = lsgan.least_squares(a=-1.0, b=1.0, c=0.5)
    real, fake = jnp.array([1.0, 2.0]), jnp.array([-1.0, 0.0])
    # ½ mean of (0, 1) and ½ mean of (0, 1); ½ mean of (2.25, 0.25)
    assert float(losses.discriminator(real, fake)) == pytest.approx(0.25 + 0.25, rel=1e-6)
    assert float(losses.generator(fake)) == pytest.approx(0.625, rel=1e-6)


@pytest.mark.parametrize("a, b", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_best_discriminator(a, b):
    """At each x the discriminator's loss has its minimum at (b p + a q)/(p + q)."""
    losses = lsgan.least_squares(a, b)
    best = (b * P + a * Q) / (P + Q)

    def weighted(p, q, d):
        """p times the loss of D = d on data, q times that on samples: the other term is 0."""
        on_real = losses.discriminator(jnp.array([d]), jnp.array([a]))
        on_fake = losses.discriminator(jnp.array([b]), jnp.array([d]))
        return p * float(on_real) + q * float(on_fake)

    for p, q, d in zip(P[500::500], Q[500::500], best[500::500], strict=True):
        assert weighted(p, q, d - 0.1) > weighted(p, q, d) < weighted(p, q, d + 0.1)


def test_the_generator_descends_chi2():
    """b - c = 1, b - a = 2: ½E_p(D*-c)² + ½E_q(D*-c)² = ½∫(p-q)²/(p+q) = ½χ²(2q ‖ p+q)."""
    a, b, c = -1.0, 1.0, 0.0
    best = (b * P + a * Q) / (P + Q)
    both = 0.5 * np.sum((P + Q) * (best - c) ** 2) * DX
    assert both == pytest.approx(0.5 * np.sum((P - Q) ** 2 / (P + Q)) * DX, rel=1e-9)
    # The laws of half the mass: χ²(2q ‖ p+q) = 2 χ²(q ‖ (p+q)/2).
    assert both == pytest.approx(divergences.pearson_chi2(Q, (P + Q) / 2, DX), rel=1e-9)
    # And by the model's own loss, each example weighted as often as it is drawn.
    losses, counts = lsgan.least_squares(a, b, c), np.round(Q * DX * 1e5).astype(int)
    drawn = jnp.asarray(np.repeat(best, counts), jnp.float32)
    wanted = 0.5 * np.sum(Q * (best - c) ** 2) * DX
    assert float(losses.generator(drawn)) == pytest.approx(wanted, abs=1e-3)  # counts are rounded


@pytest.mark.parametrize("change", [dict(a=1.0), dict(c=0.0)])
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config.a"):
        dataclasses.replace(lsgan.Config(), **change)


def test_the_usual_numbers():
    cfg = lsgan.Config()
    assert (cfg.a, cfg.b, cfg.c) == (0, 1, 1)
    assert lsgan.game(cfg).losses.generator(jnp.ones(3)) == 0
