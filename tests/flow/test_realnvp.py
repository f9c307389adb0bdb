"""Real NVP: both ways, its Jacobian by autodiff, a density that integrates to 1."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.compile import compile_step
from gengen.contract import Task
from gengen.flow import couplings, pixels, realnvp
from gengen.types import InputError

KEY = jax.random.key(0)
PLANE = realnvp.Config(shape=(2,), num_couplings=6, hidden=(16, 16), batch_size=128)
VECTOR = realnvp.Config(shape=(5,), num_couplings=4, hidden=(16,), batch_size=16)
IMAGE = realnvp.Config(
    shape=(4, 8, 2), num_couplings=2, num_levels=2, hidden_channels=6, batch_size=4
)
ODD = dataclasses.replace(IMAGE, shape=(3, 5, 2), num_levels=0, num_couplings=4)
ALL = [PLANE, VECTOR, IMAGE, ODD]


def data(cfg, num, seed=0):
    numbers = np.random.default_rng(seed)
    if len(cfg.shape) == 3:
        x = numbers.integers(0, 256, (num, *cfg.shape)) / 127.5 - 1
        return {"image": x.astype(np.float32)}
    return {"x": numbers.normal(size=(num, *cfg.shape)).astype(np.float32)}


def random(cfg, seed=1):
    """Variables with nothing at its first value: zeros would make all of it trivial."""
    params = realnvp.method(cfg).init(KEY, data(cfg, 16)).params
    leaves, tree = jax.tree.flatten(params)
    numbers = np.random.default_rng(seed)
    # Half of LeCun's size for kernels: outputs of order 1 at the end of every network.
    new = [
        0.5 * numbers.normal(size=p.shape) / np.sqrt(max(1, np.prod(p.shape[:-1]))) for p in leaves
    ]
    new = [jnp.asarray(n, jnp.float32) for n in new]
    return {"params": jax.tree.unflatten(tree, new)}


@pytest.mark.parametrize(
    "cfg", [PLANE, VECTOR, IMAGE, ODD], ids=["plane", "vector", "image", "odd"]
)
def test_inverse_inverts_forward(cfg):
    variables = random(cfg)
    x = np.random.default_rng(2).normal(size=(8, *cfg.shape)).astype(np.float32)
    z, log_det = realnvp.forward(cfg, variables, x)
    back, same = realnvp.inverse(cfg, variables, z)
    assert np.abs(np.asarray(z) - x.reshape(8, -1)).max() > 0.5  # it is no identity
    # Values of order 1 through up to 20 float32 layers, each of which loses an ulp or two.
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(same, log_det, atol=2e-5)


@pytest.mark.parametrize(
    "cfg", [PLANE, VECTOR, IMAGE, ODD], ids=["plane", "vector", "image", "odd"]
)
def test_the_log_determinant_is_that_of_the_jacobian(cfg):
    """By autodiff, and NumPy's determinant in float64."""
    variables = random(cfg)
    z = jnp.asarray(np.random.default_rng(3).normal(size=int(np.prod(cfg.shape))), jnp.float32)
    one = lambda z: realnvp.inverse(cfg, variables, z[None])[0].ravel()  # noqa: E731
    jacobian = np.asarray(jax.jit(jax.jacobian(one))(z), np.float64)
    _, want = np.linalg.slogdet(jacobian)
    got = realnvp.inverse(cfg, variables, z[None])[1][0]
    assert abs(want) > 0.05
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_density_integrates_to_one():
    """On a grid that holds the mass; what smooth functions lose to the grid is not to be seen."""
    variables = random(PLANE)
    draws = np.asarray(realnvp.sample(PLANE, variables, KEY, 4000))
    low, high = draws.min(0) - 3, draws.max(0) + 3
    a, b = (np.linspace(low[i], high[i], 401) for i in range(2))
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    p = np.exp(np.asarray(realnvp.log_prob(PLANE, variables, grid), np.float64))
    total = p.sum() * (a[1] - a[0]) * (b[1] - b[0])
    assert total == pytest.approx(1, abs=2e-3)


