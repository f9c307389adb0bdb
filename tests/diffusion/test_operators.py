"""Linear operators: adjoints, exact inverses, and what each does to an image one can compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.diffusion import operators

SHAPE = (8, 12, 3)
A = np.random.default_rng(3).normal(size=(3, 5))
OPERATORS = {
    "inpaint": operators.inpaint(np.random.default_rng(0).random(SHAPE) < 0.4),
    "grey": operators.grey(),
    "box": operators.box(SHAPE, 4),
    "bicubic": operators.bicubic(SHAPE, 2),
    "gaussian": operators.convolve(SHAPE, operators.gaussian(0.6)),
    "motion": operators.convolve(SHAPE, operators.motion(3, 30)),
    "lopsided": operators.convolve(SHAPE, np.array([[0, 0, 0], [0.1, 0.6, 0.3], [0, 0, 0]])),
    "matrix": operators.matrix(A),
}


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def example(name, num=2):
    x = normal(1, (num, 5) if name == "matrix" else (num, *SHAPE))
    return OPERATORS[name], x


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint(name):
    A, x = example(name)
    y = normal(2, A.forward(x).shape)
    left, right = jnp.vdot(A.forward(x), y), jnp.vdot(x, A.adjoint(y))
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)
    _, vjp = jax.vjp(A.forward, x)
    np.testing.assert_allclose(A.adjoint(y), vjp(y)[0], atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_solve_is_the_inverse(name):
    A, x = example(name)
    y = A.forward(x)
    solved = A.solve(y, 0.7, 0.2)
    again = 0.7 * A.forward(A.adjoint(solved)) + 0.2 * solved
    np.testing.assert_allclose(again, y, atol=2e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_pseudo_inverse_and_the_projection(name):
    A, x = example(name)
    y = A.forward(x)
    # The floor of eigenvalues keeps a little: the weakest of the blurs are near 1e-3.
    np.testing.assert_allclose(A.forward(A.pinv(y)), y, atol=5e-3)
    other = normal(5, x.shape)
    projected = A.project(other, y)
    np.testing.assert_allclose(A.forward(projected), y, atol=5e-3)
    np.testing.assert_allclose(A.project(projected, y), projected, atol=1e-2)
    assert jnp.linalg.norm(A.pinv(y)) <= jnp.linalg.norm(x) * (1 + 1e-5)


def test_each_does_what_its_name_says():
    x = normal(0, (1, *SHAPE))
    means = np.asarray(x).reshape(1, 2, 4, 3, 4, 3).mean((2, 4))
    np.testing.assert_allclose(OPERATORS["box"].forward(x), means, atol=1e-6)
    luma = np.asarray(x) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(OPERATORS["grey"].forward(x)[..., 0], luma, atol=1e-5)
    flat = jnp.full((1, *SHAPE), 0.3)
    for name in ("box", "bicubic", "gaussian", "motion", "grey"):
        np.testing.assert_allclose(OPERATORS[name].forward(flat), 0.3, atol=1e-5)


def test_the_cubic_weights_by_hand():
    """Of a pixel inside, halved: k(±¼), k(±¾), k(±1¼), k(±1¾) of a = -½, over their sum 2."""
    away = np.array([1.75, 1.25, 0.75, 0.25])
    k = np.where(
        away < 1,
        1.5 * away**3 - 2.5 * away**2 + 1,
        -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2,
    )
    rows = operators.cubic_rows(16, 2)
    np.testing.assert_allclose(rows[3, 3:11], np.concatenate([k, k[::-1]]) / 2, atol=1e-12)
    np.testing.assert_allclose(rows.sum(1), 1)
    # A line stays a line, away from the border.
    np.testing.assert_allclose((rows @ np.arange(16))[2:-2], np.arange(2, 6) * 2 + 0.5)


def test_a_kernel_moves_a_point_the_right_way():
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
    kernel = np.arange(9.0).reshape(3, 3) / 36
    blurred = operators.convolve((9, 9, 1), kernel).forward(point)
    np.testing.assert_allclose(blurred[0, 3:6, 3:6, 0], kernel, atol=1e-6)
    upwards = operators.motion(5, 90)
    np.testing.assert_allclose(upwards[:, 2], [0.125, 0.25, 0.25, 0.25, 0.125], atol=0.02)
    assert upwards[:, :2].sum() < 1e-9
    diagonal = operators.motion(7, 45)
    assert diagonal.sum() == pytest.approx(1) and diagonal[1, 5] > 0.05 > diagonal[1, 1]
    assert operators.gaussian(1.5).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: operators.box(SHAPE, 3), "factor = 3"),
        (lambda: operators.bicubic((8, 9, 1), 2), "factor = 2"),
        (lambda: operators.convolve(SHAPE, np.ones((2, 3))), "odd"),
        (lambda: operators.gaussian(0), "std = 0"),
        (lambda: operators.motion(4), "length = 4"),
    ],
)
def test_what_is_impossible_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
