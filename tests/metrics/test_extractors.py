"""Extractors by name."""

import numpy as np
import pytest

from gengen.metrics import extractors
from gengen.metrics.extractors import Extractor, Identity, Inception
from gengen.nn import weights
from gengen.nn.inception import features, from_torch, torch_shapes
from gengen.types import InputError
from tests.nn.random_weights import random_images, random_state_dict

PUBLISHED = weights.PUBLISHED["inception"].sha256


@pytest.fixture(scope="module")
def variables():
    return from_torch(random_state_dict(torch_shapes(), seed=2))


def test_inception_is_its_taps(variables):
    images = random_images((2, 16, 16, 3), seed=3)
    taps = features(variables, images, ("2048", "logits_unbiased"), "clean-fid")
    extractor = Inception(variables, PUBLISHED, "clean-fid")
    np.testing.assert_array_equal(extractor.features(images), taps["2048"])
    scores = np.asarray(taps["logits_unbiased"], np.float64)
    want = np.exp(scores - scores.max(1, keepdims=True))
    want /= want.sum(1, keepdims=True)
    # Logits are of size 10: their rounding, 1e-6, is the relative error of a probability.
    np.testing.assert_allclose(extractor.probabilities(images), want, rtol=1e-5)


def test_grey_is_three_equal_channels(variables):
    extractor = Inception(variables, PUBLISHED)
    grey = random_images((2, 16, 16, 1), seed=3)
    colour = grey.repeat(3, axis=3)
    np.testing.assert_array_equal(extractor.features(grey), extractor.features(colour))


def test_a_name_tells_resize_and_weights():
    assert Inception({}, PUBLISHED).name == "inception"
    assert Inception({}, PUBLISHED, "pytorch-fid").name == "inception-pytorch-fid"
    assert Inception({}, "ab" * 32).name == "inception-abababab"


def test_every_name_loads_or_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path))
    for name in extractors.NAMES:
        if name.startswith("inception"):
            with pytest.raises(InputError, match="weights fetch inception.*import.*mnist-v1"):
                extractors.load(name)
        else:
            found = extractors.load(name)
            assert isinstance(found, Extractor) and found.name == name


def test_the_one_that_suits(monkeypatch, tmp_path):
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path))
    assert extractors.suited("mnist5k:test", (28, 28, 1))[0] == "mnist-v1"
    assert extractors.suited("grid25", (2,))[0] == "identity"
    for name, shape in (("folder:photos", (64, 64, 3)), ("mnist5k", (14, 14, 1))):
        chosen, why = extractors.suited(name, shape)
        assert chosen == "random-v1" and "gengen weights fetch inception" in why
    (tmp_path / "inception.safetensors").touch()
    assert extractors.suited("folder:photos", (64, 64, 3))[0] == "inception"


def test_vectors_are_their_own_features():
    x = np.eye(3)
    assert Identity().features(x) is x
    with pytest.raises(InputError, match="classes"):
        Identity().probabilities(x)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="vectors"):
        Identity().features(np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(InputError, match="images"):
        Inception({}, PUBLISHED).features(np.zeros((2, 4)))
    with pytest.raises(InputError, match="one of mnist-v1"):
        extractors.load("inceptoin")
