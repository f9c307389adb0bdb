"""All players at once: one optimiser, the field by hand, optimistic and consensus updates."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from gengen.errors import InputError
from gengen.gan import adagan, game, gan, progressive
from gengen.gan.game import player_losses
from gengen.gan.regularization import r1
from gengen.gan.simultaneous import descend, play_at_once, simultaneous
from gengen.runs import discover
from gengen.steps import method as build
from gengen.steps import player, sequence
from tests.cases import CASES, batch
from tests.gan import smooth

KEY = jax.random.key(3)
CFG = gan.Config(shape=(2,), hidden=(6,), latent_dim=3, batch_size=8)
X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
MODELS = {model.name for model in discover.models() if model.family == "gan"}
# Not a game of two: a second generator, an encoder, a lens.
OTHERS = {"adagan", "ali", "cyclegan", "icgan", "pix2pix", "tempered", "vae_gan"}


def small(name):
    """A method with an optimiser of its own, a game and a batch, of each model."""
    if name == "adagan":
        cfg = adagan.Config(shape=(2,), latent_dim=4, hidden=(8,), batch_size=16)
    elif name == "progressive":
        cfg = progressive.Config(shape=(8, 8, 1), latent_dim=4, channels=(4, 8), batch_size=4)
    else:
        return CASES[name].cfg, batch(CASES[name])
    return cfg, {"x": np.zeros((4, *cfg.shape), np.float32), "label": np.arange(4) % 2}


# --- one optimiser over players ------------------------------------------------------------------


def test_one_partitioned_optimiser_is_each_player_by_hand():
    """Three steps: both gradients at the same parameters, Adam for one, momentum for the other."""
    played = dataclasses.replace(gan.game(CFG), penalties=(r1(0.5),))
    losses = player_losses(played)
    txs = {"discriminator": optax.adam(0.05), "generator": optax.sgd(0.3, momentum=0.9)}
    method = build(game.init_variables(played), descend(losses, txs))
    state = method.init(jax.random.key(0), {"x": X})
    step = jax.jit(method.train_step)

    @jax.jit
    def gradients(params, key):
        return {
            name: jax.grad(lambda own, n=name, f=loss: f({**params, n: own}, {}, key, {"x": X})[0])(
                params[name]
            )
            for name, loss in losses.items()
        }

    params, metrics = state.params, {}
    memories = {name: tx.init(params[name]) for name, tx in txs.items()}
    for t in range(3):
        state, metrics = step(KEY, state, {"x": X})
        grads, new = gradients(params, jax.random.fold_in(KEY, t)), {}
        for name, tx in txs.items():
            updates, memories[name] = tx.update(grads[name], memories[name], params[name])
            new[name] = optax.apply_updates(params[name], updates)
        norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(float(metrics["gradient_norm"]), norm, rtol=1e-5)
        params = new
    # Adam divides by |g|: roundings of g of 1e-7, of gradients of 1e-3 and rates of 0.05.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, state.params)
    assert {"discriminator_loss", "generator_loss", "r1", "spread"} <= metrics.keys()
    assert "loss" not in metrics


def bilinear(sign):
    """x minimises x·y, and y maximises it: losses without noise."""

    def loss(params, mutables, key, batch):
        return sign * jnp.sum(params["x"] * params["y"]), ({}, mutables)

    return loss


BILINEAR = {"x": bilinear(1.0), "y": bilinear(-1.0)}
START = {"x": jnp.array([1.0]), "y": jnp.array([0.5])}
TURN = np.array([[0.0, -1.0], [1.0, 0.0]])  # w ← w + h·TURN·w, w = (x, y)


def path(step, steps):
    """W = (x, y) of each step: [steps + 1, 2]."""
    method = build(lambda key, batch: {"params": START}, step)

    @jax.jit
    def run(state):
        def body(state, _):
            new = method.train_step(KEY, state, {"x": X})[0]
            return new, jnp.concatenate([new.params["x"], new.params["y"]])

        return jax.lax.scan(body, state, length=steps)[1]

    rest = run(method.init(KEY, {"x": X}))
    return np.concatenate([[[1.0, 0.5]], np.asarray(rest, np.float64)])


def both(tx):
    return {"x": tx, "y": tx}


def test_the_same_field_as_players_at_once_but_not_in_turn():
    """On a game without noise: `descend`, `simultaneous`, and `sequence`."""
    players = {name: player(name, loss, optax.sgd(0.1)) for name, loss in BILINEAR.items()}
    once = path(descend(BILINEAR, both(optax.sgd(0.1))), 20)
    np.testing.assert_allclose(once, path(simultaneous(players), 20), rtol=1e-6)
    assert np.abs(once - path(sequence(*players.values()), 20)).max() > 0.05


@pytest.mark.parametrize("way", ["plain", "optimistic", "consensus"])
def test_a_bilinear_game(way):
    """Each path by NumPy; plain steps spiral outwards, the others come to rest at (0, 0)."""
    h, gamma, steps = 0.2, 0.5, 200
    w, before, wanted = np.array([1.0, 0.5]), None, [np.array([1.0, 0.5])]
    for _ in range(steps):
        v = TURN @ w
        if way == "optimistic":
            v, before = 2 * v - (v if before is None else before), v
        elif way == "consensus":
            v = v - gamma * TURN.T @ v  # ½‖v‖² = ½wᵀTᵀTw
        w = w + h * v
        wanted.append(w)
    tx = optax.optimistic_gradient_descent(h) if way == "optimistic" else optax.sgd(h)
    weight = gamma if way == "consensus" else 0.0
    got = path(descend(BILINEAR, both(tx), weight), steps)
    # 200 steps, each with a rounding of 6e-8 of the largest number.
    np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())
    norms = np.linalg.norm(got, axis=1)
    if way == "plain":
        np.testing.assert_allclose(norms[-1] / norms[0], (1 + h**2) ** (steps / 2), rtol=1e-4)
    else:
        assert norms[-1] < 0.05 * norms[0]


# --- consensus in any game -----------------------------------------------------------------------


def smooth_game():
    """A game of smooth networks, with a penalty: g(z) = zG, D as in `smooth` but trained."""
    cfg = gan.Config(shape=(3,), hidden=(4,), latent_dim=2, batch_size=5)
    return dataclasses.replace(
        gan.game(cfg),
        generator=Affine(),
        discriminator=Bump(),
        penalties=(r1(0.3),),
    )


class Affine(nn.Module):
    @nn.compact
    def __call__(self, z, y=None, train=False):
        return nn.Dense(3)(z)


class Bump(nn.Module):
    @nn.compact
    def __call__(self, x, y=None, train=False):
        return nn.Dense(1)(jnp.tanh(nn.Dense(4)(x)))[:, 0]


def test_consensus_of_a_game_is_v_plus_gamma_times_the_slope_of_half_v_squared():
    """One step of gradient descent against central differences of ‖v‖² in all parameters.

    x64 is off, so the differences are of float32 numbers: good to a per cent.
    """
    played, gamma, x = smooth_game(), 0.7, smooth.REAL
    losses = player_losses(played)
    method = play_at_once(played, optax.sgd(1.0), optax.sgd(1.0), consensus=gamma)
    state = method.init(jax.random.key(1), {"x": x})
    new, metrics = jax.jit(method.train_step)(KEY, state, {"x": x})
    key = jax.random.fold_in(KEY, 0)
    flat, back = ravel_pytree(state.params)

    @jax.jit
    def field(flat):
        params = back(flat)
        v = {
            name: jax.grad(lambda own, n=name, f=loss: f({**params, n: own}, {}, key, {"x": x})[0])(
                params[name]
            )
            for name, loss in losses.items()
        }
        return ravel_pytree(v)[0]

    v = np.float64(field(flat))
    eye, size = jnp.eye(len(flat)), 1e-2
    up, down = (jax.vmap(field)(flat + s * size * eye) for s in (1, -1))
    slope = (np.sum(np.float64(up) ** 2, 1) - np.sum(np.float64(down) ** 2, 1)) / (4 * size)
    moved = np.float64(flat - ravel_pytree(new.params)[0])
    assert np.abs(gamma * slope).max() > 0.02  # there is something to be seen
    np.testing.assert_allclose(moved, v + gamma * slope, atol=5e-4)
    np.testing.assert_allclose(float(metrics["field"]), np.sum(v**2), rtol=1e-4)


def games():
    """Every game of two; second derivatives of convolutions compile slowly."""
    for name in sorted(MODELS - OTHERS):
        slow = name in ("dcgan", "progressive", "resnet_gan")
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", list(games()))
def test_every_game_of_two_is_played_at_once_with_consensus(name):
    """Both players move, and the correction is felt in the parameters of both."""
    module, (cfg, data) = discover.module(name), small(name)
    played = module.game(cfg, 8) if name == "progressive" else module.game(cfg)
    tx, moved = optax.sgd(1e-3), []
    state = play_at_once(played, tx, tx).init(jax.random.key(0), data)
    metrics = {}
    for gamma in (0.0, 0.5):
        method = play_at_once(played, tx, tx, consensus=gamma)
        new, metrics = jax.jit(method.train_step)(KEY, state, data)
        moved.append(new.params)
    assert float(metrics["field"]) > 0 and np.isfinite(float(metrics["field"]))
    for player_name in state.params:
        start, *ends = (ravel_pytree(p[player_name])[0] for p in (state.params, *moved))
        assert np.all(np.isfinite(ends[1]))
        assert np.any(ends[0] != start) and np.any(ends[1] != ends[0])


# --- optimistic updates in every model -----------------------------------------------------------


def methods(name, tx):
    """The methods of a model with an optimiser: one, or one of each stage."""
    module, (cfg, data) = discover.module(name), small(name)
    if hasattr(module, "stages"):
        return [stage.method for stage in module.stages(cfg, tx)], data
    return [module.method(cfg, tx)], data


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("kind", ["optimistic_gradient_descent", "optimistic_adam_v2"])
def test_every_model_takes_an_optimistic_optimiser(name, kind):
    """Every parameter has its gradient of the step before in the optimiser's state."""
    found, data = methods(name, getattr(optax, kind)(1e-3))
    for method in found:
        state = jax.eval_shape(method.init, KEY, data)
        remembered = optax.tree_utils.tree_get_all_with_path(state.opt_state, "previous_gradient")
        sizes = [sum(x.size for x in jax.tree.leaves(tree)) for _, tree in remembered]
        assert sum(sizes) == sum(x.size for x in jax.tree.leaves(state.params)) > 0
        after, _ = jax.eval_shape(method.train_step, KEY, state, data)
        assert jax.tree.structure(after) == jax.tree.structure(state)


