"""A linear stack is PCA; pretraining helps where labels are few; what stages hand on."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import subspace_angles

from gengen import loop
from gengen.autoencoder import stacked
from gengen.data import Dataset, load, to_batch
from tests.autoencoder.test_autoencoder import correlated, pca
from tests.train_steps import falling, train

LINEAR = stacked.Config(
    shape=(6,), hidden=(4, 2), activation="linear", num_classes=0, mask_fraction=0.0
)
SMALL = stacked.Config(shape=(8, 8, 1), hidden=(128, 64, 32), num_labelled=50, learning_rate=3e-3)


def run_stages(stages, data, steps, seed=0):
    """Each stage on all of its data at every step: {name: its last state}."""
    before = {}
    for stage in stages:
        x = stage.data(before, data)
        batch = to_batch(x.arrays, np.arange(len(x), dtype=np.int32))
        start = partial(stage.start, before)
        before[stage.name] = train(stage.method, batch, steps, seed, start)
    return before


def variables(states: dict[str, Any]):
    return {name: state.variables for name, state in states.items()}


def spanned(x, out):
    directions = np.linalg.svd(out - out.mean(0), full_matrices=False)[2][:2].T
    return subspace_angles(directions, pca(x, 2)[0]).max()


def test_a_tied_linear_stack_is_pca_once_it_is_pretrained():
    """Same bounds as one layer's; the fine-tuning is given no step."""
    x, cfg = correlated(), dataclasses.replace(LINEAR, tied=True)
    data = Dataset("turned", {"x": x})
    *layers, finetune = stacked.stages(cfg, falling(4000))
    states = run_stages(layers, data, 4000)
    fresh = finetune.method.init(jax.random.key(0), {"x": x})
    states["finetune"] = finetune.start(states, fresh)
    out = np.asarray(stacked.reconstruct(cfg, variables(states), x), np.float64)
    assert spanned(x, out) < 1e-2
    assert np.mean(np.sum((x - out) ** 2, axis=1)) == pytest.approx(pca(x, 2)[1], rel=1e-3)


def test_an_untied_linear_stack_is_pca_once_it_is_fine_tuned():
    x = correlated()
    stages = stacked.stages(LINEAR, falling(4000))
    states = run_stages(stages, Dataset("turned", {"x": x}), 4000)
    out = np.asarray(stacked.reconstruct(LINEAR, variables(states), x), np.float64)
    assert spanned(x, out) < 1e-2
    assert np.mean(np.sum((x - out) ** 2, axis=1)) == pytest.approx(pca(x, 2)[1], rel=1e-3)


@pytest.mark.slow
def test_pretraining_helps_where_labels_are_few():
    """Learning test, on 50 labels of 1,437 digits, against random starts of as many steps in all.

    Seen: 0.85 against 0.75 to 0.80, and after 100 steps of fine-tuning 0.81 against 0.52 to 0.58.
    """
    data, test = load("digits"), load("digits:test")
    every = lambda d: to_batch(d.arrays, np.arange(len(d), dtype=np.int32))  # noqa: E731
    labels = test.arrays["label"]

    def accuracy(state):
        found = stacked.classify(SMALL, {"finetune": state.variables}, every(test)["image"])
        return float(np.mean(np.argmax(found, axis=1) == labels))

    stages = stacked.stages(SMALL)
    pretrained = accuracy(run_stages(stages, data, 300)["finetune"])
    few = every(stacked.first(SMALL, data))
    alone = [accuracy(train(stages[-1].method, few, 1200, seed)) for seed in range(2)]
    assert pretrained > max(alone) + 0.02


def test_a_layer_reconstructs_the_clean_input_from_the_masked_one():
    """The identity leaves out the masked half of an input of ones: an error of 1 for each."""
    cfg = dataclasses.replace(LINEAR, hidden=(6,), mask_fraction=0.5)
    layer = stacked.stages(cfg)[0].method
    batch = {"x": np.ones((5, 6), np.float32)}
    state = layer.init(jax.random.key(0), batch)
    identity = jax.tree.map(lambda p: jnp.eye(6) if p.ndim == 2 else 0 * p, state.params)
    _, metrics = layer.train_step(jax.random.key(1), state.replace(params=identity), batch)
    assert float(metrics["loss"]) == pytest.approx(3, abs=1e-5)