def test_samples_have_the_density():
    """E ln p over samples = the entropy's estimate by the grid: sampling and density agree."""
    variables = random(PLANE)
    draws = realnvp.sample(PLANE, variables, KEY, 20_000)
    values = np.asarray(realnvp.log_prob(PLANE, variables, draws), np.float64)
    z = np.asarray(realnvp.forward(PLANE, variables, draws)[0], np.float64)
    # z of samples is N(0, I): mean and covariance within 4 of their standard errors.
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(len(z))
    assert np.abs(np.cov(z.T) - np.eye(2)).max() < 4 * np.sqrt(2 / len(z))
    log_det = np.asarray(realnvp.forward(PLANE, variables, draws)[1], np.float64)
    want = -0.5 * (z**2).sum(1) - np.log(2 * np.pi) - log_det
    np.testing.assert_allclose(values, want, atol=1e-4)


def test_an_untrained_flow_whitens_its_first_batch():
    x = np.random.default_rng(4).normal(size=(500, 5)) * [1, 2, 3, 0.1, 5] + [0, 1, -2, 3, 4]
    x = x.astype(np.float32)
    cfg = dataclasses.replace(VECTOR, num_couplings=3)
    state = realnvp.method(cfg).init(KEY, {"x": x})
    z, log_det = realnvp.forward(cfg, state.variables, x)
    np.testing.assert_allclose(np.asarray(z).mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.asarray(z).std(0), 1, atol=1e-3)
    np.testing.assert_allclose(log_det, np.log(x.std(0)).sum(), atol=1e-3)


def test_masks_are_each_others_complement():
    np.testing.assert_array_equal(
        couplings.checkerboard((2, 3, 1), 0)[..., 0], [[True, False, True], [False, True, False]]
    )
    np.testing.assert_array_equal(couplings.checkerboard((3,), 1), [False, True, False])
    np.testing.assert_array_equal(couplings.halves((1, 1, 4), 0)[0, 0], [True, True, False, False])
    for kind in (couplings.checkerboard, couplings.halves):
        assert (kind((4, 6, 4), 0) ^ kind((4, 6, 4), 1)).all()


