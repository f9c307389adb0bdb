"""Mixed precision: what is bfloat16, and what must not be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.steps import descent, method
from gengen.training.precision import compute_in

KEY = jax.random.key(0)
SEEN = []


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        h = nn.Dense(8)(x)
        SEEN.append(h.dtype)
        h = nn.BatchNorm(use_running_average=not train)(h)
        SEEN.append(h.dtype)
        return nn.Dense(1, dtype=jnp.float32)(h)  # a layer that says what it wants gets it


def loss(params, mutables, key, batch):
    variables = {"params": params, **mutables}
    out, mutables = Net().apply(variables, batch["x"], mutable=["batch_stats"])
    SEEN.append(out.dtype)
    return jnp.mean((out - batch["x"].sum(1, keepdims=True)) ** 2), ({}, mutables)


def model():
    return method(
        lambda key, batch: dict(Net().init(key, batch["x"])), descent(loss, optax.adam(0.01))
    )


X = {"x": np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)}


def test_layers_compute_in_bfloat16_and_state_stays_float32():
    m = compute_in(model(), "bfloat16")
    state = m.init(KEY, X)
    SEEN.clear()
    state, metrics = m.train_step(KEY, state, X)
    assert SEEN[:3] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    floats = [x for x in jax.tree.leaves((state, metrics)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}


def test_it_is_the_same_training_to_bfloat16s_eight_bits():
    finals = []
    for m in (model(), compute_in(model(), "bfloat16")):
        state, metrics = m.init(KEY, X), {}
        for _ in range(5):
            state, metrics = jax.jit(m.train_step)(KEY, state, X)
        finals.append(float(metrics["loss"]))
    assert finals[1] == pytest.approx(finals[0], rel=2**-6)
    assert finals[1] != finals[0]


def test_float32_is_the_method_itself_and_others_are_refused():
    m = model()
    assert compute_in(m, "float32") is m
    with pytest.raises(ValueError, match="dtype = 'float16'"):
        compute_in(m, "float16")
