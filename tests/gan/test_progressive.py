"""Progressive GAN: the grown networks at α = 0, the paper's shapes, what a stage keeps."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task
from gengen.gan import game as games
from gengen.gan import progressive as p
from gengen.types import InputError, count

SMALL = p.Config(
    shape=(16, 16, 2), latent_dim=4, channels=(3, 4, 5), batch_size=4, fade_steps=4,
    ema_decay=0.9,
)  # fmt: skip
RNG = np.random.default_rng(0)
KEY = jax.random.key(3)


def batch_of(cfg, num=None, seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (num or cfg.batch_size, *cfg.shape))
    return {"image": jnp.asarray(x, jnp.float32)}


def up(x, factor=2):
    return np.repeat(np.repeat(np.asarray(x), factor, 1), factor, 2)


def down(x, factor=2):
    """By the definition: the mean of the pixels at each of the places in a square."""
    x = np.asarray(x, np.float64)
    return sum(x[:, i::factor, j::factor] for i in range(factor) for j in range(factor)) / factor**2


def networks(cfg, r, alpha):
    """Both networks of a stage as functions of (params, input), at a given α."""
    game = p.game(cfg, r)

    def applied(net):
        fade = {"fade": {"alpha": jnp.float32(alpha)}} if net.fades else {}
        return lambda params, x: np.asarray(net.apply({"params": params, **fade}, x))

    return applied(game.generator), applied(game.discriminator)


def state_of(cfg, r, steps=0):
    """A state of the stage that begins at once with r pixels."""
    method = p.stage_method(cfg, r)
    state, step = method.init(KEY, batch_of(cfg)), jax.jit(method.train_step)
    for seed in range(steps):
        state, _ = step(KEY, state, batch_of(cfg, seed=seed))
    return state


@pytest.fixture(scope="module")
def grown():
    """States of both stages of 8 and 16 pixels: the first one trained, the second just grown."""
    cfg = dataclasses.replace(SMALL, start_resolution=8)
    old = state_of(cfg, 8, steps=3)
    first, second = p.stages(cfg)
    return cfg, old, second.start({first.name: old}, second.method.init(KEY, batch_of(cfg)))


# --- growing -------------------------------------------------------------------------------------


def test_at_zero_the_grown_generator_is_the_old_one_upsampled(grown):
    cfg, old, new = grown
    z = jnp.asarray(RNG.normal(size=(5, cfg.latent_dim)), jnp.float32)
    small = networks(cfg, 8, 1)[0](old.params["generator"], z)
    large = networks(cfg, 16, 0)[0](new.params["generator"], z)
    assert small.std() > 0.05 and large.shape == (5, 16, 16, 2)
    np.testing.assert_array_equal(large, up(small))


def test_at_zero_the_grown_discriminator_is_the_old_one_of_pooled_images(grown):
    cfg, old, new = grown
    x = RNG.integers(-8, 9, (5, 16, 16, 2)) / 8  # of which means of four are exact
    small = networks(cfg, 8, 1)[1](old.params["discriminator"], jnp.float32(down(x)))
    large = networks(cfg, 16, 0)[1](new.params["discriminator"], jnp.float32(x))
    assert np.ptp(small) > 1e-3
    np.testing.assert_array_equal(large, small)


def test_at_one_both_are_networks_that_never_grew(grown):
    cfg, _, new = grown
    alone = dataclasses.replace(cfg, start_resolution=16)
    z = jnp.asarray(RNG.normal(size=(5, cfg.latent_dim)), jnp.float32)
    for player, x in zip(("generator", "discriminator"), (z, batch_of(cfg)["image"]), strict=True):
        place = ("generator", "discriminator").index(player)
        old, at_one = (networks(c, 16, 1)[place] for c in (alone, cfg))
        np.testing.assert_allclose(at_one(new.params[player], x), old(new.params[player], x),
                                   rtol=1e-6, atol=1e-6)  # fmt: skip


def test_between_the_generator_mixes_both_images(grown):
    cfg, _, new = grown
    z = jnp.asarray(RNG.normal(size=(5, cfg.latent_dim)), jnp.float32)
    old, quarter, added = (
        networks(cfg, 16, alpha)[0](new.params["generator"], z) for alpha in (0, 0.25, 1)
    )
    np.testing.assert_allclose(quarter, 0.75 * old + 0.25 * added, atol=1e-6)
    assert np.abs(added - old).max() > 0.1


def test_between_the_discriminator_mixes_both_features(grown):
    cfg, _, new = grown
    x, params = batch_of(cfg)["image"], new.params["discriminator"]
    values = [networks(cfg, 16, a)[1](params, x) for a in (0, 0.5, 1)]
    assert np.abs(values[1] - values[0]).min() > 1e-6 < np.abs(values[2] - values[1]).min()


def test_a_grown_stage_keeps_weights_average_and_moments_bit_for_bit(grown):
    _, old, new = grown
    fresh = p.stage_method(grown[0], 16).init(KEY, batch_of(grown[0]))
    for player, layers in old.params.items():
        adam, grown_adam = old.opt_state[player][0], new.opt_state[player][0]
        assert int(grown_adam.count) == int(adam.count) == 3
        for layer, weights in layers.items():
            chex.assert_trees_all_equal(new.params[player][layer], weights)
            chex.assert_trees_all_equal(new.ema[player][layer], old.ema[player][layer])
            chex.assert_trees_all_equal(grown_adam.mu[layer], adam.mu[layer])
            chex.assert_trees_all_equal(grown_adam.nu[layer], adam.nu[layer])
        added = new.params[player].keys() - layers.keys()
        assert added == {"rgb16", "block16_1", "block16_2"}
        for layer in added:
            chex.assert_trees_all_equal(new.params[player][layer], fresh.params[player][layer])
            assert not np.any(grown_adam.nu[layer]["kernel"])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(old.opt_state["generator"][0].nu))
    assert int(new.step) == 0 and float(new.mutables["fade"]["generator"]["alpha"]) == 0
    at = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(old)}
    assert not at & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(new)}


def test_alpha_by_step():
    """A fade is of 25 steps of 4 examples: of 12.5 steps of 8, in the second one of 4 of 25."""
    cfg = dataclasses.replace(SMALL, batch_sizes=(4, 8, 25), fade_steps=25)
    got = [float(p.alpha(cfg, 8, step)) for step in (0, 1, 5, 12, 13, 1000)]
    np.testing.assert_allclose(got, [0, 0.08, 0.4, 0.96, 1, 1], rtol=1e-6)
    assert [float(p.alpha(cfg, 16, jnp.int32(s))) for s in (0, 1, 3, 4, 5)] == [0, 0.25, 0.75, 1, 1]
    for size in (4, 32):  # of all stages: then it does not count
        cfg = dataclasses.replace(SMALL, batch_size=size, fade_steps=25)
        assert float(p.alpha(cfg, 16, 5)) == pytest.approx(0.2)


def test_alpha_of_a_state_is_that_of_its_step():
    """16 examples by 4: a quarter more in each step; samples are of the α that is reached."""
    method = p.stage_method(SMALL, 8)
    state, step = method.init(KEY, batch_of(SMALL)), jax.jit(method.train_step)
    for t in range(5):
        state, metrics = step(KEY, state, batch_of(SMALL))
        assert float(metrics["alpha"]) == t / 4
        reached = {float(v["alpha"]) for v in state.mutables["fade"].values()}
        assert reached == {min(1, (t + 1) / 4)}
    first = jax.jit(p.stage_method(SMALL, 4).train_step)
    state, metrics = first(KEY, state_of(SMALL, 4), batch_of(SMALL))
    assert "alpha" not in metrics and not state.mutables


# --- images --------------------------------------------------------------------------------------


def test_real_images_fade_from_repeated_pixels():
    x = batch_of(SMALL)["image"]
    np.testing.assert_allclose(p.real_images(SMALL, 16, x), x, atol=1e-7)
    for r, x_r in ((8, down(x)), (4, down(x, 4))):
        np.testing.assert_allclose(p.real_images(SMALL, r, x), x_r, atol=1e-6)
    half = p.real_images(SMALL, 8, x, jnp.float32(0.25))
    np.testing.assert_allclose(half, 0.75 * up(down(x, 4)) + 0.25 * down(x), atol=1e-6)


def test_digits_are_padded_to_32_pixels_and_samples_cropped():
    cfg = p.Config(shape=(28, 26, 1))
    x = batch_of(cfg, 2)["image"]
    wanted = np.pad(np.asarray(x), ((0, 0), (2, 2), (3, 3), (0, 0)), mode="edge")
    np.testing.assert_array_equal(p.real_images(cfg, 32, x), wanted)
    assert p.resolutions(cfg) == [4, 8, 16, 32]


def test_samples_are_the_middle_of_what_the_last_stage_draws():
    """Of the first stage, as long as there is no other, with each pixel repeated."""
    cfg = dataclasses.replace(SMALL, shape=(7, 5, 2))  # padded to 8 × 8
    found = {f"pixels{r}": state_of(cfg, r).variables for r in (4, 8)}
    for r, stages in ((8, found), (4, {"pixels4": found["pixels4"]})):
        whole = games.sample(p.game(cfg, r), found[f"pixels{r}"], KEY, 3)
        got = p.sample(cfg, stages, KEY, 3)
        np.testing.assert_array_equal(got, np.clip(up(whole, 8 // r), -1, 1)[:, :7, 1:6])
    assert np.abs(np.asarray(whole)).max() > 1  # which is clipped


# --- the game ------------------------------------------------------------------------------------


def test_the_losses_by_hand():
    real, fake = np.array([1.0, -3.0, 2.5]), np.array([0.5, 4.0, -1.0])
    made = p.losses(0.1)
    wanted = fake.mean() - real.mean() + 0.1 * (1 + 9 + 6.25) / 3
    assert float(made.discriminator(jnp.asarray(real), jnp.asarray(fake))) == pytest.approx(wanted)
    assert float(made.generator(jnp.asarray(fake))) == pytest.approx(-3.5 / 3)


@pytest.mark.parametrize("step", [0, 2])
def test_the_drift_is_of_real_images_at_the_alpha_of_the_step(step):
    """Only the drift term differs between two weights: (2 - 0) E D(x)², x half faded at step 2."""
    state = state_of(SMALL, 8).replace(step=jnp.int32(step))
    batch, values = batch_of(SMALL), []
    for drift in (0.0, 2.0):
        method = p.stage_method(dataclasses.replace(SMALL, drift=drift), 8)
        values.append(jax.jit(method.train_step)(KEY, state, batch)[1]["discriminator_loss"])
    x = down(batch["image"])
    x = (1 - step / 4) * up(down(x)) + step / 4 * x
    logits = networks(SMALL, 8, step / 4)[1](state.params["discriminator"], jnp.float32(x))
    assert float(values[1] - values[0]) == pytest.approx(2 * np.mean(logits**2), rel=1e-3)


def test_the_penalty_is_in_the_loss():
    state, values = state_of(SMALL, 4), []
    for weight in (0.0, 10.0):
        method = p.stage_method(dataclasses.replace(SMALL, gradient_penalty=weight), 4)
        values.append(jax.jit(method.train_step)(KEY, state, batch_of(SMALL))[1])
    more = float(values[1]["discriminator_loss"] - values[0]["discriminator_loss"])
    assert float(values[1]["gradient_penalty"]) == pytest.approx(more, rel=1e-4)
    assert more > 1e-3


def test_the_discriminator_compares_the_rows():
    params, x = state_of(SMALL, 4).params["discriminator"], batch_of(SMALL)["image"]
    x = p.real_images(SMALL, 4, x)
    D = networks(SMALL, 4, 1)[1]
    alike = D(params, jnp.concatenate([x[:1]] * 4))
    assert abs(alike[0] - D(params, x)[0]) > 1e-4


def test_latents_are_normalised():
    """With biases: without them, the scale of z is lost in the next normalisation anyway."""
    params, g = state_of(SMALL, 8).params["generator"], networks(SMALL, 8, 1)[0]
    params = {**params, "first": {**params["first"], "bias": 1 + params["first"]["bias"]}}
    z = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    np.testing.assert_allclose(g(params, 7 * z), g(params, z), rtol=1e-4, atol=1e-5)


def test_every_pixel_of_the_generator_is_normalised():
    """Scaling a layer by 3 changes nothing after it: biases are 0 at first."""
    params, g = state_of(SMALL, 8).params["generator"], networks(SMALL, 8, 1)[0]
    z = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    for layer in ("first", "block4", "block8_1", "block8_2"):
        scaled = {**params, layer: {**params[layer], "kernel": 3 * params[layer]["kernel"]}}
        np.testing.assert_allclose(g(scaled, z), g(params, z), rtol=1e-4, atol=1e-5)


# --- the paper -----------------------------------------------------------------------------------

# Table 2: channels of the convolutions at each resolution, those of the generator.
TABLE_2 = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}


def shapes_of_table_2():
    """The kernels of both networks, in the order of the table."""
    generator, discriminator = [(512, 16 * 512), (3, 3, 512, 512)], [(16, 3)[::-1]]
    for r, c in list(TABLE_2.items())[1:]:
        generator += [(3, 3, TABLE_2[r // 2], c), (3, 3, c, c)]
    for r, c in list(TABLE_2.items())[:0:-1]:
        discriminator += [(3, 3, c, c), (3, 3, c, TABLE_2[r // 2])]
    last = [(3, 3, 513, 512), (16 * 512, 512), (512, 1)]
    return [*generator, (16, 3)], [*discriminator, *last]


def test_the_networks_of_1024_pixels_are_those_of_table_2():
    """23.1 million parameters each: kernels, and a bias of each output (of each channel at 4×4)."""
    cfg = p.Config.paper()
    assert p.resolutions(cfg) == list(TABLE_2)
    assert [stage.batch_size for stage in p.stages(cfg)] == [16] * 6 + [14, 6, 3]
    cfg = dataclasses.replace(cfg, start_resolution=1024)  # without the layers of a fade
    game, found = p.game(cfg, 1024), []
    for net, x in ((game.generator, (3, 512)), (game.discriminator, (3, 1024, 1024, 3))):
        out, variables = jax.eval_shape(net.init_with_output, KEY, jnp.zeros(x))
        found.append((out.shape, variables["params"]))
    assert [shape for shape, _ in found] == [(3, 1024, 1024, 3), (3,)]
    for (_, params), wanted in zip(found, shapes_of_table_2(), strict=True):
        shapes = sorted(layer["kernel"].shape for layer in params.values())
        assert shapes == sorted(wanted)
        biases = sum(shape[-1] for shape in wanted)
        assert count(params) == sum(int(np.prod(shape)) for shape in wanted) + biases
        assert round(count(params) / 1e6, 1) == 23.1
    assert (count(found[0][1]), count(found[1][1])) == (23_079_187, 23_077_137)


@pytest.mark.slow  # a minute, and 2 GB
def test_a_step_at_1024_pixels_with_few_channels():
    cfg = dataclasses.replace(
        p.Config.paper(), channels=(2,) * 9, latent_dim=8, batch_size=3, batch_sizes=(),
        fade_steps=2,
    )  # fmt: skip
    method = p.stages(cfg)[-1].method
    batch = batch_of(cfg, 3)
    state = method.init(KEY, batch).replace(step=jnp.int32(1))  # α = ½
    before = jax.device_get(state.params)
    state, metrics = jax.jit(method.train_step)(KEY, state, batch)
    chex.assert_tree_all_finite((state.params, metrics))
    for player, layer in (("generator", "block1024_2"), ("discriminator", "block1024_1")):
        assert np.any(state.params[player][layer]["kernel"] != before[player][layer]["kernel"])
    assert p.sample(cfg, {"pixels1024": state.variables}, KEY, 1).shape == (1, 1024, 1024, 3)


# --- Configs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"channels": (16, 32, 64)}, r"28×28 pixels need 4 positive numbers, for \[32, 16, 8, 4\]"),
        ({"start_resolution": 28}, r"must be one of \[4, 8, 16, 32\]"),
        ({"batch_sizes": (4, 4)}, "batch_sizes = .* 4 positive numbers"),
        ({"learning_rates": (1.0, 1.0, 0.0, 1.0)}, "learning_rates = .* 4 positive numbers"),
        ({"shape": (28,)}, r"must be \(H, W, C\)"),
        ({"fade_steps": 0}, "fade_steps = 0; it must be positive"),
        ({"drift": -1.0}, "drift = -1.0; it must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        p.Config(**changes)


def test_the_default_fades_in_the_first_half_of_a_stage():
    """500 steps of 4 stages: 100 each and 200 of the last, 50 of them of a fade."""
    cfg = p.Config.for_task(Task((28, 28, 1), steps=500))
    got = [float(p.alpha(cfg, 32, step)) for step in (0, 25, 49, 50)]
    assert got == pytest.approx([0, 0.5, 0.98, 1])


def test_stages_see_as_many_examples_each_at_their_own_rates():
    cfg = dataclasses.replace(
        SMALL, batch_sizes=(8, 4, 2), learning_rates=(0.5, 0.25, 0.125), last_share=3.0
    )
    stages = p.stages(cfg)
    examples = [stage.share * (stage.batch_size or 0) for stage in stages]
    assert np.array(examples) / examples[0] == pytest.approx([1, 1, 3])
    assert [stage.replaces for stage in stages] == [False, True, True]
    for stage, rate in zip(stages, cfg.learning_rates, strict=True):
        batch = batch_of(cfg, stage.batch_size)
        state = stage.method.init(KEY, batch)
        moved = jax.jit(stage.method.train_step)(KEY, state, batch)[0].params["discriminator"]
        change = moved["last"]["kernel"] - state.params["discriminator"]["last"]["kernel"]
        # Adam's first step is rate · sign of the gradient, but for what is within ε of 0.
        assert np.abs(change).max() == pytest.approx(rate, rel=1e-3)
