"""One small case of every model that trains in a loop: all go through test_conformance.

A new model adds a line here; `test_every_model_has_a_case` fails for one that has none. A stage of
a model that is trained in several may have one, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gengen import rng
from gengen.autoencoder import adversarial, autoencoder, denoising
from gengen.autoregressive import fvsbn, made, nade, pixelcnn, pixelrnn
from gengen.diffusion import conditional, ddpm, edm, score_sde
from gengen.flow import flow_gan, realnvp
from gengen.flow_matching import flow_matching
from gengen.gan import (
    ali,
    cgan,
    cyclegan,
    dcgan,
    gan,
    icgan,
    lsgan,
    minibatch,
    pix2pix,
    progressive,
    regularization,
    replay,
    resnet_gan,
    tempered,
    vae_gan,
    wgan,
    wgan_gp,
)
from gengen.representation import siamese
from gengen.types import Batch, Method
from gengen.vae import cvae, hvi, vae, vqvae

Sampler = Callable[[Any, Any, jax.Array, int], jax.Array]


class Case(NamedTuple):
    """A model at a size that compiles in seconds."""

    model: str
    cfg: Any
    method: Callable[[Any], Method]
    sample: Sampler | None = None


def images(cfg: Any, num: int, seed: int = 0) -> Batch:
    """Smooth random images in [-1, 1]: [num, *cfg.shape]."""
    x = np.random.default_rng(seed).normal(size=(num, *cfg.shape)).cumsum(1).cumsum(2)
    x = x / np.abs(x).max()
    found = {"image": x.astype(np.float32), "label": (np.arange(num) % 10).astype(np.int32)}
    for name in ("target", "other"):
        if hasattr(cfg, f"{name}_shape"):
            shape = getattr(cfg, f"{name}_shape")
            y = np.random.default_rng([seed, 1]).normal(size=(num, *shape)).cumsum(1)
            found[name] = (y / np.abs(y).max()).astype(np.float32)
    return found


def vectors(cfg: Any, num: int, seed: int = 0) -> Batch:
    """Random vectors: [num, *cfg.shape]."""
    x = np.random.default_rng(seed).normal(size=(num, *cfg.shape))
    return {"x": x.astype(np.float32), "label": (np.arange(num) % 10).astype(np.int32)}


def batch(case: Case, num: int | None = None, seed: int = 0) -> Batch:
    """A batch of the case's kind, of its batch size if `num` is None."""
    draw = images if len(case.cfg.shape) == 3 else vectors
    return draw(case.cfg, num or case.cfg.batch_size, seed)


def on_noisy_data(method: Method) -> Method:
    """A method that draws nothing, so that its step depends on the key as others do."""

    def train_step(key, state, batch):
        x = batch["image"]
        noise = rng.normal(jax.random.fold_in(key, state.step), x.shape)
        return method.train_step(key, state, {**batch, "image": x + 0.1 * noise})

    return Method(method.init, train_step)


