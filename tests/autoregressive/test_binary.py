"""FVSBN, NADE and MADE: p sums to one, no output sees what comes after it, draws are of p."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.autoregressive import binary, fvsbn, made, nade
from gengen.contract import Task
from gengen.types import InputError

D = 8
KEY = jax.random.key(3)
MODELS = {
    "fvsbn": (fvsbn, fvsbn.Config(shape=(D,))),
    "fvsbn, another order": (fvsbn, fvsbn.Config(shape=(2, 4, 1), order_seed=5)),
    "nade": (nade, nade.Config(shape=(D,), hidden_dim=5)),
    "nade, untied": (nade, nade.Config(shape=(D,), hidden_dim=5, tied=False)),
    "nade, another order": (nade, nade.Config(shape=(D,), hidden_dim=5, order_seed=2)),
    "made": (made, made.Config(shape=(D,), hidden=(64,))),
    "made, no direct weights": (
        made,
        made.Config(shape=(D,), hidden=(64,), direct_connections=False),
    ),
    "made, three layers": (
        made,
        made.Config(shape=(D,), hidden=(64, 48, 64), direct_connections=False),
    ),
    "made, masks": (made, made.Config(shape=(D,), hidden=(24, 24), num_masks=3)),
    "made, masks and orders": (
        made,
        made.Config(shape=(D,), hidden=(24, 24), num_masks=3, order_agnostic=True, order_seed=4),
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    module, cfg = MODELS[request.param]
    net = module.network(cfg)
    start = net.init(KEY, jnp.ones((1, D)), method="log_p")
    # Away from the start, where weights are small and biases 0.
    return module, cfg, net, _shaken(start, 1.0)


def _shaken(tree, scale):
    leaves, kind = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(kind, [x + n for x, n in zip(leaves, noise, strict=True)])


def _every_image():
    return np.array(list(itertools.product((-1.0, 1.0), repeat=D)), np.float32)


def _masks(cfg):
    return getattr(cfg, "num_masks", 1)


def _logits(module, cfg, net, variables, mask):
    extra = (mask,) if module is made else ()
    return lambda x: net.apply(variables, x, *extra)


def _order_within(module, cfg, net, mask):
    """The place of each element of the sequence, 0..D-1, by a mask of MADE's."""
    if module is not made:
        return np.arange(D)
    return made.numbers(D, cfg.hidden, cfg.num_masks, cfg.order_agnostic).d[mask] - 1


def test_all_images_together_have_probability_one(model):
    module, cfg, _, variables = model
    x = binary.example(cfg, jnp.asarray(_every_image()))
    p = np.exp(np.float64(module.log_prob(cfg, variables, x)))
    np.testing.assert_allclose(p.sum(), 1, atol=2e-5)  # 256 float32 sums of 8 logs
    assert p.std() > 1e-4  # not the uniform distribution, for which there is nothing to see


def test_each_conditional_depends_on_all_earlier_dimensions_and_no_others(model):
    module, cfg, net, variables = model
    for mask in range(_masks(cfg)):
        place = _order_within(module, cfg, net, mask)
        logits = _logits(module, cfg, net, variables, mask)
        points = np.random.default_rng(mask).normal(size=(4, D)).astype(np.float32)
        jac = jax.vmap(jax.jacobian(lambda x, f=logits: f(x[None])[0]))(points)
        paths = np.abs(np.asarray(jac)).max(0) > 0  # [output, input]
        np.testing.assert_array_equal(paths, place[None, :] < place[:, None])


@pytest.mark.parametrize("model", [n for n in MODELS if "masks" not in n], indirect=True)
def test_a_sample_is_of_the_conditionals(model):
    """Which mask draws is drawn too: test_samples_have_the_models_distribution."""
    module, cfg, net, variables = model
    key, num = jax.random.key(8), 16
    x = jnp.zeros((num, D))
    got = net.apply(variables, key, x, jnp.zeros((num, D), bool), method="sample")
    # By D passes with the same numbers; MADE's first key chooses the mask.
    u = rng.uniform(jax.random.split(key)[1] if module is made else key, (num, D))
    logits = _logits(module, cfg, net, variables, 0)
    for i in range(D):
        x = x.at[:, i].set(jnp.where(u[:, i] < jax.nn.sigmoid(logits(x)[:, i]), 1.0, -1.0))
    np.testing.assert_array_equal(got, x)


