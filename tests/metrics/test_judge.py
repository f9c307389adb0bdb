"""The judge of digits, and the distance to the nearest training example."""

import numpy as np
import pytest

from gengen.data import load
from gengen.metrics import judge, memorisation


@pytest.fixture(scope="module")
def referee():
    train = load("mnist5k")
    return judge.fit(train.arrays["image"], train.arrays["label"])


def test_reads_real_held_out_digits(referee):
    """What it was chosen by, before any model was trained: ≥ 94 % right, 85-93 % of them sure."""
    test = load("mnist5k:test")
    probs = judge.probabilities(referee, test.arrays["image"])
    assert np.mean(probs.argmax(1) == test.arrays["label"]) >= 0.94
    assert 0.85 <= judge.confident_share(probs) <= 0.93
    np.testing.assert_allclose(judge.class_shares(probs).sum(), 1)
    assert judge.class_shares(probs).min() > 0.08


def test_noise_is_taken_for_a_digit_as_it_says_but_is_far_from_all(referee):
    noise = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    assert judge.confident_share(judge.probabilities(referee, noise)) > 0.9
    real = load("mnist5k").arrays["image"]
    assert memorisation.nearest_distances(noise, real).min() > 12  # real held-out digits: 4.8


def test_shares_by_hand():
    probs = np.array([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])
    assert judge.confident_share(probs) == pytest.approx(2 / 3)
    np.testing.assert_allclose(judge.class_shares(probs), [2 / 3, 1 / 3])


def test_nearest_distance_by_hand():
    training = np.array([[0.0, 0.0], [3.0, 4.0]])
    x = np.array([[0.0, 1.0], [3.0, 4.0], [6.0, 8.0]])
    np.testing.assert_allclose(memorisation.nearest_distances(x, training), [1, 0, 5])


def test_a_copy_is_at_distance_zero_exactly():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(memorisation.nearest_distances(images[:5], images), 0)
    white, black = np.full((1, 8, 8, 1), 255, np.uint8), np.zeros((1, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(memorisation.nearest_distances(white, black), [8.0])
