from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gengen.errors import InputError
from gengen.viz.grid import GAP, grid, heat_map, picture, save_png, scatter


def test_places_images_row_by_row_with_gaps_between_them_only():
    images = np.array([1, 2, 3], np.uint8).reshape(3, 1, 1, 1)
    expected = [[1, GAP, 2], [GAP, GAP, GAP], [3, GAP, GAP]]
    assert grid(images, columns=2, padding=1)[..., 0].tolist() == expected
    assert grid(images, columns=2, padding=0)[..., 0].tolist() == [[1, 2], [3, GAP]]


def test_keeps_each_image_upright():
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    whole = grid(images, padding=2)
    assert whole.shape == (2, 3 + 2 + 3, 3)
    np.testing.assert_array_equal(whole[:, :3], images[0])
    np.testing.assert_array_equal(whole[:, 5:], images[1])


@pytest.mark.parametrize(
    ("num", "rows", "columns"),
    [(1, 1, 1), (2, 1, 2), (3, 2, 2), (16, 4, 4), (20, 4, 5), (64, 8, 8)],
)
def test_is_near_square_by_default(num, rows, columns):
    assert grid(np.zeros((num, 1, 1, 1), np.uint8), padding=0).shape == (rows, columns, 1)


def test_asks_for_no_more_columns_than_images():
    assert grid(np.zeros((3, 2, 2, 1), np.uint8), columns=8, padding=0).shape == (2, 6, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_maps_floats_to_pixels_and_clips(dtype):
    x = np.array([-1.0, 0.0, 1.0, -7.0, 7.0]).astype(jnp.dtype(dtype))
    assert grid(x.reshape(1, 1, 5, 1)).ravel().tolist() == [0, 128, 255, 0, 255]


def test_inverts_the_scaling_of_every_grey_level():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(grid(pixels / np.float32(127.5) - 1), pixels[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3])
def test_paints_what_is_not_finite_magenta(bad, channels):
    x = np.full((1, 1, 2, channels), -1.0)
    x[0, 0, 1, 0] = bad
    assert grid(x).tolist() == [[[0, 0, 0], [255, 0, 255]]]


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (np.zeros((0, 2, 2, 1), np.uint8), {}),
        (np.zeros((2, 2, 1), np.uint8), {}),
        (np.zeros((1, 2, 2, 2), np.uint8), {}),
        (np.zeros((1, 2, 2, 1), np.int32), {}),
        (np.zeros((1, 2, 2, 1), np.uint8), {"columns": 0}),
        (np.zeros((1, 2, 2, 1), np.uint8), {"padding": -1}),
    ],
)
def test_refuses_what_is_no_batch_of_images(images, options):
    with pytest.raises(InputError):
        grid(images, **options)


@pytest.mark.parametrize("shape", [(3, 4, 3), (3, 4, 1), (3, 4)])
def test_png_round_trip(tmp_path, shape):
    array = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    save_png(tmp_path / "a.png", array, scale=2)
    with Image.open(tmp_path / "a.png") as file:
        read = np.asarray(file)
    np.testing.assert_array_equal(read, np.kron(array.squeeze(), _ones(array)).astype(np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def _ones(array):
    return np.ones((2, 2, 1) if array.ndim == 3 and array.shape[-1] == 3 else (2, 2), np.uint8)


def test_a_png_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(path, np.zeros((2, 2), np.uint8))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("array", "scale"),
    [
        (np.zeros((2, 2, 3)), 1),
        (np.zeros((2, 2, 2), np.uint8), 1),
        (np.zeros((0, 2), np.uint8), 1),
        (np.zeros((2, 2), np.uint8), 0),
    ],
)
def test_refuses_what_is_no_picture(tmp_path, array, scale):
    with pytest.raises(InputError):
        save_png(tmp_path / "a.png", array, scale)
    assert not list(tmp_path.iterdir())


def test_scatter_draws_samples_blue_over_real_data_in_grey():
    real, samples = np.array([[-1.0, -1], [1, 1]]), np.array([[-1.0, 1]])
    image = scatter(samples, real, size=200)
    assert (image.shape, image.dtype) == ((200, 200, 3), np.uint8)
    spread = np.ptp(image.astype(int), axis=-1)
    y, x = np.nonzero(spread > 90)  # the only saturated colour is that of the samples
    assert len(x) and x.max() < 100 and y.max() < 100  # first coordinate to the right, second up


def test_scatter_keeps_its_frame_whatever_the_samples():
    real = np.random.default_rng(0).normal(size=(500, 2))
    blank = scatter(np.full((1, 2), 1e9), real)
    also_blank = scatter(np.full((1, 2), np.nan), real)
    np.testing.assert_array_equal(blank, also_blank)
    inside = scatter(np.zeros((1, 2)), real)
    assert (inside[:400] != blank[:400]).any(axis=-1).sum() < 100  # one dot; all else as before


@pytest.mark.parametrize(
    "points", [np.full((3, 2), np.nan), np.zeros((1, 2)), np.ones((9, 2)) * 1e6]
)
def test_scatter_survives_degenerate_points(points):
    assert scatter(points).shape == (480, 480, 3)


def test_heat_map_marks_what_is_not_finite():
    x = np.zeros((4, 5))
    assert not _magenta(heat_map(x)).any()
    x[1, 2] = np.nan
    assert _magenta(heat_map(x)).sum() > 1000
    assert heat_map(np.full((2, 3), np.nan), size=200).shape == (200, 200, 3)


def _magenta(image):
    return (image == (255, 0, 255)).all(axis=-1)


def test_picture_suits_the_shape_of_the_samples():
    images = np.zeros((4, 2, 2, 1))
    np.testing.assert_array_equal(picture(images), grid(images))
    points = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_array_equal(picture(points, points + 1), scatter(points, points + 1))
    vectors = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_array_equal(picture(vectors), heat_map(vectors))


@pytest.mark.parametrize("shape", [(4,), (4, 2, 2), (0, 2), (4, 0), (1, 1, 1, 1, 1)])
def test_picture_refuses_other_shapes(shape):
    with pytest.raises(InputError, match=r"shape"):
        picture(np.zeros(shape))


def test_picture_refuses_a_reference_of_another_width():
    with pytest.raises(InputError, match="reference"):
        picture(np.zeros((4, 2)), np.zeros((4, 3)))
