"""Pictures of codes, with a decoder whose images say which code they are of."""

import numpy as np
import pytest
from scipy.stats import norm

from gengen.viz import latent
from gengen.viz.grid import GAP

RNG = np.random.default_rng(0)


def decode(z):
    """Images of one pixel a dimension, z/4 clipped."""
    return np.clip(np.asarray(z) / 4, -1, 1).reshape(len(z), 1, -1, 1).astype(np.float32)


def pixels(z):
    return np.rint((np.clip(np.asarray(z) / 4, -1, 1) + 1) * 127.5)


def cells(picture, rows, columns, width):
    """What a grid of 1 × width images with gaps of 2 pixels holds: [rows, columns, width]."""
    return np.array(
        [
            [picture[3 * r, (width + 2) * c : (width + 2) * c + width, 0] for c in range(columns)]
            for r in range(rows)
        ]
    )


@pytest.mark.parametrize("spherical", [False, True])
def test_an_interpolation_ends_at_the_reconstructions(spherical):
    a, b = RNG.normal(size=(2, 3, 4))
    way = latent.interpolate(a, b, 5, spherical)
    np.testing.assert_allclose(way[:, 0], a, atol=1e-12)
    np.testing.assert_allclose(way[:, -1], b, atol=1e-12)
    seen = cells(latent.interpolations(decode, a, b, 5, spherical), 3, 5, 4)
    np.testing.assert_array_equal(seen[:, 0], pixels(a))
    np.testing.assert_array_equal(seen[:, -1], pixels(b))


def test_ways_are_straight_or_great_circles():
    a, b = np.array([[2.0, 0, 0]]), np.array([[0, 2.0, 0]])
    np.testing.assert_allclose(latent.interpolate(a, b, 3)[0, 1], [1, 1, 0])
    round_way = latent.interpolate(a, b, 3, spherical=True)[0]
    np.testing.assert_allclose(round_way[1], [2**0.5, 2**0.5, 0])
    np.testing.assert_allclose(np.linalg.norm(round_way, axis=1), 2)
    # a third of the way is a third of the angle, and of the growth
    c = 4 * b / 2
    third = latent.interpolate(a, c, 4, spherical=True)[0, 1]
    want = (2 + 2 / 3) * np.array([np.cos(np.pi / 6), np.sin(np.pi / 6), 0])
    np.testing.assert_allclose(third, want)
    for end in (a, -a, 0 * a):  # no circle: straight, and finite
        np.testing.assert_allclose(latent.interpolate(a, end, 3, True)[0, 1], ((a + end) / 2)[0])


def test_the_manifold_is_at_percentiles():
    seen = cells(latent.manifold(decode, side=3, within=0.8), 3, 3, 2)
    low, high = norm.ppf([0.1, 0.9])
    np.testing.assert_array_equal(seen[1, 1], pixels([0, 0]))
    np.testing.assert_array_equal(seen[0, 0], pixels([low, high]))  # upwards is up
    np.testing.assert_array_equal(seen[2, 2], pixels([high, low]))
    np.testing.assert_array_equal(seen[2, 1], pixels([0, low]))


def test_the_manifold_of_other_codes_is_at_their_percentiles():
    codes = np.stack([np.arange(101.0), 200 - np.arange(101.0)], axis=1) / 50
    seen = cells(latent.manifold(decode, side=3, within=0.8, codes=codes), 3, 3, 2)
    np.testing.assert_array_equal(seen[1, 1], pixels([1, 3]))
    np.testing.assert_array_equal(seen[0, 2], pixels([1.8, 3.8]))
    np.testing.assert_array_equal(seen[2, 0], pixels([0.2, 2.2]))


def test_reconstructions_lie_under_their_originals():
    x, out = RNG.normal(size=(2, 5, 3))
    seen = cells(latent.reconstructions(decode(x), decode(out), columns=3), 4, 3, 3)
    np.testing.assert_array_equal(seen[0], pixels(x[:3]))
    np.testing.assert_array_equal(seen[1], pixels(out[:3]))
    np.testing.assert_array_equal(seen[2, :2], pixels(x[3:]))
    np.testing.assert_array_equal(seen[3, :2], pixels(out[3:]))
    np.testing.assert_array_equal(seen[2:, 2], GAP)  # nothing there


def test_a_traversal_moves_one_dimension():
    z = np.array([0.5, -1.0, 2.0])
    seen = cells(latent.traversals(decode, z, dims=(2, 0), num=3, far=2), 2, 3, 3)
    np.testing.assert_array_equal(seen[0, 0], pixels([0.5, -1, -2]))
    np.testing.assert_array_equal(seen[1, 2], pixels([2, -1, 2]))
    far, centre = np.array([1, 2, 0.5]), np.array([0, 1, -1])
    seen = cells(latent.traversals(decode, z, dims=(2, 1), num=2, far=far, centre=centre), 2, 2, 3)
    np.testing.assert_array_equal(seen[0], pixels([[0.5, -1, -1.5], [0.5, -1, -0.5]]))
    np.testing.assert_array_equal(seen[1], pixels([[0.5, -1, 2], [0.5, 3, 2]]))
    assert latent.traversals(decode, z).shape[0] == 3 * 1 + 2 * 2  # all dimensions


def test_attributes_are_added_and_removed():
    z, has = RNG.normal(size=(6, 3)), np.array([1, 0, 1, 0, 0, 1], bool)
    v = latent.attribute(z, has)
    np.testing.assert_allclose(v, z[[0, 2, 5]].mean(0) - z[[1, 3, 4]].mean(0))
    seen = cells(latent.arithmetic(decode, z, v, (-1, 0, 2)), 6, 3, 3)
    np.testing.assert_array_equal(seen[:, 1], pixels(z))
    np.testing.assert_array_equal(seen[:, 0], pixels(z - v))
    np.testing.assert_array_equal(seen[:, 2], pixels(z + 2 * v))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: latent.interpolate([[1.0]], [[1.0, 2.0]], 3), "one shape"),
        (lambda: latent.interpolate([[1.0]], [[np.nan]], 3), "finite"),
        (lambda: latent.manifold(decode, 0), "side = 0"),
        (lambda: latent.manifold(decode, codes=np.ones((4, 3))), "codes"),
        (lambda: latent.traversals(decode, [1.0], dims=(1,)), "dims"),
        (lambda: latent.reconstructions(np.ones((2, 4)), np.ones((2, 4))), "one shape"),
        (lambda: latent.attribute([[1.0]], [True]), "some, not all"),
        (lambda: latent.arithmetic(decode, [[1.0]], [1.0, 2.0]), "vector"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
