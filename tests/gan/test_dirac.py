"""The Dirac-GAN: trajectories and eigenvalues against the paper's theorem and table."""

import dataclasses

import jax
import numpy as np
import pytest

from gengen.gan import dirac

CFG = dirac.Config()
VARIANTS = dirac.variants(CFG)
SLOPE, CURVE = 0.5, -0.25  # f'(0) and f''(0) of -ln(1 + e⁻ᵗ)


def lemma(name, cfg):
    """The eigenvalues of the field at the equilibrium, as the paper prints them."""
    gamma, a = cfg.gamma, CURVE * cfg.sigma**2
    root = lambda x: np.sqrt(complex(x))  # noqa: E731
    return {
        "GAN": (1j * SLOPE, -1j * SLOPE),
        "NSGAN": (1j * SLOPE, -1j * SLOPE),
        "WGAN": (1j, -1j),
        "instance noise": (a + root(a**2 - SLOPE**2), a - root(a**2 - SLOPE**2)),
        "consensus": (-gamma * SLOPE**2 + 1j * SLOPE, -gamma * SLOPE**2 - 1j * SLOPE),
        "R1": tuple(-gamma / 2 + s * root(gamma**2 / 4 - SLOPE**2) for s in (1, -1)),
        "R2": tuple(-gamma / 2 + s * root(gamma**2 / 4 - SLOPE**2) for s in (1, -1)),
    }[name]


LEMMAS = ["GAN", "NSGAN", "WGAN", "instance noise", "consensus", "R1", "R2"]
OTHER = dataclasses.replace(CFG, h=0.3, gamma=0.8, sigma=1.3)


def ordered(values):
    values = np.asarray(values, complex)
    return values[np.lexsort((-np.imag(values), -np.abs(values).round(6)))]


@pytest.mark.parametrize("name", LEMMAS)
def test_simultaneous_steps_have_the_eigenvalues_1_plus_h_lambda(name):
    """By autodiff of the step that trains, in float32, against the paper's formula."""
    wanted = ordered([1 + OTHER.h * x for x in lemma(name, OTHER)])
    got = dirac.eigenvalues(OTHER, dirac.variants(OTHER)[name], alternating=False)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    theorem = dirac.theorem(OTHER, dirac.variants(OTHER)[name], False)
    assert theorem is not None
    np.testing.assert_allclose(theorem, wanted, atol=1e-12)


@pytest.mark.parametrize("name, n", [("GAN", 1), ("NSGAN", 1), ("WGAN", 1), ("WGAN, n = 5", 5)])
def test_alternating_steps_stay_on_the_circle(name, n):
    """Lemma 2.4: 1 - α²/2 ± √((1 - α²/2)² - 1), α = √n h f'(0): of modulus 1 where α ≤ 2."""
    slope = 1.0 if name.startswith("W") else SLOPE
    alpha = np.sqrt(n) * OTHER.h * slope
    root = np.sqrt(complex((1 - alpha**2 / 2) ** 2 - 1))
    wanted = ordered([1 - alpha**2 / 2 + root, 1 - alpha**2 / 2 - root])
    got = dirac.eigenvalues(OTHER, dirac.variants(OTHER)[name], alternating=True)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_allclose(np.abs(got), 1, atol=2e-6)


@pytest.mark.parametrize("name", ["instance noise", "consensus", "R1", "R2"])
def test_alternating_steps_by_the_product(name):
    """θ after ψ, by hand: θ' = (1 + hJ₁₁)θ + hJ₁₂ψ', ψ' = hJ₂₁θ + (1 + hJ₂₂)ψ."""
    variant = dirac.variants(OTHER)[name]
    J, h = variant.J, OTHER.h
    assert J is not None
    psi = np.array([h * J[1, 0], 1 + h * J[1, 1]])
    theta = np.array([1 + h * J[0, 0], 0]) + h * J[0, 1] * psi
    wanted = ordered(np.linalg.eigvals(np.array([theta, psi])))
    got = dirac.eigenvalues(OTHER, variant, alternating=True)
    np.testing.assert_allclose(got, wanted, atol=5e-6)


@pytest.mark.parametrize("alternating", [False, True])
def test_optimistic_steps(alternating):
    """Both at once: μ² - (1 + 2hλ)μ + hλ = 0 for λ = ±i f'(0)."""
    variant = VARIANTS["optimistic"]
    got = dirac.eigenvalues(CFG, variant, alternating)
    wanted = dirac.theorem(CFG, variant, alternating)
    assert wanted is not None
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert np.abs(got[0]) < 1
    if not alternating:
        roots = [np.roots([1, -(1 + 2 * CFG.h * x), CFG.h * x]) for x in (0.5j, -0.5j)]
        np.testing.assert_allclose(
            np.sort(np.abs(got)), np.sort(np.abs(np.ravel(roots))), atol=1e-6
        )


