"""FID's Inception: its features, its blocks, what each tool's resize does, what is refused."""

import json
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gengen.nn import protocols
from gengen.nn.inception import TAPS, InceptionA, InceptionE, features, from_torch, torch_shapes
from gengen.types import InputError
from tests.nn import float64
from tests.nn.random_weights import random_images, random_state_dict

FIXTURE = Path(__file__).parents[1] / "fixtures" / "inception.json"
# Float32 over up to 94 layers on both sides, activations of size 1 to 10 (see tests/compare).
ATOL = {"64": 5e-6, "192": 1e-5, "768": 6e-5, "2048": 2e-4, "logits_unbiased": 2e-4}
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")  # all that the tap "64" needs


@pytest.fixture(scope="module")
def state_dict():
    return random_state_dict(torch_shapes(), seed=0)


@pytest.fixture(scope="module")
def variables(state_dict):
    return from_torch(state_dict)


@pytest.mark.parametrize("protocol, taps", [("torch-fidelity", TAPS), ("pytorch-fid", TAPS[:2])])
def test_gives_what_the_references_give(variables, protocol, taps):
    """Every 16th channel, as torch-fidelity 0.4.0 and pytorch-fid 0.3.0 computed it.

    Of pytorch-fid two taps: behind them lies the same network, compared live in tests/compare.
    """
    want = json.loads(FIXTURE.read_text())[protocol]
    got = features(variables, random_images((2, 64, 48, 3), seed=1), taps, protocol)
    assert list(got) == list(taps)
    for tap in taps:
        assert got[tap].shape == (2, 1008 if tap == "logits_unbiased" else int(tap))
        np.testing.assert_allclose(got[tap][:, ::16], want[tap], rtol=0, atol=ATOL[tap])


class Layers:
    """Convolution, normalisation and ReLU of PyTorch's layers, in float64 and unfolded."""

    def __init__(self, state_dict, block):
        self.state_dict, self.block = state_dict, block

    def __call__(self, x, *names):
        for name in names:
            w = {
                what: self.state_dict[f"{self.block}.{name}.{what}"].astype(np.float64)
                for what in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean")
            }
            variance = self.state_dict[f"{self.block}.{name}.bn.running_var"]
            x = float64.conv(x, w["conv.weight"]) - w["bn.running_mean"]
            x = w["bn.weight"] * x / np.sqrt(variance + 1e-3) + w["bn.bias"]
            x = np.maximum(x, 0)
        return x


def in_block_a(of, x):
    pool = of(float64.mean_pool(x), "branch_pool")
    double = of(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return [of(x, "branch1x1"), of(x, "branch5x5_1", "branch5x5_2"), double, pool]


def in_block_e(of, x, pool):
    three, double = of(x, "branch3x3_1"), of(x, "branch3x3dbl_1", "branch3x3dbl_2")
    three = [of(three, "branch3x3_2a"), of(three, "branch3x3_2b")]
    double = [of(double, "branch3x3dbl_3a"), of(double, "branch3x3dbl_3b")]
    return [of(x, "branch1x1"), *three, *double, of(pool(x), "branch_pool")]


@pytest.mark.parametrize(
    "name, channels", [("Mixed_5c", 256), ("Mixed_7b", 1280), ("Mixed_7c", 2048)]
)
def test_a_block_is_its_convolutions_and_its_pool(state_dict, variables, name, channels):
    """At 4×3 positions, most of them at an edge; the last pool is a maximum, the others means."""
    x = np.random.default_rng(5).normal(size=(4, 3, channels)).astype(np.float32)
    of = Layers(state_dict, name)
    if name == "Mixed_5c":
        block, want = InceptionA(name=name), in_block_a(of, x)
    else:
        pool = float64.max_pool if name == "Mixed_7c" else float64.mean_pool
        block, want = InceptionE(name=name), in_block_e(of, x, pool)
    got: Any = jax.jit(block.apply)({"params": variables["params"][name]}, x[None])
    # Sums of up to 4,000 float32 products of size 1: 1e-7 · √4000 · 10 layers' worth.
    np.testing.assert_allclose(got[0], np.concatenate(want, axis=-1), rtol=1e-4, atol=5e-5)


def test_a_resize_to_the_half_takes_every_other_row_or_means_of_pairs():
    image = random_images((1, 598, 299, 3), seed=6)
    corners = protocols.resize(jnp.asarray(image), "torch-fidelity")
    np.testing.assert_array_equal(corners, image[:, ::2])
    centres = protocols.resize(jnp.asarray(image), "pytorch-fid")
    np.testing.assert_allclose(centres, image.reshape(1, 299, 2, 299, 3).mean(2), atol=1e-4)


def test_a_resize_from_two_pixels_is_a_ramp():
    """Float32's rounding of a sum of two terms up to 255."""
    image = jnp.asarray(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(3, axis=3))
    i = np.arange(299)
    want = {
        "torch-fidelity": 255 * np.minimum(i * 2 / 299, 1),
        "pytorch-fid": 255 * np.clip((i + 0.5) * 2 / 299 - 0.5, 0, 1),
    }
    for protocol, ramp in want.items():
        got = protocols.resize(image, protocol)
        np.testing.assert_allclose(got[0, 150, :, 2], ramp, atol=1e-4)


@pytest.mark.parametrize("height, width", [(32, 45), (299, 64), (700, 512)])
def test_clean_fid_resizes_as_pil(height, width):
    """In grey levels; the rounding of sums of up to sixteen terms, some negative."""
    image = random_images((1, height, width, 3), seed=7)
    got = protocols.resize(jnp.asarray(image), "clean-fid")
    for channel in range(3):
        plane = Image.fromarray(image[0, :, :, channel].astype(np.float32))
        want = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        np.testing.assert_allclose(got[0, :, :, channel], want, rtol=0, atol=2e-4)


def test_grey_levels_are_centred():
    ends = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1) * jnp.ones((299, 299, 3), jnp.uint8)
    for protocol, want in {
        "torch-fidelity": (-1, 127 / 128), "pytorch-fid": (-1, 1), "clean-fid": (-1, 127 / 128),
    }.items():  # fmt: skip
        got = protocols.preprocess(ends, protocol)
        np.testing.assert_array_equal(got[:, 0, 0, 0], np.float32(want))