DDPM: dict[str, Any] = dict(
    shape=(8, 8, 1), patch=2, channels=(8,), num_blocks=(1,), T=20, num_groups=4, batch_size=16
)
VAE: dict[str, Any] = dict(
    shape=(8, 8, 1), channels=(4, 8), hidden=(8,), latent_shape=(3,), batch_size=16
)
GAN: dict[str, Any] = dict(shape=(2,), latent_dim=4, hidden=(8,), batch_size=16)
CASES = {
    "adversarial": Case(
        "adversarial",
        adversarial.Config(shape=(8, 8, 1), hidden=(16,), discriminator_hidden=(16,),
                           prior="petals", num_classes=10, batch_size=16),
        adversarial.method,
        adversarial.sample,
    ),
    "autoencoder": Case(
        "autoencoder",
        autoencoder.Config(shape=(8, 8, 1), channels=(4, 8), batch_size=16),
        lambda cfg: on_noisy_data(autoencoder.method(cfg)),
    ),
    "denoising": Case(
        "denoising",
        denoising.Config(shape=(6,), hidden=(8,), latent_shape=(4,), mask_fraction=0.5,
                         batch_size=16),
        denoising.method,
    ),
    "ddpm": Case("ddpm", ddpm.Config(**DDPM), ddpm.method, ddpm.sample),
    "ddpm-v-attention": Case(
        "ddpm",
        ddpm.Config(shape=(6, 6, 1), patch=2, channels=(8, 8), num_blocks=(1, 1), num_groups=4,
                    T=20, batch_size=16, prediction="v", schedule="cosine", attention=(4,),
                    times_per_example=2, sampler="ddim", sample_steps=5),
        ddpm.method,
        ddpm.sample,
    ),
    "ddpm-vectors": Case(
        "ddpm", ddpm.Config(shape=(2,), T=20, hidden_dim=16, batch_size=16), ddpm.method,
        ddpm.sample,
    ),
    "conditional": Case(
        "conditional", conditional.Config(**DDPM, guidance=1.0), conditional.method,
        conditional.sample,
    ),
    "conditional-small": Case(
        "conditional",
        conditional.Config(**DDPM, num_classes=0, condition_image="small", times_per_example=2),
        conditional.method,
        lambda cfg, variables, key, num: conditional.sample(
            cfg, variables, key, num, condition=np.zeros((num, 4, 4, 1), np.float32)
        ),
    ),
    "flow_matching": Case(
        "flow_matching",
        flow_matching.Config(
            shape=(8, 8, 1), num_classes=10, guidance=0.5, patch=2, channels=(8,), num_blocks=(1,),
            num_groups=4, batch_size=16, sample_steps=4, warmup_steps=0,
        ),
        flow_matching.method,
        flow_matching.sample,
    ),
    "flow_matching-optimal": Case(
        "flow_matching",
        flow_matching.Config(
            shape=(2,), hidden_dim=16, batch_size=16, coupling="optimal",
            time_sampling="logit_normal", sample_steps=4,
        ),
        flow_matching.method,
        flow_matching.sample,
    ),
    "edm": Case(
        "edm",
        edm.Config(shape=(2,), num_classes=10, guidance=0.5, hidden_dim=16, batch_size=16,
                   warmup_steps=0, sample_steps=5, S_churn=1.0),
        edm.method,
        edm.sample,
    ),
    "score_sde": Case(
        "score_sde",
        score_sde.Config(shape=(2,), num_classes=10, guidance=0.5, hidden_dim=16, batch_size=16,
                         warmup_steps=0, sde="ve", sampler="pc", sample_steps=6),
        score_sde.method,
        score_sde.sample,
    ),
    "flow_gan": Case(
        "flow_gan",
        flow_gan.Config(shape=(2,), num_couplings=2, hidden=(8,), critic_hidden=(8,),
                        batch_size=16, n_critic=2),
        flow_gan.method,
        flow_gan.sample,
    ),
    "realnvp": Case(
        "realnvp",
        realnvp.Config(shape=(4, 4, 1), num_couplings=2, num_levels=1, hidden_channels=4,
                       batch_size=16),
        realnvp.method,
        realnvp.sample,
    ),
    "fvsbn": Case(
        "fvsbn", fvsbn.Config(shape=(6,), batch_size=16), fvsbn.method, fvsbn.sample
    ),
    "nade": Case(
        "nade", nade.Config(shape=(6,), hidden_dim=4, batch_size=16), nade.method, nade.sample
    ),
    "made": Case(
        "made",
        made.Config(shape=(4, 4, 1), hidden=(8, 8), num_masks=2, order_agnostic=True,
                    batch_size=16),
        made.method, made.sample,
    ),
    "pixelcnn": Case(
        "pixelcnn",
        pixelcnn.Config(shape=(4, 4, 3), hidden_channels=3, head_channels=3, num_layers=1,
                        first_kernel_size=3, num_classes=10, head="logistic", num_components=2,
                        batch_size=16),
        lambda cfg: on_noisy_data(pixelcnn.method(cfg)),
        pixelcnn.sample,
    ),
    "pixelrnn": Case(
        "pixelrnn",
        pixelrnn.Config(shape=(4, 4, 1), hidden_channels=3, num_layers=1, first_kernel_size=3,
                        batch_size=16),
        pixelrnn.method, pixelrnn.sample,
    ),
    "pixelrnn-row": Case(
        "pixelrnn",
        pixelrnn.Config(shape=(4, 4, 1), layer_type="row", hidden_channels=3, num_layers=1,
                        first_kernel_size=3, batch_size=16),
        pixelrnn.method, pixelrnn.sample,
    ),
    "vae": Case("vae", vae.Config(**VAE), vae.method, vae.sample),
    "vae-vectors": Case(
        "vae",
        vae.Config(shape=(2,), hidden=(16,), latent_shape=(2,), covariance="full", prior="petals",
                   scale_mode="each", num_latent_samples=2, batch_size=16),
        vae.method,
        vae.sample,
    ),
    "cvae": Case("cvae", cvae.Config(**VAE), cvae.method, cvae.sample),
    "cvae-part": Case(
        "cvae",
        cvae.Config(**VAE, known_region=(0, 4, 0, 8), condition_dim=4),
        cvae.method,
        lambda cfg, variables, key, num: cvae.sample(
            cfg, variables, key, num, condition=np.zeros((num, 8, 8, 1), np.float32)
        ),
    ),
    "hvi": Case(
        "hvi", hvi.Config(**VAE, num_transitions=1, num_leapfrog_steps=1), hvi.method, hvi.sample
    ),
    "vqvae": Case(
        "vqvae",
        vqvae.Config(shape=(8, 8, 1), channels=(4, 8), num_blocks=1, codebook_size=8, code_dim=4,
                     restart_threshold=0.5, batch_size=16),
        vqvae.method,
    ),
    "vqvae-gradient": Case(
        "vqvae",
        vqvae.Config(shape=(4,), hidden=(8,), codebook_size=4, code_dim=2, num_codes=3,
                     codebook_decay=0.0, likelihood="bernoulli", batch_size=16),
        vqvae.method,
    ),
    "gan": Case("gan", gan.Config(**GAN, loss="kl", ema_decay=0.9), gan.method, gan.sample),
    "dcgan": Case(
        "dcgan",
        dcgan.Config(shape=(8, 8, 1), latent_dim=4, channels=(4, 8), batch_size=16),
        dcgan.method,
        dcgan.sample,
    ),
    "cyclegan": Case(
        "cyclegan",
        cyclegan.Config(shape=(8, 8, 1), other_shape=(8, 8, 3), channels=(4, 8), num_blocks=1,
                        discriminator_channels=(4, 8), batch_size=16),
        lambda cfg: on_noisy_data(cyclegan.method(cfg)),
    ),
    "pix2pix": Case(
        "pix2pix",
        pix2pix.Config(shape=(8, 8, 1), target_shape=(8, 8, 3), channels=(4, 8), dropout=0.5,
                       discriminator_channels=(4, 8), batch_size=16),
        pix2pix.method,
    ),
    "cgan": Case("cgan", cgan.Config(**GAN), cgan.method, cgan.sample),
    "icgan": Case(  # the encoders' stage
        "icgan",
        icgan.Config(**GAN, encoder_hidden=(8,)),
        icgan.encoders_method,
    ),
    "lsgan": Case("lsgan", lsgan.Config(**GAN), lsgan.method, lsgan.sample),
    "wgan_gp": Case(
        "wgan_gp",
        wgan_gp.Config(shape=(2,), latent_dim=4, hidden=(8,), batch_size=32, n_critic=2),
        wgan_gp.method,
        wgan_gp.sample,
    ),
    "regularization": Case(
        "regularization",
        regularization.Config(**GAN, dragan=1.0, noise_std=0.1, noise_steps=3),
        regularization.method,
        regularization.sample,
    ),
    "minibatch": Case(
        "minibatch", minibatch.Config(**GAN, num_kernels=3, kernel_dim=2), minibatch.method,
        minibatch.sample,
    ),
    "minibatch-deviation": Case(
        "minibatch", minibatch.Config(**GAN, layer="deviation"), minibatch.method, minibatch.sample
    ),
    "progressive": Case(  # the stage of 8 pixels, in its fade
        "progressive",
        progressive.Config(shape=(7, 8, 1), latent_dim=4, channels=(4, 8), batch_size=16,
                           fade_steps=6),
        lambda cfg: progressive.stages(cfg)[-1].method,
        lambda cfg, variables, key, num: progressive.sample(
            cfg, {"pixels8": variables}, key, num
        ),
    ),
    "replay": Case("replay", replay.Config(**GAN, capacity=32), replay.method, replay.sample),
    "siamese": Case(
        "siamese",
        siamese.Config(shape=(8, 8, 1), channels=(4, 8), kernel_sizes=(3, 2), latent_dim=4,
                       unlike_ratio=0.5, batch_size=32),
        siamese.method,
    ),
    "siamese-vectors": Case(
        "siamese",
        siamese.Config(shape=(6,), channels=(), kernel_sizes=(), hidden=(8,), latent_dim=4,
                       loss="cosine", margin=-0.5, batch_size=32),
        siamese.method,
    ),
    "resnet_gan": Case(
        "resnet_gan",
        resnet_gan.Config(shape=(8, 8, 1), latent_dim=4, channels=(4, 8), batch_size=16),
        resnet_gan.method,
        resnet_gan.sample,
    ),
    "tempered": Case(
        "tempered", tempered.Config(**GAN, fade_steps=10), tempered.method, tempered.sample
    ),
    "ali": Case(
        "ali",
        ali.Config(shape=(8, 8, 1), latent_dim=4, channels=(4, 8), discriminator_hidden=(8,),
                   feature_dim=4, batch_size=16, r1=0.1),
        ali.method, ali.sample,
    ),
    "vae_gan": Case(
        "vae_gan",
        vae_gan.Config(**VAE, discriminator_channels=(4,), discriminator_hidden=(8,)),
        vae_gan.method, vae_gan.sample,
    ),
    "vae_gan-fake": Case(
        "vae_gan",
        vae_gan.Config(shape=(4,), hidden=(8,), latent_shape=(2,), batch_size=16,
                       discriminator_hidden=(8,), reconstructed="fake", feature_weight=1.0),
        vae_gan.method, vae_gan.sample,
    ),
    "wgan": Case(
        "wgan",
        wgan.Config(shape=(8, 8, 1), channels=(8, 16), latent_dim=8, critic_batch_size=8,
                    n_critic=2),
        wgan.method, wgan.sample,
    ),
    "wgan-vectors": Case(
        "wgan",
        wgan.Config(shape=(2,), hidden=(16, 16), latent_dim=4, critic_batch_size=8, n_critic=2),
        wgan.method, wgan.sample,
    ),
    # Its second step is inside a longer phase of the critic, and so is a resume after the first.
    "wgan-long": Case(
        "wgan",
        wgan.Config(shape=(2,), hidden=(8,), latent_dim=4, critic_batch_size=8, n_critic=2,
                    long_n_critic=4),
        wgan.method, wgan.sample,
    ),
}  # fmt: skip

