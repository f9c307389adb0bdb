"""Style: losses by hand, Gram matrices under shifts, pictures that get what they are to have."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gengen.cli import main
from gengen.nn import vgg
from gengen.representation import style
from tests.nn.random_weights import random_state_dict

KEY = jax.random.key(0)
SMALL = style.random_features(KEY, 4, (3, 5))
RNG = np.random.default_rng(0)


def picture(size=12, seed=0):
    x = np.random.default_rng(seed).normal(size=(size, size, 3)).cumsum(0).cumsum(1)
    return (x / np.abs(x).max()).astype(np.float32)


@pytest.fixture(scope="module")
def circular():
    shapes = {k: v for k, v in vgg.torch_shapes().items() if int(k.split(".")[1]) <= 10}
    full = {k: np.zeros(v, np.float32) for k, v in vgg.torch_shapes().items()}
    return style.vgg_features(
        vgg.from_torch(full | dict(random_state_dict(shapes, seed=0))), "CIRCULAR"
    )


def test_random_features_are_circular_correlations_with_relu():
    x = picture()
    found = SMALL.apply(jnp.asarray(x)[None], ("size5",))["size5"]
    impulse = np.zeros((12, 12, 3), np.float32)
    impulse[0, 0, 1] = 1.0  # its response is the filter, turned about, and wraps around
    seen = SMALL.apply(jnp.asarray(impulse)[None], ("size5",))["size5"][0]
    assert found.shape == (1, 12, 12, 4) and float(found.min()) == 0 and float(found.max()) > 0
    assert (np.abs(seen[[-1, -2], :3]).sum() > 0) and np.abs(seen[5:8]).sum() == 0


def test_the_gram_matrix_by_hand():
    f = RNG.normal(size=(1, 3, 4, 5)).astype(np.float32)
    want = sum(np.outer(f[0, i, j], f[0, i, j]) for i in range(3) for j in range(4)) / 12
    np.testing.assert_allclose(style.gram(jnp.asarray(f)), want, rtol=1e-4, atol=1e-6)


def test_gram_matrices_do_not_change_under_circular_shifts_by_the_stride(circular):
    x = picture(16)
    moved = np.roll(x, (4, 8), (0, 1))
    for features, layers, shift in (
        (SMALL, ("size3", "size5"), np.roll(x, (1, 3), (0, 1))),
        (circular, ("relu3_1",), moved),  # two pools: a total stride of 4
    ):
        a, b = (style.targets(features, style=y, style_layers=layers).grams for y in (x, shift))
        for layer in layers:
            np.testing.assert_allclose(a[layer], b[layer], rtol=1e-3, atol=1e-5)
    a, b = (
        style.targets(circular, style=y, style_layers=("relu3_1",)).grams["relu3_1"]
        for y in (x, np.roll(x, 1, 0))
    )
    assert np.abs(a - b).max() > 1e-2 * np.abs(a).max()  # not of the stride


def test_losses_by_hand():
    a = {"l": jnp.asarray([[1.0, 2.0], [2.0, 5.0]]), "m": jnp.asarray([[3.0]])}
    g = {"l": jnp.asarray([[0.0, 2.0], [2.0, 2.0]]), "m": jnp.asarray([[1.0]])}
    assert float(style.style_loss(g, a)) == pytest.approx(((1 + 9) / 16 + 4 / 4) / 2)
    f, p = {"l": jnp.asarray([1.0, 2.0])}, {"l": jnp.asarray([0.0, 4.0])}
    assert float(style.content_loss(f, p)) == pytest.approx(2.5)
    wanted = style.targets(SMALL, style=picture(seed=1), content=picture(seed=2))
    x = jnp.asarray(picture())
    parts = [float(style.loss_of(SMALL, wanted, *w)(x)) for w in ((1, 0), (0, 1), (0.3, 2.0))]
    assert parts[2] == pytest.approx(0.3 * parts[0] + 2 * parts[1], rel=1e-5)
    assert float(style.loss_of(SMALL, wanted, 1.0, 0.0)(jnp.asarray(picture(seed=2)))) == 0
    assert float(style.loss_of(SMALL, wanted, 0.0, 1.0)(jnp.asarray(picture(seed=1)))) < 1e-9
    assert parts[0] > 1 and parts[1] > 1e-4


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_loss_falls(optimizer):
    wanted = style.targets(SMALL, style=picture(seed=1))
    loss = style.loss_of(SMALL, wanted)
    start = 0.3 * RNG.normal(size=(12, 12, 3))
    steps = list(style.optimise(loss, start, 40, optimizer))
    values = [value for _, value in steps]
    assert values[0] == pytest.approx(float(loss(jnp.asarray(start, jnp.float32))), rel=1e-5)
    assert values[-1] < (0.05 if optimizer == "lbfgs" else 0.5) * values[0]
    if optimizer == "lbfgs":  # a line search never goes up
        assert np.diff(values).max() <= 1e-6 * values[0]
    assert np.abs(steps[-1][0]).max() <= 1


def test_the_unit_of_the_loss_does_not_matter_to_lbfgs():
    """Nor do the first steps, whose curvature is negative: the loss of noise is not convex."""
    features = style.random_features(KEY, 8, (3, 7))
    loss = style.loss_of(features, style.targets(features, style=picture(24, seed=1)))
    start = 0.3 * np.random.default_rng(2).normal(size=(24, 24, 3))
    for unit in (1.0, 1e-6):
        values = [v for _, v in style.optimise(lambda x: unit * loss(x), start, 30)]  # noqa: B023
        assert values[-1] < 0.02 * values[0]


def test_a_content_reconstruction_finds_the_picture():
    want = picture(seed=3)
    loss = style.loss_of(SMALL, style.targets(SMALL, content=want), 1.0, 0.0)
    *_, (got, _) = style.optimise(loss, 0.1 * RNG.normal(size=(12, 12, 3)), 60)
    assert np.mean((got - want) ** 2) < 0.2 * np.mean(want**2)


def test_what_cannot_work_is_refused():
    for make, words in (
        (lambda: style.targets(SMALL), "at least one picture"),
        (lambda: style.targets(SMALL, style=np.zeros((4, 4, 1))), "H, W, 3"),
        (lambda: style.random_features(KEY, 4, (4,)), "odd"),
        (lambda: list(style.optimise(jnp.sum, np.zeros((2, 2, 3)), 0)), "at least 1 step"),
        (lambda: list(style.optimise(jnp.sum, np.zeros((2, 2, 3)), 1, "sgd")), "lbfgs, adam"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_stylize_writes_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(style, "FILTER_SIZES", (3,))
    monkeypatch.setattr(style, "features_for", lambda key: SMALL)
    Image.fromarray(np.uint8(127.5 * (picture(24, 5) + 1))).save("a.png")
    words = ["stylize", "a.png", "flower", "--out", "x.png", "--size", "16", "--steps", "3"]
    assert main(words) == 0
    shown = capsys.readouterr().err
    assert "features: 4 random filters" in shown and "loss" in shown
    assert np.asarray(Image.open("x.png")).shape == (16, 16, 3)
    assert main(["stylize", "none", "a.png", "--out", "y.png", "--size", "16", "--steps", "2"]) == 0
    assert Path("y.png").exists()
    for wrong, message in (
        (words, "x.png exists"),
        (["stylize", "no.png", "a.png", "--out", "z.png"], "no.png: no such file"),
        (["stylize", "a.png", "a.png", "--out", "z.jpg"], "must end in .png"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
