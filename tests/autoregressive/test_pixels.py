"""PixelCNN and PixelRNN: p sums to one, nothing sees what comes after it, fast draws are exact."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoregressive import pixelcnn, pixelrnn, pixels
from gengen.compile import compile_step
from gengen.types import InputError
from gengen.xla import jit_once

KEY = jax.random.key(5)
CNN: dict[str, Any] = dict(features=6, hidden=12, first=3, layers=2)
RNN: dict[str, Any] = dict(features=6, hidden=12, first=3, layers=2)
MODELS = {
    "pixelcnn": (pixelcnn, pixelcnn.Config(**CNN)),
    "pixelcnn, wide kernels": (
        pixelcnn,
        pixelcnn.Config(**{**CNN, "first": 5, "kernel": 5, "layers": 1}),
    ),
    "pixelrnn, row": (pixelrnn, pixelrnn.Config(**RNN, kind="row")),
    "pixelrnn, diagonal": (pixelrnn, pixelrnn.Config(**RNN, kind="diagonal")),
}


@pytest.fixture(params=MODELS)
def family(request):
    return MODELS[request.param]


def _variables(cfg, net, y=None):
    """Away from the start, where biases are 0; real numbers must not grow from pixel to pixel.

    A kernel is as large as at the start, with noise of that scale added; biases are the noise.
    """
    scale = 0.05 if cfg.head == "gaussian" else 0.3
    shapes = jax.eval_shape(net.init, KEY, jnp.ones((1, *cfg.shape[:2], pixels.inputs(cfg))), y)
    draw = np.random.default_rng(1)

    def leaf(x):
        first = np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.0
        return jnp.asarray(draw.normal(0, np.hypot(first, scale), x.shape), x.dtype)

    return jax.tree.map(leaf, shapes)


def _at(family, **changes):
    module, cfg = family
    cfg = replace(cfg, **changes)
    net = module.network(cfg)
    return module, cfg, net, _variables(cfg, net)


@pytest.mark.parametrize(
    "changes",
    [
        dict(shape=(3, 4, 1)),
        dict(shape=(2, 2, 3)),
        dict(shape=(1, 2, 3), head="categorical", levels=3, one_hot=True),
    ],
    ids=str,
)
def test_all_images_together_have_probability_one(family, changes):
    module, cfg, _, variables = _at(family, **changes)
    levels = np.linspace(-1, 1, 2 if cfg.head == "bernoulli" else cfg.levels)
    every = np.array(list(itertools.product(levels, repeat=int(np.prod(cfg.shape)))))
    x = jnp.asarray(every.reshape(-1, *cfg.shape), jnp.float32)
    p = np.exp(np.float64(module.log_prob(cfg, variables, x)))
    np.testing.assert_allclose(p.sum(), 1, atol=5e-5)  # up to 4,096 float32 sums of 12 logs
    assert p.std() > 0.1 * p.mean()


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 2, 3)], ids=str)
def test_each_conditional_sees_all_before_it_and_nothing_else(family, shape):
    """Rows, then columns, then channels. The Row LSTM's triangle is the paper's."""
    _, cfg, net, variables = _at(family, shape=shape, layers=3, **_groups(shape[2]))
    apply: Any = net.apply
    D = int(np.prod(shape))
    points = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    jac = jit_once(jax.vmap(jax.jacfwd(lambda x: apply(variables, x[None], None)[0])))(points)
    paths = np.abs(np.asarray(jac).reshape(8, D, -1, D)).max((0, 2)) > 0  # [output, input]
    i, j, _ = np.unravel_index(np.arange(D), shape)
    want = np.tri(D, k=-1, dtype=bool)
    if getattr(cfg, "kind", "") == "row":
        up, right = i[:, None] - i[None], j[None] - j[:, None]
        want &= (up == 0) | (right <= up - 1 + cfg.first // 2)
    np.testing.assert_array_equal(paths, want)


def _groups(channels):
    """Numbers of features that the channels share equally."""
    return dict(features=4 * channels, hidden=8 * channels)  # a dead ReLU must not hide a path


def test_the_input_as_levels_leaks_nothing(family):
    """One-hot: a level that comes later changes no conditional; one that comes before does."""
    shape = (2, 3, 2)
    changes = dict(shape=shape, head="categorical", levels=3, one_hot=True)
    _, cfg, net, variables = _at(family, **changes, **_groups(2))
    apply: Any = net.apply
    draw, D = np.random.default_rng(1), 12
    x = draw.integers(0, 3, (1, D)) - 1.0
    changed = np.repeat(x, D, axis=0)
    changed[np.arange(D), np.arange(D)] = np.where(x[0] == 1, -1, x[0] + 1)
    every = np.concatenate([x, changed]).reshape(-1, *shape)
    entered = pixels.entered(cfg, jnp.asarray(every, jnp.float32))
    eta = np.asarray(jit_once(apply)(variables, entered, None)).reshape(D + 1, D, -1)
    moved = np.abs(eta[1:] - eta[:1]).max(2).T  # [output, input]
    before = np.tri(D, k=-1, dtype=bool)
    # Rows of a batch may be summed in other orders: 1e-5 is none of the effects.
    assert np.all(moved[~before] < 1e-5)
    assert moved[1:, 0].max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        dict(shape=(4, 3, 3)),
        dict(shape=(4, 3, 1), head="categorical", levels=6, one_hot=True),
        dict(shape=(3, 2, 3), head="logistic", components=2),
        dict(shape=(3, 4, 1), head="gaussian", components=2),
    ],
    ids=str,
)
def test_fast_draws_are_those_of_a_pass_for_each_dimension(family, changes):
    module, cfg, net, variables = _at(family, **changes)
    num = 5
    known = np.arange(cfg.shape[0])[:, None, None] < 1
    given = np.random.default_rng(2).choice([-1.0, 1.0], (num, *cfg.shape))
    for options in ((None, None), (given, known)):
        fast = pixels.sample(cfg, net, variables, KEY, num, *options)
        slow = pixels.sample(cfg, net, variables, KEY, num, *options, fast=False)
        # Real numbers are summed in another order; levels are the same levels, at most an ulp of
        # their value apart, by how the compiler multiplies and adds.
        np.testing.assert_allclose(fast, slow, atol=1e-4 if cfg.head == "gaussian" else 1e-7)
    assert fast.std() > 0.1
    public = module.sample(cfg, variables, KEY, num, given=given, mask=known)
    np.testing.assert_array_equal(public, fast)
    np.testing.assert_array_equal(fast[:, :1], given[:, :1])


def test_classes_change_what_is_likely():
    cfg = pixelcnn.Config(**CNN, shape=(3, 4, 1), classes=3)
    net = pixelcnn.network(cfg)
    variables = _variables(cfg, net, y=jnp.ones((1, 3)))
    every = np.array(list(itertools.product((-1.0, 1.0), repeat=12)), np.float32)
    x = every.reshape(-1, 3, 4, 1)
    p = [
        np.exp(np.float64(pixelcnn.log_prob(cfg, variables, x, y=np.full(len(x), k))))
        for k in range(3)
    ]
    np.testing.assert_allclose(np.sum(p, axis=1), 1, atol=5e-5)
    assert np.abs(p[0] - p[1]).sum() > 0.01
    y = jnp.array([0, 1, 2, 2])
    fast = pixelcnn.sample(cfg, variables, KEY, 4, y=y)
    one_hot = jax.nn.one_hot(y, 3)
    slow = pixels.sample(cfg, net, variables, KEY, 4, None, None, one_hot, fast=False)
    np.testing.assert_array_equal(fast, slow)
    assert pixelcnn.sample(cfg, variables, KEY, 4).shape == (4, 3, 4, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixelcnn", "pixelrnn, row", "pixelrnn, diagonal"])
def test_two_images_are_learnt(name):
    """Of two stripes' phases, ln 2 nats of each image, from a start of 16 ln 2."""
    module, cfg = MODELS[name]
    cfg = replace(cfg, shape=(4, 4, 1), layers=2, binarise="threshold", learning_rate=1e-2)
    stripes = np.where(np.arange(4) % 2, 1.0, -1.0)[None, :, None, None] * np.ones((1, 4, 4, 1))
    batch = {"image": np.concatenate([stripes, -stripes] * 8).astype(np.float32)}
    method = module.method(cfg)
    step, state = compile_step(method.train_step), method.init(KEY, batch)
    for _ in range(150):
        state, _ = step(KEY, state, batch)
    nats = -module.log_prob(cfg, {"params": state.params}, batch["image"])
    assert np.log(2) - 1e-3 < nats.mean() < np.log(2) + 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pixelcnn.Config(shape=(784,)), r"but it is \(H, W, C\)"),
        (lambda: pixelcnn.Config(head="beta"), "Config.head = 'beta'"),
        (lambda: pixelcnn.Config(kernel=4), "Config.kernel = 4, but it is odd"),
        (lambda: pixelcnn.Config(shape=(8, 8, 3), features=16), "Config.features = 16, but the 3"),
        (lambda: pixelcnn.Config(levels=1), "Config.levels = 1"),
        (lambda: pixelcnn.Config(one_hot=True), "Config.one_hot is of levels"),
        (lambda: pixelcnn.Config(classes=-1), "Config.classes = -1"),
        (lambda: pixelrnn.Config(kind="spiral"), "Config.kind = 'spiral'"),
        (lambda: pixelrnn.Config(first=2), "Config.first = 2"),
        (lambda: pixelcnn.condition(pixelcnn.Config(), np.ones(2, int), 2), "knows no classes"),
        (lambda: pixelcnn.condition(pixelcnn.Config(classes=3), None, 2), r"integers \[2\]"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
