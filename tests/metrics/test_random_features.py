"""Features of a fixed random network: the same everywhere, of any images, and sensitive to them."""

import numpy as np
import pytest

from gengen.data import load
from gengen.metrics import fid
from gengen.metrics.random_features import RandomFeatures
from gengen.types import InputError


@pytest.fixture(scope="module")
def digits():
    return load("mnist5k").arrays["image"][:1000]


def test_the_weights_are_the_same_for_ever():
    """Scores of random-v1 are comparable as long as these are; a change needs another name."""
    found = RandomFeatures()
    assert found.name == "random-v1" and found.sha256.startswith("c048c98f4a38cd83")
    assert found.sha256 == RandomFeatures().sha256


@pytest.mark.parametrize("shape", [(4, 4, 1), (5, 9, 3), (28, 28, 1), (100, 80, 3), (8, 8, 4)])
def test_images_of_any_size(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    found = RandomFeatures().features(images)
    assert found.shape == (3, 128) and np.isfinite(found).all()
    np.testing.assert_allclose(RandomFeatures().features(images[1:2])[0], found[1], atol=1e-5)


def test_grey_is_three_equal_channels(digits):
    grey, colour = digits[:3], digits[:3].repeat(3, axis=3)
    found = RandomFeatures()
    np.testing.assert_array_equal(found.features(grey), found.features(colour))


def test_noise_and_missing_kinds_are_seen(digits):
    """More noise, a larger distance; half of the classes, a larger one than a random half."""
    extract, rng = RandomFeatures().features, np.random.default_rng(0)
    real, others = extract(digits[:500]), digits[500:]
    distance = lambda images: fid.fid(real=real, fake=extract(images)).value  # noqa: E731
    floor = distance(others)
    noise = rng.normal(size=others.shape)
    noisy = [
        distance(np.clip(others + std * noise, 0, 255).astype(np.uint8)) for std in (10, 30, 90)
    ]
    assert floor < noisy[0] < noisy[1] < noisy[2]
    labels = load("mnist5k").arrays["label"][500:1000]
    few, some = others[labels < 5], others[rng.permutation(500)[: (labels < 5).sum()]]
    assert distance(few) > 1.3 * distance(some)


def test_bad_input_is_refused():
    found = RandomFeatures()
    with pytest.raises(InputError, match="takes images"):
        found.features(np.zeros((3, 2)))
    with pytest.raises(InputError, match="at least 4 pixels"):
        found.features(np.zeros((3, 28, 3, 1), np.uint8))
    with pytest.raises(InputError, match="uint8"):
        found.features(np.zeros((3, 8, 8, 1)))
    with pytest.raises(InputError, match="no classes"):
        found.probabilities(np.zeros((3, 8, 8, 1), np.uint8))