def test_a_tap_needs_no_more_of_the_network_than_what_leads_to_it(variables):
    images = random_images((1, 20, 20, 3), seed=8)
    stem = {"params": {name: variables["params"][name] for name in STEM}}
    got = features(stem, images, ("64",))
    np.testing.assert_array_equal(got["64"], features(variables, images, ("64",))["64"])


def test_images_do_not_mix_and_their_number_does_not_matter(variables):
    """Nine go as eight and one, the rest of the second part being padding; inside jit as they are.

    Programs of other batch sizes sum in another order.
    """
    images = random_images((9, 20, 20, 3), seed=9)
    got = features(variables, images, ("64",))["64"]
    alone = features(variables, images[8:], ("64",))["64"]
    inside = jax.jit(lambda x: features(variables, x, ("64",)))(images)["64"]
    assert got.shape == (9, 64)
    np.testing.assert_allclose(got[8:], alone, atol=5e-6)
    np.testing.assert_allclose(inside, got, atol=5e-6)
    np.testing.assert_array_equal(features(variables, jnp.asarray(images), ("64",))["64"], got)


IMAGES = random_images((2, 8, 8, 3), seed=0)


@pytest.mark.parametrize(
    "images, options, words",
    [
        (IMAGES / np.float32(255), {}, "float32, but uint8.*to_uint8"),
        (IMAGES.astype(np.int32), {}, "int32, but uint8"),
        ([[1, 2]], {}, "list, but uint8"),
        (IMAGES[..., :1], {}, r"\[2, 8, 8, 1\].*np.repeat"),
        (IMAGES[0], {}, r"\[8, 8, 3\], but \[B, H, W, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), {}, r"\[2, 3, 8, 8\]"),
        (IMAGES[:0], {}, "B, H, W ≥ 1"),
        (IMAGES, {"taps": ("1024",)}, "1024.*some of 64, 192"),
        (IMAGES, {"taps": "2048"}, "a tuple of some of"),
        (IMAGES, {"taps": ()}, "a tuple of some of"),
        (IMAGES, {"protocol": "tf"}, "'tf'.*torch-fidelity, pytorch-fid, clean-fid"),
        (IMAGES, {"taps": ("logits_unbiased",)}, 'no "fc"'),
    ],
)
def test_what_cannot_be_measured_is_refused(images, options, words):
    with pytest.raises(InputError, match=words) as error:
        features({"params": {}}, images, **options)
    assert "\n" not in str(error.value)


def test_counters_and_the_numbered_names_are_understood(state_dict, variables):
    """pytorch-fid's module numbers its layers, and has no classifier."""
    counted = state_dict | {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.array(7)}
    chex.assert_trees_all_equal(from_torch(counted), variables)
    blocks = [
        ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"],
        ["Conv2d_3b_1x1", "Conv2d_4a_3x3"],
        "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e".split(),
        ["Mixed_7a", "Mixed_7b", "Mixed_7c"],
    ]
    places = {
        name: f"blocks.{b}.{i}" for b, names in enumerate(blocks) for i, name in enumerate(names)
    }
    numbered = {
        f"{places[name]}.{rest}": array
        for key, array in state_dict.items()
        for name, _, rest in [key.partition(".")]
        if name != "fc"
    }
    got = from_torch(numbered)["params"]
    chex.assert_trees_all_equal(got, {k: v for k, v in variables["params"].items() if k != "fc"})


def without(state_dict, *names):
    return {k: v for k, v in state_dict.items() if k not in names}


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: without(w, "Mixed_7c.branch_pool.bn.bias"), "lack Mixed_7c.branch_pool.bn.bias"),
        (lambda w: without(w, "fc.bias"), "lack fc.bias"),
        (lambda w: w | {"AuxLogits.fc.bias": np.zeros(9)}, "have the unexpected AuxLogits.fc.bias"),
        (lambda w: {}, "lack .* and 469 more"),
        (
            lambda w: w | {"fc.weight": np.zeros((1000, 2048))},
            r"fc.weight has shape \[1000, 2048\]",
        ),
        (lambda w: w | {"fc.bias": np.zeros(1008, int)}, "fc.bias is int64"),
        (lambda w: w | {"fc.bias": np.full(1008, np.nan)}, "fc.bias: NaN"),
    ],
)
def test_weights_of_something_else_are_refused(state_dict, change, words):
    with pytest.raises(InputError, match=words) as error:
        from_torch(change(state_dict))
    assert "\n" not in str(error.value)
