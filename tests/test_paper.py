"""`Config.paper()` is the paper's network: parameters are counted without making them."""

import inspect
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from gengen.autoencoder import adversarial, autoencoder, denoising, stacked
from gengen.autoregressive import fvsbn, made, nade, pixelcnn, pixelrnn
from gengen.contract import Task
from gengen.diffusion import conditional, ddpm, edm, latent, score_sde
from gengen.flow import flow_gan, realnvp
from gengen.flow_matching import flow_matching
from gengen.runs import config, discover
from gengen.vae import cvae, hvi, text_to_image, vae, vqvae, vqvae_prior
from tests.layers import conv, conv_encoder, count, dense, params, strided


def unet(out, inputs, levels, blocks, attended, *, scale, resample_blocks, classes=0):
    """Count a U-Net's parameters from its layers, as Ho et al. and Dhariwal & Nichol list them.

    `levels` are channels, the finest first; `attended` the levels with attention.
    """
    time = 4 * levels[0]

    def conv(a, b, size=3):
        return size * size * a * b + b

    def block(a, b):  # two norms, two convolutions, the time, a shortcut where channels change
        shortcut = conv(a, b, 1) if a != b else 0
        return 2 * a + conv(a, b) + (1 + scale) * (time + 1) * b + 2 * b + conv(b, b) + shortcut

    def attention(c):  # a norm; queries, keys, values and outputs
        return 2 * c + 4 * conv(c, c, 1)

    change = block if resample_blocks else conv
    total = (levels[0] + 1) * time + (time + 1) * time + classes * time + conv(inputs, levels[0])
    h, skips, last = levels[0], [levels[0]], len(levels) - 1
    for i, c in enumerate(levels):
        for _ in range(blocks):
            total += block(h, c) + (attention(c) if i in attended else 0)
            h = c
            skips.append(c)
        if i < last:
            total += change(c, c)
            skips.append(c)
    total += 2 * block(h, h) + attention(h)
    for i in range(last, -1, -1):
        c = levels[i]
        for _ in range(blocks + 1):
            total += block(h + skips.pop(), c) + (attention(c) if i in attended else 0)
            h = c
        total += change(c, c) if i else 0
    return total + 2 * h + conv(h, out)


def test_the_network_of_ddpm_has_the_papers_parameters():
    """Ho et al., appendix B: 35.7 million for CIFAR-10."""
    own = params(ddpm.method(ddpm.Config.paper()), (32, 32, 3))
    wanted = unet(3, 3, (128, 256, 256, 256), 2, {1}, scale=False, resample_blocks=False)
    assert count(own) == wanted
    assert round(wanted / 1e6, 1) == 35.7
    assert sum(name.startswith("AttentionBlock") for name in own) == 2 + 1 + 3
    first_up = own["ResidualBlock_10"]["Conv_0"]["kernel"]  # after 8 blocks down and 2 between
    assert first_up.shape == (3, 3, 512, 256)
    assert "position" not in own


def test_the_network_of_guidance_has_the_papers_parameters():
    """Dhariwal & Nichol, table 11: 296 million for ImageNet 64×64, with the variance's outputs."""
    own = params(conditional.method(conditional.Config.paper()), (64, 64, 3))
    levels = (192, 384, 576, 768)
    shape = dict(scale=True, resample_blocks=True, classes=1000)
    assert count(own) == unet(3, 3, levels, 3, {1, 2, 3}, **shape)
    assert round(unet(6, 3, levels, 3, {1, 2, 3}, **shape) / 1e6) == 296


def test_the_prior_of_latent_diffusion_has_the_papers_parameters():
    """Rombach et al., table 12: 274 million for LDM-4."""
    prior = latent.stages(latent.Config.paper())[1].method
    batch = {"x": np.zeros((2, 64, 64, 3), np.float32)}
    own = jax.eval_shape(prior.init, jax.random.key(0), batch).params
    wanted = unet(3, 3, (224, 448, 672, 896), 2, {1, 2, 3}, scale=False, resample_blocks=False)
    assert count(own) == wanted
    assert round(wanted / 1e6) == 274


def test_the_network_of_edm_has_the_blocks_of_ddpmpp():
    """Karras et al., appendix F: 256 channels at each of three resolutions, four blocks each."""
    own = params(edm.method(edm.Config.paper()), (32, 32, 3))
    levels = (256, 256, 256)
    assert count(own) == unet(3, 3, levels, 4, {1}, scale=False, resample_blocks=True)


