"""Wasserstein GAN: Algorithm 1 by hand, and what the critic's gap means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from gengen.compile import compile_step
from gengen.gan import wgan
from gengen.gan.game import STATES, play
from gengen.gan.regularization import instance_noise, r1
from gengen.gan.replay import replay
from gengen.optim import ascend, clip_weights
from gengen.steps import method as build
from gengen.steps import player

CFG = wgan.Config(shape=(2,), hidden=(16, 16), latent_dim=4, critic_batch_size=16, n_critic=3)


def points(num, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 2)).astype(np.float32)


def test_one_step_is_algorithm_1_by_hand():
    """n_critic moves of the critic with RMSProp and clipping, one of the generator: NumPy."""
    method = wgan.method(CFG)
    x = points(CFG.batch_size)
    state = method.init(jax.random.key(0), {"x": x})
    key = jax.random.key(5)
    got, metrics = jax.jit(method.train_step)(key, state, {"x": x})

    m, lr, decay, eps = CFG.critic_batch_size, CFG.learning_rate, 0.99, 1e-8
    f, g = (jax.tree.map(np.float64, state.params[name]) for name in ("critic", "generator"))
    critic_key, generator_key = jax.random.split(jax.random.fold_in(key, 0))

    def forward(params, h):
        """The MLP and its layers' inputs."""
        inputs, layers = [], [params["MLP_0"][f"Dense_{i}"] for i in range(3)]
        for i, layer in enumerate(layers):
            inputs.append(h)
            h = h @ layer["kernel"] + layer["bias"]
            h = np.maximum(h, 0) if i < 2 else h
        return h, inputs

    def backward(params, inputs, d):
        """Gradients by hand of an MLP for the gradient d of its output, and of its input."""
        grads = {}
        for i in (2, 1, 0):
            layer = params["MLP_0"][f"Dense_{i}"]
            if i < 2:
                d = d * (inputs[i + 1] > 0)
            grads[f"Dense_{i}"] = {"kernel": inputs[i].T @ d, "bias": d.sum(0)}
            d = d @ layer["kernel"].T
        return {"MLP_0": grads}, d

    def noise(k):
        keys = jax.vmap(lambda i: jax.random.fold_in(k, i))(jnp.arange(m))
        return np.float64(jax.vmap(lambda k: jax.random.normal(k, (CFG.latent_dim,)))(keys))

    def rmsprop(params, grads, nu):
        nu = jax.tree.map(lambda n, d: decay * n + (1 - decay) * d**2, nu, grads)
        step = jax.tree.map(lambda p, d, n: p - lr * d / np.sqrt(n + eps), params, grads, nu)
        return step, nu

    nu, gaps = jax.tree.map(np.zeros_like, f), []
    for k, move_key in enumerate(jax.random.split(critic_key, CFG.n_critic)):
        real = np.float64(x[k :: CFG.n_critic])
        fake = forward(g, noise(move_key))[0]
        (on_real, in_real), (on_fake, in_fake) = forward(f, real), forward(f, fake)
        gaps.append(on_real.mean() - on_fake.mean())
        up, _ = backward(f, in_real, np.full((m, 1), 1 / m))
        down, _ = backward(f, in_fake, np.full((m, 1), -1 / m))
        grads = jax.tree.map(lambda a, b: -(a + b), up, down)  # minus: RMSProp descends
        f, nu = rmsprop(f, grads, nu)
        f = jax.tree.map(lambda w: np.clip(w, -CFG.weight_clip, CFG.weight_clip), f)
    fake, in_g = forward(g, noise(generator_key))
    on_fake, in_f = forward(f, fake)
    _, d_fake = backward(f, in_f, np.full((m, 1), -1 / m))
    grads, _ = backward(g, in_g, d_fake)
    g_new, _ = rmsprop(g, grads, jax.tree.map(np.zeros_like, g))

    assert float(metrics["critic_loss"]) == pytest.approx(np.mean(gaps), rel=1e-4)
    assert float(metrics["generator_loss"]) == pytest.approx(-on_fake.mean(), rel=1e-3)
    for got_leaf, want in zip(
        jax.tree.leaves(got.params["critic"]), jax.tree.leaves(f), strict=True
    ):
        np.testing.assert_allclose(got_leaf, want, atol=1e-7)
    # The critic's clipped weights make gradients of 1e-8, of the size of eps: looser.
    for before, after, want in zip(
        jax.tree.leaves(state.params["generator"]), jax.tree.leaves(got.params["generator"]),
        jax.tree.leaves(g_new), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(after - before, want - before, atol=0.02 * lr)


def test_every_critic_weight_stays_within_c():
    method = wgan.method(dataclasses.replace(CFG, learning_rate=1e-2))
    state, step = method.init(jax.random.key(0), {"x": points(48)}), jax.jit(method.train_step)
    largest = 0.0
    for seed in range(5):
        state, _ = step(jax.random.key(1), state, {"x": points(48, seed)})
        largest = max(np.abs(w).max() for w in jax.tree.leaves(state.params["critic"]))
        # p + (q - p) may miss q by one rounding of the larger of the two.
        assert largest <= CFG.weight_clip * (1 + 2**-22)
    assert largest > 0.99 * CFG.weight_clip  # and the bound is felt


def train_critic(real, fake, c=0.1, steps=800):
    """A critic alone, on two fixed sets: the gap it reaches, and its Lipschitz bound."""
    critic = wgan.game(wgan.Config(shape=(2,), hidden=(64, 64))).discriminator

    def gap(params, mutables, key, batch):
        f = lambda x: jnp.mean(jnp.asarray(critic.apply({"params": params["critic"]}, x)))  # noqa: E731
        return f(batch["x"]) - f(batch["fake"]), ({}, mutables)

    tx = optax.chain(ascend(optax.rmsprop(2e-3, decay=0.99)), clip_weights(c))
    method = build(
        lambda key, batch: {"params": {"critic": critic.init(key, batch["x"])["params"]}},
        player("critic", gap, tx),
    )
    batch = {"x": real, "fake": fake}
    state, step = method.init(jax.random.key(0), batch), compile_step(method.train_step)
    metrics = {}
    for _ in range(steps):
        state, metrics = step(jax.random.key(0), state, batch)
    norms = [
        np.linalg.norm(np.float64(layer["kernel"]), 2)
        for layer in state.params["critic"]["MLP_0"].values()
    ]
    return float(metrics["critic_loss"]), np.prod(norms)


def w1(a, b):
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def test_the_gap_bounds_and_orders_as_the_wasserstein_distance():
    """gap / Lipschitz constant ≤ W₁ of the same samples (duality), and larger where W₁ is."""
    real = points(128)
    gaps: list[float] = []
    distances: list[float] = []
    for shift in (0.5, 1.0, 2.0):
        fake = points(128, seed=1) + np.array([shift, 0], np.float32)
        gap, lipschitz = train_critic(real, fake)
        gaps.append(gap)
        distances.append(w1(real, fake))
        assert 0 < gap / lipschitz <= distances[-1]
        assert gap / lipschitz > 0.2 * distances[-1]  # the bound is not empty
    assert distances == sorted(distances) and gaps == sorted(gaps)


def test_each_players_move_leaves_the_other_alone():
    frozen = dataclasses.replace(CFG, n_critic=1)
    method = wgan.method(frozen, optax.set_to_zero())
    state = method.init(jax.random.key(0), {"x": points(16)})
    new, _ = jax.jit(method.train_step)(jax.random.key(0), state, {"x": points(16)})
    jax.tree.map(np.testing.assert_array_equal, state.params["generator"], new.params["generator"])


def test_learns_a_shifted_gaussian():
    """Learning test: the samples' mean must come near the data's, from 3 away."""
    cfg = wgan.Config(shape=(2,), hidden=(32, 32), latent_dim=4, critic_batch_size=64,
                      weight_clip=0.05, learning_rate=1e-3)  # fmt: skip
    method, rng = wgan.method(cfg), np.random.default_rng(0)
    data = lambda: {"x": (rng.normal(size=(cfg.batch_size, 2)) * 0.5 + [3, -1]).astype("f")}  # noqa: E731
    state, step = method.init(jax.random.key(0), data()), compile_step(method.train_step)
    for _ in range(400):
        state, _ = step(jax.random.key(1), state, data())
    x = wgan.sample(cfg, state.variables, jax.random.key(2), 1000)
    assert np.linalg.norm(np.mean(np.asarray(x), 0) - [3, -1]) < 0.5


def test_the_critic_trains_longer_before_the_first_steps_and_every_500th():
    """Steps of the critic for each of the generator, counted, are those of the authors' loop."""
    cfg = wgan.Config(
        shape=(2,), hidden=(4,), latent_dim=2, critic_batch_size=2, n_critic=2, long_n_critic=6
    )
    wanted = [6 if g < 25 or g % 500 == 0 else 2 for g in range(1010)]
    method = wgan.method(cfg, optax.adam(1e-3))
    x = points(4 * sum(wanted) // 2).reshape(-1, 4, 2)  # 4 examples in each train step

    @jax.jit
    def run(state):
        def body(state, x):
            new, _ = method.train_step(jax.random.key(1), state, {"x": x})
            counts = [optax.tree.get(new.opt_state[p], "count") for p in ("critic", "generator")]
            moved = [
                jnp.any(ravel_pytree(new.params[p])[0] != ravel_pytree(state.params[p])[0])
                for p in ("critic", "generator")
            ]
            return new, jnp.stack([*counts, *moved])

        return jax.lax.scan(body, state, x)[1]

    critic, generator, _, moved = np.asarray(run(method.init(jax.random.key(0), {"x": x[0]}))).T
    assert generator[-1] == 1010
    at_moves = critic[np.diff(generator, prepend=0) == 1]
    np.testing.assert_array_equal(np.diff(at_moves, prepend=0), wanted)
    # And the parameters move in these train steps alone; a critic of four units may be flat.
    due = np.diff(generator, prepend=0) == 1
    assert not moved[~due].any() and moved[due].mean() > 0.5


def test_every_step_is_alike_without_longer_phases():
    """With 0 the optimiser's state is that of old runs."""
    kinds = [type(leaf).__name__ for leaf in jax.tree.leaves(
        jax.eval_shape(wgan.method(CFG).init, jax.random.key(0), {"x": points(48)}).opt_state,
        is_leaf=lambda s: isinstance(s, optax.transforms.ConditionallyMaskState),
    )]  # fmt: skip
    assert "ConditionallyMaskState" not in kinds


def test_config_counts_what_a_step_eats():
    assert wgan.Config(critic_batch_size=6, n_critic=3).batch_size == 18
    paper = wgan.Config.paper()  # Algorithm 1
    assert (paper.batch_size, paper.weight_clip, paper.learning_rate) == (64 * 5, 0.01, 5e-5)
    assert paper.long_n_critic == 0


def test_a_batch_that_cannot_be_split_is_refused():
    method = wgan.method(CFG)
    state = method.init(jax.random.key(0), {"x": points(6)})
    with pytest.raises(ValueError, match="multiple of 3"):
        method.train_step(jax.random.key(0), state, {"x": points(7)})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(weight_clip=0.0), "Config.weight_clip"),
        (dict(n_critic=0), "Config.n_critic"),
        (dict(long_n_critic=10), "multiple of n_critic = 3"),
        (dict(long_n_critic=-3), "Config.long_n_critic"),
        (dict(shape=(4, 4)), "Config.shape"),
        (dict(critic_batch_size=0), "Config.critic_batch_size"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)


def test_a_penalty_and_a_transform_combine_with_the_critic():
    """The composed critic loss has its penalty; the buffer moves; the clipped weights stay."""
    parts = {"penalties": (r1(0.5),), "transforms": (instance_noise(0.1), replay(32))}
    composed = dataclasses.replace(wgan.game(CFG), **parts)
    tx = optax.rmsprop(CFG.learning_rate, decay=0.99)
    method = play(composed, optax.chain(tx, clip_weights(CFG.weight_clip)), tx, CFG.n_critic)
    state = method.init(jax.random.key(0), {"x": points(48)})
    state, metrics = jax.jit(method.train_step)(jax.random.key(1), state, {"x": points(48)})
    gap = float(metrics["fake_logit"] - metrics["real_logit"])
    assert float(metrics["r1"]) > 0
    assert float(metrics["critic_loss"]) == pytest.approx(gap + float(metrics["r1"]), abs=1e-5)
    assert int(state.mutables[STATES]["replay"]["filled"]) == 32
    weights = jax.tree.leaves(state.params["critic"])
    assert max(np.abs(w).max() for w in weights) <= CFG.weight_clip * (1 + 2**-22)
    assert wgan.sample(CFG, state.variables, jax.random.key(2), 3).shape == (3, 2)


def test_the_losses_of_algorithm_1_take_penalties_and_transforms():
    """The critic maximises the gap less the penalty."""
    plain = wgan.game(CFG)
    state = wgan.method(CFG).init(jax.random.key(0), {"x": points(16)})
    penalised = dataclasses.replace(plain, penalties=(r1(0.5),))
    key, batch = jax.random.key(3), {"x": points(16)}
    gap, _ = wgan.algorithm_1(plain)["critic"](state.params, {}, key, batch)
    less, (metrics, _) = wgan.algorithm_1(penalised)["critic"](state.params, {}, key, batch)
    assert float(less) == pytest.approx(float(gap) - float(metrics["r1"]), rel=1e-5)
    noisy = dataclasses.replace(plain, transforms=(instance_noise(1.0),))
    other, _ = wgan.algorithm_1(noisy)["critic"](state.params, {}, key, batch)
    assert abs(float(other) - float(gap)) > 1e-4


def test_with_batch_norm_both_players_are_dcgans_and_the_critic_is_clipped():
    """As in the paper's experiments: averages of both move, and all weights stay in [-c, c]."""
    cfg = wgan.Config(
        shape=(8, 8, 1), channels=(4, 6), latent_dim=3, critic_batch_size=4, n_critic=2,
        batch_norm=True,
    )  # fmt: skip
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    method = wgan.method(cfg)
    state = method.init(jax.random.key(0), {"image": images})
    start: Any = state.mutables["batch_stats"]
    state, _ = method.train_step(jax.random.key(1), state, {"image": images})
    stats: Any = state.mutables["batch_stats"]
    for name in ("critic", "generator"):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start[name], stats[name])
        assert min(jax.tree.leaves(moved)) > 0
    critic = jax.tree.leaves(state.params["critic"])
    assert max(float(np.abs(leaf).max()) for leaf in critic) <= np.float32(0.01) * (1 + 1e-6)
    assert wgan.sample(cfg, state.variables, jax.random.key(2), 3).shape == (3, 8, 8, 1)
    with pytest.raises(ValueError, match="must be"):
        wgan.Config(shape=(7, 8, 1), channels=(4,), batch_norm=True)