# Models that are fitted at once: data, and what to set.
FITS: dict[str, tuple[str, list[str]]] = {
    "ar": ("moons", ["order=1"]),
    "factor_analysis": ("digits", ["latent_dim=3"]),
    "kmeans": ("digits", ["num_clusters=4"]),
    "gmm": ("mouse", ["num_components=4"]),
    "marginalized": ("digits", []),
    "ppca": ("digits", ["latent_dim=3"]),
}

# Models trained in stages: data, and what to set.
STAGED: dict[str, tuple[str, list[str]]] = {
    "stacked": ("digits", ["hidden=16,8", "batch_size=16"]),
    "adagan": ("grid25", ["num_generators=2", "hidden=8", "latent_dim=2", "batch_size=16"]),
    "icgan": (
        "digits",
        ["channels=4,8", "latent_dim=4", "encoder_channels=4", "encoder_hidden=8", "batch_size=16"],
    ),
    "progressive": ("digits", ["channels=4,8", "latent_dim=4", "batch_size=16"]),
    "latent": (
        "digits",
        [
            "latent_shape=2,2,2",
            "codec_channels=4,4",
            "channels=8",
            "num_blocks=1",
            "num_groups=4",
            "T=20",
        ],
    ),
    "text_to_image": (
        "captions:digits",
        [
            "channels=4,8",
            "codebook_size=8",
            "code_dim=4",
            "hidden_dim=8",
            "num_layers=1",
            "num_heads=2",
            "batch_size=16",
        ],
    ),
    "vqvae_prior": (
        "digits",
        [
            "channels=4,8",
            "codebook_size=8",
            "code_dim=4",
            "hidden_channels=4",
            "num_layers=1",
            "first_kernel_size=3",
            "head_channels=4",
            "num_classes=10",
            "batch_size=16",
        ],
    ),
}
