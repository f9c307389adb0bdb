"""The game: any loss with any penalty and transform; order and rates of the steps."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.gan import dcgan, game, gan, lsgan, networks
from gengen.gan.game import Game, play, player_losses
from gengen.gan.regularization import dragan, instance_noise, js_regulariser, r1, r2
from gengen.gan.replay import replay
from gengen.gan.simultaneous import simultaneous
from gengen.gan.wgan_gp import gradient_penalty, wasserstein
from gengen.steps import method as build
from gengen.steps import player, sequence

CFG = gan.Config(shape=(2,), hidden=(8,), latent_dim=3, batch_size=6)
X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
LOSSES = [*gan.LOSSES.values(), lsgan.least_squares(), wasserstein()]
PENALTIES = (r1(1.0), r2(2.0), js_regulariser(0.5), dragan(3.0), gradient_penalty(4.0))
TRANSFORMS = (instance_noise(0.1, steps=10), replay(8))
KEY = jax.random.key(3)


def start(played, x=X):
    variables = jax.jit(game.init_variables(played))(jax.random.key(0), {"x": x})
    params = variables.pop("params")
    return params, variables


def test_the_losses_are_those_of_numpy():
    """Both players' losses from the parameters and the noise alone, in float64."""
    played = gan.game(CFG)
    params, mutables = start(played)

    def net(tree, h):
        for i in range(2):
            layer = tree["MLP_0"][f"Dense_{i}"]
            h = h @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
            h = np.maximum(h, 0) if i == 0 else h
        return h

    def noise(key):
        rows = [jax.random.normal(jax.random.fold_in(key, i), (3,)) for i in range(6)]
        return np.asarray(rows, np.float64)

    fake = net(params["generator"], noise(jax.random.split(KEY, 3)[0]))
    real, fake = (net(params["discriminator"], x)[:, 0] for x in (X.astype(np.float64), fake))
    wanted = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    got, (metrics, _) = player_losses(played)["discriminator"](params, mutables, KEY, {"x": X})
    # float32 networks of 8 units: some 10 roundings of 6e-8.
    np.testing.assert_allclose(float(got), wanted, rtol=2e-6)
    np.testing.assert_allclose(float(metrics["real_logit"]), real.mean(), rtol=1e-5)
    np.testing.assert_allclose(float(metrics["fake_logit"]), fake.mean(), rtol=1e-5)

    fake = net(params["generator"], noise(jax.random.split(KEY)[0]))
    wanted = np.log1p(np.exp(-net(params["discriminator"], fake))).mean()
    got, _ = player_losses(played)["generator"](params, mutables, KEY, {"x": X})
    np.testing.assert_allclose(float(got), wanted, rtol=2e-6)


@pytest.mark.parametrize("losses", LOSSES)
def test_any_loss_combines_with_all_penalties_and_transforms(losses):
    """All at once; the discriminator's loss is the sum of its terms, each one reported."""
    plain = dataclasses.replace(gan.game(CFG), losses=losses, transforms=TRANSFORMS)
    full = dataclasses.replace(plain, penalties=PENALTIES)
    params, mutables = start(full)

    @jax.jit
    def both(params):
        value, (metrics, changed) = player_losses(full)["discriminator"](
            params, mutables, KEY, {"x": X}
        )
        without, _ = player_losses(plain)["discriminator"](params, mutables, KEY, {"x": X})
        return value, without, metrics, changed[game.STATES]

    value, without, metrics, states = both(params)
    terms = [float(metrics[p.name]) for p in PENALTIES]
    assert all(t > 0 for t in terms)
    np.testing.assert_allclose(float(value), float(without) + sum(terms), rtol=1e-5)
    assert int(states["instance_noise"]["moves"]) == 1 and int(states["replay"]["filled"]) == 6


def test_all_at_once_trains():
    full = dataclasses.replace(gan.game(CFG), penalties=PENALTIES, transforms=TRANSFORMS)
    method = play(full, optax.sgd(1e-2), optax.sgd(1e-2))
    state = method.init(jax.random.key(0), {"x": X})
    step = jax.jit(method.train_step)
    for _ in range(2):
        state, metrics = step(KEY, state, {"x": X})
        assert all(np.isfinite(float(m)) for m in metrics.values())


def test_the_generator_pays_no_penalty():
    full = dataclasses.replace(gan.game(CFG), penalties=PENALTIES)
    params, mutables = start(full)
    a, b = (
        player_losses(g)["generator"](params, mutables, KEY, {"x": X})[0]
        for g in (full, gan.game(CFG))
    )
    assert float(a) == float(b)


def test_the_generator_is_judged_through_the_noise():
    noisy = dataclasses.replace(gan.game(CFG), transforms=(instance_noise(1.0),))
    params, mutables = start(noisy)
    a, b = (
        player_losses(g)["generator"](params, mutables, KEY, {"x": X})[0]
        for g in (noisy, gan.game(CFG))
    )
    assert abs(float(a) - float(b)) > 1e-4


@pytest.mark.parametrize(
    "mover, other", [("discriminator", "generator"), ("generator", "discriminator")]
)
def test_a_move_leaves_the_other_bit_identical(mover, other):
    """Parameters, optimiser and batch statistics: with batch norm in both networks."""
    cfg = dcgan.Config(shape=(8, 8, 1), channels=(4, 8), latent_dim=4, batch_size=4)
    played = dcgan.game(cfg)
    method = build(
        game.init_variables(played), player(mover, player_losses(played)[mover], optax.adam(0.1))
    )
    x = np.tanh(np.random.default_rng(0).normal(size=(4, 8, 8, 1))).astype(np.float32)
    state = method.init(jax.random.key(0), {"image": x})
    new, _ = jax.jit(method.train_step)(KEY, state, {"image": x})
    for before, after in ((state.params, new.params), (state.mutables["batch_stats"],
                                                       new.mutables["batch_stats"])):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, before[other], after[other])
        pairs = zip(jax.tree.leaves(before[mover]), jax.tree.leaves(after[mover]), strict=True)
        assert all(np.any(a != b) for a, b in pairs if np.size(a) > 1)


