"""IcGAN: the encoders' losses and what they become; the generator stays; edits of the class."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import gengen
from gengen import loop, rng
from gengen.compile import compile_step
from gengen.contract import Task
from gengen.data import load
from gengen.gan import cgan, icgan
from gengen.types import InputError
from tests.train_steps import falling, train

A = np.array([[1.0, -0.5, 0.3], [0.4, 0.9, -0.7]])  # of z
C = np.array([[1.0, 0.5, 0.8], [-0.6, -0.8, -0.5], [0.2, 0.9, 1.0]])  # of y
CFG = icgan.Config(shape=(3,), latent_dim=2, num_classes=3, hidden=(8,), batch_size=6,
                   encoder_hidden=(), ema_decay=0.0)  # fmt: skip
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 2, 1, 2], np.int32)
BATCH = {"x": X, "label": Y}
KEY = jax.random.key(3)


class Truth(nn.Module):
    """g(z|y) = zA + C_y, with a parameter that is 1."""

    @nn.compact
    def __call__(self, z, y, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * (z @ jnp.asarray(A, jnp.float32) + jnp.asarray(C, jnp.float32)[y])


class Judge(nn.Module):
    """A discriminator, linear in x."""

    @nn.compact
    def __call__(self, x, y, train=False):
        return nn.Dense(1)(x)[:, 0]


NET = (Truth(), Judge(), nn.Dense(2), nn.Dense(3))


def test_the_losses_are_numpys():
    """E_z's on generated x with the batch's classes, E_y's on the batch's x."""
    method = icgan.encoders_method(CFG, net=NET)
    state = method.init(KEY, BATCH)
    _, metrics = method.train_step(KEY, state, BATCH)
    z = np.asarray(rng.normal(jax.random.fold_in(KEY, 0), (6, 2)), np.float64)

    def linear(name, x):
        own = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params[name])
        return x @ own["kernel"] + own["bias"]

    of_z = ((z - linear("encoder_z", z @ A + C[Y])) ** 2).sum(1).mean()
    of_y = ((np.eye(3)[Y] - linear("encoder_y", X)) ** 2).sum(1).mean()
    np.testing.assert_allclose(metrics["latent_error"], of_z, rtol=1e-5)
    np.testing.assert_allclose(metrics["class_error"], of_y, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], of_z + of_y, rtol=1e-5)


def test_linear_encoders_become_the_regressions():
    """E_z that of z on x = zA + C_y, by its moments; E_y that of the classes on the batch."""
    cfg = dataclasses.replace(CFG, batch_size=600)
    x, y = np.tile(X, (100, 1)), np.tile(Y, 100)
    x += 0.5 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    method = icgan.encoders_method(cfg, falling(1500, 0.03), NET)
    state = train(method, {"x": x, "label": y}, 1500)

    p = np.bincount(Y) / 6
    mean = p @ C
    W = np.linalg.solve(A.T @ A + (C - mean).T @ np.diag(p) @ (C - mean), A.T)
    own = state.params["encoder_z"]
    np.testing.assert_allclose(own["kernel"], W, atol=0.03)  # z is drawn anew at each step
    np.testing.assert_allclose(own["bias"], -mean @ W, atol=0.03)
    assert np.abs(W).max() > 0.3

    hot, own = np.eye(3)[y], state.params["encoder_y"]
    V = np.linalg.lstsq(np.column_stack([x, np.ones(600)]), hot, rcond=None)[0]
    np.testing.assert_allclose(own["kernel"], V[:-1], atol=2e-3)
    np.testing.assert_allclose(own["bias"], V[-1], atol=2e-3)


def test_the_generator_stays_on_three_replicas():
    """Not only up to the rounding of a mean of three."""
    own = icgan.encoders_method(CFG, net=NET)
    step = compile_step(own.train_step, "pmap", num_devices=3)
    state = own.init(KEY, BATCH)
    scale = {"generator": {"params": {"scale": jnp.float32(0.1)}}}
    state = step.put(state.replace(mutables=scale))
    for _ in range(3):
        state, _ = step(KEY, state, BATCH)
    chex.assert_trees_all_equal(step.get(state).mutables, scale)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Variables of both stages of a small model with batch norm."""
    cfg = icgan.Config(shape=(8, 8, 1), channels=(4,), latent_dim=4, batch_size=16,
                       encoder_channels=(4,), encoder_hidden=(8,))  # fmt: skip
    out = tmp_path_factory.mktemp("icgan") / "run"
    return cfg, loop.run(icgan.stages(cfg), load("digits"), out=out, steps=9, batch_size=16)


