"""Conditional and latent diffusion: samples follow the condition."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task
from gengen.diffusion import conditional, ddpm, latent
from gengen.types import InputError
from tests.diffusion.test_ddpm import traced
from tests.train_steps import often

TINY: dict = dict(shape=(8, 8, 3), patch=2, channels=(8,), num_blocks=(1,), T=20, num_groups=4)
CLASSES = conditional.Config(shape=(2,), num_classes=3, T=100, hidden_dim=64, ema_decay=0.99,
                             condition_dropout=0.2)  # fmt: skip
MEANS = np.array([[-1.5, 0.0], [1.0, 1.0], [1.0, -1.0]])
GREY = conditional.Config(**TINY, num_classes=0, condition_image="grey")


def of_classes(num, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=num).astype(np.int32)
    x = MEANS[y] + 0.2 * rng.normal(size=(num, 2))
    return {"x": x.astype(np.float32), "label": y}


def variables_of(cfg, num=2):
    batch = {"image": np.zeros((num, *cfg.shape), np.float32), "label": np.zeros(num, np.int32)}
    return conditional.method(cfg).init(jax.random.key(0), batch).variables


@pytest.fixture(scope="module")
def trained():
    method = conditional.method(CLASSES)
    step = often(method.train_step)
    state = method.init(jax.random.key(0), of_classes(256, 0))
    for i in range(1500):
        state, _ = step(jax.random.key(1), state, of_classes(256, i))
    return state.variables


def test_samples_of_each_class_have_its_moments(trained):
    y = np.repeat(np.arange(3, dtype=np.int32), 500)
    x = np.asarray(conditional.sample(CLASSES, trained, jax.random.key(2), 1500, condition=y))
    for k in range(3):
        own = x[y == k]
        np.testing.assert_allclose(own.mean(0), MEANS[k], atol=0.1)
        np.testing.assert_allclose(own.std(0), 0.2, atol=0.1)
    nearest = np.argmin(((x[:, None] - MEANS) ** 2).sum(-1), 1)
    assert np.mean(nearest == y) > 0.98


def test_without_a_class_it_samples_all_classes(trained):
    """The effect of `condition_dropout`; zeros stand for no class."""
    eps_fn = conditional.denoiser(CLASSES, trained, jnp.zeros((1500, 3)))
    x = np.asarray(
        jax.jit(lambda key: ddpm.sample_from(CLASSES, eps_fn, key, 1500))(jax.random.key(3))
    )
    nearest = np.argmin(((x[:, None] - MEANS) ** 2).sum(-1), 1)
    assert np.bincount(nearest, minlength=3).min() > 1500 / 3 * 0.7


def test_guidance_combines_the_predictions_with_and_without_the_class(trained):
    z = jnp.asarray(of_classes(6, 1)["x"])
    t, y = jnp.full(6, 40), jax.nn.one_hot(jnp.arange(6) % 3, 3)
    given, free = (conditional.denoiser(CLASSES, trained, v)(z, t) for v in (y, jnp.zeros_like(y)))
    strong = dataclasses.replace(CLASSES, guidance=2.0)
    guided = conditional.denoiser(strong, trained, y)(z, t)
    np.testing.assert_allclose(guided, 3 * given - 2 * free, atol=1e-5)
    assert np.abs(given - free).max() > 0.1


def test_without_a_condition_it_is_ddpm():
    """The same parameters: the same loss, gradient and samples, bit for bit."""
    plain = ddpm.Config(**TINY, ema_decay=0.9)
    cfg = conditional.Config(**TINY, ema_decay=0.9, num_classes=0)
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)}
    key, state = jax.random.key(0), ddpm.method(plain).init(jax.random.key(1), batch)
    ours = conditional.method(cfg).init(jax.random.key(1), batch)
    ours = ours.replace(params={"UNet_0": state.params}, ema={"UNet_0": state.ema})
    state, metrics = jax.jit(ddpm.method(plain).train_step)(key, state, batch)
    ours, found = jax.jit(conditional.method(cfg).train_step)(key, ours, batch)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-6)
    one, two = state.params["Conv_0"]["kernel"], ours.params["UNet_0"]["Conv_0"]["kernel"]
    np.testing.assert_allclose(one, two, atol=1e-6)
    x = ddpm.sample(plain, {"params": state.params}, key, 3)
    y = conditional.sample(cfg, {"params": {"UNet_0": state.params}}, key, 3)
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_colours_recombine_to_the_grey_image_and_differ():
    """Even of a network that has learnt nothing."""
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 8, 8, 3)).astype(np.float32)
    given, variables = conditional.measure(GREY, x), variables_of(GREY)
    draws = [
        np.asarray(conditional.sample(GREY, variables, jax.random.key(k), 4, condition=given))
        for k in range(2)
    ]
    assert np.abs(draws[0]).max() <= 1 and np.abs(draws[0] - draws[1]).max() > 0.1
    for drawn in draws:  # half a level of 8 bits is 1/255
        np.testing.assert_allclose(conditional.measure(GREY, drawn), given, atol=1 / 255)


def test_samples_agree_with_the_small_image():
    cfg = conditional.Config(**TINY, num_classes=0, condition_image="small", factor=4)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    given = conditional.measure(cfg, x)
    assert given.shape == (2, 2, 2, 3)
    drawn = conditional.sample(cfg, variables_of(cfg), jax.random.key(0), 2, condition=given)
    np.testing.assert_allclose(conditional.measure(cfg, drawn), given, atol=1 / 255)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(num_classes=-1), "Config.num_classes"),
        (dict(condition_dropout=1.0), "Config.condition_dropout"),
        (dict(guidance=1.0, condition_dropout=0.0), "Config.guidance"),
        (dict(condition_image="sepia"), "one of grey, small"),
        (dict(condition_image="small", factor=3), "factor = 3"),
        (dict(condition_image="grey", shape=(8, 8, 1)), "no colours"),
    ],
)
def test_impossible_configs_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        conditional.Config(**{**TINY, **settings})


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_a_missing_or_misshapen_image_is_refused():
    variables, key = variables_of(GREY), jax.random.key(0)
    with pytest.raises(InputError, match="conditioned on a grey image"):
        conditional.sample(GREY, variables, key, 2)
    with pytest.raises(InputError, match="conditioned on a grey image"):
        conditional.log_prob(GREY, variables, zeros(2, 8, 8, 3))
    with pytest.raises(InputError, match="grey image has"):
        conditional.sample(GREY, variables, key, 2, condition=zeros(2, 8, 8, 3))
    with pytest.raises(InputError, match="takes"):
        condition = {"label": np.arange(2), "image": zeros(2, 8, 8, 1)}
        conditional.sample(GREY, variables, key, 2, condition=condition)


def test_labels_that_are_no_classes_are_refused():
    cfg, key = conditional.Config(**TINY), jax.random.key(0)
    variables = variables_of(cfg)
    with pytest.raises(InputError, match="num_classes = 10"):
        conditional.sample(cfg, variables, key, 2, condition=np.array([3, 10]))
    with pytest.raises(InputError, match="integers"):
        conditional.sample(cfg, variables, key, 2, condition=zeros(2, 8, 8, 1))
    with pytest.raises(InputError, match="no labels"):
        conditional.method(cfg).init(key, {"image": zeros(1, 8, 8, 3)})
    with pytest.raises(InputError, match="unconditional"):
        plain = dataclasses.replace(cfg, num_classes=0)
        conditional.sample(plain, variables, key, 2, condition=np.arange(2))


BOTH = conditional.Config(**TINY, num_classes=3, condition_image="grey", consistent=False)


def away_from_zero(variables):
    """Networks start with zeros in their last layers: their outputs do not depend on anything."""
    return jax.tree.map(lambda w: w + 0.1 * jnp.cos(jnp.arange(w.size)).reshape(w.shape), variables)


def test_label_and_image_both_reach_the_network():
    batch = {
        "image": np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype(np.float32),
        "label": np.arange(6, dtype=np.int32) % 3,
    }
    condition = conditional.condition_of(BOTH, batch)
    assert condition["label"].dtype == jnp.int32 and condition["image"].shape == (6, 8, 8, 1)
    variables = away_from_zero(conditional.method(BOTH).init(jax.random.key(0), batch).variables)

    def drawn(**changes):
        given = {**condition, **changes}
        return np.asarray(
            conditional.sample(BOTH, variables, jax.random.key(1), 6, condition=given)
        )

    x = drawn()
    assert np.abs(drawn(label=(condition["label"] + 1) % 3) - x).max() > 1e-3
    assert np.abs(drawn(image=-condition["image"]) - x).max() > 1e-3
    image_only = conditional.sample(
        BOTH, variables, jax.random.key(1), 6, condition={"image": condition["image"]}
    )
    np.testing.assert_array_equal(image_only, x)  # the labels were each class in turn


class Told(nn.Module):
    """Predict x from one input alone: from the class, or from the planes."""

    by_class: bool

    @nn.compact
    def __call__(self, z, t, y, planes, train):
        scale = self.param("scale", nn.initializers.ones, ())
        x = (y @ jnp.arange(y.shape[-1]) / 4)[:, None, None, None] if self.by_class else planes
        return scale * jnp.broadcast_to(x, z.shape)


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("times", [1, 3])
def test_each_example_is_trained_with_its_own_class_and_planes(times, by_class):
    """Images of one value, that of the class: a network that is told either predicts them."""
    cfg = dataclasses.replace(BOTH, prediction="x0", times_per_example=times, condition_dropout=0.0)
    label = np.array([2, 0, 1, 1, 2, 0], np.int32)
    image = np.broadcast_to(label[:, None, None, None] / np.float32(4), (6, *cfg.shape))
    batch = {"image": np.array(image), "label": label}
    planes = conditional.planes_of(cfg, conditional.measure(cfg, image))

    def loss(batch):
        method = conditional.method(cfg, net=Told(by_class))
        state = method.init(jax.random.key(0), batch)
        return float(jax.jit(method.train_step)(jax.random.key(1), state, batch)[1]["loss"])

    # Planes A⁺y are of least norm, and not grey themselves.
    wanted = 0.0 if by_class else float(np.mean((np.asarray(planes) - image) ** 2))
    assert loss(batch) == pytest.approx(wanted, abs=1e-6)
    if by_class:
        assert loss({**batch, "label": np.roll(label, 1)}) > 0.01


def test_log_prob_is_that_of_the_condition(trained):
    """A point of a class is likelier under its own class than under another, or under none."""
    batch = of_classes(60, 7)
    x, y = batch["x"], batch["label"]
    own, other = (
        np.asarray(conditional.log_prob(CLASSES, trained, x, condition=labels)).mean()
        for labels in (y, (y + 1) % 3)
    )
    free = np.asarray(conditional.log_prob(CLASSES, trained, x)).mean()
    assert own > free + 0.3 > other
    strong = dataclasses.replace(CLASSES, guidance=2.0)
    again = np.asarray(conditional.log_prob(strong, trained, x, condition=y)).mean()
    assert again == pytest.approx(own, abs=1e-4)
    blind = dataclasses.replace(CLASSES, condition_dropout=0.0)
    with pytest.raises(InputError, match="conditioned on labels"):
        conditional.log_prob(blind, trained, x)


class Own(nn.Module):
    """A user's network, with the signature of `conditional.method`'s net."""

    @nn.compact
    def __call__(self, z, t, y, planes, train):
        assert isinstance(train, bool)
        h = z if planes is None else jnp.concatenate([z, planes], axis=-1)
        h = nn.Dense(8)(h) + t[:, None, None, None] / 20
        if y.shape[-1]:
            h = h + nn.Dense(8)(y)[:, None, None]
        return nn.Dense(z.shape[-1])(nn.swish(h))


def test_a_network_of_ones_own_trains_samples_and_has_a_density():
    batch = {
        "image": np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32),
        "label": np.arange(4, dtype=np.int32) % 3,
    }
    method = conditional.method(BOTH, net=Own())
    state = method.init(jax.random.key(0), batch)
    assert {*state.params} == {"Dense_0", "Dense_1", "Dense_2"}
    state, metrics = jax.jit(method.train_step)(jax.random.key(1), state, batch)
    assert np.isfinite(metrics["loss"])
    condition = conditional.condition_of(BOTH, batch)
    x = conditional.sample(
        BOTH, state.variables, jax.random.key(2), 4, condition=condition, net=Own()
    )
    log_p = conditional.log_prob(
        BOTH, state.variables, batch["image"], condition=condition, net=Own()
    )
    assert x.shape == (4, 8, 8, 3)
    chex.assert_tree_all_finite((x, log_p))


@pytest.mark.parametrize(
    ("task", "condition_image", "num_classes"),
    [
        (Task((8, 8, 1), 10), "", 10),
        (Task((16, 16, 3)), "grey", 0),
        (Task((8, 8, 1)), "small", 0),
        (Task((9, 15, 1)), "small", 0),
        (Task((7, 5, 3), 4, accelerator=True), "", 4),
        (Task((2,), 2), "", 2),
    ],
)
def test_the_default_is_conditioned_on_what_the_data_have(task, condition_image, num_classes):
    cfg = conditional.Config.for_task(task)
    assert (cfg.condition_image, cfg.num_classes) == (condition_image, num_classes)
    traced(conditional.method(cfg), task)
    # What a user sets afterwards must not contradict the default.
    dataclasses.replace(cfg, num_classes=0)


@pytest.mark.parametrize("shape", [(2,), (7, 5, 1)])
def test_data_without_anything_to_be_conditioned_on_are_refused(shape):
    with pytest.raises(InputError, match="ddpm"):
        conditional.Config.for_task(Task(shape))


@pytest.mark.slow  # large networks, in 10 s each
@pytest.mark.parametrize("module", [conditional, latent])
def test_the_papers_configs_can_be_traced(module):
    cfg = module.Config.paper()
    assert type(cfg) is module.Config
    task = Task(cfg.shape, 1000)
    if module is conditional:
        traced(conditional.method(cfg), task)
    else:
        for stage, shape in zip(
            latent.stages(cfg), (cfg.shape, latent.map_shape(cfg)), strict=True
        ):
            traced(stage.method, Task(shape), "image" if stage.name == "codec" else "x")


def test_earlier_names_of_fields_still_work():
    old: dict = dict(classes=3, drop=0.2, seen="small", blocks=(1,), channels=(8,), groups=4)
    cfg = conditional.Config(shape=(8, 8, 1), **old)
    assert (cfg.num_classes, cfg.condition_dropout, cfg.condition_image) == (3, 0.2, "small")
    assert latent.Config(code=(4, 4, 8)).latent_shape == (4, 4, 8)  # pyright: ignore[reportCallIssue]
