"""Flips and functions that change what a train step sees: which examples, when, and on resume."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import gengen
from gengen import loop, rng
from gengen.cli import main
from gengen.data import DataOptions, Dataset, open_data, to_batch
from gengen.loop import Engine
from gengen.training.augmentation import _warped, affine, flip
from gengen.types import InputError, Method, TrainState

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 4, 6, 1), dtype=np.uint8)
DATA = Dataset("images", {"image": IMAGES})
SMALL = {"hidden": (8,), "latent_dim": 2, "batch_size": 16}


def last_batch():
    """A method whose parameters are the whole batch of the last step, put back together."""

    def train_step(key, state, batch):
        x = jnp.asarray(batch["image"])
        place, total = rng.positions(len(x))
        whole = jnp.zeros((total, *x.shape[1:])).at[place].set(x)
        if rng.axis_is_bound():
            whole = jax.lax.psum(whole, rng.AXIS)
        return state.replace(step=state.step + 1, params=whole), {"loss": whole.mean()}

    def init(key, batch):
        return TrainState(jnp.int32(0), jnp.zeros(batch["image"].shape), {}, {}, None)

    return Method(init, train_step)


def seen(out, data: Any = DATA, steps=3, batch_size=16, resume=False, **engine):
    """The batch [B, H, W, C] of the last step."""
    state = loop.run(
        last_batch(), data, out=out, steps=steps, batch_size=batch_size, resume=resume,
        engine=Engine(**engine),
    )  # fmt: skip
    return np.asarray(state.params)


def mirrored(x, plain):
    """Which of x are the mirror of `plain`, bool [B]; all others are `plain` itself."""
    is_same = (x == plain).all(axis=(1, 2, 3))
    is_mirror = (x == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (is_same ^ is_mirror).all()
    return is_mirror


def test_half_of_the_images_are_mirrored_others_at_each_step(tmp_path):
    which = []
    for step in (1, 2):
        plain = np.asarray(to_batch(DATA.arrays, DATA.rows(16, 0, step - 1))["image"])
        which.append(mirrored(seen(tmp_path / str(step), steps=step, flip=True), plain))
    assert all(2 < w.sum() < 14 for w in which)  # fails by chance for 4 of 1,000 seeds
    assert (which[0] != which[1]).any()


def test_flips_are_the_same_in_memory_streamed_split_and_resumed(tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "images" / f"{i:02}.png")
    stream = open_data(str(tmp_path / "images"), DataOptions(stream=True))
    want = seen(tmp_path / "a", flip=True)
    assert (seen(tmp_path / "plain") != want).any()
    ways: list[tuple[str, Any]] = [
        ("stream", {"data": stream}),
        ("pmap", {"mode": "pmap", "num_devices": 4}),
        ("devices", {"num_devices": 4}),
        ("inner", {"inner": 3}),
        ("accumulate", {"accumulate": 2}),
        ("skip", {"on_nan": "skip"}),
    ]
    for name, words in ways:
        np.testing.assert_array_equal(seen(tmp_path / name, flip=True, **words), want, name)
    seen(tmp_path / "parts", steps=2, flip=True)
    np.testing.assert_array_equal(seen(tmp_path / "parts", resume=True, flip=True), want)
    with pytest.raises(InputError, match="engine.flip was True, now 'absent'"):
        seen(tmp_path / "parts", steps=4, resume=True)


def test_pairs_are_mirrored_together_and_other_images_by_themselves():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2, 3, 1)), jnp.float32)
    batch = {"image": x, "target": 2 * x, "other": 3 * x, "label": jnp.arange(64)}
    out = flip(jax.random.key(0), batch)
    image, target, other = (mirrored(out[k], batch[k]) for k in ("image", "target", "other"))
    np.testing.assert_array_equal(image, target)
    assert (image != other).any()
    np.testing.assert_array_equal(out["label"], batch["label"])


def brighter(key, batch):
    light = rng.uniform(key, (len(batch["image"]), 1, 1, 1))
    return {**batch, "image": batch["image"] + light}


def test_a_function_changes_what_is_trained_on(tmp_path):
    plain = seen(tmp_path / "plain")
    once = seen(tmp_path / "a", augment=brighter)
    light = (once - plain).mean(axis=(1, 2, 3))
    assert 0 < light.min() < light.max() < 1  # another one for each example
    many = seen(tmp_path / "b", augment=brighter, mode="pmap", num_devices=4)
    np.testing.assert_array_equal(many, once)
    seen(tmp_path / "parts", steps=2, augment=brighter)
    parts = seen(tmp_path / "parts", resume=True, augment=brighter)
    np.testing.assert_array_equal(parts, once)
    both = seen(tmp_path / "c", augment=brighter, flip=True)
    assert (both != once).any()
    nothing: Any = lambda key, batch: None  # noqa: E731
    with pytest.raises(InputError, match="must return a batch"):
        seen(tmp_path / "d", augment=nothing)


def test_flip_on_the_command_line_is_kept_on_resume(tmp_path, capsys):
    np.savez(tmp_path / "images.npz", image=IMAGES)
    out, words = tmp_path / "run", ["--set", "hidden=8", "--set", "batch_size=16", "--steps", "1"]
    line = ["train", "gan", "--data", str(tmp_path / "images.npz"), "--flip", "--out", str(out)]
    assert main([*line, *words]) == 0, capsys.readouterr().err
    assert main(["train", "gan", "--out", str(out), "--resume", "--steps", "2"]) == 0
    assert json.loads((out / "config.json").read_text())["engine"]["flip"] is True


@pytest.mark.parametrize(
    "model, data, message",
    [("vae", "mouse", "--flip mirrors images, but mouse"), ("gmm", "mouse", "is fitted at once")],
)
def test_flips_of_anything_but_images_are_refused(model, data, message, tmp_path, capsys):
    line = ["train", model, "--data", data, "--flip", "--out", str(tmp_path / "run")]
    assert main(line) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_augment_in_a_call_is_named_in_the_run_and_asked_for_on_resume(tmp_path):
    out = tmp_path / "run"
    gengen.train("gan", IMAGES, config=SMALL, steps=1, out=out, augment=brighter)
    assert json.loads((out / "config.json").read_text())["engine"]["augment"] == "brighter"
    with pytest.raises(InputError, match="trained with augment=brighter: pass that function"):
        gengen.train("gan", IMAGES, out=out, steps=2, resume=True)
    with pytest.raises(InputError, match="engine.augment was 'brighter', now 'flip'"):
        gengen.train("gan", IMAGES, out=out, steps=2, resume=True, augment=flip)


def test_an_affine_map_shifts_turns_and_scales():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5, 2)), jnp.float32)
    nothing = jnp.zeros(7)
    np.testing.assert_allclose(_warped(x, nothing), x, atol=1e-6)
    down = _warped(x, nothing.at[5].set(2.0))  # by two rows; the first one repeats at the edge
    np.testing.assert_allclose(down[2:], x[:3], atol=1e-6)
    np.testing.assert_allclose(down[0], x[0], atol=1e-6)
    turned = _warped(x, nothing.at[0].set(jnp.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(x), atol=1e-5)
    half = _warped(x, nothing.at[3].set(1.0))  # twice as high about the centre
    np.testing.assert_allclose(half[2], x[2], atol=1e-6)
    np.testing.assert_allclose(half[4], x[3], atol=1e-6)
    sheared = _warped(x, nothing.at[2].set(1.0))  # columns move by the row's distance to the centre
    np.testing.assert_allclose(sheared[3, 1:], x[3, :4], atol=1e-6)


def test_affine_distorts_images_within_its_bounds_and_leaves_some():
    key = jax.random.key(0)
    x = np.random.default_rng(0).uniform(-1, 1, (400, 9, 9, 1)).astype(np.float32)
    batch = {"image": jnp.asarray(x), "label": jnp.arange(400)}
    out = affine(key, batch)
    np.testing.assert_array_equal(out["label"], batch["label"])
    same = (np.abs(np.asarray(out["image"]) - x) < 1e-6).all((1, 2, 3))
    assert 0 <= same.mean() < 0.04  # 2⁻⁷ of them have no part of a map
    assert np.abs(out["image"]).max() <= 1 + 1e-5
    ramp = jnp.broadcast_to(jnp.arange(9.0)[None, :, None, None], (400, 9, 9, 1))
    middle = np.asarray(affine(key, {"image": ramp})["image"])[:, 4, 4, 0]
    # a shift up or down; or one to the side, with a rotation or a shear
    assert np.abs(middle - 4).max() <= 2.9 and (middle != 4).mean() == pytest.approx(
        0.6875, abs=0.1
    )
    other = affine(jax.random.key(1), batch)["image"]
    assert not np.allclose(out["image"], other)