def test_encoders_see_the_generator_that_decodes(states):
    """The averaged parameters with batch norm's averages, bit for bit, after both stages."""
    cfg, states = states
    assert int(states["generator"].step) == 6 and int(states["encoders"].step) == 3
    variables = {name: state.variables for name, state in states.items()}
    first, frozen = states["generator"], variables["encoders"]["generator"]
    own = {
        "params": first.ema["generator"],
        "batch_stats": first.mutables["batch_stats"]["generator"],
    }
    chex.assert_trees_all_equal(frozen, own)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), own["params"], first.params["generator"])
    assert max(jax.tree.leaves(moved)) > 1e-5  # the average is not the last state
    z = rng.normal(KEY, (5, 4))
    y = jnp.array([3, 1, 4, 1, 5])
    x = jnp.asarray(cgan.game(cfg).generator.apply(frozen, z, y, train=False))
    np.testing.assert_allclose(icgan.decode(cfg, variables, z, condition=y), x, atol=1e-6)
    drawn = icgan.sample(cfg, variables, KEY, 5, condition=y)
    np.testing.assert_array_equal(
        drawn, cgan.sample(cfg, variables["generator"], KEY, 5, condition=y)
    )
    np.testing.assert_array_equal(drawn, icgan.decode(cfg, variables, z, condition=y))


def test_an_edit_keeps_the_latents_and_changes_the_class():
    """By the linear truth: x' - x = C_{y'} - C_y. Without a class it is E_y's."""
    eye = {"scale": jnp.float32(1)}
    inverse = np.linalg.pinv(A).astype(np.float32)
    params = {
        "encoder_z": {"kernel": inverse, "bias": np.zeros(2, np.float32)},
        "encoder_y": {"kernel": 3 * C.T.astype(np.float32), "bias": np.zeros(3, np.float32)},
    }
    variables: dict[str, Any] = {
        "generator": {"params": {"generator": eye}},
        "encoders": {"params": params, "generator": {"params": eye}},
    }
    z = icgan.encode(CFG, variables, X, net=NET)
    np.testing.assert_allclose(z, X @ inverse, atol=1e-5)
    np.testing.assert_array_equal(z, icgan.encode(CFG, variables, X, condition=Y, net=NET))
    before = icgan.reconstruct(CFG, variables, X, condition=Y, net=NET)
    after = icgan.reconstruct(CFG, variables, X, condition=(Y + 1) % 3, net=NET)
    np.testing.assert_allclose(before, z @ A + C[Y], atol=1e-5)
    np.testing.assert_allclose(after - before, C[(Y + 1) % 3] - C[Y], atol=1e-5)
    found = (X @ C.T).argmax(1)
    assert len({*found.tolist()}) > 1 and np.any(found != Y)
    free = icgan.reconstruct(CFG, variables, X, net=NET)
    np.testing.assert_allclose(free, z @ A + C[found], atol=1e-5)
    np.testing.assert_allclose(icgan.classify(CFG, variables, X, net=NET), 3 * X @ C.T, atol=1e-5)


def test_what_cannot_be_is_refused(states):
    cfg, states = states
    variables = {name: state.variables for name, state in states.items()}
    with pytest.raises(InputError, match=r"condition=labels \[2\]"):
        icgan.decode(cfg, variables, np.zeros((2, 4)))
    with pytest.raises(InputError, match="latent_dim = 4"):
        icgan.decode(cfg, variables, np.zeros((2, 3)), condition=np.array([0, 1]))
    with pytest.raises(InputError, match=r"0\.\.9"):
        icgan.encode(cfg, variables, np.zeros((1, 8, 8, 1)), condition=np.array([10]))
    with pytest.raises(InputError, match="Config.encoder_share"):
        icgan.Config(encoder_share=0.0)
    with pytest.raises(InputError, match="icgan is conditioned on a class"):
        icgan.Config.for_task(Task((8, 8, 1)))


@pytest.mark.slow
def test_latents_are_found_and_the_class_changes(tmp_path):
    """On digits: E_z(g(z|y)) correlates with z; a judge of real digits sees the new class."""
    run = gengen.train(
        "icgan", "digits", steps=1500, out=tmp_path / "run", seed=0, preview_every=1500,
        config={
            "channels": (), "hidden": (256, 256), "latent_dim": 16, "batch_size": 128,
            "learning_rate": 1e-3, "discriminator_learning_rate": 1e-3, "ema_decay": 0.99,
            "encoder_channels": (), "encoder_hidden": (256, 256),
        },
    )  # fmt: skip
    cfg, variables = run.cfg, run.variables
    y = np.arange(500) % 10
    z = np.asarray(rng.normal(KEY, (500, 16)))
    found = np.asarray(icgan.encode(cfg, variables, icgan.decode(cfg, variables, z, condition=y)))
    # What g makes of z leaves about half of its variance open: √½ = 0.7 at the most.
    assert np.corrcoef(z.ravel(), found.ravel())[0, 1] > 0.6
    real, test = (load(f"digits{s}").arrays for s in ("", ":test"))
    flat = lambda x: np.asarray(x).reshape(len(x), -1)  # noqa: E731
    judge = LogisticRegression(max_iter=2000).fit(flat(real["image"]) / 255, real["label"])
    x = np.asarray(test["image"], np.float32) / 127.5 - 1
    other = (test["label"] + 1 + np.arange(len(x)) % 9) % 10
    edited = icgan.reconstruct(cfg, variables, x, condition=other)
    assert np.mean(judge.predict((flat(edited) + 1) / 2) == other) >= 0.9
    inferred = np.asarray(icgan.classify(cfg, variables, x)).argmax(1)
    assert np.mean(inferred == test["label"]) >= 0.9
