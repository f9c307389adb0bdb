"""Losses by hand, pairs by brute force, the paper's layers; one-shot classification after a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task
from gengen.data import load, to_batch
from gengen.metrics import one_shot
from gengen.representation import siamese
from gengen.types import count
from tests.cases import CASES, batch

KEY = jax.random.key(0)
CASE = CASES["siamese"]
CFG = CASE.cfg


def variables_of(cfg, data):
    state = siamese.method(cfg).init(KEY, data)
    noise = iter(jax.random.split(jax.random.key(1), 100))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(noise), p.shape),
                        state.variables)  # fmt: skip


# --- the network ---------------------------------------------------------------------------------


def test_the_papers_layers_and_parameters():
    """Figure 4 of the paper: maps of 96, 42, 18 and 6 pixels, 9,216 numbers, 4,096 units.

    The paper does not state the number of parameters; it follows from its layers, with biases.
    """
    cfg = siamese.Config.paper()
    assert siamese.map_sizes(cfg) == [(96, 96), (42, 42), (18, 18), (6, 6)]
    data = {"image": jax.ShapeDtypeStruct((2, 105, 105, 1), jnp.float32),
            "label": jax.ShapeDtypeStruct((2,), jnp.int32)}  # fmt: skip
    params = jax.eval_shape(siamese.method(cfg).init, KEY, data).params
    convolutions = [(1, 10, 64), (64, 7, 128), (128, 4, 128), (128, 4, 256)]
    want = sum(n_in * k * k * n_out + n_out for n_in, k, n_out in convolutions)
    want += 6 * 6 * 256 * 4096 + 4096  # to z
    want += 4096 + 1  # α and b
    assert count(params) == want == 38_951_745


def test_the_probability_is_the_weighted_distance_of_codes():
    data = batch(CASE)
    variables = variables_of(CFG, data)
    z = np.asarray(siamese.encode(CFG, variables, data["image"]), np.float64)
    assert z.shape == (32, 4) and z.min() > 0 and z.max() < 1
    alpha = variables["params"]["alpha"]
    logit = np.abs(z[:16] - z[16:]) @ np.asarray(alpha["kernel"])[:, 0] + float(alpha["bias"][0])
    got = siamese.score(CFG, variables, data["image"][:16], data["image"][16:])
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logit)), rtol=1e-5)
    back = siamese.score(CFG, variables, data["image"][16:], data["image"][:16])
    np.testing.assert_allclose(got, back, rtol=1e-6)


def test_the_score_of_the_cosine_network_is_the_cosine():
    case = CASES["siamese-vectors"]
    data = batch(case)
    variables = variables_of(case.cfg, data)
    z = np.asarray(siamese.encode(case.cfg, variables, data["x"]), np.float64)
    want = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(z, z[::-1], strict=True)]
    got = siamese.score(case.cfg, variables, data["x"], data["x"][::-1])
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- losses --------------------------------------------------------------------------------------


def test_the_cross_entropy_by_hand():
    p, same = np.array([0.9, 0.9, 0.2, 0.2]), np.array([1.0, 0.0, 1.0, 0.0])
    got = siamese.cross_entropy_loss(jnp.log(p / (1 - p)), jnp.asarray(same))
    np.testing.assert_allclose(got, -np.log([0.9, 0.1, 0.2, 0.8]), rtol=1e-5)


def test_the_cosine_loss_by_hand():
    c = jnp.asarray([1.0, 0.0, -1.0, 0.5, 0.2, -0.6])
    got = siamese.cosine_loss(c, jnp.asarray([1.0, 1, 1, 0, 0, 0]), 0.3)
    np.testing.assert_allclose(got, [0, 0.25, 1, 0.25, 0, 0], atol=1e-7)
    low = siamese.cosine_loss(c, jnp.zeros(6), -0.5)
    np.testing.assert_allclose(low, [1, 0, 0, 0.25, 0.04, 0], atol=1e-7)


@pytest.mark.parametrize("name", ["siamese", "siamese-vectors"])
def test_the_loss_of_a_step_is_that_of_its_pairs(name):
    """The pairs of the step's key, their losses by hand, and λ times the squared kernels.

    One example is the only one of its class, where the pair should be of one class.
    """
    case = CASES[name]
    cfg = dataclasses.replace(case.cfg, weight_decay=0.01)
    data, method = batch(case), siamese.method(cfg)
    num = len(data["label"])
    alone = np.flatnonzero(siamese.pairs(KEY, jnp.zeros(num, int), cfg.unlike_ratio).same)[-1]
    data = {**data, "label": (np.arange(num) == alone).astype(np.int32)}
    state = method.init(KEY, data)
    x = data["image" if "image" in data else "x"]
    z = np.asarray(siamese.encode(cfg, state.variables, x))
    chosen = siamese.pairs(jax.random.fold_in(KEY, 0), jnp.asarray(data["label"]), cfg.unlike_ratio)
    score = np.asarray(siamese.similarity(cfg, state.variables, z, z[np.asarray(chosen.partner)]))
    same = np.asarray(chosen.same)
    if cfg.loss == "cosine":
        each = np.where(same, 0.25 * (1 - score) ** 2, np.where(score > cfg.margin, score**2, 0))
    else:
        each = -np.log(np.where(same, score, 1 - score))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    penalty = 0.01 * sum(float((p**2).sum()) for path, p in leaves if "kernel" in str(path[-1]))
    np.testing.assert_array_equal(chosen.valid, np.arange(num) != alone)
    want = float(np.mean(each * np.asarray(chosen.valid))) + penalty
    _, metrics = jax.jit(method.train_step)(KEY, state, data)
    assert float(metrics["loss"]) == pytest.approx(want, rel=1e-4)
    assert float(metrics["penalty"]) == pytest.approx(penalty, rel=1e-5)
    mean = (score * same * np.asarray(chosen.valid)).sum() / (same * np.asarray(chosen.valid)).sum()
    assert float(metrics["same"]) == pytest.approx(mean, rel=1e-4)


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 2.0, 0.5, 10.0])
def test_pairs_have_the_ratio_and_the_classes_they_say(ratio):
    label = jnp.asarray(np.random.default_rng(0).integers(5, size=220))
    found = siamese.pairs(KEY, label, ratio)
    partner, same = np.asarray(found.partner), np.asarray(found.same)
    assert same.sum() == pytest.approx(220 / (1 + ratio), abs=1)
    np.testing.assert_array_equal((label[partner] == label).astype(float), same)
    assert (partner != np.arange(220)).all() and np.asarray(found.valid).all()


def test_partners_are_uniform_over_those_that_qualify():
    label = jnp.asarray([0, 0, 0, 1, 1, 2])
    draw = jax.jit(jax.vmap(lambda key: siamese.pairs(key, label, 1.0).partner))
    partner = np.asarray(draw(jax.random.split(KEY, 3000)))
    same = np.asarray(siamese.pairs(KEY, label, 1.0).same)
    for i in range(6):
        ok = [j for j in range(6) if (label[i] == label[j]) == bool(same[i]) and j != i]
        share = np.bincount(partner[:, i], minlength=6) / 3000
        if ok:
            want = np.isin(np.arange(6), ok) / len(ok)
            np.testing.assert_allclose(share, want, atol=5 * 0.5 / 3000**0.5)


def test_a_pair_without_a_partner_has_no_loss():
    found = siamese.pairs(KEY, jnp.arange(8), 1.0)  # no two are of one class
    assert np.asarray(found.same).sum() == 4
    np.testing.assert_array_equal(found.valid, 1 - found.same)


def test_pairs_are_others_at_each_step_and_with_each_seed():
    label = jnp.asarray(np.arange(64) % 4)
    a, b = (siamese.pairs(jax.random.fold_in(KEY, s), label, 2.0).partner for s in (0, 1))
    again = siamese.pairs(jax.random.fold_in(KEY, 0), label, 2.0).partner
    np.testing.assert_array_equal(a, again)
    assert (a != b).mean() > 0.8


def test_pairs_from_one_class_are_refused():
    data = {**batch(CASE), "label": np.full(32, 3, np.int32)}
    with pytest.raises(ValueError, match="first batch have label 3, but pairs need at least 2"):
        siamese.method(CFG).init(KEY, data)
    with pytest.raises(ValueError, match="0 classes, but pairs need at least 2"):
        siamese.Config.for_task(Task((28, 28, 1)))
    with pytest.raises(ValueError, match="no labels"):
        siamese.method(CFG).init(KEY, {"image": batch(CASE)["image"]})


@pytest.mark.parametrize(
    "change",
    [dict(num_classes=1), dict(loss="hinge"), dict(margin=1.0), dict(unlike_ratio=0.0),
     dict(kernel_sizes=(3,)), dict(kernel_sizes=(3, 9)), dict(weight_decay=-1.0)],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(CFG, **change)


# --- one-shot classification ---------------------------------------------------------------------


def test_a_trial_has_one_image_of_each_class_and_another_one_as_query():
    y = np.random.default_rng(0).integers(6, size=100)
    query, support = one_shot.trials(y, 4, 200)
    assert support.shape == (200, 4) and (y[query] == y[support[:, 0]]).all()
    assert (query != support[:, 0]).all()
    assert all(len(set(row)) == 4 for row in y[support])
    groups = y // 3  # classes of a trial are of one group
    _, support = one_shot.trials(y, 3, 50, groups=groups)
    assert (groups[support] == groups[support[:, :1]]).all()
    assert len(np.unique(groups[support])) == 2


def test_accuracies_by_hand():
    drawn = one_shot.Trials(np.array([0, 1]), np.array([[2, 3], [3, 2]]))
    codes = np.array([[0.0], [5.0], [1.0], [3.0]])
    # 0 is nearer to 1 than to 3, and 5 is nearer to 3 than to 1
    assert one_shot.accuracy(one_shot.nearness, codes, drawn) == 1.0
    assert one_shot.accuracy(lambda a, b: -one_shot.nearness(a, b), codes, drawn) == 0.0
    assert one_shot.accuracy(lambda a, b: np.zeros(len(a)), codes, drawn) == 0.5  # chance


def test_too_few_classes_are_refused():
    for ways in (1, 4):
        with pytest.raises(ValueError, match=f"ways = {ways}"):
            one_shot.trials([0, 0, 1, 1, 2, 2, 3], ways, 5)
    with pytest.raises(ValueError, match="in a group"):
        one_shot.trials([0, 0, 1, 1, 2, 2], 2, 5, groups=[0, 0, 0, 0, 1, 1])


def test_training_on_some_digits_tells_others_apart():
    """Classes 0-5 of the 8×8 digits by the cosine loss; three-way on 6-9, where chance is 1/3."""
    data = load("digits")
    known = np.flatnonzero(data.arrays["label"] < 6)
    cfg = siamese.Config(
        shape=(8, 8, 1), channels=(16, 32), kernel_sizes=(3, 2), latent_dim=32, loss="cosine",
        batch_size=64, learning_rate=3e-3,
    )  # fmt: skip
    method = siamese.method(cfg)
    state, step = method.init(KEY, to_batch(data.arrays, known[:64])), jax.jit(method.train_step)
    first, metrics = None, {}
    for i in range(100):
        rows = np.random.default_rng(i).choice(known, 64)
        state, metrics = step(KEY, state, to_batch(data.arrays, rows))
        first = first or float(metrics["loss"])
    assert first and float(metrics["loss"]) < 0.4 * first
    assert float(metrics["same"]) - float(metrics["different"]) > 0.4
    held = np.flatnonzero(data.arrays["label"] >= 6)
    x, y = np.asarray(to_batch(data.arrays, held)["image"]), data.arrays["label"][held]
    z = np.asarray(siamese.encode(cfg, state.variables, x))
    drawn = one_shot.trials(y, 3, 500)
    similarity = lambda a, b: siamese.similarity(cfg, state.variables, a, b)  # noqa: E731
    assert one_shot.accuracy(similarity, z, drawn) > 0.55  # chance is 1/3
