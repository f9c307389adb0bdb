"""CycleGAN: losses by NumPy's sums, who moves, two pools, cycles of a linear toy, sizes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.contract import Task
from gengen.gan import cyclegan, networks, translators
from gengen.gan.game import STATES
from gengen.types import InputError
from tests.cases import images
from tests.gan.test_pix2pix import count, softplus

CFG = cyclegan.Config(
    shape=(8, 8, 2), other_shape=(8, 8, 2), channels=(4, 6), num_blocks=1, residual=False,
    discriminator_channels=(4, 5), cycle_weight=3.0, identity_weight=2.0, capacity=12,
    batch_size=4, ema_decay=0.0,
)  # fmt: skip
BATCH = jax.tree.map(jnp.asarray, dict(images(CFG, 4)))
A, B = BATCH["image"], BATCH["other"]
KEY = jax.random.key(3)
PLAYERS = ("generator_ab", "generator_ba", "discriminator_a", "discriminator_b")


def start(cfg=CFG):
    state = cyclegan.method(cfg, optax.sgd(0.0)).init(jax.random.key(0), BATCH)
    return state.replace(params=jax.tree.map(lambda leaf: 8 * leaf, state.params))


def on(cfg, params, player, x):
    net = dict(zip(PLAYERS, cyclegan.networks_of(cfg), strict=True))[player]
    return np.asarray(
        net.apply({"params": params[player]}, jnp.asarray(x, jnp.float32)), np.float64
    )


@pytest.mark.parametrize("loss", ["least_squares", "log"])
def test_losses_by_numpys_sums(loss):
    cfg = dataclasses.replace(CFG, loss=loss)
    state = start(cfg)
    p = state.params
    _, found = cyclegan.method(cfg, optax.sgd(0.0)).train_step(KEY, state, BATCH)
    g_a, f_b = on(cfg, p, "generator_ab", A), on(cfg, p, "generator_ba", B)
    back_a, back_b = on(cfg, p, "generator_ba", g_a), on(cfg, p, "generator_ab", f_b)
    same_b, same_a = on(cfg, p, "generator_ab", B), on(cfg, p, "generator_ba", A)
    cycle = np.abs(back_a - A).sum() / A.size + np.abs(back_b - B).sum() / B.size
    identity = np.abs(same_b - B).mean() + np.abs(same_a - A).mean()
    logits = {
        kind: (on(cfg, p, f"discriminator_{kind}", real), on(cfg, p, f"discriminator_{kind}", fake))
        for kind, real, fake in (("a", A, f_b), ("b", B, g_a))
    }
    if loss == "log":
        game = sum(softplus(-fake).mean() for _, fake in logits.values())
        own = {k: 0.5 * (softplus(-r).mean() + softplus(f).mean()) for k, (r, f) in logits.items()}
    else:
        game = sum(((fake - 1) ** 2).mean() for _, fake in logits.values())
        own = {k: 0.5 * (((r - 1) ** 2).mean() + (f**2).mean()) for k, (r, f) in logits.items()}
    for name, want in {
        "cycle_loss": cycle,
        "identity_loss": identity,
        "adversarial_loss": game,
        "generators_loss": game + 3 * cycle + 2 * identity,
        "discriminator_a_loss": own["a"],
        "discriminator_b_loss": own["b"],
    }.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, err_msg=name)
    assert abs(own["a"] - own["b"]) > 1e-4


@pytest.mark.parametrize("moving", ["generators", "discriminators"])
def test_a_move_leaves_the_others_bit_for_bit(moving, monkeypatch):
    rates = {"discriminators": 0.0, "generators": 0.0, moving: 0.1}
    monkeypatch.setattr(networks, "adam", lambda cfg: [optax.sgd(r) for r in rates.values()])
    state = start()
    after, _ = cyclegan.method(CFG).train_step(KEY, state, BATCH)
    for player in PLAYERS:
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()), *(s.params[player] for s in (state, after))
        )
        assert all(jax.tree.leaves(same)) == (not player.startswith(moving[:-1])), player


def test_each_discriminator_has_a_pool_of_its_own():
    state = start()
    after, _ = cyclegan.method(CFG, optax.sgd(0.0)).train_step(KEY, state, BATCH)
    pools = after.mutables[STATES]
    assert {*pools} == {"pool_a", "pool_b"}
    for name, generator, x in (("pool_a", "generator_ba", B), ("pool_b", "generator_ab", A)):
        made = on(CFG, state.params, generator, x)
        assert int(pools[name]["filled"]) == 4
        np.testing.assert_allclose(pools[name]["buffer"][:4], made, atol=1e-5)
    assert np.abs(pools["pool_a"]["buffer"] - pools["pool_b"]["buffer"]).max() > 0.01


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x)[..., 0]


def test_cycles_of_a_linear_toy_close_when_their_weight_is_large():
    """b = a M with M invertible: at the optimum F = G⁻¹, and the cycle loss is 0."""
    cfg = dataclasses.replace(
        CFG, shape=(1, 1, 2), other_shape=(1, 1, 2), channels=(4,), cycle_weight=1e3,
        identity_weight=0.0, batch_size=32, capacity=32,
    )  # fmt: skip
    linear = nn.Dense(2, use_bias=False)
    a = np.random.default_rng(0).normal(size=(32, 1, 1, 2)).astype(np.float32)
    batch = {"image": a, "other": a @ np.array([[1.0, 0.5], [-0.3, 0.8]], np.float32)}
    losses = {}
    for weight in (0.0, 1e3):
        own = dataclasses.replace(cfg, cycle_weight=weight)
        method = cyclegan.method(own, optax.adam(1e-2), (linear, linear, Judge(), Judge()))
        state, step = method.init(jax.random.key(0), batch), jax.jit(method.train_step)
        found = {}
        for _ in range(500):
            state, found = step(KEY, state, batch)
        losses[weight] = float(found["cycle_loss"])
    assert losses[1e3] < 0.02 < 0.1 < losses[0.0], losses


def test_each_direction_has_its_generator():
    state = start()
    for way, x, player in (("ab", A, "generator_ab"), ("ba", B, "generator_ba")):
        cfg = cyclegan.with_direction(CFG, way)
        made = cyclegan.translate(cfg, state.variables, x, KEY)
        np.testing.assert_allclose(made, on(CFG, state.params, player, x), atol=1e-5)
        np.testing.assert_array_equal(cyclegan.condition_of(cfg, BATCH), x)
        assert np.abs(made[0] - made[1]).max() > 1e-3


def test_kinds_may_differ_in_channels():
    cfg = dataclasses.replace(CFG, identity_weight=0.0, other_shape=(8, 8, 3))
    batch = jax.tree.map(jnp.asarray, dict(images(cfg, 4)))
    state = cyclegan.method(cfg).init(KEY, batch)
    assert cyclegan.translate(cfg, state.variables, batch["image"], KEY).shape == (4, 8, 8, 3)
    back = cyclegan.with_direction(cfg, "ba")
    assert cyclegan.translate(back, state.variables, batch["other"], KEY).shape == (4, 8, 8, 2)


def test_a_residual_generator_begins_near_the_identity():
    G = translators.ResNet(2, (4, 6), 1, residual=True)
    variables = G.init(KEY, A)
    assert np.abs(np.asarray(G.apply(variables, A) - A)).max() < 0.1
    plain = translators.ResNet(2, (4, 6), 1).apply(variables, A)
    assert np.abs(np.asarray(plain - A)).max() > 0.5


def test_the_papers_networks():
    """11.378M and 2.765M parameters in the authors' code, for 9 blocks at 256 pixels.

    Here they are fewer by the biases before a norm, which have no effect.
    """
    cfg = cyclegan.Config.paper()
    G, F, D_a, D_b = cyclegan.networks_of(cfg)
    x = jnp.zeros((1, 256, 256, 3))
    assert count(G, x) == count(F, x) == 11_378_179 - (64 + 128 + 256 + 9 * 2 * 256 + 128 + 64)
    assert count(D_a, x) == count(D_b, x) == 2_764_737 - (128 + 256 + 512)
    assert translators.receptive_field(cfg.discriminator_channels) == 70
    assert (cfg.cycle_weight, cfg.capacity, cfg.num_blocks) == (10.0, 50, 9)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(other_shape=(8, 8, 1)), "no identity map.*--grey"),
        (dict(other_shape=(4, 4, 2)), "--size"),
        (dict(loss="hinge"), "least_squares"),
        (dict(direction="aa"), "'ab' or 'ba'"),
        (dict(capacity=2), "capacity"),
        (dict(cycle_weight=-1.0), "cycle_weight"),
    ],
)
def test_an_impossible_config_is_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(CFG, **change)


def test_data_of_one_set_are_refused():
    with pytest.raises(InputError, match="unpaired:A,B"):
        cyclegan.method(CFG).init(KEY, {"image": A})
    with pytest.raises(InputError, match="two sets"):
        cyclegan.Config.for_task(Task((8, 8, 1)))