def test_samples_have_the_models_distribution(model):
    """Also of MADE's mixture of masks."""
    module, cfg, _, variables = model
    num = 4096
    x = binary.sequence(cfg, module.sample(cfg, variables, jax.random.key(2), num))
    every = _every_image()
    p = np.exp(np.float64(module.log_prob(cfg, variables, binary.example(cfg, jnp.asarray(every)))))
    index = ((np.asarray(x) > 0) @ (2 ** np.arange(D)[::-1])).astype(int)
    found = np.bincount(index, minlength=2**D) / num
    # E of the total variation is at most ½ Σ sqrt(p/n) ≤ ½ sqrt(256/4096) = 0.125; its standard
    # deviation is below 1/sqrt(n) = 0.016.
    assert 0.5 * np.abs(found - p).sum() < 0.125 + 4 * 0.016


def test_completions_keep_the_observation_and_have_the_conditional_distribution(model):
    module, cfg, _, variables = model
    if _masks(cfg) > 1:
        cfg = type(cfg)(**{**vars(cfg), "num_masks": 1})  # completions are by the first mask
    known = np.arange(D) < 5
    given = np.array([1, -1, -1, 1, 1, 0, 0, 0], np.float32)
    as_example = partial(binary.example, cfg)
    num = 4096
    x = module.sample(
        cfg, variables, KEY, num, observation=as_example(jnp.asarray(given)[None]),
        mask=as_example(jnp.asarray(known)[None]),
    )  # fmt: skip
    x = np.asarray(binary.sequence(cfg, x))
    np.testing.assert_array_equal(x[:, :5], np.broadcast_to(given[:5], (num, 5)))
    rest = np.array(list(itertools.product((-1.0, 1.0), repeat=3)), np.float32)
    every = np.concatenate([np.broadcast_to(given[:5], (8, 5)), rest], axis=1)
    p = np.exp(np.float64(module.log_prob(cfg, variables, as_example(jnp.asarray(every)))))
    found = np.bincount(((x[:, 5:] > 0) @ np.array([4, 2, 1])).astype(int), minlength=8) / num
    np.testing.assert_allclose(found, p / p.sum(), atol=4 * 0.5 / np.sqrt(num))


def test_observations_out_of_order_are_refused():
    module, cfg = MODELS["fvsbn"]
    variables = module.network(cfg).init(KEY, jnp.ones((1, D)), method="log_p")
    with pytest.raises(InputError, match="mask is true after a dimension where it is false"):
        module.sample(cfg, variables, KEY, 2, observation=np.ones(D), mask=np.arange(D) > 3)
    with pytest.raises(InputError, match="mask is None: pass both"):
        module.sample(cfg, variables, KEY, 2, observation=np.ones(D))
    with pytest.raises(InputError, match="it must broadcast to"):
        short = np.ones(D - 1)
        module.sample(cfg, variables, KEY, 2, observation=short, mask=short > 0)


