"""Runs whose state is cut into parts: they resume exactly, and on other numbers of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import rng
from gengen.loop import Engine
from gengen.steps import descent, method, with_ema
from tests.test_loop import assert_same, train


def loss(params, mutables, key, batch):
    x = batch["x"] + rng.normal(key, batch["x"].shape)
    return jnp.mean((x @ params["w"] - 1) ** 2), ({}, mutables)


WIDE = method(
    lambda key, batch: {"params": {"w": jax.random.normal(key, (2, 8))}},
    with_ema(descent(loss, optax.adam(0.01)), 0.9),
)


def run(out, steps, devices, **options):
    engine = Engine(mode="fsdp", num_devices=devices)
    return train(out, steps, method=WIDE, engine=engine, **options)


@pytest.fixture(autouse=True)
def small_leaves_are_cut_too(monkeypatch):
    monkeypatch.setattr("gengen.compile.SMALL", 1)


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", 12, 8)
    run(tmp_path / "parts", 5, 8)
    assert_same(run(tmp_path / "parts", 12, 8, resume=True), whole)


def test_a_run_goes_on_with_other_numbers_of_devices(tmp_path):
    """8, 4, 2 devices, then one: only the order of sums differs."""
    whole = train(tmp_path / "whole", 12, method=WIDE)
    for devices, steps in ((8, 3), (4, 6), (2, 9), (1, 12)):
        state = run(tmp_path / "parts", steps, devices, resume=steps > 3)
    for name in ("params", "ema"):
        got, want = getattr(state, name)["w"], getattr(whole, name)["w"]
        np.testing.assert_allclose(got, want, rtol=1e-5)