def test_a_stage_trains_on_the_codes_below():
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    cfg = dataclasses.replace(SMALL, shape=(4, 4, 1), hidden=(5, 3), num_labelled=7)
    data = Dataset("noise", {"image": x, "label": np.arange(30, dtype=np.int32) % 10})
    first, second, finetune = stacked.stages(cfg)
    batch = to_batch(data.arrays, np.arange(30, dtype=np.int32))
    before = {"layer1": first.method.init(jax.random.key(0), batch)}
    p = {k: np.asarray(v, np.float64) for k, v in before["layer1"].params.items()}
    want = 1 / (1 + np.exp(-(x.reshape(30, 16) / 255 @ p["W1"] + p["b1"])))
    codes = second.data(before, data)
    assert isinstance(codes, Dataset)
    np.testing.assert_allclose(codes.arrays["x"], want, atol=1e-6)
    before["layer2"] = second.method.init(jax.random.key(1), {"x": codes.arrays["x"]})
    state = finetune.start(before, finetune.method.init(jax.random.key(2), batch))
    layers = state.params["layers"]
    for name, place, i in (("W2", "layer2", 1), ("c1", "layer1", 1), ("V2", "layer2", 1)):
        np.testing.assert_array_equal(layers[name], before[place].params[f"{name[0]}{i}"])
    shared = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(before)}
    assert not shared & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(layers)}
    labelled = finetune.data(before, data)
    assert isinstance(labelled, Dataset) and len(labelled) == 7


def test_the_loop_runs_the_stages(tmp_path):
    cfg = dataclasses.replace(SMALL, hidden=(8, 4), mask_fraction=0.25, batch_size=64)
    states = loop.run(
        stacked.stages(cfg), load("digits"), out=tmp_path / "run", steps=6, batch_size=64
    )
    assert list(states) == ["layer1", "layer2", "finetune"]
    x = np.zeros((2, 8, 8, 1), np.float32)
    assert stacked.encode(cfg, variables(states), x).shape == (2, 4)
    assert stacked.reconstruct(cfg, variables(states), x).shape == x.shape
    np.testing.assert_allclose(stacked.classify(cfg, variables(states), x).sum(1), 1, atol=1e-6)


def test_what_lies_in_the_unit_interval_has_a_cross_entropy():
    """Of one sigmoid layer on vectors: ‖·‖². On images, or on codes, Σ -t ln σ(η) - ..."""
    x = np.random.default_rng(0).uniform(0, 1, (6, 3)).astype(np.float32)
    for layer, squared in ((0, True), (1, False)):
        cfg = stacked.Config(shape=(3,), hidden=(3, 3), num_classes=0, mask_fraction=0.0)
        method = stacked.layer_method(cfg, layer, falling(1))
        state = method.init(jax.random.key(0), {"x": x})
        loss = method.train_step(jax.random.key(0), state, {"x": jnp.asarray(x)})[1]["loss"]
        p = {k: np.asarray(v, np.float64) for k, v in state.params.items()}
        eta = 1 / (1 + np.exp(-(x @ p["W1"]))) @ p["V1"]
        s = 1 / (1 + np.exp(-eta))
        terms = (x - eta) ** 2 if squared else -x * np.log(s) - (1 - x) * np.log(1 - s)
        assert float(loss) == pytest.approx(terms.sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [dict(hidden=()), dict(activation="swish"), dict(mask_fraction=1.0), dict(num_classes=-1),
     dict(shape=(2, 2)),
     dict(finetune_share=0.0), dict(learning_rate=0.0)],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(SMALL, **change)


def test_what_cannot_be_done_is_refused():
    data = Dataset("points", {"x": np.zeros((3, 6), np.float32)})
    with pytest.raises(ValueError, match="Config.num_labelled = 50"):
        stacked.first(SMALL, data)
    method = stacked.finetune_method(dataclasses.replace(LINEAR, num_classes=2))
    state = method.init(jax.random.key(0), data.arrays)
    with pytest.raises(ValueError, match="num_classes=0"):
        method.train_step(jax.random.key(0), state, data.arrays)
    with pytest.raises(ValueError, match="no classifier"):
        stacked.classify(LINEAR, {}, np.zeros((1, 6), np.float32))
    with pytest.raises(ValueError, match="latents have shape"):
        stacked.decode(LINEAR, {}, np.zeros((1, 3), np.float32))
