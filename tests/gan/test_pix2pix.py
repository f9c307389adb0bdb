"""Pix2pix: losses by NumPy's sums, the patch of PatchGAN, the paper's sizes, and who moves."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.gan import networks, pix2pix, translators
from gengen.types import InputError
from tests.cases import images

CFG = pix2pix.Config(
    shape=(8, 8, 1), target_shape=(8, 8, 3), channels=(4, 6), discriminator_channels=(4, 5),
    dropout=0.0, batch_size=4, l1_weight=7.0, adversarial_weight=2.0,
)  # fmt: skip
BATCH = jax.tree.map(jnp.asarray, dict(images(CFG, 4)))
KEY = jax.random.key(3)


def start(cfg=CFG):
    """Parameters of a size at which each term counts; those of the paper are tiny at first."""
    state = pix2pix.method(cfg, optax.sgd(0.0)).init(jax.random.key(0), BATCH)
    return state.replace(params=jax.tree.map(lambda leaf: 8 * leaf, state.params))


def softplus(x):
    return np.log1p(np.exp(np.asarray(x, np.float64)))


def test_losses_by_numpys_sums():
    state, x, y = start(), BATCH["image"], BATCH["target"]
    _, found = pix2pix.method(CFG, optax.sgd(0.0)).train_step(KEY, state, BATCH)
    G, D = pix2pix.networks_of(CFG)
    fake = np.asarray(G.apply({"params": state.params["generator"]}, x))

    def judged(x, y):
        pair = jnp.concatenate([x, jnp.asarray(y)], axis=3)
        return np.asarray(D.apply({"params": state.params["discriminator"]}, pair), np.float64)

    on_real, on_fake = judged(x, y), judged(x, fake)
    assert np.abs(on_real - on_fake).max() > 0.01
    want = 0.5 * softplus(-on_real).sum() / on_real.size + 0.5 * softplus(on_fake).mean()
    l1 = np.abs(np.asarray(y, np.float64) - fake).sum() / y.size
    np.testing.assert_allclose(found["discriminator_loss"], want, rtol=1e-5)
    np.testing.assert_allclose(found["l1_loss"], l1, rtol=1e-5)
    np.testing.assert_allclose(
        found["generator_loss"], 2.0 * softplus(-on_fake).mean() + 7.0 * l1, rtol=1e-5
    )
    # D judges the pair: another image with the same target has other logits.
    assert np.abs(judged(x[::-1], y) - on_real).max() > 0.01


@pytest.mark.parametrize("moving", ["generator", "discriminator"])
def test_a_move_leaves_the_other_bit_for_bit(moving, monkeypatch):
    rates = {"discriminator": 0.0, "generator": 0.0, moving: 0.1}
    monkeypatch.setattr(networks, "adam", lambda cfg: [optax.sgd(r) for r in rates.values()])
    state = start()
    after, _ = pix2pix.method(CFG).train_step(KEY, state, BATCH)
    for player in rates:
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()), *(s.params[player] for s in (state, after))
        )
        assert all(jax.tree.leaves(same)) == (player != moving), player


def test_without_the_game_it_is_regression():
    cfg = dataclasses.replace(CFG, adversarial_weight=0.0)
    _, found = pix2pix.method(cfg, optax.sgd(0.0)).train_step(KEY, start(cfg), BATCH)
    np.testing.assert_allclose(found["generator_loss"], 7 * found["l1_loss"], rtol=1e-6)


def test_dropout_is_the_noise_of_training_and_of_translation():
    cfg = dataclasses.replace(CFG, dropout=0.5)
    state, x = start(cfg), BATCH["image"]
    one, same, other = (
        pix2pix.translate(cfg, state.variables, x, jax.random.key(k)) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    method = pix2pix.method(cfg, optax.sgd(0.0))
    first, second = (method.train_step(jax.random.key(k), state, BATCH)[1] for k in (1, 2))
    assert first["l1_loss"] != second["l1_loss"]
    x = jnp.ones((50, 40))
    dropped = np.asarray(translators.drop(x, 0.25, KEY))
    assert {*np.unique(dropped)} == {np.float32(0), np.float32(4 / 3)}
    assert abs((dropped == 0).mean() - 0.25) < 0.04  # three standard deviations of 2000 trials


def test_a_translation_is_of_its_source():
    state, x = start(), BATCH["image"]
    made = np.asarray(pix2pix.translate(CFG, state.variables, x, KEY))
    assert made.shape == (4, 8, 8, 3) and np.abs(made).max() <= 1
    turned = pix2pix.translate(CFG, state.variables, x[::-1], KEY)
    np.testing.assert_allclose(turned[::-1], made, atol=1e-5)
    assert np.abs(made[0] - made[1]).max() > 1e-3
    with pytest.raises(InputError, match=r"\[B, 8, 8, 1\]"):
        pix2pix.translate(CFG, state.variables, np.zeros((1, 4, 4, 1)), KEY)


def test_skips_reach_the_way_up():
    """Without its skips a U-Net sees the image only through the bottleneck."""
    assert CFG.skip
    shapes = {}
    for skip in (True, False):
        G = pix2pix.networks_of(dataclasses.replace(CFG, skip=skip))[0]
        params = jax.eval_shape(G.init, KEY, BATCH["image"])["params"]
        shapes[skip] = params["ConvTranspose_1"]["kernel"].shape
    assert shapes == {True: (4, 4, 8, 3), False: (4, 4, 4, 3)}


def test_the_patch_of_the_paper_is_70_pixels(monkeypatch):
    """From the layers by hand, and by the gradient of one logit, without the norms' means."""
    assert translators.receptive_field(pix2pix.Config.paper().discriminator_channels) == 70
    by_hand = 1
    for kernel, stride in ((4, 1), (4, 1), (4, 2), (4, 2), (4, 2)):  # from the last layer
        by_hand = (by_hand - 1) * stride + kernel
    assert by_hand == 70
    monkeypatch.setattr(translators.InstanceNorm, "__call__", lambda self, x: x)
    D = translators.PatchGAN((2, 2, 2, 2))
    x = jax.random.normal(KEY, (1, 160, 160, 1))
    variables = D.init(jax.random.key(1), x)
    logits, pull = jax.vjp(lambda x: jnp.asarray(D.apply(variables, x)), x)
    middle = jnp.zeros_like(logits).at[0, 9, 9].set(1.0)
    touched = np.argwhere(np.asarray(pull(middle)[0])[0, :, :, 0] != 0)
    assert (touched.max(0) - touched.min(0) + 1).tolist() == [70, 70]


