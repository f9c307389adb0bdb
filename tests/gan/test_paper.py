"""`Config.paper()` of the games: parameters counted layer by layer, as in `tests/test_paper.py`."""

from itertools import pairwise

from gengen.gan import (
    adagan,
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
from tests.layers import conv, conv_decoder, conv_encoder, count, dense, params, strided

# Four levels of 64×64 images, at which DCGAN's and its successors' networks are.
FOUR = (64, 128, 256, 512)


def dcgan_networks(channels, latents=100, coarse=4):
    """Radford et al. 2016, figure 1: batch norm except at g's output and D's input."""
    pairs = list(pairwise(channels))
    inner = sum(conv(a, b, 4, bias=False) for a, b in pairs)
    norms = 2 * sum(channels)  # a scale and a shift
    g = conv(latents, channels[-1], coarse, bias=False) + inner + norms + conv(channels[0], 3, 4)
    d = conv(3, channels[0], 4) + inner + norms - 2 * channels[0] + conv(channels[-1], 1, coarse)
    return g + d


def test_dcgan_and_wgan_have_the_papers_layers():
    """Arjovsky et al., §4: DCGAN's networks, in the authors' code of half the width."""
    own = params(dcgan.method(dcgan.Config.paper()), (64, 64, 3))
    assert count(own) == dcgan_networks((128, 256, 512, 1024))
    own = params(wgan.method(wgan.Config.paper()), (64, 64, 3))
    assert count(own) == dcgan_networks((64, 128, 256, 512))
    assert sum(name.startswith("BatchNorm") for name in own["critic"]) == 3


def test_perceptrons_have_the_sizes_that_their_docstrings_say():
    own = params(gan.method(gan.Config.paper()), (28, 28, 1))
    assert count(own) == dense(100, 1200, 1200, 784) + dense(784, 1200, 1200, 1)
    own = params(cgan.method(cgan.Config.paper()), (28, 28, 1))
    assert count(own) == dense(110, 1200, 1200, 784) + dense(794, 1200, 1200, 1)


def test_wgan_gp_has_dcgans_levels_without_batch_norm_in_the_critic():
    own = params(wgan_gp.method(wgan_gp.Config.paper()), (64, 64, 3))
    assert count(own["generator"]) == conv_decoder(128, FOUR, 64, 3)
    assert count(own["discriminator"]) == conv_encoder(3, FOUR, 64, 1)
    encoder = own["discriminator"]["ConvEncoder_0"]
    assert encoder["Conv_3"]["kernel"].shape == (4, 4, 256, 512)
    assert encoder["Dense_0"]["kernel"].shape == (4 * 4 * 512, 1)


def test_lsgan_has_dcgans_layers_down_to_7_pixels():
    own = params(lsgan.method(lsgan.Config.paper()), (112, 112, 3))
    assert count(own) == dcgan_networks(FOUR, latents=1024, coarse=7)
    assert own["generator"]["ConvTranspose_0"]["kernel"].shape == (7, 7, 1024, 512)
    assert sum(name.startswith("BatchNorm") for name in own["discriminator"]) == 3


def test_the_tempered_gan_has_dcgans_layers_and_a_lens_of_three_convolutions():
    own = params(tempered.method(tempered.Config.paper()), (64, 64, 3))
    assert count(own["lens"]) == conv(3, 64, 3) + conv(64, 64, 3) + conv(64, 3, 3)
    assert count(own) - count(own["lens"]) == dcgan_networks(FOUR)


def test_minibatch_discrimination_has_the_papers_kernels():
    """100 kernels of 5 dimensions, from 192 features."""
    own = params(minibatch.method(minibatch.Config.paper()), (32, 32, 3))
    channels = (96, 192, 192)
    assert count(own["generator"]) == conv_decoder(100, channels, 32, 3)
    features = strided(3, channels) + dense(4 * 4 * 192, 192)
    assert count(own["discriminator"]) == features + 192 * 100 * 5 + dense(192 + 100, 1)
    layer = own["discriminator"]["MinibatchDiscrimination_0"]["Dense_0"]["kernel"]
    assert layer.shape == (192, 500)


def residual(a, b):
    """Count a block of Mescheder et al.: two convolutions, a shortcut where channels change."""
    inner = min(a, b)
    return conv(a, inner, 3) + conv(inner, b, 3) + (a * b if a != b else 0)


def test_the_resnet_gan_has_the_papers_blocks():
    """Supplement: 4×4 to 128×128 pixels, 64 channels at the finest, at most 1024."""
    own = params(resnet_gan.method(resnet_gan.Config.paper()), (128, 128, 3))
    down = sum(residual(a, b) for a, b in pairwise((64, 64, 128, 256, 512, 1024, 1024)))
    assert count(own["discriminator"]) == conv(3, 64, 3) + down + dense(4 * 4 * 1024, 1)
    up = sum(residual(a, b) for a, b in pairwise((1024, 1024, 1024, 512, 256, 128, 64)))
    assert count(own["generator"]) == dense(256, 4 * 4 * 1024) + up + conv(64, 3, 3)


def test_the_vae_gan_has_the_papers_channels():
    """Larsen et al., appendix: 64, 128, 256, 2048 in the encoder; D of 32, 128, 256, 256, 512."""
    own = params(vae_gan.method(vae_gan.Config.paper()), (64, 64, 3))
    encoder = strided(3, (64, 128, 256), 5) + dense(8 * 8 * 256, 2048, 2 * 128)
    decoder = dense(128, 2048, 8 * 8 * 256) + conv(256, 128, 5) + conv(128, 64, 5)
    assert count(own["generator"]) == encoder + decoder + conv(64, 3 * 2**2, 5)
    d = strided(3, (32, 128, 256, 256), 5) + dense(4 * 4 * 256, 512, 1)
    assert count(own["discriminator"]) == d


def test_adagan_has_five_small_gans_and_four_classifiers():
    stages = adagan.stages(adagan.Config.paper())
    classifier = conv_encoder(1, (32, 64), 28, 1)
    both = conv_decoder(5, (32, 64), 28, 1) + classifier
    found = [count(params(stage.method, (28, 28, 1))) for stage in stages]
    assert found == [both, *4 * [classifier, both]]


def test_ali_joins_512_features_each_of_x_and_z():
    """Table 4 of the appendix: 64 latents, 512 and 512 features, two joint layers of 1024."""
    own = params(ali.method(ali.Config.paper()), (32, 32, 3))
    channels = (64, 128, 256)
    assert count(own["generator"]) == conv_decoder(64, channels, 32, 3)
    assert count(own["encoder"]) == conv_encoder(3, channels, 32, 2 * 64)
    joint = dense(64, 512, 512) + dense(2 * 512, 1024, 1024, 1)
    assert count(own["discriminator"]) == conv_encoder(3, channels, 32, 512) + joint


def test_replay_and_regularisers_have_networks_of_ours():
    own = params(replay.method(replay.Config.paper()), (35, 55, 1))
    assert count(own) == dense(64, 256, 256, 35 * 55) + dense(35 * 55, 256, 256, 1)
    own = params(regularization.method(regularization.Config.paper()), (128, 128, 3))
    channels = (64, 128, 256, 512, 1024)
    assert count(own) == conv_decoder(256, channels, 128, 3) + conv_encoder(3, channels, 128, 1)


def test_the_progressive_gan_has_the_papers_parameters():
    """Karras et al., table 2: 23.1 million in each network at 1024×1024."""
    last = progressive.stages(progressive.Config.paper())[-1]
    own = params(last.method, (1024, 1024, 3))
    channels = (512, 512, 512, 512, 256, 128, 64, 32, 16)
    up = sum(conv(a, b, 3) + conv(b, b, 3) for a, b in pairwise(channels))
    g = dense(512, 4 * 4 * 512) + conv(512, 512, 3) + up + dense(32, 3) + dense(16, 3)
    down = sum(conv(b, b, 3) + conv(b, a, 3) for a, b in pairwise(channels))
    top = conv(512 + 1, 512, 3) + dense(4 * 4 * 512, 512, 1)  # the batch's deviation is a channel
    d = dense(3, 16) + dense(3, 32) + down + top
    assert (count(own["generator"]), count(own["discriminator"])) == (g, d)
    assert (round(g / 1e6, 1), round(d / 1e6, 1)) == (23.1, 23.1)


def patch_gan(inputs, affine):
    """Count the 70×70 PatchGAN; no bias before a norm, which may have a scale and a shift."""
    inner = sum(conv(a, b, 4, bias=False) for a, b in pairwise(FOUR))
    return conv(inputs, 64, 4) + inner + affine * 2 * sum(FOUR[1:]) + conv(512, 1, 4)


def test_cyclegan_has_the_papers_layers():
    """Appendix 7.2: c7s1-64, d128, d256, nine blocks R256, u128, u64, c7s1-3; C64 to C512."""
    own = params(cyclegan.method(cyclegan.Config.paper()), (256, 256, 3))
    sizes = [(3, 64, 7), (64, 128, 3), (128, 256, 3), *18 * [(256, 256, 3)], (256, 128, 3),
             (128, 64, 3)]  # fmt: skip
    g = sum(conv(*size, bias=False) for size in sizes) + conv(64, 3, 7)
    assert count(own) == 2 * g + 2 * patch_gan(3, affine=False)


def test_pix2pix_has_the_papers_layers():
    """§6.1: C64-C128-C256-C512-C512-C512-C512-C512 and its mirror image with skips; 70×70 D."""
    own = params(pix2pix.method(pix2pix.Config.paper()), (256, 256, 3))
    down = (3, *FOUR, 512, 512, 512, 512)
    up = [(512, 512), *3 * [(1024, 512)], (1024, 256), (512, 128), (256, 64)]
    g = sum(conv(a, b, 4, bias=False) for a, b in (*pairwise(down), *up)) + conv(128, 3, 4)
    g += 2 * sum(down[2:-1]) + 2 * sum(b for _, b in up)  # norms: a scale and a shift
    assert count(own) == g + patch_gan(6, affine=True)


def test_icgan_has_encoders_of_four_levels_and_a_hidden_layer():
    first, second = icgan.stages(icgan.Config.paper())
    own = params(second.method, (64, 64, 3))
    levels = strided(3, (32, 64, 128, 256))
    assert count(own["encoder_z"]) == levels + dense(4 * 4 * 256, 4096, 100)
    assert count(own["encoder_y"]) == levels + dense(4 * 4 * 256, 4096, 10)
    own = params(first.method, (64, 64, 3))
    assert count(own["generator"]) == conv_decoder(110, FOUR, 64, 3)  # of z and y
    assert count(own["discriminator"]) == conv_encoder(13, FOUR, 64, 1)
