"""A causal transformer: no leak, and decoding with a cache equals full passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.transformer import Transformer
from gengen.types import InputError

NET = Transformer(num_tokens=5, length=6, hidden_dim=8, num_layers=2, num_heads=2)
FULL = jax.jit(NET.apply)
TOKENS = jnp.array([[1, 4, 0, 2, 3, 3], [0, 2, 2, 4, 1, 0]])


@pytest.fixture(scope="module")
def variables():
    """Parameters far from their start, so that attention is not uniform."""
    start = jax.jit(NET.init)(jax.random.key(0), TOKENS)
    noise = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(start))))
    return jax.tree.map(lambda w: w + 0.5 * jax.random.normal(next(noise), w.shape), start)


def test_a_place_depends_on_all_tokens_before_it_and_on_no_other(variables):
    e = NET.apply(variables, TOKENS[:1], method="embed")
    logits = lambda e: NET.apply(variables, e[None], method="of_embedded")[0]  # noqa: E731
    jacobian = np.abs(jax.jacobian(logits)(e[0])).max((1, 3))  # [places, tokens]
    before = np.tril(np.ones((6, 6), bool), -1)
    assert np.all(jacobian[~before] == 0)
    assert np.all(jacobian[before] > 1e-4)


def test_logits_equal_float64_by_hand(variables):
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), variables["params"])

    def norm(x, w):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]

    def dense(x, w):
        return x @ w["kernel"] + w["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    for tokens, got in zip(np.asarray(TOKENS), FULL(variables, TOKENS), strict=True):
        x = np.stack([p["start"], *p["table"][tokens[:-1]]]) + p["positions"]
        for layer in range(2):
            w = p[f"blocks_{layer}"]
            q, k, v = dense(norm(x, w["norm1"]), w["qkv"]).reshape(6, 3, 2, 4).transpose(1, 2, 0, 3)
            out = np.zeros((6, 2, 4))
            for head in range(2):
                for i in range(6):
                    scores = np.exp(k[head, : i + 1] @ q[head, i] / 2)
                    out[i, head] = scores / scores.sum() @ v[head, : i + 1]
            x = x + dense(out.reshape(6, 8), w["out"])
            x = x + dense(gelu(dense(norm(x, w["norm2"]), w["wide"])), w["narrow"])
        np.testing.assert_allclose(got, dense(norm(x, p["norm"]), p["head"]), atol=2e-5)


def test_cached_decoding_equals_full_passes(variables):
    """With the same noise on the logits: the same logits and tokens, place for place."""
    noise = 4 * jax.random.normal(jax.random.key(3), (6, 2, 5))

    def step(carry, now):
        (cache, before), (i, eps) = carry, now
        logits, cache = NET.apply(variables, cache, before, i, method="step")
        token = (logits + eps).argmax(-1)
        return (cache, token), (logits, token)

    start = NET.apply(variables, 2, method="empty"), jnp.full(2, 3)
    scanned = jax.jit(lambda: jax.lax.scan(step, start, (jnp.arange(6), noise)))()[1]
    logits, tokens = np.asarray(scanned[0]).swapaxes(0, 1), np.asarray(scanned[1]).T
    whole = np.zeros((2, 6), int)
    for i in range(6):
        full = np.asarray(FULL(variables, jnp.asarray(whole)))[:, i]
        np.testing.assert_allclose(logits[:, i], full, atol=2e-5)
        whole[:, i] = (full + noise[i]).argmax(-1)
    np.testing.assert_array_equal(tokens, whole)
    assert len(np.unique(tokens)) > 2


def test_dropout_is_of_training_only(variables):
    net = Transformer(num_tokens=5, length=6, hidden_dim=8, num_layers=2, num_heads=2, dropout=0.5)
    want, rngs = FULL(variables, TOKENS), {"dropout": jax.random.key(2)}
    np.testing.assert_array_equal(jax.jit(net.apply)(variables, TOKENS), want)
    dropped = net.apply(variables, TOKENS, train=True, rngs=rngs)
    assert np.abs(np.asarray(dropped - want)).max(-1).min() > 0.01


def test_heads_share_the_width():
    with pytest.raises(InputError, match="num_heads = 3; it must divide hidden_dim = 8"):
        Transformer(5, 6, hidden_dim=8, num_heads=3).init(jax.random.key(0), TOKENS)
