"""Schedules of the learning rate: their values, and that every optimiser of every model follows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.autoencoder import autoencoder
from gengen.cli import main
from gengen.errors import InputError
from gengen.gan import gan
from gengen.optim import ScheduledConfig, learning_rate
from gengen.runs import discover
from gengen.runs.resolve import Asked, resolve
from gengen.vae import vae
from tests.cases import CASES, batch

FAST = ("vae-vectors", "gan", "wgan", "ddpm-vectors", "adversarial")


def values(cfg: Any, steps: tuple[int, ...], updates: int = 1) -> list[float]:
    rate: Any = learning_rate(cfg, updates=updates)
    return [float(jnp.asarray(rate(t))) for t in steps]


def test_values_of_the_schedules():
    cfg = vae.Config(learning_rate=0.1, warmup_steps=4, decay_steps=14, decay_floor=0.2)
    steps = (0, 2, 4, 9, 14, 99)
    cosine = [0, 0.05, 0.1, 0.06, 0.02, 0.02]  # halfway: the mean of 0.1 and 0.02
    np.testing.assert_allclose(values(cfg, steps), cosine, rtol=1e-5)
    linear = dataclasses.replace(cfg, lr_schedule="linear")
    np.testing.assert_allclose(values(linear, (9, 14)), [0.06, 0.02], rtol=1e-5)
    np.testing.assert_allclose(values(linear, (11,)), [0.1 - 0.7 * 0.08], rtol=1e-5)
    constant = dataclasses.replace(cfg, lr_schedule="constant")
    np.testing.assert_allclose(values(constant, (2, 4, 14)), [0.05, 0.1, 0.1], rtol=1e-5)
    # Five updates a train step: each train step has the rates of the same place.
    np.testing.assert_allclose(
        values(cfg, tuple(5 * t for t in steps), updates=5), cosine, rtol=1e-5
    )


def test_the_default_is_the_number_itself():
    """So the optimiser's state, and every run of an earlier version, is as it was."""
    assert learning_rate(vae.Config(learning_rate=0.3)) == 0.3
    before = optax.cosine_decay_schedule(5e-4, 10, 0.02)
    now: Any = learning_rate(gan.Config(decay_steps=10))
    assert [now(t) for t in range(12)] == [before(t) for t in range(12)]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"lr_schedule": "step"}, "must be one of constant, cosine, linear"),
        ({"lr_schedule": "cosine"}, "set decay_steps"),
        ({"warmup_steps": -1}, "warmup_steps = -1"),
        ({"decay_steps": 5, "warmup_steps": 5}, "larger than warmup_steps = 5"),
        ({"decay_floor": 1.5}, "decay_floor = 1.5"),
    ],
)
def test_schedules_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        autoencoder.method(autoencoder.Config(**fields))


def test_every_learning_rate_has_a_schedule():
    for model in discover.models():
        config_type = discover.module(model.name).Config
        has_rate = "learning_rate" in {field.name for field in dataclasses.fields(config_type)}
        assert has_rate == issubclass(config_type, ScheduledConfig), model.name


def cases():
    for name in CASES:
        yield pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])


@pytest.mark.parametrize("name", list(cases()))
def test_all_players_of_every_model_warm_up_and_decay_to_nothing(name):
    """Rates of four train steps: 0, 1, 1/2 and 0 of the largest, by warm-up and cosine."""
    case = CASES[name]
    fields: dict[str, Any] = {
        "lr_schedule": "cosine", "warmup_steps": 1, "decay_steps": 3, "decay_floor": 0.0,
    }  # fmt: skip
    if hasattr(case.cfg, "weight_clip"):
        fields["weight_clip"] = 1e9  # a projection is no update
    cfg = dataclasses.replace(case.cfg, **fields)
    method, x = case.method(cfg), batch(case)
    state, step = method.init(jax.random.key(0), x), jax.jit(method.train_step)
    moved: dict[str, list[float]] = {name: [] for name in state.params}
    for _ in range(4):
        new, _ = step(jax.random.key(1), state, x)
        for player, norms in moved.items():
            change = jax.tree.map(jnp.subtract, new.params[player], state.params[player])
            norms.append(float(optax.tree.norm(change)))
        state = new
    assert any(norms[1] > 0 for norms in moved.values())
    for player, (first, second, _, last) in moved.items():
        if second > 0:  # some parameters have no gradient in these cases
            assert first < second, player
            assert last <= 1e-6 * second, player


def test_a_decay_lasts_as_long_as_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", "digits", "--set", "lr_schedule=cosine", "--set", "warmup_steps=1"]
    assert main(["train", "fvsbn", *words, "--steps", "4", "--out", "a"]) == 0
    config = json.loads(Path("a/config.json").read_text())["config"]
    assert (config["lr_schedule"], config["decay_steps"]) == ("cosine", 4)
    fields = ("lr_schedule=cosine", "hidden=8,4", "finetune_share=2")
    asked = Asked(data="digits", config=fields, steps=12)
    found = resolve(discover.module("stacked"), asked, {})
    assert found.cfg.decay_steps == 6  # of the longest of its stages