def test_optimistic_steps_of_a_gan_by_hand():
    """In turn: w - h g₀, then w - h(2 g₁ - g₀), of the discriminator."""
    h, grads = 0.1, []
    method = gan.method(CFG, optax.optimistic_gradient_descent(h))
    state = method.init(jax.random.key(0), {"x": X})
    loss, step = player_losses(gan.game(CFG))["discriminator"], jax.jit(method.train_step)

    @jax.jit
    def gradient(params, key):
        return jax.grad(lambda own: loss({**params, "discriminator": own}, {}, key, {"x": X})[0])(
            params["discriminator"]
        )

    for t in range(3):
        params = state.params
        key = jax.random.split(jax.random.fold_in(KEY, t))[0]
        grads.append(gradient(params, key))
        wanted = jax.tree.map(
            lambda w, g, b: w - h * (2 * g - b),
            params["discriminator"], grads[-1], grads[max(t - 1, 0)],
        )  # fmt: skip
        state, _ = step(KEY, state, {"x": X})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                     wanted, state.params["discriminator"])  # fmt: skip


def test_the_examples_of_the_page_run():
    page = Path(__file__).parents[2] / "docs" / "GAN.md"
    blocks = re.findall(r"```python\n(import.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2  # others speak of variables that are trained elsewhere
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block, found)
    for name in ("optimistic", "consensus", "both"):
        state = jax.eval_shape(found[name].init, KEY, {"x": X})
        _, metrics = jax.eval_shape(found[name].train_step, KEY, state, {"x": X})
        assert ("field" in metrics) == (name != "optimistic")


# --- what is refused -----------------------------------------------------------------------------


def test_names_of_players_and_optimisers_agree():
    with pytest.raises(InputError, match=r"losses of \['x', 'y'\], but optimisers of \['x'\]"):
        descend(BILINEAR, {"x": optax.sgd(0.1)})
    with pytest.raises(InputError, match="consensus = -1"):
        descend(BILINEAR, both(optax.sgd(0.1)), -1)
