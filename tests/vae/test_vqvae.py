"""Nearest atoms, the gradient that skips them, the codebook's averages: each by hand in float64."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.nn.codec import Encoder
from gengen.rng import AXIS
from gengen.vae import vqvae

CFG = vqvae.Config(
    shape=(4,),
    hidden=(8,),
    codebook_size=5,
    code_dim=2,
    num_codes=3,
    likelihood="gaussian",
    initial_scale=0.7,
    batch_size=6,
)
KEY = jax.random.key(0)


def x(num=6):
    return np.random.default_rng(0).normal(size=(num, 4)).astype(np.float32)


def fresh(cfg=CFG):
    return vqvae.method(cfg).init(KEY, {"x": x()})


def test_nearest_is_brute_force():
    rng = np.random.default_rng(1)
    z, e = rng.normal(size=(2, 50, 3)).astype(np.float32)
    got = vqvae.nearest(jnp.asarray(z.reshape(5, 2, 5, 3)), jnp.asarray(e))
    want = ((z.astype(np.float64)[:, None] - e) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(got, want.reshape(5, 2, 5))
    assert got.dtype == jnp.int32


def parts_of_a_step(cfg):
    """What the definition says of one step: z_e with its pull-back, k, e, and ∂(-ln p)/∂z_q."""
    state = fresh(cfg)
    variables = {"params": state.params, **state.mutables}
    net = vqvae.VQVAE(cfg)

    def z_e_of(encoder):
        params = {**state.params, "encoder": encoder}
        return jnp.asarray(net.apply({"params": params}, jnp.asarray(x()), method="z_e"))

    z_e, pull = jax.vjp(z_e_of, state.params["encoder"])
    e = np.asarray(vqvae.codebook(cfg, variables))
    k = ((np.asarray(z_e)[..., None, :] - e) ** 2).sum(-1).argmin(-1)

    def minus_log_p(z_q):
        mean = jnp.asarray(net.apply({"params": state.params}, z_q, method="eta"))[:, :4]
        constant = 0.5 * np.log(2 * np.pi) + np.log(0.7)
        return jnp.mean(jnp.sum((x() - mean) ** 2 / (2 * 0.7**2) + constant, axis=1))

    return state, z_e, pull, e, k, minus_log_p


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_gradient_skips_the_codebook(decay):
    """The encoder gets the decoder's input gradient plus 2β(z_e - e); atoms get 2(e - z_e)."""
    cfg = dataclasses.replace(CFG, codebook_decay=decay, restart_threshold=0.0)
    state, z_e, pull, e, k, minus_log_p = parts_of_a_step(cfg)
    step = jax.jit(vqvae.method(cfg, optax.sgd(1.0)).train_step)
    after, metrics = step(KEY, state, {"x": x()})
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)

    z_q = jnp.asarray(e[k])
    want = (
        jax.grad(minus_log_p)(z_q) + 2 * cfg.commitment_weight * (z_e - z_q) / 6
    )  # a mean over 6 examples
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), moved["encoder"], pull(want)[0]
    )
    distance = np.asarray(z_e, np.float64) - e[k]
    square = (distance**2).sum((1, 2)).mean()
    assert float(metrics["reconstruction"]) == pytest.approx(float(minus_log_p(z_q)), rel=1e-5)
    assert float(metrics["commitment"]) == pytest.approx(square, rel=1e-5)
    terms = float(minus_log_p(z_q)) + square * (cfg.commitment_weight + (decay == 0))
    assert float(metrics["loss"]) == pytest.approx(terms, rel=1e-5)
    if decay == 0:
        want = np.zeros((5, 2))
        np.add.at(want, k.reshape(-1), -2 * distance.reshape(-1, 2) / 6)
        np.testing.assert_allclose(moved["codebook"], want, atol=2e-5)


