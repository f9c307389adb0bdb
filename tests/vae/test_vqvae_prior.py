"""VQ-VAE's second stage: a distribution over codes, whose draws are decoded."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoregressive import heads, pixelcnn
from gengen.data import Dataset
from gengen.types import InputError
from gengen.vae import vqvae, vqvae_prior

KEY = jax.random.key(0)
CFG = vqvae_prior.Config(
    shape=(4, 4, 1),
    channels=(4,),
    codebook_size=3,
    code_dim=2,
    hidden_channels=4,
    num_layers=1,
    first_kernel_size=3,
    head_channels=4,
    batch_size=8,
)


CODEC = vqvae_prior.codec(CFG)


def _data(num=40):
    image = np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)
    return Dataset("noise", {"image": image, "label": (np.arange(num) % 4).astype(np.int32)})


def _trained(cfg=CFG):
    """Both stages at their start, the prior away from it; and the prior's data."""
    codec, prior = vqvae_prior.stages(cfg)
    x = np.random.default_rng(1).uniform(-1, 1, (8, 4, 4, 1)).astype(np.float32)
    before = {"codec": codec.method.init(KEY, {"image": x})}
    codes = prior.data(before, _data())
    assert isinstance(codes, Dataset)
    start = prior.method.init(KEY, codes.arrays).variables
    variables = {
        "codec": before["codec"].variables,
        "prior": jax.tree.map(lambda w: 3 * w, start),
    }
    return variables, codes


def test_the_prior_learns_the_codes_of_the_images():
    variables, codes = _trained()
    k = vqvae.codes(CODEC, variables["codec"], jnp.asarray(_data().arrays["image"]) / 127.5 - 1)
    assert codes.arrays["x"].shape == (40, 2, 2, 1)
    got = heads.level(jnp.asarray(codes.arrays["x"]).reshape(40, 2, 2), 3)
    np.testing.assert_array_equal(got, k)
    np.testing.assert_array_equal(codes.arrays["label"], np.arange(40) % 4)


def test_all_maps_of_codes_have_probability_one():
    variables, _ = _trained()
    every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    p = np.exp(np.float64(vqvae_prior.log_prior(CFG, variables, jnp.asarray(every))))
    np.testing.assert_allclose(p.sum(), 1, atol=1e-5)
    assert p.std() > 1e-3


def test_with_a_uniform_prior_the_bound_is_the_codecs():
    variables, _ = _trained()
    variables["prior"] = jax.tree.map(jnp.zeros_like, variables["prior"])
    x = np.random.default_rng(2).uniform(-1, 1, (5, 4, 4, 1)).astype(np.float32)
    got = vqvae_prior.elbo(CFG, variables, x, KEY)
    np.testing.assert_allclose(got, vqvae.elbo(CODEC, variables["codec"], x, KEY), rtol=1e-5)


def test_samples_are_decoded_draws_of_the_prior():
    variables, _ = _trained()
    drawn = pixelcnn.sample(vqvae_prior.prior(CFG), variables["prior"], KEY, 6)
    k = np.rint((np.asarray(drawn[..., 0]) + 1) * (3 - 1) / 2).astype(int)
    want = vqvae.decode_codes(CODEC, variables["codec"], k)
    np.testing.assert_array_equal(vqvae_prior.sample(CFG, variables, KEY, 6), want)
    assert len(np.unique(k)) == 3


def test_it_is_of_images():
    with pytest.raises(InputError, match="Config.shape"):
        vqvae_prior.Config(shape=(4,), channels=())
