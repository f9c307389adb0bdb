"""FVSBN, NADE and MADE: p sums to one, no output sees what comes after it, draws are of p."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.autoregressive import binary, fvsbn, made, nade
from gengen.types import InputError

D = 8
KEY = jax.random.key(3)
MODELS = {
    "fvsbn": (fvsbn, fvsbn.Config(shape=(D,))),
    "fvsbn, another order": (fvsbn, fvsbn.Config(shape=(2, 4, 1), order=5)),
    "nade": (nade, nade.Config(shape=(D,), H=5)),
    "nade, untied": (nade, nade.Config(shape=(D,), H=5, tied=False)),
    "nade, another order": (nade, nade.Config(shape=(D,), H=5, order=2)),
    "made": (made, made.Config(shape=(D,), widths=(64,))),
    "made, no direct weights": (made, made.Config(shape=(D,), widths=(64,), direct=False)),
    "made, three layers": (made, made.Config(shape=(D,), widths=(64, 48, 64), direct=False)),
    "made, masks": (made, made.Config(shape=(D,), widths=(24, 24), masks=3)),
    "made, masks and orders": (
        made,
        made.Config(shape=(D,), widths=(24, 24), masks=3, orders=True, order=4),
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
    return getattr(cfg, "masks", 1)


def _logits(module, cfg, net, variables, mask):
    extra = (mask,) if module is made else ()
    return lambda x: net.apply(variables, x, *extra)


def _order_within(module, cfg, net, mask):
    """The place of each element of the sequence, 0..D-1, by a mask of MADE's."""
    if module is not made:
        return np.arange(D)
    return made.numbers(D, cfg.widths, cfg.masks, cfg.orders).d[mask] - 1


def test_all_images_together_have_probability_one(model):
    module, cfg, _, variables = model
    x = binary.example(cfg, jnp.asarray(_every_image()))
    p = np.exp(np.float64(module.log_prob(cfg, variables, x)))
    np.testing.assert_allclose(p.sum(), 1, atol=2e-5)  # 256 float32 sums of 8 logs
    assert p.std() > 1e-4  # not the uniform distribution, for which there is nothing to see


def test_each_conditional_sees_all_before_it_and_nothing_else(model):
    module, cfg, net, variables = model
    for mask in range(_masks(cfg)):
        place = _order_within(module, cfg, net, mask)
        logits = _logits(module, cfg, net, variables, mask)
        points = np.random.default_rng(mask).normal(size=(4, D)).astype(np.float32)
        jac = jax.vmap(jax.jacobian(lambda x, f=logits: f(x[None])[0]))(points)
        paths = np.abs(np.asarray(jac)).max(0) > 0  # [output, input]
        np.testing.assert_array_equal(paths, place[None, :] < place[:, None])


@pytest.mark.parametrize("model", [n for n in MODELS if "masks" not in n], indirect=True)
def test_a_draw_is_by_the_conditionals(model):
    """Which mask draws is drawn too: test_draws_are_of_the_model."""
    module, cfg, net, variables = model
    key, num = jax.random.key(8), 16
    x = jnp.zeros((num, D))
    got = net.apply(variables, key, x, jnp.zeros((num, D), bool), method="draw")
    # By D passes with the same numbers; MADE's first key chooses the mask.
    u = rng.uniform(jax.random.split(key)[1] if module is made else key, (num, D))
    logits = _logits(module, cfg, net, variables, 0)
    for i in range(D):
        x = x.at[:, i].set(jnp.where(u[:, i] < jax.nn.sigmoid(logits(x)[:, i]), 1.0, -1.0))
    np.testing.assert_array_equal(got, x)


def test_draws_are_of_the_model(model):
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


def test_completions_keep_what_is_given_and_are_of_the_rest(model):
    module, cfg, _, variables = model
    if _masks(cfg) > 1:
        cfg = type(cfg)(**{**vars(cfg), "masks": 1})  # completions are by the first mask
    known = np.arange(D) < 5
    given = np.array([1, -1, -1, 1, 1, 0, 0, 0], np.float32)
    as_example = partial(binary.example, cfg)
    num = 4096
    x = module.sample(
        cfg, variables, KEY, num, as_example(jnp.asarray(given)[None]),
        as_example(jnp.asarray(known)[None]),
    )  # fmt: skip
    x = np.asarray(binary.sequence(cfg, x))
    np.testing.assert_array_equal(x[:, :5], np.broadcast_to(given[:5], (num, 5)))
    rest = np.array(list(itertools.product((-1.0, 1.0), repeat=3)), np.float32)
    every = np.concatenate([np.broadcast_to(given[:5], (8, 5)), rest], axis=1)
    p = np.exp(np.float64(module.log_prob(cfg, variables, as_example(jnp.asarray(every)))))
    found = np.bincount(((x[:, 5:] > 0) @ np.array([4, 2, 1])).astype(int), minlength=8) / num
    np.testing.assert_allclose(found, p / p.sum(), atol=4 * 0.5 / np.sqrt(num))


def test_completions_refuse_what_is_no_product_of_conditionals():
    module, cfg = MODELS["fvsbn"]
    variables = module.network(cfg).init(KEY, jnp.ones((1, D)), method="log_p")
    with pytest.raises(InputError, match="mask is true after a place where it is false"):
        module.sample(cfg, variables, KEY, 2, np.ones(D), np.arange(D) > 3)
    with pytest.raises(InputError, match="mask = None: give both"):
        module.sample(cfg, variables, KEY, 2, np.ones(D))
    with pytest.raises(InputError, match="it must broadcast to"):
        module.sample(cfg, variables, KEY, 2, np.ones(D - 1), np.ones(D - 1, bool))


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
    cfg = nade.Config(shape=(D,), H=5, tied=tied)
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
    cfg = made.Config(shape=(D,), widths=(12, 10), masks=2, orders=True)
    net = made.network(cfg)
    variables = _shaken(net.init(KEY, jnp.ones((1, D)), method="log_p"), 0.5)
    p = jax.tree.map(partial(np.asarray, dtype=np.float64), variables["params"])
    x, parts = _every_image()[::29].astype(np.float64), []
    every = made.numbers(D, cfg.widths, 2, True)
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
        (lambda: fvsbn.Config(order=-1), "Config.order = -1"),
        (lambda: fvsbn.Config(batch_size=0), "Config.batch_size = 0"),
        (lambda: nade.Config(H=0), "Config.H = 0"),
        (lambda: made.Config(widths=()), r"Config.widths = \(\)"),
        (lambda: made.Config(masks=0), "Config.masks = 0"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
