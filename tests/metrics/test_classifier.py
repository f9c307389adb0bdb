"""The shipped classifiers: what they claim, what they accept, and that no other file passes."""

import numpy as np
import pytest

from gengen.data import load
from gengen.metrics import classifier, fid, statistics
from gengen.types import InputError

CASES = [("mnist-v1", "mnist5k", 0.97), ("fashion-v1", "fashion", 0.91)]


def held_out(name):
    try:
        return load(f"{name}:test")
    except (InputError, OSError):
        pytest.skip(f"{name} is not on this machine")


@pytest.mark.parametrize(("name", "data", "accuracy"), CASES)
def test_reads_held_out_images_as_well_as_its_file_says(name, data, accuracy):
    """The file's figure, on the same test split; ±2 images for another machine's rounding."""
    reader, test = classifier.load(name), held_out(data)
    probs = reader.probabilities(test.arrays["image"])
    got = classifier.consistency(probs, test.arrays["label"])
    assert got >= accuracy
    assert got == pytest.approx(reader.facts["test_accuracy"], abs=2.1 / len(test))
    assert reader.facts["test_fingerprint"] == test.fingerprint
    assert reader.facts["fingerprint"] == load(data).fingerprint
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(("name", "data", "accuracy"), CASES)
def test_is_small_and_pinned(name, data, accuracy):
    path = classifier.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 1e6
    reader = classifier.load(name)
    assert (reader.name, reader.sha256, reader.shape) == (
        name, classifier.PINNED[name], (28, 28, 1),
    )  # fmt: skip
    assert {"data", "seed", "steps", "class_names"} <= set(reader.facts)


def test_features_do_not_depend_on_the_batch():
    """Padding and the number of images: the same, image by image, but for the order of sums."""
    reader = classifier.load("mnist-v1")
    images = load("mnist5k:test").arrays["image"][:260]
    features = reader.features(images)
    assert features.shape == (260, 96) and features.dtype == np.float32
    np.testing.assert_allclose(reader.features(images[250:]), features[250:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reader.features(images[:1]), features[:1], rtol=1e-4, atol=1e-5)


def test_fid_tells_digits_from_noisy_digits_and_its_floor_is_below():
    """Real against real lies below the mildest damage, and the damage counts."""
    reader = classifier.load("mnist-v1")
    real = load("mnist5k").arrays["image"]
    test = load("mnist5k:test").arrays["image"]
    reference = statistics.of_features(reader.features(real), reader.name, reader.sha256)
    noise = np.random.default_rng(0).normal(size=test.shape)
    scores = [
        fid.fid(
            real=reference,
            fake=reader.features(np.clip(test + std * noise, 0, 255).astype(np.uint8)),
        ).value
        for std in (0, 40, 80, 160)
    ]
    assert scores == sorted(scores) and scores[1] > 1.5 * scores[0]


def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    good = (classifier.FOLDER / "mnist-v1.safetensors").read_bytes()
    monkeypatch.setattr(classifier, "FOLDER", tmp_path)
    path = tmp_path / "mnist-v1.safetensors"
    classifier.load.cache_clear()
    with pytest.raises(InputError, match="cannot be read"):
        classifier.load("mnist-v1")
    flipped = bytearray(good)
    flipped[-7] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(InputError, match="is pinned"):
        classifier.load("mnist-v1")
    classifier.load.cache_clear()
    for content in (b"", b"\x00" * 8, good[:1000], good[:-4], b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a classifier that gengen wrote"):
            classifier.read(path)


def test_your_own_classifier(tmp_path):
    """Saved and read again: the same to half precision's rounding, which happened at saving."""
    import jax
    import jax.numpy as jnp

    network = classifier.Network(classes=3, width=8, channels=(8, 8, 8))
    params = network.init(jax.random.key(0), jnp.zeros((1, 16, 12, 3)))["params"]
    path = tmp_path / "own.safetensors"
    digest = classifier.save(path, network, params, {"name": "own", "shape": (16, 12, 3)})
    reader = classifier.load(str(path))
    assert (reader.name, reader.sha256, reader.shape) == ("own", digest, (16, 12, 3))
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), np.uint8)
    scores = network.apply({"params": params}, jnp.asarray(images / 127.5 - 1))
    np.testing.assert_allclose(
        reader.probabilities(images), jax.nn.softmax(jnp.asarray(scores)), atol=2e-3
    )
    # Other arrays than its facts say.
    classifier.save(
        path, classifier.Network(classes=4), params, {"name": "x", "shape": (16, 12, 3)}
    )
    with pytest.raises(InputError, match="not those of the network"):
        classifier.read(path)


def test_consistency_by_hand():
    probs = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    assert classifier.consistency(probs, [0, 0, 0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 28, 28, 1), np.float32), "use gengen.data.to_uint8"),
        (np.zeros((2, 28, 28, 1), np.int64), "images are uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), "the network takes (28, 28, 1)"),
        (np.zeros((28, 28, 1), np.uint8), "images are [N, H, W, C]"),
        (np.zeros((0, 28, 28, 1), np.uint8), "N ≥ 1"),
        (np.array([np.zeros(3), np.zeros(4)], object), "mixed sizes"),
    ],
)
def test_bad_images_are_one_line(images, says):
    with pytest.raises(InputError) as error:
        classifier.load("mnist-v1").features(images)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_bad_names_and_labels():
    with pytest.raises(InputError, match="it is one of"):
        classifier.load("mnist")
    probs = np.eye(2)
    for labels, says in (([0], "one integer"), ([0.0, 1.0], "one integer"), ([0, 2], "0..1")):
        with pytest.raises(InputError, match=says):
            classifier.consistency(probs, labels)
