"""Latent diffusion: the prior sees its condition, and the codec's latents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task
from gengen.data import Dataset, to_batch
from gengen.diffusion import conditional, ddpm, latent
from gengen.stages import resident
from gengen.types import InputError, data_of
from gengen.vae import vae
from tests.diffusion.test_conditional import Own, Told
from tests.diffusion.test_ddpm import traced

LATENT = latent.Config(shape=(8, 8, 1), latent_shape=(2, 2, 2), codec_channels=(4, 4),
                       channels=(8,), num_blocks=(1,), num_groups=4, T=20,
                       batch_size=8)  # fmt: skip


def test_with_the_identity_for_a_codec_it_is_ddpm(monkeypatch):
    """Latents are images then; s divides before, and multiplies after."""
    cfg = dataclasses.replace(LATENT, latent_shape=(8, 8, 1), prediction="v")
    for name in ("encode", "decode"):
        monkeypatch.setattr(vae, name, lambda cfg, variables, x, key=None: jnp.asarray(x))
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 8, 8, 1)).astype(np.float32)
    method, key = latent.prior_method(cfg), jax.random.key(1)
    plain = ddpm.Config(shape=(8, 8, 1), patch=1, channels=(8,), num_blocks=(1,), num_groups=4,
                        T=20, prediction="v", clip_denoised=False)  # fmt: skip
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
    expected = np.asarray(jax.jit(lambda key: ddpm.sample_from(plain, eps_fn, key, 4))(key)) * s
    np.testing.assert_allclose(drawn, np.clip(expected, -1, 1), atol=1e-5)
    assert np.mean(np.abs(expected) < 1) > 0.1


def test_the_prior_is_conditioned_on_the_small_image_of_its_latent():
    cfg = dataclasses.replace(LATENT, condition_image="small", factor=4)
    codec, prior = latent.stages(cfg)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    data = Dataset("noise", {"image": images})
    x = images / np.float32(127.5) - 1
    before = {"codec": codec.method.init(jax.random.key(0), {"image": x[:8]})}
    own = resident(prior.data(before, data))
    batch = to_batch(own.arrays, np.arange(8))
    np.testing.assert_allclose(batch["target"], conditional.measure(cfg, x[:8]), atol=1.01 / 255)
    code = vae.encode(latent.codec(cfg), before["codec"].variables, x[:8])
    np.testing.assert_allclose(data_of(batch), code, atol=1e-5)  # of the same image
    state = prior.method.init(jax.random.key(0), batch)
    variables = {"codec": before["codec"].variables, "prior": state.variables}
    given = conditional.measure(cfg, x[:3])
    drawn = latent.sample(cfg, variables, jax.random.key(0), 3, condition=given)
    np.testing.assert_allclose(conditional.measure(cfg, drawn), given, atol=1 / 255)
    with pytest.raises(InputError, match="conditioned on a small image"):
        latent.sample(cfg, variables, jax.random.key(0), 3)


def test_the_prior_is_trained_with_the_small_image_of_each_latent():
    cfg = dataclasses.replace(
        LATENT, condition_image="small", factor=4, prediction="x0", times_per_example=2
    )
    draw = np.random.default_rng(0)
    h = draw.normal(size=(6, *latent.map_shape(cfg))).astype(np.float32)
    target = draw.uniform(-1, 1, (6, *h.shape[1:3], cfg.shape[2])).astype(np.float32)
    method = latent.prior_method(cfg, net=Told(by_class=False))
    batch = {"x": h, "target": target}
    state = method.init(jax.random.key(0), batch)
    loss = jax.jit(method.train_step)(jax.random.key(1), state, batch)[1]["loss"]
    assert float(loss) == pytest.approx(np.mean((target - h / h.std()) ** 2), rel=1e-5)


def test_samples_depend_on_the_class_and_on_the_small_image():
    cfg = dataclasses.replace(
        LATENT, num_classes=3, condition_image="small", factor=4, consistent=False
    )
    batch = {"x": jnp.ones((4, 2, 2, 2)), "target": jnp.ones((4, 2, 2, 1)),
             "label": jnp.arange(4) % 3}  # fmt: skip
    prior = latent.prior_method(cfg, net=Own()).init(jax.random.key(0), batch).variables
    prior = {**prior, "latent": {"std": jnp.float32(1)}}
    images = {"image": jnp.zeros((2, 8, 8, 1))}
    codec = latent.stages(cfg)[0].method.init(jax.random.key(2), images).variables
    variables = {"codec": codec, "prior": prior}
    given = {"label": jnp.arange(4) % 3, "image": jnp.zeros((4, 2, 2, 1))}

    def drawn(**changes):
        own = {"condition": {**given, **changes}, "net": Own()}
        return np.asarray(latent.sample(cfg, variables, jax.random.key(3), 4, **own))

    first = drawn()
    np.testing.assert_array_equal(drawn(), first)
    assert np.abs(drawn(label=(given["label"] + 1) % 3) - first).max() > 1e-4
    assert np.abs(drawn(image=given["image"] + 0.9) - first).max() > 1e-4


def test_a_small_image_of_another_size_than_the_latent_map_is_refused():
    with pytest.raises(ValueError, match="size of the latent map"):
        dataclasses.replace(LATENT, condition_image="small", factor=2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8, 1), (4, 4, 2)), ((16, 16, 3), (4, 4, 8)), ((28, 28, 1), (4, 4, 8)),
     ((7, 5, 3), (4, 3, 4)), ((64, 64, 3), (8, 8, 8))],
)  # fmt: skip
def test_the_default_latent_map_suits_the_image(shape, expected):
    cfg = latent.Config.for_task(Task(shape, 10))
    assert latent.map_shape(cfg) == expected
    codec, prior = latent.stages(cfg)
    traced(codec.method, Task(shape))
    traced(prior.method, Task(expected), "x")
    assert latent.evaluations(latent.with_evaluations(cfg, 20)) == 20


def test_latents_of_vectors_are_refused():
    with pytest.raises(InputError, match="images"):
        latent.Config.for_task(Task((2,)))


def test_the_prior_may_have_a_network_of_ones_own():
    _, prior = latent.stages(LATENT, net=Own())
    batch = {"x": np.random.default_rng(0).normal(size=(8, 2, 2, 2)).astype(np.float32)}
    state = prior.method.init(jax.random.key(0), batch)
    state, _ = jax.jit(prior.method.train_step)(jax.random.key(1), state, batch)
    codec = latent.stages(LATENT)[0].method.init(
        jax.random.key(2), {"image": jnp.zeros((2, 8, 8, 1))}
    )
    variables = {"codec": codec.variables, "prior": state.variables}
    x = latent.sample(LATENT, variables, jax.random.key(3), 2, net=Own())
    assert x.shape == (2, 8, 8, 1) and np.all(np.isfinite(x))