def test_folding_keeps_neighbours_together():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    folded = couplings.fold(x)
    np.testing.assert_array_equal(folded[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(couplings.unfold(folded), x)
    y = jax.random.normal(KEY, (2, 4, 6, 3))
    np.testing.assert_array_equal(couplings.unfold(couplings.fold(y)), y)


def test_logits_of_pixels_equal_float64():
    """In NumPy float64: the value, its slope by differences, and back to the very pixel."""
    cfg = IMAGE
    v = np.random.default_rng(5).integers(0, 256, (4, *cfg.shape))
    u = np.random.default_rng(6).random(v.shape)
    x = jnp.asarray(v / 127.5 - 1, jnp.float32)
    logit, slope = pixels.to_logits(cfg.alpha, x, jnp.asarray(u, jnp.float32))

    def by_hand(w):
        p = 0.05 + 0.9 * w / 256
        return np.log(p / (1 - p))

    np.testing.assert_allclose(logit, by_hand(v + u), atol=2e-5)
    h = 1e-4
    slopes = np.log((by_hand(v + u + h) - by_hand(v + u - h)) / (2 * h))
    np.testing.assert_allclose(slope, slopes.reshape(4, -1).sum(1), rtol=1e-5)
    np.testing.assert_allclose(pixels.to_image(cfg.alpha, logit), x, atol=1e-6)


def test_bits_of_an_untrained_flow_without_norms():
    """The identity: ln N of the logits with their slope, in float64; uniform u by the same key."""
    cfg = dataclasses.replace(IMAGE, act_norm=False)
    x = data(cfg, 4)["image"]
    variables = realnvp.method(cfg).init(KEY, {"image": x}).variables
    u = np.asarray(rng.uniform(jax.random.key(7), x.shape), np.float64)
    p = 0.05 + 0.9 * (np.round((x + 1) * 127.5) + u) / 256
    logit = np.log(p / (1 - p))
    density = -0.5 * logit**2 - 0.5 * np.log(2 * np.pi) + np.log(0.9 / 256 / (p * (1 - p)))
    want = density.reshape(4, -1).sum(1)
    got = realnvp.log_prob(cfg, variables, x, jax.random.key(7))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    bits = realnvp.bits_per_dim(cfg, variables, x, jax.random.key(7))
    np.testing.assert_allclose(bits, -want / (64 * np.log(2)), rtol=1e-5)


def correlated(num, seed):
    x = np.random.default_rng(seed).normal(size=(num, 2))
    return (x @ np.array([[1.0, 0.8], [0.0, 0.6]])).astype(np.float32)


def banana(num, seed):
    x = np.random.default_rng(seed).normal(size=(num, 2))
    return np.stack([x[:, 0], 0.5 * x[:, 1] + x[:, 0] ** 2 - 1], 1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("draw, det", [(correlated, 0.6), (banana, 0.5)])
def test_it_learns_a_density_whose_entropy_is_known(draw, det):
    """Both are maps of N(0, I) with a constant Jacobian: H = 1 + ln 2π + ln det."""
    cfg = dataclasses.replace(PLANE, ema_decay=0.99, hidden=(32, 32), learning_rate=3e-3)
    method, x = realnvp.method(cfg), draw(60_000, 0)
    state, step = method.init(KEY, {"x": x[:128]}), compile_step(method.train_step)
    for i in range(600):
        state, _ = step(KEY, state, {"x": x[(np.arange(128) + 96 * i) % len(x)]})
    new = draw(20_000, 1)
    nats = -np.asarray(realnvp.log_prob(cfg, state.variables, new)).mean()
    entropy = 1 + np.log(2 * np.pi) + np.log(det)
    assert -0.03 < nats - entropy < 0.05  # below it by the chance of 20,000 draws alone


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": (3, 4)}, "Config.shape"),
        ({"shape": (1,)}, "two dimensions"),
        ({"shape": (6, 6, 1)}, "use num_levels = 1"),
        ({"num_levels": -1}, "Config.num_levels"),
        ({"last_couplings": -1}, "Config.last_couplings"),
        ({"alpha": 0.5}, "Config.alpha"),
        ({"num_couplings": 0}, "Config.num_couplings"),
        ({"scale_bound": 0.0}, "Config.scale_bound"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(realnvp.Config(), **change)


def test_bad_arguments_are_refused():
    variables = random(PLANE)
    with pytest.raises(InputError, match="num = 0"):
        realnvp.sample(PLANE, variables, KEY, 0)
    with pytest.raises(InputError, match="z has shape"):
        realnvp.inverse(PLANE, variables, np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((8, 8, 1), 1), ((16, 16, 3), 2), ((28, 28, 1), 2), ((7, 5, 3), 0), ((6, 4, 1), 0)],
)
def test_the_default_folds_images_as_often_as_their_sides_allow(shape, levels):
    cfg = realnvp.Config.for_task(Task(shape))
    assert (cfg.shape, cfg.num_levels) == (shape, levels)


def test_decode_inverts_encode():
    x = data(IMAGE, 3)["image"]
    variables = random(IMAGE)
    z = realnvp.encode(IMAGE, variables, x)
    np.testing.assert_allclose(realnvp.decode(IMAGE, variables, z), x, atol=1e-6)


class Net(nn.Module):
    """A coupling's network of the user's own."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(4)(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(h)


@pytest.mark.parametrize("cfg", [VECTOR, IMAGE], ids=["vector", "image"])
def test_a_network_of_the_users_own_trains_and_samples(cfg):
    batch = data(cfg, cfg.batch_size)
    x = next(iter(batch.values()))
    method = realnvp.method(cfg, net=Net)
    state, _ = jax.jit(method.train_step)(KEY, method.init(KEY, batch), batch)
    assert any("Net" in str(path) for path, _ in jax.tree.leaves_with_path(state.params))
    variables = state.variables
    assert realnvp.sample(cfg, variables, KEY, 2, net=Net).shape == (2, *cfg.shape)
    assert np.isfinite(realnvp.log_prob(cfg, variables, x, net=Net)).all()
    z = realnvp.encode(cfg, variables, x, net=Net)
    np.testing.assert_allclose(realnvp.decode(cfg, variables, z, net=Net), x, atol=1e-5)
