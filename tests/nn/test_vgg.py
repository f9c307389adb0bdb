"""VGG-19's features against NumPy float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn import vgg
from gengen.types import InputError
from tests.nn import float64
from tests.nn.random_weights import random_images, random_state_dict

SHAPE = (2, 19, 18, 3)  # 19 rows: 9, 4, 2 and 1 after the pools, which leave an odd row out
# torchvision's layers: M is a pool, a number a convolution with its ReLU.
LAYERS = (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4)


@pytest.fixture(scope="module")
def state_dict():
    return random_state_dict(vgg.torch_shapes(), seed=0)


@pytest.fixture(scope="module")
def variables(state_dict):
    return vgg.from_torch(state_dict)


@pytest.fixture(scope="module")
def images():
    return random_images(SHAPE, seed=1).astype(np.float32) / 127.5 - 1


def pooled(x, how):
    h, w, c = x.shape
    return how(x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c), axis=(1, 3))


def every_map(state_dict, image, how):
    """All taps, by walking through torchvision's list of layers."""
    x = ((image.astype(np.float64) + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found, place, level, i = {}, 0, 1, 0
    for layer in LAYERS:
        if layer == "M":
            x, place, level, i = pooled(x, how), place + 1, level + 1, 0
            continue
        kernel, bias = (state_dict[f"features.{place}.{what}"] for what in ("weight", "bias"))
        place, i = place + 2, i + 1
        found[f"conv{level}_{i}"] = float64.conv(x, kernel, bias)
        x = found[f"relu{level}_{i}"] = np.maximum(found[f"conv{level}_{i}"], 0)
    return found


@pytest.mark.parametrize("pool, how", [("max", np.max), ("mean", np.mean)])
def test_gives_what_numpy_gives_at_every_tap(state_dict, variables, images, pool, how):
    got = jax.jit(lambda v, x: vgg.features(v, x, pool=pool))(variables, images)
    for n, image in enumerate(images):
        want = every_map(state_dict, image, how)
        assert set(got) == set(want) == set(vgg.TAPS) and len(want) == 32
        for tap in want:
            # Float32 sums of up to 4,608 products, one layer's errors feeding the next.
            size = np.abs(want[tap]).max()
            np.testing.assert_allclose(got[tap][n], want[tap], rtol=0, atol=1e-5 * size)


def test_a_tap_needs_no_more_of_the_network_than_what_leads_to_it(variables, images):
    first = {"params": {"conv1_1": variables["params"]["conv1_1"]}}
    got = vgg.features(first, images, ("relu1_1", "conv1_1"))
    assert list(got) == ["relu1_1", "conv1_1"]
    np.testing.assert_array_equal(got["relu1_1"], np.maximum(got["conv1_1"], 0))


def test_a_gradient_reaches_the_picture(variables, images):
    """As style transfer needs: against a difference quotient along the gradient."""
    loss = jax.jit(lambda x: jnp.mean(vgg.features(variables, x, ("conv3_1",))["conv3_1"] ** 2))
    gradient = jax.jit(jax.grad(loss))(images)
    step = 1e-3 * gradient / jnp.linalg.norm(gradient)
    quotient = (loss(images + step) - loss(images - step)) / 2e-3
    np.testing.assert_allclose(quotient, jnp.linalg.norm(gradient), rtol=1e-2)  # kinks of the ReLUs


def test_the_classifier_of_the_public_file_is_left_out(state_dict, variables):
    whole = state_dict | {"classifier.0.weight": np.zeros((4096, 25088), np.float16)}
    assert set(vgg.from_torch(whole)["params"]) == set(variables["params"])
    assert vgg.torch_shapes()["features.34.weight"] == (512, 512, 3, 3)
    assert vgg.torch_shapes()["features.5.weight"] == (128, 64, 3, 3)


@pytest.mark.parametrize(
    "change, options, words",
    [
        (lambda x: x, {"taps": ("conv6_1",)}, "conv6_1.*some of conv1_1"),
        (lambda x: x, {"taps": ()}, "a tuple of some of"),
        (lambda x: x, {"taps": "relu1_1"}, "a tuple of some of"),
        (lambda x: x, {"pool": "median"}, '\'median\': "max" or "mean"'),
        (lambda x: x.astype(np.uint8), {}, "uint8, but floats"),
        (lambda x: x[..., :1], {}, r"\[2, 19, 18, 1\].*jnp.repeat"),
        (lambda x: x[:, :15], {}, "H, W ≥ 16 for level 5"),
        (lambda x: x[0], {}, r"\[B, H, W, 3\]"),
    ],
)
def test_what_cannot_work_is_refused(images, change, options, words):
    with pytest.raises(InputError, match=words) as error:
        vgg.features({"params": {}}, jnp.asarray(change(images)), **options)
    assert "\n" not in str(error.value)


def test_weights_of_something_else_are_refused(state_dict):
    with pytest.raises(InputError, match="lack features.34.bias"):
        vgg.from_torch({k: v for k, v in state_dict.items() if k != "features.34.bias"})
    with pytest.raises(InputError, match="unexpected features.35.weight"):
        vgg.from_torch(state_dict | {"features.35.weight": np.zeros(3)})