# Steps that show it: each run is compiled once, a step costs some µs.
WANTED = {
    "GAN": ("diverges", "cycles"),
    "NSGAN": ("cycles", "creeps in"),
    "WGAN": ("cycles", "cycles"),
    "WGAN, n = 5": ("cycles", "cycles"),
    "WGAN-GP": ("cycles", "cycles"),
    "WGAN-GP, n = 5": ("rests elsewhere", "rests elsewhere"),
    "DRAGAN": ("rests elsewhere", "rests elsewhere"),
    "instance noise": ("converges", "converges"),
    "consensus": ("converges", "converges"),
    "R1": ("converges", "converges"),
    "R2": ("converges", "converges"),
    "optimistic": ("converges", "converges"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_measured_is_what_is_published(name):
    """Converges or not, in both orders of moves; and what it does instead."""
    assert VARIANTS.keys() == WANTED.keys()
    for alternating, wanted in zip((False, True), WANTED[name], strict=True):
        path = dirac.trajectory(CFG, VARIANTS[name], 10_000, alternating)
        found = dirac.verdict(path)
        assert found == wanted, (name, alternating)
        assert (found == "converges") == VARIANTS[name].converges
        theorem = dirac.theorem(CFG, VARIANTS[name], alternating)
        if found == "converges" and theorem is not None:
            # ln |w| wobbles as w turns, over some 500 steps.
            np.testing.assert_allclose(dirac.decay(path), abs(theorem[0]), atol=5e-4)


def test_the_unregularised_steps_by_hand():
    """GAN, both at once: θ' = θ + hψσ(ψθ), ψ' = ψ - hθσ(ψθ), in float64 for 50 steps."""
    theta, psi = CFG.start
    wanted = [(theta, psi)]
    for _ in range(50):
        s = 1 / (1 + np.exp(-psi * theta))
        theta, psi = theta + CFG.h * psi * s, psi - CFG.h * theta * s
        wanted.append((theta, psi))
    got = dirac.trajectory(CFG, VARIANTS["GAN"], 50, alternating=False)
    np.testing.assert_allclose(got, wanted, atol=5e-6)  # 50 steps of float32


def test_the_nonsaturating_steps_by_hand():
    """NSGAN, in turn: ψ' = ψ - hθσ(ψθ), θ' = θ + hψ'σ(-ψ'θ)."""
    theta, psi = CFG.start
    wanted = [(theta, psi)]
    for _ in range(50):
        psi -= CFG.h * theta / (1 + np.exp(-psi * theta))
        theta += CFG.h * psi / (1 + np.exp(psi * theta))
        wanted.append((theta, psi))
    got = dirac.trajectory(CFG, VARIANTS["NSGAN"], 50)
    np.testing.assert_allclose(got, wanted, atol=5e-6)


def test_the_nonsaturating_steps_creep_in_like_a_root():
    """In turn: |w| at 4t is half of that at t, where linear convergence would square it."""
    r = np.linalg.norm(dirac.trajectory(CFG, VARIANTS["NSGAN"], 16_000), axis=1)
    turn = int(2 * np.pi / (CFG.h * SLOPE))  # steps of one: the largest |w| of it is taken
    at = [r[t : t + turn].max() for t in (1000, 4000, 15_800)]
    np.testing.assert_allclose([at[1] / at[0], at[2] / at[1]], 0.5, rtol=0.05)


def test_the_field_by_hand():
    points = np.random.default_rng(0).normal(size=(20, 2))
    theta, psi = points.T
    s = 1 / (1 + np.exp(-psi * theta))
    v = np.stack([psi * s, -theta * s - CFG.gamma * psi], axis=1)
    np.testing.assert_allclose(dirac.field(CFG, VARIANTS["R1"], points), v, atol=1e-5)


def test_clipped_weights_stay():
    path = dirac.trajectory(CFG, VARIANTS["WGAN"], 500)
    assert np.abs(path[:, 1]).max() <= CFG.c * (1 + 2**-22)


def test_verdicts_of_known_paths():
    t = np.arange(8001)
    turn = np.stack([np.cos(0.05 * t), np.sin(0.05 * t)], axis=1)
    assert dirac.verdict(turn) == "cycles"
    assert dirac.verdict(turn * np.exp(-0.01 * t)[:, None]) == "converges"
    assert dirac.verdict(turn * np.exp(1e-3 * t)[:, None]) == "diverges"
    assert dirac.verdict(turn / np.sqrt(1 + 0.01 * t)[:, None]) == "creeps in"
    assert dirac.verdict(1 + turn * np.exp(-0.01 * t)[:, None]) == "rests elsewhere"
    assert dirac.decay(turn * np.exp(-0.01 * t)[:, None]) == pytest.approx(np.exp(-0.01), rel=1e-9)
    assert np.isnan(dirac.decay(turn))


def test_the_quadrature_has_the_moments_of_the_noise():
    x = np.asarray(dirac.quantiles(jax.random.key(0), (64, 1)), np.float64)
    np.testing.assert_allclose([x.mean(), (x**2).mean()], [0, 1], atol=1e-6)