def count(net: nn.Module, *inputs) -> int:
    shapes = jax.eval_shape(net.init, KEY, *inputs)["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def test_the_papers_networks():
    """54.414M and 2.769M parameters, as the authors' code counts."""
    cfg = pix2pix.Config.paper()
    G, D = pix2pix.networks_of(cfg)
    x, pair = jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 256, 256, 6))
    assert count(G, x) == 54_413_955
    assert count(D, pair) == 2_768_705
    logits = jax.eval_shape(lambda: D.init_with_output(KEY, pair)[0])
    assert logits.shape == (1, 30, 30)
    assert (cfg.l1_weight, cfg.learning_rate, cfg.b1, cfg.batch_size) == (100.0, 2e-4, 0.5, 1)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(target_shape=(4, 4, 1)), "one size"),
        (dict(channels=(4, 4, 4, 4)), "multiples of 16"),
        (dict(dropout=1.0), "dropout"),
        (dict(l1_weight=-1.0), "l1_weight"),
    ],
)
def test_an_impossible_config_is_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(CFG, **change)


def test_data_without_targets_are_refused():
    with pytest.raises(InputError, match="pairs:A,B"):
        pix2pix.method(CFG).init(KEY, {"image": BATCH["image"]})
    with pytest.raises(InputError, match="target_shape"):
        pix2pix.method(CFG).init(KEY, {**BATCH, "target": BATCH["target"][..., :1]})
