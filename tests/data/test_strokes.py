"""Thickness, slant and size of drawn bars, whose answers are known."""

import numpy as np
import pytest

from gengen.data.strokes import size, slant, stroke_thickness
from gengen.types import InputError


def bar(top: int, left: int, height: int, width: int) -> np.ndarray:
    """An image of one bright bar on black: [1, 28, 28, 1] in [-1, 1]."""
    x = np.full((1, 28, 28, 1), -1.0)
    x[:, top : top + height, left : left + width] = 1
    return x


def sheared(shear: int, width: int = 4, height: int = 9) -> np.ndarray:
    """A rectangle whose rows move `shear` pixels to the right for each pixel up."""
    x = np.full((1, 28, 28, 1), -1.0)
    for row in range(height):
        left = 12 - shear * (row - height // 2)
        x[:, 9 + row, left : left + width] = 1
    return x


@pytest.mark.parametrize("thickness", [1, 2, 3, 5])
def test_thickness_of_a_bar_is_its_shorter_side(thickness):
    for x in (bar(4, 10, 20, thickness), bar(10, 4, thickness, 20)):
        # A corner where both differences are 1 counts √2 instead of 2: 3 % of the perimeter.
        np.testing.assert_allclose(stroke_thickness(x), thickness, rtol=0.05)


def test_thickness_of_a_bar_at_the_edge_is_the_same():
    np.testing.assert_allclose(
        stroke_thickness(bar(8, 25, 20, 3)), stroke_thickness(bar(4, 10, 20, 3)), rtol=0.03
    )


def test_thickness_of_a_ring():
    row, column = np.mgrid[:28, :28] - 13.5
    inside = lambda r: np.clip(r + 0.5 - np.hypot(row, column), 0, 1)  # noqa: E731
    for thickness in (2, 4):
        w = inside(8 + thickness / 2) - inside(8 - thickness / 2)
        found = stroke_thickness((2 * w - 1)[None, :, :, None])
        # As a rectangle: t (1 + t/(2πR)), 8 % more for t = 4; the rest is of the pixels.
        np.testing.assert_allclose(found, thickness, rtol=0.15)


@pytest.mark.parametrize("shear", [-2, -1, 0, 1, 2])
def test_slant_of_a_sheared_rectangle_is_its_shear(shear):
    np.testing.assert_allclose(slant(sheared(shear)), shear, atol=1e-9)


def test_slant_does_not_depend_on_place_or_brightness():
    x = sheared(1)
    np.testing.assert_allclose(slant(np.roll(x, (3, 2), (1, 2))), 1, atol=1e-9)
    np.testing.assert_allclose(slant((x + 1) / 2 - 1), 1, atol=1e-9)


def test_size_of_a_rectangle_is_that_of_a_uniform_distribution():
    for height, width in ((1, 9), (12, 5)):
        want = np.sqrt((height**2 - 1 + width**2 - 1) / 12)  # of both variances
        np.testing.assert_allclose(size(bar(4, 10, height, width)), want, rtol=1e-9)


def test_each_image_is_measured_by_itself():
    x = np.concatenate([sheared(2), bar(4, 10, 20, 3), sheared(-1)])
    np.testing.assert_allclose(slant(x), [2, 0, -1], atol=1e-9)
    np.testing.assert_allclose(stroke_thickness(x)[1:2], stroke_thickness(x[1:2]))


def test_images_without_ink_are_zero():
    blank = np.full((2, 8, 8, 1), -1.0)
    np.testing.assert_array_equal(stroke_thickness(blank), [0, 0])
    np.testing.assert_array_equal(slant(blank), [0, 0])
    np.testing.assert_array_equal(slant(bar(5, 3, 1, 9)), [0])


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match="N, H, W, C"):
        slant(np.zeros((28, 28)))