def test_the_network_of_score_sde_has_the_blocks_of_ddpmpp():
    """Song et al., appendix H: DDPM's levels, four residual blocks each, resampled by blocks."""
    own = params(score_sde.method(score_sde.Config.paper()), (32, 32, 3))
    levels = (128, 256, 256, 256)
    assert count(own) == unet(3, 3, levels, 4, {1}, scale=False, resample_blocks=True)


def test_the_vae_has_the_papers_layers():
    """Kingma & Welling, appendix C.1: a perceptron of 500 tanh units on each side; Adagrad, §5."""
    cfg = vae.Config.paper()
    assert count(params(vae.method(cfg), (28, 28, 1))) == dense(784, 500, 40) + dense(20, 500, 784)
    assert (cfg.activation, cfg.optimizer, cfg.likelihood) == ("tanh", "adagrad", "bernoulli")


def vqvae_codec(levels, codes):
    """Van den Oord et al. 2017, §4.1: 4×4 convolutions of stride 2, residual blocks 3×3 and 1×1.

    All have 256 channels; the decoder is the mirror image, of transposed convolutions.
    """
    block = conv(256, 256, 3) + conv(256, 256, 1)
    ends = [conv(3, 256, 4), *(levels - 1) * [conv(256, 256, 4)]]
    down = sum(ends) + 2 * block + conv(256, 64 * codes, 1)
    up = conv(64 * codes, 256, 3) + 2 * block + (levels - 1) * conv(256, 256, 4) + conv(256, 3, 4)
    return down + up + 512 * 64


def test_the_vqvae_has_the_papers_layers():
    cfg = vqvae.Config.paper()
    assert count(params(vqvae.method(cfg), (32, 32, 3))) == vqvae_codec(2, 10)
    assert vqvae.places(cfg) == (8, 8, 10)
    assert cfg.likelihood == "gaussian"
    codec = vqvae_prior.stages(vqvae_prior.Config.paper())[0].method
    assert count(params(codec, (128, 128, 3))) == vqvae_codec(2, 1)
    assert vqvae.places(vqvae_prior.codec(vqvae_prior.Config.paper())) == (32, 32)


def gated_pixelcnn(inputs, F, layers, first, size, hidden, outputs):
    """Van den Oord et al. 2016, figure 2: two stacks of gated layers, and two 1×1 layers."""
    r, s = first // 2, size // 2
    start = r * first * inputs * F + F + (r + 1) * inputs * F + F
    vertical = (s + 1) * size * F * 2 * F + 2 * F
    horizontal = (s + 1) * F * 2 * F + 2 * F + 2 * F * 2 * F + (F + 1) * F  # link, projection
    return start + layers * (vertical + horizontal) + (F + 1) * hidden + (hidden + 1) * outputs


def test_the_pixelcnn_has_the_papers_layers():
    """§3.2: 20 layers of 384 channels with 5×5 windows, 1024 (here 1026) before the softmax."""
    own = params(pixelcnn.method(pixelcnn.Config.paper()), (32, 32, 3))
    assert count(own) == gated_pixelcnn(3, 384, 20, 7, 5, 1026, 768)
    prior = vqvae_prior.stages(vqvae_prior.Config.paper())[1].method
    own = params(prior, (32, 32, 1))
    assert count(own) == gated_pixelcnn(512, 128, 20, 7, 3, 512, 512)


def test_the_transformer_of_text_to_image_has_the_papers_layers():
    """§2.2: 64 layers of 62 heads of 64 numbers, 256 tokens and 1,024 codes; 12 billion in all."""
    cfg = text_to_image.Config.paper()
    width, tokens = 62 * 64, 16_384 + 1 + 8192  # of text, no caption, codes
    own = params(text_to_image.stages(cfg)[1].method, (32, 32, 1))
    layer = 2 * 2 * width + dense(width, 3 * width) + dense(width, width)
    layer += dense(width, 4 * width, width)
    want = (tokens + 1 + 256 + 1024) * width + 64 * layer + 2 * width + dense(width, tokens)
    assert count(own) == want
    assert round(want / 1e9, 1) == 12.3


def test_the_adversarial_autoencoder_has_the_papers_layers():
    """Makhzani et al., appendix A.1: two layers of 1000 units each, 8 latents of deviation 5."""
    cfg = adversarial.Config.paper()
    wanted = dense(784, 1000, 1000, 8) + dense(8, 1000, 1000, 784) + dense(8, 1000, 1000, 1)
    assert count(params(adversarial.method(cfg), (28, 28, 1))) == wanted
    assert (cfg.prior_scale, cfg.optimizer, cfg.momentum) == (5.0, "sgd", 0.9)