def test_the_averages_are_the_recursion_by_hand():
    cfg = dataclasses.replace(CFG, codebook_decay=0.9, restart_threshold=0.0)
    rng = np.random.default_rng(2)
    book: Any = fresh(cfg).mutables["codebook"]
    shares, sums = (np.asarray(book[name], np.float64) for name in ("shares", "sums"))
    for _ in range(4):
        z = rng.normal(size=(6, 3, 2)).astype(np.float32)
        e = sums / shares[:, None]
        k = ((z[..., None, :] - e) ** 2).sum(-1).argmin(-1)
        for i in range(5):
            mine = z[k == i].astype(np.float64)
            shares[i] = 0.9 * shares[i] + 0.1 * len(mine) / 18
            sums[i] = 0.9 * sums[i] + 0.1 * mine.sum(0) / 18
        now = vqvae.codebook(cfg, {"codebook": book})
        assert np.array_equal(vqvae.nearest(jnp.asarray(z), now), k)
        book = vqvae.follow(cfg, book, jnp.asarray(z), jnp.asarray(k, jnp.int32), KEY)
    np.testing.assert_allclose(book["shares"], shares, rtol=1e-5)
    np.testing.assert_allclose(book["sums"], sums, rtol=1e-4, atol=1e-6)
    assert float(jnp.sum(book["shares"])) == pytest.approx(1, abs=1e-6)


def test_dead_atoms_restart_on_codes_of_the_batch():
    cfg = dataclasses.replace(CFG, codebook_decay=0.5, restart_threshold=0.5)
    z = jax.random.normal(KEY, (6, 3, 2))
    k = jnp.zeros((6, 3), jnp.int32).at[0, 0].set(1)  # nearly all codes are atom 0
    book = {"shares": jnp.full(5, 0.2), "sums": 0.2 * jnp.ones((5, 2))}
    for i in range(3):
        book = vqvae.follow(cfg, book, z, k, jax.random.fold_in(KEY, i))
    e = np.asarray(vqvae.codebook(cfg, {"codebook": book}))
    among = lambda atom: np.abs(np.asarray(z).reshape(-1, 2) - atom).max(1).min() < 1e-5  # noqa: E731
    assert not among(e[0]) and among(e[2]) and among(e[3]) and among(e[4])
    assert len(np.unique(e[2:].round(5), axis=0)) > 1  # not all on one code
    assert np.all(np.asarray(book["shares"]) >= 0.5 / 5 * 0.5)


def test_the_codebook_is_the_same_on_every_replica_and_on_one():
    """Restarts too: which code wins does not depend on where it lives."""
    cfg = dataclasses.replace(CFG, codebook_decay=0.5, restart_threshold=0.9)
    z = jax.random.normal(KEY, (16, 3, 2))
    book = {"shares": jnp.full(5, 0.05), "sums": jnp.ones((5, 2))}
    k = jnp.zeros((16, 3), jnp.int32)
    one = vqvae.follow(cfg, book, z, k, KEY)
    split = jax.pmap(
        lambda z, k: vqvae.follow(cfg, book, z, k, KEY), axis_name=AXIS
    )(z.reshape(8, 2, 3, 2), k.reshape(8, 2, 3))  # fmt: skip
    for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(one), strict=True):
        for copy in np.asarray(a):
            np.testing.assert_allclose(copy, b, atol=1e-6)


def test_perplexity_counts_atoms():
    assert float(vqvae.perplexity(CFG, jnp.arange(5))) == pytest.approx(5)
    assert float(vqvae.perplexity(CFG, jnp.zeros(7, jnp.int32))) == pytest.approx(1)
    assert float(vqvae.perplexity(CFG, jnp.int32([0, 0, 1, 1]))) == pytest.approx(2)


def test_codes_there_and_back():
    variables = fresh().variables
    k = vqvae.codes(CFG, variables, x())
    assert k.shape == (6, 3) and k.dtype == jnp.int32
    again = vqvae.reconstruct(CFG, variables, x())
    np.testing.assert_array_equal(vqvae.decode_codes(CFG, variables, k), again)
    z = vqvae.encode(CFG, variables, x())
    np.testing.assert_array_equal(z, np.asarray(vqvae.codebook(CFG, variables))[np.asarray(k)])


def test_the_bound_is_reconstruction_less_the_codes_nats():
    variables = fresh().variables
    parts, _, _ = vqvae.terms(CFG, variables, jnp.asarray(x()))
    want = -np.asarray(parts["reconstruction"]) - 3 * np.log(5)
    np.testing.assert_allclose(vqvae.elbo(CFG, variables, x(), KEY), want, rtol=1e-5)


