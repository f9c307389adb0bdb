from __future__ import annotations

import numpy as np
import pytest

from gengen.data import toy


@pytest.mark.parametrize("name", toy.SAMPLERS)
def test_shapes_seeds_and_sizes(name):
    sample = toy.SAMPLERS[name]
    x, label = sample(np.random.default_rng(3), 100)
    assert (x.shape, x.dtype) == ((100, 2), np.float32)
    assert (label.shape, label.dtype) == ((100,), np.int32)
    np.testing.assert_array_equal(x, sample(np.random.default_rng(3), 100)[0])
    assert (x != sample(np.random.default_rng(4), 100)[0]).any(axis=1).sum() > 90
    assert sample(np.random.default_rng(0), 0)[0].shape == (0, 2)


@pytest.mark.parametrize("name", toy.SAMPLERS)
def test_splits_have_no_example_in_common(name):
    train, test = toy.load_toy(name, "train"), toy.load_toy(name, "test")
    assert (len(train), len(test)) == (20_000, 5_000)
    assert train.name == f"{name}:train"
    rows = {row.tobytes() for row in train.arrays["x"]}
    assert not any(row.tobytes() in rows for row in test.arrays["x"])


@pytest.mark.parametrize(
    ("sample", "centres", "std"),
    [
        (toy.ring8, toy.ring8_centres(), toy.RING8_STD),
        (toy.grid25, toy.grid25_centres(), toy.GRID25_STD),
    ],
)
def test_mixtures_have_their_centres_and_spread(sample, centres, std):
    x, label = sample(np.random.default_rng(0), 20_000)
    distance = np.linalg.norm(x[:, None] - centres, axis=-1)
    np.testing.assert_array_equal(distance.argmin(axis=1), label)
    # Bounds of about five standard deviations of each estimate.
    assert np.abs((x - centres[label]) / std).max() < 6
    assert np.std((x - centres[label]) / std) == pytest.approx(1, abs=5 / np.sqrt(2 * 40_000))
    share = 20_000 / len(centres)
    assert np.abs(np.bincount(label, minlength=len(centres)) - share).max() < 5 * np.sqrt(share)


def test_centres():
    ring, grid = toy.ring8_centres(), toy.grid25_centres()
    np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 2)
    np.testing.assert_allclose(ring[:3], [[2, 0], [2**0.5, 2**0.5], [0, 2]], atol=1e-12)
    expected = {(a, b) for a in (-4, -2, 0, 2, 4) for b in (-4, -2, 0, 2, 4)}
    assert len(grid) == 25
    assert {tuple(row) for row in grid.tolist()} == expected


def test_mouse_parts():
    x, label = toy.mouse(np.random.default_rng(0), 20_000)
    assert np.abs(x).max() <= 2
    share = np.array(toy.MOUSE_COUNTS) / 500
    bound = 5 * np.sqrt(share * (1 - share) / 20_000)
    assert (np.abs(np.bincount(label) / 20_000 - share) < bound).all()
    head, left, right, noise = (x[label == part] for part in range(4))
    np.testing.assert_allclose(left.mean(axis=0), [-1, 1], atol=0.02)
    np.testing.assert_allclose(right.mean(axis=0), [1, 1], atol=0.02)
    # The radii at which each Gaussian's density meets that of the noise, in units of the picture.
    radius = lambda count, std: (  # noqa: E731
        4 * std * np.sqrt(2 * np.log(count / (2 * np.pi * std**2) / 500))
    )
    assert 0.98 < np.linalg.norm(head, axis=1).max() / radius(290, 0.2) <= 1
    assert 0.95 < np.linalg.norm(left - [-1, 1], axis=1).max() / radius(100, 0.05) <= 1
    assert np.linalg.norm(noise, axis=1).min() > radius(290, 0.2)
    assert np.linalg.norm(noise - [1, 1], axis=1).min() > radius(100, 0.05)


def test_mouse_rejects_as_often_as_elki():
    # mouse.csv as published: 203 points discarded for 290 kept of the head, 8 for 100 of an ear.
    rng = np.random.default_rng(0)
    for part, kept, discarded in ((0, 290, 203), (1, 100, 8)):
        label = np.full(20_000, part)
        share = toy._mouse_kept(toy._mouse_proposal(rng, label), label).mean()
        published = kept / (kept + discarded)
        error = np.sqrt(published * (1 - published) / (kept + discarded))
        assert abs(share - published) < 3 * error


def test_moons_without_noise_are_half_circles(monkeypatch):
    monkeypatch.setattr(toy, "MOONS_STD", 0.0)
    x, label = toy.moons(np.random.default_rng(0), 200)
    unit = (x - toy.MOONS_SHIFT) / toy.MOONS_SCALE
    centres = np.array([[0, 0], [1, 0.5]])
    np.testing.assert_allclose(np.linalg.norm(unit - centres[label], axis=1), 1, atol=1e-6)
    assert (unit[label == 0, 1] >= -1e-6).all()
    assert (unit[label == 1, 1] <= 0.5 + 1e-6).all()


def test_checkerboard_fills_its_eight_squares_evenly():
    x, label = toy.checkerboard(np.random.default_rng(0), 8000)
    assert np.abs(x).max() <= 4
    square = np.floor(x / 2).astype(int)
    assert ((square.sum(axis=1) % 2) == 0).all()
    assert len(np.unique(np.column_stack([square, label]), axis=0)) == 8  # a label each
    assert np.abs(np.bincount(label) - 1000).max() < 5 * np.sqrt(1000)


def test_swiss_roll_without_noise_is_a_spiral(monkeypatch):
    monkeypatch.setattr(toy, "SWISS_ROLL_STD", 0.0)
    x, label = toy.swiss_roll(np.random.default_rng(0), 500)
    angle = np.linalg.norm(x, axis=1) / toy.SWISS_ROLL_SCALE
    expected = toy.SWISS_ROLL_SCALE * angle * np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(x, expected.T, atol=1e-4)
    np.testing.assert_array_equal(label, np.floor(angle / np.pi - 1.5))
    assert set(label) == {0, 1, 2}