def test_denoising_stacked_and_deep_autoencoders_have_the_papers_layers():
    """Vincent et al. 2008, §4; Hinton & Salakhutdinov 2006; see the stacked model for its own."""
    own = params(denoising.method(denoising.Config.paper()), (28, 28, 1))
    assert count(own) == 784 * 500 + 500 + 784  # tied weights
    layers = stacked.stages(stacked.Config.paper())
    sizes = [(784, 500), (500, 500), (500, 500)]
    for layer, (a, b) in zip(layers, sizes, strict=False):
        shape = (28, 28, 1) if a == 784 else (a,)
        assert count(params(layer.method, shape)) == 2 * a * b + a + b
    deep = params(autoencoder.method(autoencoder.Config.paper()), (28, 28, 1))
    assert count(deep) == dense(784, 1000, 500, 250, 30) + dense(30, 250, 500, 1000, 784)


def test_the_conditional_vae_has_the_papers_layers():
    """Sohn et al., §5: two layers of 1000 units each, for x and y, z and y, and y alone."""
    own = params(cvae.method(cvae.Config.paper()), (28, 28, 1))
    encoder, decoder = dense(1568, 1000, 1000, 400), dense(1200, 1000, 1000, 784)
    assert count(own) == encoder + decoder + dense(784, 1000, 1000, 1000)


def test_autoregressive_models_of_binary_data_have_the_papers_sizes():
    """Larochelle & Murray: 500 units; Germain et al.: two layers of 8000; Frey et al.: 8×8."""
    own = params(nade.method(nade.Config.paper()), (28, 28, 1))
    assert count(own) == 2 * 784 * 500 + 500 + 784
    own = params(made.method(made.Config.paper()), (28, 28, 1))
    assert count(own) == dense(784, 8000, 8000, 784) + 784**2  # and the direct connections
    own = params(fvsbn.method(fvsbn.Config.paper()), (8, 8, 1))
    assert count(own) == 64**2 + 64  # of which the lower triangle is used


def test_the_pixelrnn_has_the_papers_layers():
    """Table 1: 7 Diagonal BiLSTM layers of 16 units for MNIST, a first window of 7×7."""
    own = params(pixelrnn.method(pixelrnn.Config.paper()), (28, 28, 1))
    first = (3 * 7 + 4) * 32 + 2 * 32  # the rows above, the pixels to the left
    lstm = 32 * 64 + 64 + 33 * 64 + 64 + 2 * 32 * 64  # from the left, the right; two states each
    up = 17 * 32
    assert count(own) == first + 7 * (lstm + up) + dense(32, 32, 1)


def test_real_nvp_has_the_papers_layers():
    """Dinh et al., §4.1, on CIFAR-10: 8 residual blocks of 64 channels, with ActNorm here.

    Three couplings by checkerboard, three by channel, and four by checkerboard at the end.
    """

    def coupling(channels):
        blocks = 8 * (conv(64, 64, 1) + conv(64, 64, 3))
        return conv(channels, 64, 3) + blocks + conv(64, 2 * channels, 3) + 2 * channels

    own = params(realnvp.method(realnvp.Config.paper()), (32, 32, 3))
    assert count(own) == 3 * coupling(3) + 3 * coupling(12) + 4 * coupling(6)


def test_flow_gan_has_real_nvps_network_and_a_convolutional_critic():
    cfg = flow_gan.Config.paper()
    own = params(flow_gan.method(cfg), (32, 32, 3))
    assert count(own["generator"]) == total("realnvp")
    assert count(own["critic"]) == conv_encoder(3, (64, 128, 256), 32, 1)
    assert own["critic"]["Dense_0"]["kernel"].shape == (4 * 4 * 256, 1)


def test_hvi_has_the_papers_layers():
    """§4: 5×5 windows, levels of 16, 32 and 32 channels, 450 softplus units, 32 latents."""
    own = params(hvi.method(hvi.Config.paper()), (28, 28, 1))  # maps of 14, 7 and 4 pixels
    encoder = strided(1, (16, 32, 32), 5) + dense(4 * 4 * 32, 450, 2 * 32)
    decoder = dense(32, 450, 4 * 4 * 32) + conv(32, 32, 5) + conv(32, 16, 5) + conv(16, 4, 5)
    reverse = dense(3 * 32, 450, 2 * 32)  # of the mean and deviation of z_0, and of z_t
    assert count(own) == encoder + decoder + reverse + 32  # and a step size of each latent
    assert own["log_steps"].shape == (1, 32)
    cfg = hvi.Config.paper()
    assert cfg.activation == cfg.level_activation == "softplus"