def test_a_224_image_has_32_by_32_codes():
    cfg = vqvae.Config(
        shape=(224, 224, 3),
        channels=(4, 4),
        strides=(7, 1),
        num_blocks=0,
        codebook_size=4,
        code_dim=2,
        likelihood="gaussian",
    )
    assert vqvae.places(cfg) == (32, 32)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    method = vqvae.method(cfg)
    state, _ = jax.jit(method.train_step)(KEY, method.init(KEY, {"image": image}), {"image": image})
    assert vqvae.codes(cfg, state.variables, image).shape == (1, 32, 32)
    assert vqvae.reconstruct(cfg, state.variables, image).shape == image.shape


def test_a_place_of_an_image_can_have_several_codes():
    """Codes of a place are side by side among the encoder's channels, each with its own index."""
    cfg = vqvae.Config(
        shape=(8, 8, 3), channels=(6, 5), codebook_size=7, code_dim=2, codes_per_place=3,
        likelihood="gaussian", codebook_decay=0.0, residual_kernel_size=1, transposed=True,
    )  # fmt: skip
    images = jax.random.uniform(KEY, (2, 8, 8, 3), minval=-1)
    state = vqvae.method(cfg).init(KEY, {"image": images})
    params: Any = state.params
    assert vqvae.places(cfg) == (2, 2, 3)
    k = vqvae.codes(cfg, state.variables, images)
    z = np.asarray(vqvae.VQVAE(cfg).apply(state.variables, images, method="z_e"))
    assert z.shape == (2, 2, 2, 3, 2)
    raw = np.asarray(Encoder(cfg.shape, (2, 2, 6), (6, 5), num_blocks=1, residual_kernel_size=1)
                     .apply({"params": params["encoder"]}, images))  # fmt: skip
    np.testing.assert_array_equal(z[..., 2, :], raw[..., 4:])
    distance = ((z[..., None, :] - np.asarray(params["codebook"])) ** 2).sum(-1)
    np.testing.assert_array_equal(k, distance.argmin(-1))
    shown = vqvae.decode_codes(cfg, state.variables, k)
    np.testing.assert_allclose(
        shown, vqvae.reconstruct(cfg, state.variables, images), rtol=1e-5, atol=1e-6
    )
    changed = np.asarray(k).copy()
    changed[0, 0, 0, 2] = (changed[0, 0, 0, 2] + 1) % 7
    moved = np.abs(vqvae.decode_codes(cfg, state.variables, changed) - shown).max(axis=(1, 2, 3))
    assert moved[0] > 1e-4 and moved[1] == 0


def test_learns_eight_points():
    """Learning test: data that are 8 points have 8 codes, and are reconstructed."""
    cfg = vqvae.Config(
        shape=(2,),
        hidden=(32,),
        codebook_size=16,
        code_dim=2,
        num_codes=1,
        likelihood="gaussian",
        batch_size=64,
        ema_decay=0.9,
    )
    angle = 2 * np.pi * (np.arange(64) % 8) / 8
    points = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    method = vqvae.method(cfg)
    state, step = method.init(KEY, {"x": points}), jax.jit(method.train_step)
    metrics = {}
    for _ in range(600):
        state, metrics = step(KEY, state, {"x": points})
    assert float(metrics["perplexity"]) > 7.9
    assert np.abs(vqvae.reconstruct(cfg, state.variables, points) - points).mean() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        dict(codebook_size=0), dict(code_dim=0), dict(num_codes=0), dict(commitment_weight=-1.0),
        dict(codebook_decay=1.0), dict(restart_threshold=-0.1),
        dict(shape=(8, 8, 1), channels=()), dict(likelihood="poisson"), dict(initial_scale=0.0),
    ],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{list(change)[-1]}"):
        dataclasses.replace(CFG, **change)


def test_bad_arguments_are_refused():
    variables = fresh().variables
    for k in (np.full((1, 3), 5), np.full((1, 3), -1), np.zeros((1, 4)), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="0..4"):
            vqvae.decode_codes(CFG, variables, k.astype(np.int32))
    with pytest.raises(ValueError, match="encodings have shape"):
        vqvae.decode(CFG, variables, np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match="Config.shape"):
        vqvae.codes(CFG, variables, np.zeros((1, 3), np.float32))
