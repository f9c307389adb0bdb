"""The diffusion transformer against its paper's sizes and a forward pass in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.diffusion import continuous, ddpm, edm, score_sde
from gengen.errors import InputError
from gengen.flow_matching import flow_matching
from gengen.nn.dit import DiT
from tests.layers import count, dense

KEY = jax.random.key(0)
NET = DiT(out=3, num_blocks=2, hidden_dim=8, num_heads=2, patch=2)
X = np.random.default_rng(0).normal(size=(3, 4, 6, 1))
T = np.array([3.0, 250.0, 999.0])
Y = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], np.float64)


@pytest.mark.parametrize(
    ("size", "blocks", "width", "millions"),
    [("S", 12, 384, 33), ("B", 12, 768, 130), ("L", 24, 1024, 458), ("XL", 28, 1152, 675)],
)
def test_the_sizes_are_the_papers(size, blocks, width, millions):
    """Table 1 and figure 12, patches of 2 in latents 32×32×4, 1000 classes and the variance."""
    net = DiT.paper(size, out=8)
    x, y = jnp.zeros((1, 32, 32, 4)), jnp.zeros((1, 1000))
    own = jax.eval_shape(lambda: net.init(KEY, x, jnp.ones(1), False, y))["params"]
    block = dense(width, 6 * width) + 4 * dense(width, width) + dense(width, 4 * width, width)
    ends = dense(2 * 2 * 4, width) + dense(width, 2 * width) + dense(width, 2 * 2 * 8)
    wanted = blocks * block + ends + dense(256, width, width) + 1001 * width
    assert count(own) == wanted
    assert round(wanted / 1e6) == millions


def scrambled(variables):
    """The variables with noise, so that no gate is 0."""
    noise = np.random.default_rng(1)
    add = lambda p: p + 0.3 * noise.normal(size=p.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(add, variables)


def norm(h):
    return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)


def waves(v, features):
    angles = np.asarray(v)[:, None] * 10_000.0 ** (-np.arange(features // 2) / (features // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def embedded(p, x):
    """Patches, row by row, and their positions: [B, 6, 8]."""
    cut = [x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(3, 4)
           for r in range(2) for c in range(3)]  # fmt: skip
    place = np.concatenate([waves([0, 0, 0, 1, 1, 1], 4), waves([0, 1, 2, 0, 1, 2], 4)], -1)
    return np.stack(cut, 1) @ p["embedding"]["kernel"] + p["embedding"]["bias"] + place


def images(tokens):
    """The inverse of the cut: [B, 6, 12] → [B, 4, 6, 3]."""
    out = np.zeros((3, 4, 6, 3))
    for i in range(6):
        r, c = divmod(i, 3)
        out[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = tokens[:, i].reshape(3, 2, 2, 3)
    return out


def layer(p, x):
    return x @ p["kernel"] + p["bias"]


def attention(p, x):
    """Softmax over the tokens, two heads of 4."""
    q, k, v = (np.einsum("bnd,dhe->bhne", x, p[n]["kernel"]) + p[n]["bias"][:, None]
               for n in ("query", "key", "value"))  # fmt: skip
    scores = np.einsum("bhne,bhme->bhnm", q, k) / np.sqrt(4)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bhme->bnhe", weights, v)
    return np.einsum("bnhe,hed->bnd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def forward(p, x, t, y):
    swish = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    gelu = lambda v: v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))  # noqa: E731
    h = embedded(p, x)
    c = layer(p["time"]["Dense_1"], swish(layer(p["time"]["Dense_0"], waves(t, 256))))
    row = np.where(y.sum(1) > 0, y.argmax(1), y.shape[1])
    c = swish(c + p["condition"]["table"][row])
    for i in range(2):
        b = p[f"Block_{i}"]
        m = np.split(layer(b["modulation"], c)[:, None], 6, -1)
        h = h + m[2] * attention(b["MultiHeadDotProductAttention_0"], norm(h) * (1 + m[1]) + m[0])
        inner = gelu(layer(b["Dense_0"], norm(h) * (1 + m[4]) + m[3]))
        h = h + m[5] * layer(b["Dense_1"], inner)
    shift, scale = np.split(layer(p["modulation"], c)[:, None], 2, -1)
    return images(layer(p["output"], norm(h) * (1 + scale) + shift))


def as_float64(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


INPUTS = (*(jnp.asarray(v, jnp.float32) for v in (X, T)), False, jnp.asarray(Y, jnp.float32))


def applied(variables):
    return np.asarray(NET.apply(variables, *INPUTS))


def test_the_forward_pass_by_hand():
    variables = scrambled(NET.init(KEY, *INPUTS))
    np.testing.assert_allclose(
        applied(variables), forward(as_float64(variables), X, T, Y), atol=2e-4
    )


def test_every_block_is_the_identity_at_initialisation():
    """With another last layer the output is that of the normalised patches; with its own, 0."""
    variables = NET.init(KEY, *INPUTS)
    assert not np.any(applied(variables))
    output = scrambled(variables["params"]["output"])
    variables = {"params": {**variables["params"], "output": output}}
    p = as_float64(variables)
    want = images(layer(p["output"], norm(embedded(p, X))))
    np.testing.assert_allclose(applied(variables), want, atol=2e-5)
    assert np.abs(want).max() > 0.5


SMALL = DiT(out=1, num_blocks=1, hidden_dim=8, num_heads=2, patch=2)
BATCH = {"image": np.zeros((2, 4, 4, 1), np.float32), "label": np.array([0, 2], np.int32)}


@pytest.mark.parametrize("module", [edm, flow_matching, score_sde])
def test_it_is_the_network_of_models_of_continuous_time(module):
    """Field multiplies the time and passes the class; the model trains and samples with it."""
    cfg = module.Config(shape=(4, 4, 1), num_classes=3)
    net = continuous.Field(cfg, SMALL)
    method = module.method(cfg, net=net)
    state = jax.eval_shape(method.init, KEY, BATCH)
    after = jax.eval_shape(method.train_step, KEY, state, BATCH)[0]
    assert jax.tree.structure(after) == jax.tree.structure(state)
    shape = jax.eval_shape(lambda v: module.sample(cfg, v, KEY, 3, net=net), state.variables).shape
    assert shape == (3, 4, 4, 1)


def test_the_field_has_the_times_and_classes_of_the_network():
    cfg = flow_matching.Config(shape=(4, 4, 1), num_classes=5)
    net, x = continuous.Field(cfg, SMALL), jnp.asarray(X[:, :, :4], jnp.float32)
    t, y = jnp.array([0.1, 0.4, 0.9]), jnp.asarray(Y, jnp.float32)
    variables = scrambled(net.init(KEY, x, t, y, False))
    found = np.asarray(net.apply(variables, x, t, y, False))
    inner = {"params": variables["params"]["net"]}
    np.testing.assert_array_equal(found, SMALL.apply(inner, x, 1000 * t, False, y))
    others = np.asarray(net.apply(variables, x, t, y[::-1], False))
    assert np.abs(found - others)[0].max() > 1e-3


def test_it_is_the_network_of_ddpm():
    cfg = ddpm.Config(shape=(4, 4, 1), T=4, warmup_steps=0)
    method = ddpm.method(cfg, net=SMALL)
    state = method.init(KEY, BATCH)
    after, metrics = jax.jit(method.train_step)(KEY, state, BATCH)
    assert np.any(after.params["output"]["kernel"]) and np.isfinite(metrics["loss"])
    assert jax.eval_shape(
        lambda v: ddpm.sample(cfg, v, KEY, 3, net=SMALL), after.variables
    ).shape == (3, 4, 4, 1)


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match="size = 'M'"):
        DiT.paper("M", out=8)
    with pytest.raises(InputError, match="hidden_dim = 10"):
        DiT(1, 1, 10, 2).init(KEY, jnp.zeros((1, 4, 4, 1)), jnp.ones(1))