def test_flow_matching_has_the_papers_network():
    """Lipman et al., appendix E, table 3, for CIFAR-10; the time scales features, too."""
    own = params(flow_matching.method(flow_matching.Config.paper()), (32, 32, 3))
    levels = (256, 512, 512, 512)
    assert count(own) == unet(3, 3, levels, 2, {1}, scale=True, resample_blocks=False)
    assert sum(name.startswith("AttentionBlock") for name in own["UNet_0"]) == 2 + 1 + 3


def test_the_codec_of_latent_diffusion_by_hand():
    """It is ours: the paper's is a larger network with perceptual and adversarial losses."""
    codec = latent.stages(latent.Config.paper())[0].method
    down = strided(3, (128, 256)) + conv(256, 2 * 3, 1)
    up = conv(3, 256, 3) + conv(256, 128, 3) + conv(128, 4 * 3, 3) + 1  # and the scale
    assert count(params(codec, (256, 256, 3))) == down + up


def test_the_fine_tuned_stack_is_a_classifier_of_three_layers():
    """The layers' decoders are kept beside it."""
    own = params(stacked.stages(stacked.Config.paper())[-1].method, (28, 28, 1))
    assert count(own) == dense(784, 500, 500, 500, 10) + dense(500, 500, 500, 784)
    assert own["head"]["kernel"].shape == (500, 10)


def test_linear_models_have_the_papers_sizes():
    """Tobamovirus data, 9 measurements of 4 factors, sunspots: of 18, 9 and 2 coefficients."""
    wanted = {"ppca": 18 * 2 + 18 + 1, "factor_analysis": 9 * 4 + 9 + 9, "ar": 2 + 1 + 1}
    for name, number in wanted.items():
        assert total(name) == number


# --- the table -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (ROOT / "docs" / "PAPERS.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]
# What the prior is trained on.
CODES = {"latent": (64, 64, 3), "text_to_image": (32, 32, 1), "vqvae_prior": (32, 32, 1)}
WHOLE = ("progressive", "stacked")  # whose last stage has the networks of the earlier ones


@cache
def total(name: str) -> int:
    """The parameters of `paper()`, of all stages."""
    module = discover.module(name)
    cfg = module.Config.paper()
    if hasattr(module, "fit"):
        x = np.random.default_rng(0).normal(size=(200, *cfg.shape)).astype(np.float32)
        return count(module.fit(cfg, x, jax.random.key(0))["params"])
    if hasattr(module, "method"):
        return count(params(module.method(cfg), cfg.shape))
    stages = module.stages(cfg)[-1:] if name in WHOLE else module.stages(cfg)
    shapes = [CODES[name] if stage.name == "prior" else cfg.shape for stage in stages]
    return sum(count(params(stage.method, x)) for stage, x in zip(stages, shapes, strict=True))


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("`") for row in ROWS])
def test_the_table_of_papers_has_the_counts_of_the_networks(row):
    if row[3] != "any":
        assert int(row[3].replace(",", "")) == total(row[0].strip("`"))


def test_every_model_with_a_paper_has_a_row():
    models = [model.name for model in discover.models()]
    with_paper = [name for name in models if hasattr(discover.module(name).Config, "paper")]
    assert sorted(row[0].strip("`") for row in ROWS) == sorted(with_paper)


@pytest.mark.parametrize("name", [row[0].strip("`") for row in ROWS if row[4] == "no network"])
def test_a_model_without_a_network_of_its_own_in_the_paper_says_so(name):
    text = inspect.getdoc(discover.module(name).Config.paper) or ""
    assert "no network of its own" in " ".join(text.split())


@pytest.mark.parametrize("module", [ddpm, conditional, latent, flow_matching])
def test_a_run_from_before_the_papers_skip_connections_keeps_its_network(module):
    """Its config.json has none of these fields, on whatever device it was trained."""
    stored = config.describe(module, module.Config.for_task(_task(True)))["config"]
    for name in ("skips", "head_dim", "time_scale", "resample"):
        stored.pop(name, None)
    cfg = config.from_json(module.Config, stored)
    assert cfg.skips == "level"
    if module is not flow_matching:
        assert (cfg.head_dim, cfg.time_scale) == (0, True)


@pytest.mark.parametrize("accelerator, skips", [(False, "level"), (True, "block")])
def test_accelerators_get_the_papers_skip_connections(accelerator, skips):
    assert ddpm.Config.for_task(_task(accelerator)).skips == skips


def _task(accelerator: bool) -> Task:
    return Task((28, 28, 1), 10, 100, accelerator)
