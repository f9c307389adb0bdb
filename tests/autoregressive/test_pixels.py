"""PixelCNN and PixelRNN: p sums to one, nothing sees what comes after it, fast draws are exact."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoregressive import masked, pixelcnn, pixelrnn, pixels
from gengen.compile import compile_step
from gengen.contract import Task
from gengen.types import InputError
from gengen.xla import jit_once

KEY = jax.random.key(5)
CNN: dict[str, Any] = dict(hidden_channels=6, head_channels=12, first_kernel_size=3, num_layers=2)
RNN = CNN
MODELS = {
    "pixelcnn": (pixelcnn, pixelcnn.Config(**CNN)),
    "pixelcnn, wide kernels": (
        pixelcnn,
        pixelcnn.Config(**{**CNN, "first_kernel_size": 5, "kernel_size": 5, "num_layers": 1}),
    ),
    "pixelrnn, row": (pixelrnn, pixelrnn.Config(**RNN, layer_type="row")),
    "pixelrnn, diagonal": (pixelrnn, pixelrnn.Config(**RNN, layer_type="diagonal")),
}


@pytest.fixture(params=MODELS)
def family(request):
    return MODELS[request.param]


def _variables(cfg, net, y=None):
    """Away from the start, where biases are 0; real numbers must not grow from pixel to pixel.

    A kernel is as large as at the start, with noise of that scale added; biases are the noise.
    """
    scale = 0.05 if cfg.head == "gaussian" else 0.3
    shapes = jax.eval_shape(net.init, KEY, jnp.ones((1, *cfg.shape[:2], pixels.num_inputs(cfg))), y)
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
        dict(shape=(1, 2, 3), head="categorical", intensity_levels=3, one_hot=True),
    ],
    ids=str,
)
def test_all_images_together_have_probability_one(family, changes):
    module, cfg, _, variables = _at(family, **changes)
    levels = np.linspace(-1, 1, 2 if cfg.head == "bernoulli" else cfg.intensity_levels)
    every = np.array(list(itertools.product(levels, repeat=int(np.prod(cfg.shape)))))
    x = jnp.asarray(every.reshape(-1, *cfg.shape), jnp.float32)
    p = np.exp(np.float64(module.log_prob(cfg, variables, x)))
    np.testing.assert_allclose(p.sum(), 1, atol=5e-5)  # up to 4,096 float32 sums of 12 logs
    assert p.std() > 0.1 * p.mean()


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 2, 3)], ids=str)
def test_each_conditional_depends_on_all_earlier_dimensions_and_no_others(family, shape):
    """Rows, then columns, then channels. The Row LSTM's triangle is the paper's."""
    _, cfg, net, variables = _at(family, shape=shape, num_layers=3, **_groups(shape[2]))
    apply: Any = net.apply
    D = int(np.prod(shape))
    points = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    jac = jit_once(jax.vmap(jax.jacfwd(lambda x: apply(variables, x[None], None)[0])))(points)
    paths = np.abs(np.asarray(jac).reshape(8, D, -1, D)).max((0, 2)) > 0  # [output, input]
    i, j, _ = np.unravel_index(np.arange(D), shape)
    want = np.tri(D, k=-1, dtype=bool)
    if getattr(cfg, "layer_type", "") == "row":
        up, right = i[:, None] - i[None], j[None] - j[:, None]
        want &= (up == 0) | (right <= up - 1 + cfg.first_kernel_size // 2)
    np.testing.assert_array_equal(paths, want)


def _groups(channels):
    """Numbers of features that the channels share equally."""
    return dict(
        hidden_channels=4 * channels, head_channels=8 * channels
    )  # a dead ReLU must not hide a path


def test_one_hot_inputs_leak_nothing(family):
    """One-hot: a level that comes later changes no conditional; one that comes before does."""
    shape = (2, 3, 2)
    changes = dict(shape=shape, head="categorical", intensity_levels=3, one_hot=True)
    _, cfg, net, variables = _at(family, **changes, **_groups(2))
    apply: Any = net.apply
    draw, D = np.random.default_rng(1), 12
    x = draw.integers(0, 3, (1, D)) - 1.0
    changed = np.repeat(x, D, axis=0)
    changed[np.arange(D), np.arange(D)] = np.where(x[0] == 1, -1, x[0] + 1)
    every = np.concatenate([x, changed]).reshape(-1, *shape)
    inputs = pixels.network_input(cfg, jnp.asarray(every, jnp.float32))
    eta = np.asarray(jit_once(apply)(variables, inputs, None)).reshape(D + 1, D, -1)
    moved = np.abs(eta[1:] - eta[:1]).max(2).T  # [output, input]
    before = np.tri(D, k=-1, dtype=bool)
    # Rows of a batch may be summed in other orders: 1e-5 is none of the effects.
    assert np.all(moved[~before] < 1e-5)
    assert moved[1:, 0].max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        dict(shape=(4, 3, 3)),
        dict(shape=(4, 3, 1), head="categorical", intensity_levels=6, one_hot=True),
        dict(shape=(3, 2, 3), head="logistic", num_components=2),
        dict(shape=(3, 4, 1), head="gaussian", num_components=2),
    ],
    ids=str,
)
def test_fast_samples_equal_those_of_a_pass_for_each_dimension(family, changes):
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
    public = module.sample(cfg, variables, KEY, num, observation=given, mask=known)
    np.testing.assert_array_equal(public, fast)
    np.testing.assert_array_equal(fast[:, :1], given[:, :1])


def test_labels_change_the_density_and_the_samples():
    cfg = pixelcnn.Config(**CNN, shape=(3, 4, 1), num_classes=3)
    net = pixelcnn.network(cfg)
    variables = _variables(cfg, net, y=jnp.ones((1, 3)))
    every = np.array(list(itertools.product((-1.0, 1.0), repeat=12)), np.float32)
    x = every.reshape(-1, 3, 4, 1)
    p = [
        np.exp(np.float64(pixelcnn.log_prob(cfg, variables, x, condition=np.full(len(x), k))))
        for k in range(3)
    ]
    np.testing.assert_allclose(np.sum(p, axis=1), 1, atol=5e-5)
    assert np.abs(p[0] - p[1]).sum() > 0.01
    y = jnp.array([0, 1, 2, 2])
    fast = pixelcnn.sample(cfg, variables, KEY, 4, condition=y)
    one_hot = jax.nn.one_hot(y, 3)
    slow = pixels.sample(cfg, net, variables, KEY, 4, None, None, one_hot, fast=False)
    np.testing.assert_array_equal(fast, slow)
    assert pixelcnn.sample(cfg, variables, KEY, 4).shape == (4, 3, 4, 1)


@pytest.mark.parametrize("left_out", ["V_down", "V_right"])
def test_each_stack_sees_the_class(left_out):
    cfg = pixelcnn.Config(**CNN, shape=(3, 4, 1), num_classes=2)
    net = pixelcnn.network(cfg)
    params = _variables(cfg, net, y=jnp.ones((1, 2)))["params"]
    params = jax.tree.map_with_path(
        lambda path, p: 0 * p if any(k.key == left_out for k in path) else p, params
    )
    x = jnp.zeros((1, 3, 4, 1))
    out = [np.asarray(net.apply({"params": params}, x, jnp.eye(2)[k : k + 1])) for k in range(2)]
    assert np.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixelcnn", "pixelrnn, row", "pixelrnn, diagonal"])
def test_two_images_are_learnt(name):
    """Of two stripes' phases, ln 2 nats of each image, from a start of 16 ln 2."""
    module, cfg = MODELS[name]
    cfg = replace(cfg, shape=(4, 4, 1), num_layers=2, binarise="threshold", learning_rate=1e-2)
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
        (lambda: pixelcnn.Config(shape=(784,)), r"it must be \(H, W, C\)"),
        (lambda: pixelcnn.Config(head="beta"), "Config.head = 'beta'"),
        (lambda: pixelcnn.Config(kernel_size=4), "Config.kernel_size = 4; it must be odd"),
        (
            lambda: pixelcnn.Config(shape=(8, 8, 3), hidden_channels=16),
            "Config.hidden_channels = 16; it must be a multiple of the 3",
        ),
        (lambda: pixelcnn.Config(intensity_levels=1), "Config.intensity_levels = 1"),
        (lambda: pixelcnn.Config(one_hot=True), "Config.one_hot needs head = 'categorical'"),
        (lambda: pixelcnn.Config(num_classes=-1), "Config.num_classes = -1"),
        (lambda: pixelrnn.Config(layer_type="spiral"), "Config.layer_type = 'spiral'"),
        (lambda: pixelrnn.Config(first_kernel_size=2), "Config.first_kernel_size = 2"),
        (lambda: pixelcnn.Config.for_task(Task((64,))), "vectors are modelled by realnvp"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


LABELLED = pixelcnn.Config(
    **CNN, shape=(3, 3, 1), num_classes=2, binarise="threshold", learning_rate=3e-2, ema_decay=0.9
)


def test_labels_are_learnt():
    """Class 0 is black, class 1 white: ln p and samples of each class are its own."""
    y = np.arange(16, dtype=np.int32) % 2
    x = np.broadcast_to(2.0 * y[:, None, None, None] - 1, (16, 3, 3, 1)).astype(np.float32)
    batch = {"image": x, "label": y}
    np.testing.assert_array_equal(pixelcnn.condition_of(LABELLED, batch), y)
    method = pixelcnn.method(LABELLED)
    state, step = method.init(KEY, batch), compile_step(method.train_step)
    for _ in range(60):
        state, _ = step(KEY, state, batch)
    log_p = pixelcnn.log_prob(LABELLED, state.variables, x, condition=y)
    other = pixelcnn.log_prob(LABELLED, state.variables, x, condition=1 - y)
    assert log_p.mean() > -1 and other.mean() < -5
    samples = pixelcnn.sample(LABELLED, state.variables, KEY, 16, condition=y)
    assert np.mean(np.asarray(samples) == x) > 0.9
    free = np.asarray(pixelcnn.sample(LABELLED, state.variables, KEY, 32)).mean((1, 2, 3))
    assert free.min() < -0.5 and free.max() > 0.5  # both classes


def test_missing_and_wrong_labels_are_refused():
    x = np.zeros((2, 3, 3, 1), np.float32)
    variables = pixelcnn.method(LABELLED).init(KEY, {"image": x, "label": np.zeros(2, int)})
    for condition, message in (
        (None, r"pass condition=, integers \[2\]"),
        (np.array([0, 2]), "num_classes = 2"),
        (np.zeros(2), "integers"),
    ):
        with pytest.raises(InputError, match=message):
            pixelcnn.log_prob(LABELLED, variables.variables, x, condition=condition)
    with pytest.raises(InputError, match="num_classes = 2"):
        pixelcnn.sample(LABELLED, variables.variables, KEY, 2, condition=np.array([0, 5]))
    with pytest.raises(InputError, match="unconditional"):
        cfg = replace(LABELLED, num_classes=0)
        pixelcnn.log_prob(cfg, variables.variables, x, condition=np.zeros(2, int))
    with pytest.raises(InputError, match="have no labels"):
        pixelcnn.method(LABELLED).init(KEY, {"image": x})


@pytest.mark.parametrize("module", [pixelcnn, pixelrnn])
def test_the_default_takes_images_of_any_channels(module):
    for shape, head in (((8, 8, 1), "bernoulli"), ((7, 5, 3), "logistic"), ((4, 4, 5), "logistic")):
        cfg = module.Config.for_task(Task(shape))
        assert cfg.shape == shape and cfg.head == head


def test_pixelrnn_takes_a_network_of_the_users_own():
    """PixelCNN's network in PixelRNN."""
    cfg = pixelrnn.Config(**RNN, shape=(3, 3, 1), batch_size=4)
    net = pixelcnn.network(pixelcnn.Config(**CNN, shape=(3, 3, 1)))
    batch = {"image": np.ones((4, 3, 3, 1), np.float32)}
    method = pixelrnn.method(cfg, net=net)
    state, _ = jax.jit(method.train_step)(KEY, method.init(KEY, batch), batch)
    assert pixelrnn.log_prob(cfg, state.variables, batch["image"], net=net).shape == (4,)
    assert pixelrnn.sample(cfg, state.variables, KEY, 2, net=net).shape == (2, 3, 3, 1)


def test_masks_of_channels_by_hand():
    """Two features for each of R, G, B, and two gates: B sees all, R only itself, or nothing."""
    groups = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]])  # [from R, G, B; to R, G, B]
    found = masked.channels_mask(6, 12, 3, gates=2)
    np.testing.assert_array_equal(found, np.tile(np.kron(groups, np.ones((2, 2))), 2))
    strict = masked.channels_mask(3, 6, 3, strict=True)
    np.testing.assert_array_equal(strict, np.kron(groups - np.eye(3), np.ones((1, 2))))
