"""What a conditional diffusion is told, and what its draws have to do with it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.data import Dataset, to_batch
from gengen.diffusion import conditional, ddpm, latent
from gengen.stages import resident
from gengen.types import data_of
from gengen.vae import vae
from tests.training import often

TINY: dict = dict(shape=(8, 8, 3), patch=2, channels=(8,), blocks=(1,), T=20, groups=4)
CLASSES = conditional.Config(shape=(2,), classes=3, T=100, width=64, schedule="cosine",
                             learning_rate=2e-3, ema_decay=0.99, drop=0.2)  # fmt: skip
MEANS = np.array([[-1.5, 0.0], [1.0, 1.0], [1.0, -1.0]])
GREY = conditional.Config(**TINY, classes=0, seen="grey")


def of_classes(num, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=num).astype(np.int32)
    x = MEANS[y] + 0.2 * rng.normal(size=(num, 2))
    return {"x": x.astype(np.float32), "label": y}


def variables_of(cfg, num=2):
    batch = {"image": np.zeros((num, *cfg.shape), np.float32), "label": np.zeros(num, np.int32)}
    return conditional.method(cfg).init(jax.random.key(0), batch).variables


@pytest.fixture(scope="module")
def trained():
    method = conditional.method(CLASSES)
    step = often(method.train_step)
    state = method.init(jax.random.key(0), of_classes(256, 0))
    for i in range(1500):
        state, _ = step(jax.random.key(1), state, of_classes(256, i))
    return state.variables


def test_each_class_is_drawn_where_it_lies(trained):
    y = np.repeat(np.arange(3, dtype=np.int32), 500)
    x = np.asarray(conditional.sample(CLASSES, trained, jax.random.key(2), 1500, y))
    for k in range(3):
        own = x[y == k]
        np.testing.assert_allclose(own.mean(0), MEANS[k], atol=0.1)
        np.testing.assert_allclose(own.std(0), 0.2, atol=0.1)
    nearest = np.argmin(((x[:, None] - MEANS) ** 2).sum(-1), 1)
    assert np.mean(nearest == y) > 0.98


def test_told_nothing_it_draws_all_classes(trained):
    """Which is what `drop` is for; zeros are how nothing is told."""
    eps_fn = conditional.denoiser(CLASSES, trained, jnp.zeros((1500, 3)))
    x = np.asarray(jax.jit(lambda key: ddpm.draw(CLASSES, eps_fn, key, 1500))(jax.random.key(3)))
    nearest = np.argmin(((x[:, None] - MEANS) ** 2).sum(-1), 1)
    assert np.bincount(nearest, minlength=3).min() > 1500 / 3 * 0.7


def test_guidance_is_of_what_the_network_knows_with_and_without_the_class(trained):
    z = jnp.asarray(of_classes(6, 1)["x"])
    t, y = jnp.full(6, 40), jax.nn.one_hot(jnp.arange(6) % 3, 3)
    told, untold = (conditional.denoiser(CLASSES, trained, v)(z, t) for v in (y, jnp.zeros_like(y)))
    strong = dataclasses.replace(CLASSES, guidance=2.0)
    guided = conditional.denoiser(strong, trained, y)(z, t)
    np.testing.assert_allclose(guided, 3 * told - 2 * untold, atol=1e-5)
    assert np.abs(told - untold).max() > 0.1


def test_a_network_that_is_told_nothing_is_ddpm():
    """The same parameters: the same loss, gradient and samples, bit for bit."""
    plain = ddpm.Config(**TINY, ema_decay=0.9)
    cfg = conditional.Config(**TINY, ema_decay=0.9, classes=0)
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)}
    key, state = jax.random.key(0), ddpm.method(plain).init(jax.random.key(1), batch)
    ours = conditional.method(cfg).init(jax.random.key(1), batch)
    ours = ours.replace(params={"UNet_0": state.params}, ema={"UNet_0": state.ema})
    state, metrics = jax.jit(ddpm.method(plain).train_step)(key, state, batch)
    ours, found = jax.jit(conditional.method(cfg).train_step)(key, ours, batch)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-6)
    one, two = state.params["Conv_0"]["kernel"], ours.params["UNet_0"]["Conv_0"]["kernel"]
    np.testing.assert_allclose(one, two, atol=1e-6)
    x = ddpm.sample(plain, {"params": state.params}, key, 3)
    y = conditional.sample(cfg, {"params": {"UNet_0": state.params}}, key, 3)
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_colours_recombine_to_the_grey_image_that_was_given_and_differ():
    """Even of a network that has learnt nothing."""
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 8, 8, 3)).astype(np.float32)
    given, variables = conditional.see(GREY, x), variables_of(GREY)
    draws = [
        np.asarray(conditional.sample(GREY, variables, jax.random.key(k), 4, given=given))
        for k in range(2)
    ]
    assert np.abs(draws[0]).max() <= 1 and np.abs(draws[0] - draws[1]).max() > 0.1
    for drawn in draws:  # half a level of 8 bits is 1/255
        np.testing.assert_allclose(conditional.see(GREY, drawn), given, atol=1 / 255)


def test_a_small_image_explains_itself():
    cfg = conditional.Config(**TINY, classes=0, seen="small", factor=4)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    given = conditional.see(cfg, x)
    assert given.shape == (2, 2, 2, 3)
    drawn = conditional.sample(cfg, variables_of(cfg), jax.random.key(0), 2, given=given)
    np.testing.assert_allclose(conditional.see(cfg, drawn), given, atol=1 / 255)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(classes=-1), "Config.classes"),
        (dict(drop=1.0), "Config.drop"),
        (dict(guidance=1.0, drop=0.0), "Config.guidance"),
        (dict(guidance=1.0, classes=0, seen="grey"), "Config.guidance"),
        (dict(seen="sepia"), "one of grey, small"),
        (dict(seen="small", factor=3), "factor = 3"),
        (dict(seen="grey", shape=(8, 8, 1)), "no colours"),
    ],
)
def test_impossible_configs_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        conditional.Config(**{**TINY, **settings})


def test_what_is_not_given_is_asked_for():
    variables, key, zeros = (
        variables_of(GREY),
        jax.random.key(0),
        partial(np.zeros, dtype="float32"),
    )
    with pytest.raises(ValueError, match="given has shape"):
        conditional.sample(GREY, variables, key, 2, given=zeros((2, 8, 8, 3)))
    nothing, grey = (
        conditional.sample(GREY, variables, key, 2, given=given)
        for given in (None, zeros((2, 8, 8, 1)))
    )
    np.testing.assert_allclose(conditional.see(GREY, grey), 0, atol=1 / 255)
    assert nothing.shape == grey.shape
    with pytest.raises(ValueError, match="sees no image"):
        conditional.sample(conditional.Config(**TINY), variables, key, 2, given=zeros((2, 8)))
    with pytest.raises(ValueError, match="Config.classes"):
        conditional.sample(GREY, variables, key, 2, np.arange(2), zeros((2, 8, 8, 1)))
    with pytest.raises(ValueError, match='no "label"'):
        conditional.method(conditional.Config(**TINY)).init(key, {"image": zeros((1, 8, 8, 3))})


# --- latent diffusion ----------------------------------------------------------------------------

LATENT = latent.Config(shape=(8, 8, 1), code=(2, 2, 2), codec_channels=(4, 4), channels=(8,),
                       blocks=(1,), groups=4, T=20, batch_size=8)  # fmt: skip


def test_with_the_identity_for_a_codec_it_is_ddpm(monkeypatch):
    """Codes are images then; s divides before, and multiplies after."""
    cfg = dataclasses.replace(LATENT, code=(8, 8, 1), prediction="v")
    for name in ("encode", "decode"):
        monkeypatch.setattr(vae, name, lambda cfg, variables, x, key=None: jnp.asarray(x))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 8, 8, 1)).astype(np.float32)
    method, key = latent.of_prior(cfg), jax.random.key(1)
    plain = ddpm.Config(shape=(8, 8, 1), patch=1, channels=(8,), blocks=(1,), groups=4, T=20,
                        prediction="v", clip=False)  # fmt: skip
    ours = method.init(key, {"x": x})
    s = ours.mutables["latent"]["std"]
    assert s == pytest.approx(x.std(), rel=1e-5)
    state = ddpm.method(plain).init(key, {"image": x})
    state = state.replace(params=ours.params["UNet_0"])
    _, found = jax.jit(method.train_step)(key, ours, {"x": x})
    _, expected = jax.jit(ddpm.method(plain).train_step)(key, state, {"image": x / s})
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)

    variables = {"codec": {}, "prior": {"params": ours.params, **ours.mutables}}
    drawn = latent.sample(cfg, variables, key, 4)
    eps_fn = ddpm.denoiser(plain, {"params": ours.params["UNet_0"]})
    expected = np.asarray(jax.jit(lambda key: ddpm.draw(plain, eps_fn, key, 4))(key)) * s
    np.testing.assert_allclose(drawn, np.clip(expected, -1, 1), atol=1e-5)
    assert np.mean(np.abs(expected) < 1) > 0.1


def test_a_small_image_stands_beside_its_codes():
    cfg = dataclasses.replace(LATENT, seen="small", factor=4)
    codec, prior = latent.stages(cfg)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    data = Dataset("noise", {"image": images})
    x = images / np.float32(127.5) - 1
    before = {"codec": codec.method.init(jax.random.key(0), {"image": x[:8]})}
    own = resident(prior.data(before, data))
    batch = to_batch(own.arrays, np.arange(8))
    np.testing.assert_allclose(batch["target"], conditional.see(cfg, x[:8]), atol=1.01 / 255)
    assert data_of(batch).shape == (8, 2, 2, 2)
    state = prior.method.init(jax.random.key(0), batch)
    variables = {"codec": before["codec"].variables, "prior": state.variables}
    given = conditional.see(cfg, x[:3])
    drawn = latent.sample(cfg, variables, jax.random.key(0), 3, given=given)
    np.testing.assert_allclose(conditional.see(cfg, drawn), given, atol=1 / 255)
    assert latent.sample(cfg, variables, jax.random.key(0), 3).shape == (3, 8, 8, 1)


def test_a_small_image_of_another_size_than_the_codes_is_refused():
    with pytest.raises(ValueError, match="not as large as the map"):
        dataclasses.replace(LATENT, seen="small", factor=2)