def test_fvsbn_is_a_logistic_regression_on_those_before():
    cfg = fvsbn.Config(shape=(D,))
    draw = np.random.default_rng(0)
    W, b = draw.normal(size=(D, D)), draw.normal(size=D)
    x = _every_image()[::37].astype(np.float64)
    bit = (x + 1) / 2
    logits = b + bit @ np.tril(W, -1).T
    want = -np.log1p(np.exp(-x * logits)).sum(1)
    params = {"params": {"W": jnp.asarray(W, jnp.float32), "b": jnp.asarray(b, jnp.float32)}}
    np.testing.assert_allclose(fvsbn.log_prob(cfg, params, x), want, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_nade_is_the_naive_evaluation(tied):
    """A hidden layer for each dimension, in O(D²H) and float64."""
    cfg = nade.Config(shape=(D,), hidden_dim=5, tied=tied)
    net = nade.network(cfg)
    variables = _shaken(net.init(KEY, jnp.ones((1, D)), method="log_p"), 0.5)
    p = jax.tree.map(partial(np.asarray, dtype=np.float64), variables["params"])
    x = _every_image()[::29].astype(np.float64)
    bit, want = (x + 1) / 2, np.zeros(len(x))
    for d in range(D):
        W, c = (p["W"], p["c"]) if tied else (p["W"][:, d], p["c"][d])
        h = 1 / (1 + np.exp(-(c + bit[:, :d] @ W[:d])))
        want -= np.log1p(np.exp(-x[:, d] * (p["b"][d] + h @ p["V"][d])))
    np.testing.assert_allclose(nade.log_prob(cfg, variables, x), want, rtol=1e-5)


def test_made_by_its_masks_in_float64():
    """Two layers; M^W = 1[m(k) ≥ m(k')], M^V = 1[d > m(k)]."""
    cfg = made.Config(shape=(D,), hidden=(12, 10), num_masks=2, order_agnostic=True)
    net = made.network(cfg)
    variables = _shaken(net.init(KEY, jnp.ones((1, D)), method="log_p"), 0.5)
    p = jax.tree.map(partial(np.asarray, dtype=np.float64), variables["params"])
    x, parts = _every_image()[::29].astype(np.float64), []
    every = made.numbers(D, cfg.hidden, 2, True)
    for mask in range(2):
        d, m = every.d[mask], [layer[mask] for layer in every.m]
        bit = (x + 1) / 2
        h = np.maximum(bit @ np.where(m[0] >= d[:, None], p["W0"], 0) + p["b0"], 0)
        h = np.maximum(h @ np.where(m[1] >= m[0][:, None], p["W1"], 0) + p["b1"], 0)
        out = h @ np.where(d > m[1][:, None], p["W2"], 0) + p["b2"]
        out += bit @ np.where(d > d[:, None], p["A"], 0)
        parts.append(-np.log1p(np.exp(-x * out)).sum(1))
    want = np.log(np.exp(parts).mean(0))
    np.testing.assert_allclose(made.log_prob(cfg, variables, x), want, rtol=1e-5)
    assert not np.array_equal(every.d[0], every.d[1])
    assert not np.array_equal(every.m[0][0], every.m[0][1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fvsbn.Config(shape=(2, 2)), r"Config.shape = \(2, 2\)"),
        (lambda: fvsbn.Config(binarise="no"), "Config.binarise = 'no'"),
        (lambda: fvsbn.Config(order_seed=-1), "Config.order_seed = -1"),
        (lambda: fvsbn.Config(batch_size=0), "Config.batch_size = 0"),
        (lambda: nade.Config(hidden_dim=0), "Config.hidden_dim = 0"),
        (lambda: made.Config(hidden=()), r"Config.hidden = \(\)"),
        (lambda: made.Config(num_masks=0), "Config.num_masks = 0"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("module", [fvsbn, nade, made])
def test_the_default_takes_images_of_any_channels_and_vectors(module):
    for shape in ((7, 5, 3), (8, 8, 1), (2,), (64,)):
        cfg = module.Config.for_task(Task(shape))
        assert cfg.shape == shape
    assert cfg.binarise == "threshold"


class Independent(nn.Module):
    """Dimensions that are independent of each other, of one logit."""

    @nn.compact
    def log_p(self, x, mask=None):
        b = self.param("b", nn.initializers.zeros, ())
        return jax.nn.log_sigmoid(x * b).sum(1)

    def sample(self, key, x, known):
        b = self.variables["params"]["b"]
        u = jax.random.uniform(key, x.shape)
        return jnp.where(known, x, jnp.where(u < jax.nn.sigmoid(b), 1.0, -1.0))


@pytest.mark.parametrize("module", [fvsbn, nade, made])
def test_a_network_of_the_users_own_trains_and_samples(module):
    cfg = module.Config(shape=(6,), batch_size=4, learning_rate=0.1, ema_decay=0.0)
    batch, net = {"x": np.ones((4, 6), np.float32)}, Independent()
    method = module.method(cfg, net=net)
    state, step = method.init(KEY, batch), jax.jit(method.train_step)
    assert set(state.params) == {"b"}
    for _ in range(30):
        state, _ = step(KEY, state, batch)
    log_p = module.log_prob(cfg, state.variables, batch["x"], net=net)
    assert log_p.shape == (4,) and log_p[0] > 6 * np.log(0.8)
    assert module.sample(cfg, state.variables, KEY, 50, net=net).mean() > 0.6