def test_each_has_a_rate_of_its_own():
    """Adam's first step is the rate, wherever there is a gradient: two time-scales."""
    cfg = dataclasses.replace(CFG, learning_rate=1e-3, discriminator_learning_rate=4e-3)
    method = gan.method(cfg)
    state = method.init(jax.random.key(0), {"x": X})
    new, _ = jax.jit(method.train_step)(KEY, state, {"x": X})
    for name, rate in (("generator", 1e-3), ("discriminator", 4e-3)):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params[name], new.params[name])
        np.testing.assert_allclose(max(jax.tree.leaves(moved)), rate, rtol=1e-3)


def test_simultaneous_moves_start_from_the_same_state():
    """The second player's move is as if he moved alone; in a sequence it is not."""
    played, tx = gan.game(CFG), optax.sgd(0.5)
    steps = {name: player(name, loss, tx) for name, loss in player_losses(played).items()}
    both, first = (build(game.init_variables(played), s)
                   for s in (simultaneous(steps), sequence(*steps.values())))  # fmt: skip
    state = both.init(jax.random.key(0), {"x": X})
    together, metrics = jax.jit(both.train_step)(KEY, state, {"x": X})
    after, _ = jax.jit(first.train_step)(KEY, state, {"x": X})
    keys = jax.random.split(jax.random.fold_in(KEY, 0))
    for (name, step), key in zip(steps.items(), keys, strict=True):
        alone, _ = jax.jit(step.update)(key, state, {"x": X})
        # Other programs: sums differ by roundings.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                     alone.params[name], together.params[name])  # fmt: skip
    assert {"discriminator_loss", "generator_loss"} <= metrics.keys()
    jax.tree.map(np.testing.assert_array_equal, after.params["discriminator"],
                 together.params["discriminator"])  # fmt: skip
    differ = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params["generator"],
                          together.params["generator"])  # fmt: skip
    assert max(jax.tree.leaves(differ)) > 1e-4


def test_n_critic_moves_on_fresh_parts():
    """Of 6 rows, 3 moves see 2 each: by three moves alone."""
    played, tx = gan.game(CFG), optax.sgd(0.1)
    method = play(played, tx, optax.set_to_zero(), n_critic=3)
    state = method.init(jax.random.key(0), {"x": X})
    got, _ = jax.jit(method.train_step)(KEY, state, {"x": X})
    step = player("discriminator", player_losses(played)["discriminator"], tx)
    key = jax.random.split(jax.random.fold_in(KEY, 0))[0]
    move = jax.jit(step.update)
    for k, part_key in enumerate(jax.random.split(key, 3)):
        state, _ = move(part_key, state, {"x": jnp.asarray(X[k::3])})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                 state.params["discriminator"], got.params["discriminator"])  # fmt: skip


def test_samples_are_the_averaged_generators():
    method = gan.method(dataclasses.replace(CFG, ema_decay=0.9, learning_rate=0.1))
    state = method.init(jax.random.key(0), {"x": X})
    state, _ = jax.jit(method.train_step)(KEY, state, {"x": X})
    drawn = gan.sample(CFG, state.variables, KEY, 4)
    averaged = gan.sample(CFG, {"params": state.ema}, KEY, 4)
    newest = gan.sample(CFG, {"params": state.params}, KEY, 4)
    np.testing.assert_array_equal(drawn, averaged)
    assert np.abs(drawn - newest).max() > 1e-3


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="once"):
        dataclasses.replace(gan.game(CFG), penalties=(r1(), r1()))
    with pytest.raises(ValueError, match="labels"):
        dataclasses.replace(gan.game(CFG), transforms=(replay(8),), num_classes=3)


def test_what_cannot_be_drawn_is_refused():
    played = gan.game(CFG)
    params, mutables = start(played)
    variables = {"params": params, **mutables}
    with pytest.raises(ValueError, match="num"):
        game.sample(played, variables, KEY, 0)
    with pytest.raises(ValueError, match="unconditional"):
        game.sample(played, variables, KEY, 2, np.array([0, 1]))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(shape=(4, 4)), "Config.shape"),
        (dict(latent_dim=0), "Config.latent_dim"),
        (dict(discriminator_learning_rate=0.0), "Config.discriminator_learning_rate"),
        (dict(ema_decay=1.0), "Config.ema_decay"),
        (dict(b1=-0.1), "Config.b1"),
        (dict(loss="hinge"), "Config.loss"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)


def test_players_of_images_without_levels_are_mlps():
    cfg = networks.Config(shape=(4, 4, 1), channels=(), hidden=(8,), latent_dim=3)
    g, d = networks.networks(cfg)
    z = jnp.ones((2, 3))
    x = jnp.asarray(g.apply(g.init(KEY, z), z))
    assert x.shape == (2, 4, 4, 1) and np.abs(x).max() <= 1
    assert jnp.asarray(d.apply(d.init(KEY, x), x)).shape == (2,)


def test_the_names_of_terms_do_not_clash():
    names = [part.name for part in (*PENALTIES, *TRANSFORMS)]
    assert len({*names}) == len(names)
    for a, b in itertools.combinations(LOSSES, 2):
        assert a != b
    assert isinstance(gan.game(CFG), Game)
