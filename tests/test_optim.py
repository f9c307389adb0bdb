"""Transforms of updates: signs, sets, replicas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.errors import InputError
from gengen.optim import ascend, clip_weights, keep_params_in, optimizer, replica_mean
from gengen.rng import AXIS
from gengen.vae import vae


def updated(tx, params, grads) -> Any:
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


def path(cfg: vae.Config, **options) -> np.ndarray:
    """Return a number after each of three updates with gradients 3, -1 and 2."""
    tx: Any = optimizer(cfg, **options)
    params, places = {"w": jnp.array(0.0)}, []
    state = tx.init(params)
    for gradient in (3.0, -1.0, 2.0):
        updates, state = tx.update({"w": jnp.array(gradient)}, state, params)
        params: Any = optax.apply_updates(params, updates)
        places.append(float(params["w"]))
    return np.array(places)


def test_a_config_names_its_optimiser():
    """Each rule by hand: Adagrad, RMSProp, descent with momentum, rates that drop."""
    g = np.array([3.0, -1.0, 2.0])
    adagrad = vae.Config(optimizer="adagrad", learning_rate=0.1)
    np.testing.assert_allclose(
        path(adagrad), -0.1 * np.cumsum(g / np.sqrt(np.cumsum(g**2))), rtol=1e-5
    )
    v = [0.75 * 9, 0.25 * 0.75 * 9 + 0.75, 0.25 * (0.25 * 0.75 * 9 + 0.75) + 0.75 * 4]
    rmsprop = vae.Config(optimizer="rmsprop", learning_rate=0.1)
    np.testing.assert_allclose(path(rmsprop, b2=0.25), -0.1 * np.cumsum(g / np.sqrt(v)), rtol=1e-5)
    sgd = vae.Config(optimizer="sgd", learning_rate=0.1, momentum=0.5)
    np.testing.assert_allclose(path(sgd), -0.1 * np.cumsum([3, 0.5, 2.25]), rtol=1e-5)
    np.testing.assert_allclose(path(sgd, momentum=0.0), -0.1 * np.cumsum(g), rtol=1e-5)
    drops = vae.Config(optimizer="sgd", learning_rate=0.1, drop_steps=(1, 2))
    np.testing.assert_allclose(path(drops), -0.1 * np.cumsum([3, -0.1, 0.02]), rtol=1e-5)


def test_the_default_is_adam():
    cfg, tx = vae.Config(learning_rate=0.1), optax.adam(0.1, b1=0.5)
    once = updated(tx, {"w": jnp.array(0.0)}, {"w": jnp.array(3.0)})["w"]
    assert path(cfg, b1=0.5)[0] == float(once)
    state: Any = optimizer(cfg).init({"w": jnp.array(0.0)})
    assert jax.tree.structure(state) == jax.tree.structure(tx.init({"w": jnp.array(0.0)}))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"optimizer": "lbfgs"}, "must be one of"),
        ({"momentum": 0.9}, "is of optimizer = 'sgd'"),
        ({"drop_steps": (5,), "warmup_steps": 5}, "must be after warmup_steps = 5"),
        ({"drop_steps": (5,), "decay_steps": 9}, "with lr_schedule = 'constant', not 'cosine'"),
    ],
)
def test_an_impossible_optimiser_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        optimizer(vae.Config(**fields))


def test_ascend_climbs_and_still_decays_weights():
    params, grads = {"w": jnp.array([2.0])}, {"w": jnp.array([0.0])}
    tx = ascend(optax.adamw(0.1, weight_decay=0.5))
    # No gradient: only the decay acts, and it shrinks; flipped after AdamW it would grow.
    np.testing.assert_allclose(updated(tx, params, grads)["w"], [2 - 0.1 * 0.5 * 2], rtol=1e-6)
    up = updated(ascend(optax.sgd(0.1)), params, {"w": jnp.array([3.0])})
    np.testing.assert_allclose(up["w"], [2.3], rtol=1e-6)


def test_clip_weights_projects_what_the_step_reaches():
    params = {"w": jnp.array([0.5, -0.5, 0.05])}
    tx = optax.chain(optax.sgd(1.0), clip_weights(0.1))
    got = updated(tx, params, {"w": jnp.array([0.0, 0.0, -0.02])})["w"]
    np.testing.assert_allclose(got, [0.1, -0.1, 0.07], rtol=1e-6)


def test_keep_params_in_any_set():
    onto_ball = lambda p: optax.projections.projection_l2_ball(p, 1.0)  # noqa: E731
    tx = optax.chain(optax.sgd(1.0), keep_params_in(onto_ball))
    got = updated(tx, {"w": jnp.array([0.0, 0.0])}, {"w": jnp.array([-3.0, -4.0])})["w"]
    np.testing.assert_allclose(got, [0.6, 0.8], rtol=1e-6)


def test_replica_mean_is_the_mean_of_gradients_under_pmap_and_the_identity_without():
    tx = replica_mean()
    grads = {"w": jnp.arange(8.0)[:, None]}
    mean = jax.pmap(lambda g: tx.update(g, tx.init(g), g)[0], axis_name=AXIS)(grads)
    np.testing.assert_array_equal(mean["w"], np.full((8, 1), 3.5))
    alone: Any
    alone, _ = jax.jit(lambda g: tx.update(g, tx.init(g), g))(grads)
    np.testing.assert_array_equal(alone["w"], grads["w"])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="c = -1"):
        clip_weights(-1)
    tx = keep_params_in(lambda p: p)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update({"w": jnp.zeros(1)}, tx.init({"w": jnp.zeros(1)}))
