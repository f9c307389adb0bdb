"""AdaGAN: the weights in closed form, the resampling, and who gets what the others leave out."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.optimize import brentq

from gengen.data import Dataset, load, to_batch, toy
from gengen.gan import adagan, game, gan


def test_what_is_missing_gets_all_the_weight():
    """Four equally likely points, a mixture of the first two: Q is the other two, and then
    ½P + ½Q is the data.
    """
    p, data = np.array([0.5, 0.5, 0, 0]), np.full(4, 0.25)
    w = adagan.weights(p / data, 0.5)
    np.testing.assert_allclose(w, [0, 0, 0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(0.5 * p + 0.5 * w, data, atol=1e-12)


def test_a_perfect_mixture_leaves_the_weights_equal():
    np.testing.assert_allclose(adagan.weights(np.ones(5), 0.3), np.full(5, 0.2), atol=1e-12)
    np.testing.assert_allclose(adagan.weights(np.array([3.0, 1, 0]), 1.0), np.full(3, 1 / 3))


def test_a_rare_point_by_hand():
    """h = (2, 1, 0), β = ⅓: costs (4/3, 2/3, 0), βN = 1. Of two: λ = (1 + 2/3)/2 = 5/6 < 4/3."""
    w = adagan.weights(np.array([2.0, 1.0, 0.0]), 1 / 3)
    np.testing.assert_allclose(w, [0, 5 / 6 - 2 / 3, 5 / 6], atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_level_is_the_root(beta):
    """λ* by bisection of Σ w = 1."""
    h = np.random.default_rng(0).exponential(size=200)
    excess = lambda level: np.maximum(level - (1 - beta) * h, 0).mean() / beta - 1  # noqa: E731
    level = brentq(excess, 0, 100, xtol=1e-14)
    wanted = np.maximum(level - (1 - beta) * h, 0) / beta / len(h)
    np.testing.assert_allclose(adagan.weights(h, beta), wanted, atol=1e-12)
    assert adagan.weights(h, beta).sum() == pytest.approx(1)


def test_rows_are_resampled_as_often_as_weighted():
    """Each count is N w_i rounded up or down, in the order of the rows."""
    w = np.random.default_rng(1).exponential(size=50)
    w /= w.sum()
    rows = adagan.resample(w, seed=3)
    counts = np.bincount(rows, minlength=50)
    assert np.all(np.abs(counts - 50 * w) < 1) and np.all(np.diff(rows) >= 0)
    np.testing.assert_array_equal(rows, adagan.resample(w, seed=3))
    assert counts[np.argmax(w)] >= 1 and len(rows) == 50


def test_a_classifier_by_hand():
    """h = (1 - D)/D of the logit a network gives."""
    cfg = adagan.Config(shape=(2,), hidden=(4,), batch_size=4)
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    method = adagan.ratio_method(cfg)
    labels = np.array([1, 0, 1, 0, 1, 1, 0], np.int32)
    state = method.init(jax.random.key(0), {"x": x, "label": labels})
    first, second = (state.params["MLP_0"][f"Dense_{i}"] for i in range(2))
    hidden = np.maximum(np.float64(x) @ first["kernel"] + first["bias"], 0)
    logit = (hidden @ second["kernel"] + second["bias"])[:, 0]
    D = 1 / (1 + np.exp(-logit))
    got = adagan.ratios(cfg, state.variables, Dataset("points", {"x": x}))
    np.testing.assert_allclose(got, (1 - D) / D, rtol=1e-5)
    batch = {"x": x, "label": labels}
    _, metrics = jax.jit(method.train_step)(jax.random.key(1), state, batch)
    wanted = -np.mean(labels * np.log(D) + (1 - labels) * np.log(1 - D))
    np.testing.assert_allclose(float(metrics["loss"]), wanted, rtol=1e-5)


def test_stages_and_what_they_are_trained_on():
    cfg = adagan.Config(shape=(2,), hidden=(4,), latent_dim=2, batch_size=4, num_generators=3)
    stages = adagan.stages(cfg)
    assert [s.name for s in stages] == ["gan1", "ratio1", "gan2", "ratio2", "gan3"]
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    data, before = Dataset("points", {"x": x}), {}
    for stage in stages:
        given = stage.data(before, data)
        assert isinstance(given, Dataset)
        if stage.name.startswith("ratio"):
            np.testing.assert_array_equal(given.arrays["x"][:40], x)
            np.testing.assert_array_equal(given.arrays["label"], [1] * 40 + [0] * 40)
        elif stage.name == "gan1":
            assert given is data
        else:
            counts = np.bincount(np.argmax(np.all(given.arrays["x"][:, None] == x, -1), 1),
                                 minlength=40)  # fmt: skip
            h = adagan.ratios(cfg, before["ratio" + str(int(stage.name[3]) - 1)].variables, data)
            w = adagan.weights(h, 1 / int(stage.name[3]))
            assert np.all(np.abs(counts - 40 * w) < 1)
        batch = {"x": x, "label": np.ones(40, np.int32)}
        before[stage.name] = stage.method.init(jax.random.key(len(before)), batch)


def test_a_mixture_draws_from_all_alike():
    cfg = adagan.Config(shape=(2,), hidden=(4,), latent_dim=2, num_generators=3)
    init = adagan.stages(cfg)[0].method.init
    x = {"x": np.zeros((4, 2), np.float32)}
    variables = {f"gan{i}": init(jax.random.key(i), x).variables for i in (1, 2, 3)}
    drawn = np.asarray(adagan.sample(cfg, variables, jax.random.key(0), 7))
    for i, own in enumerate(variables.values()):
        key = jax.random.fold_in(jax.random.key(0), i)
        alone = game.sample(gan.game(cfg), own, key, 3)
        np.testing.assert_array_equal(drawn[i::3], alone[: len(drawn[i::3])])


def test_what_the_first_draws_is_left_out_for_the_second():
    """A generator of one point, a mode of 8: there h = 8, so its weight is (λ* - 4)₊ = 0.

    The others have h = 0 and share the whole: 1/7 each, which only a trained classifier can tell.
    """
    cfg = adagan.Config(shape=(2,), num_generators=2, hidden=(32,), latent_dim=2, batch_size=64,
                        discriminator_learning_rate=1e-2, ema_decay=0.0)  # fmt: skip
    first, ratio, second = adagan.stages(cfg)
    data = load("ring8")
    assert isinstance(data, Dataset)
    batch = {"x": data.arrays["x"][:64]}
    state = first.method.init(jax.random.key(0), batch)
    net = jax.tree.map(np.zeros_like, state.params["generator"])
    net["MLP_0"]["Dense_1"]["bias"] = toy.ring8_centres()[0].astype(np.float32)
    before = {"gan1": state.replace(params={**state.params, "generator": net})}
    both = ratio.data(before, data)
    assert isinstance(both, Dataset)
    state = ratio.method.init(jax.random.key(1), batch)
    step = jax.jit(ratio.method.train_step)
    for t in range(300):
        rows = both.rows(64, 0, t)
        state, _ = step(jax.random.key(2), state, to_batch(both.arrays, rows))
    given = second.data({**before, "ratio1": state}, data)
    assert isinstance(given, Dataset)
    shares = np.bincount(given.arrays["label"], minlength=8) / len(data)
    assert shares[0] < 0.02  # of 0.125
    np.testing.assert_allclose(shares[1:], 1 / 7, atol=0.03)  # the classifier's error


@pytest.mark.parametrize(
    "change, message",
    [(dict(num_generators=0), "Config.num_generators"), (dict(ratio_share=0.0), "ratio")],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(adagan.Config(), **change)


def test_impossible_ratios_are_refused():
    for h, beta in ((np.array([-1.0]), 0.5), (np.array([np.nan]), 0.5), (np.ones(3), 0.0)):
        with pytest.raises(ValueError, match="beta|ratio"):
            adagan.weights(h, beta)
