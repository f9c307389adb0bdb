"""Defaults for given data, and the papers' Configs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoencoder import adversarial, autoencoder, denoising, marginalized, stacked
from gengen.contract import Task
from gengen.types import InputError, Method

KEY = jax.random.key(0)


def methods(module, cfg):
    """The method, or those of all stages."""
    if hasattr(module, "method"):
        return [(module.method(cfg), cfg.shape)]
    shapes = [cfg.shape, *((n,) for n in cfg.hidden[:-1]), cfg.shape]
    return [(s.method, shape) for s, shape in zip(module.stages(cfg), shapes, strict=True)]


def trace(method: Method, shape: tuple[int, ...]):
    name = "image" if len(shape) == 3 else "x"
    batch = {name: np.zeros((4, *shape), np.float32), "label": np.zeros(4, np.int32)}
    jax.eval_shape(method.train_step, KEY, jax.eval_shape(method.init, KEY, batch), batch)


@pytest.mark.parametrize("module", [adversarial, autoencoder, denoising, stacked])
@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (7, 5, 3), (2,), (64,)])
def test_the_default_fits_the_data(module, shape):
    cfg = module.Config.for_task(Task(shape))
    assert cfg.shape == shape
    for method, own in methods(module, cfg):
        trace(method, own)


def test_a_stack_is_fine_tuned_by_labels_if_there_are_any():
    assert stacked.Config.for_task(Task((8, 8, 1), 7)).num_classes == 7
    assert stacked.Config.for_task(Task((8, 8, 1))).num_classes == 0


def test_vectors_of_two_numbers_get_gaussian_noise():
    """A quarter of two numbers rounds to none."""
    assert denoising.Config.for_task(Task((2,))).noise == "gaussian"
    assert denoising.Config.for_task(Task((64,))).noise == "masking"


@pytest.mark.parametrize("module", [adversarial, autoencoder, denoising, stacked])
def test_the_papers_networks_can_be_traced(module):
    cfg = module.Config.paper()
    assert type(cfg) is module.Config
    for method, own in methods(module, cfg):
        trace(method, own)


def test_the_paper_of_mda_has_five_layers():
    cfg = marginalized.Config.paper()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert marginalized.fit(cfg, x)["params"]["W"].shape == (5, 4, 5)


def test_a_class_is_sampled_from_its_part_of_the_prior():
    cfg = adversarial.Config(
        shape=(2,), hidden=(4,), discriminator_hidden=(4,), prior="petals", num_classes=3
    )
    batch = {"x": np.zeros((4, 2), np.float32), "label": np.array([0, 1, 2, -1], np.int32)}
    np.testing.assert_array_equal(adversarial.condition_of(cfg, batch), batch["label"])
    variables = adversarial.method(cfg).init(KEY, batch).variables
    z = adversarial.sample_prior(cfg, KEY, 4, jnp.asarray(batch["label"]))
    want = adversarial.decode(cfg, variables, z)
    got = adversarial.sample(cfg, variables, KEY, 4, condition=batch["label"])
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, adversarial.sample(cfg, variables, KEY, 4))
    with pytest.raises(InputError, match="num_classes = 3"):
        adversarial.sample(cfg, variables, KEY, 4, condition=np.full(4, 3))
