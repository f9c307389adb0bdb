r"""IcGAN: the invertible conditional GAN, which changes the class of a real image.

Perarnau, van de Weijer, Raducanu & Álvarez 2016, *Invertible Conditional GANs for Image Editing*
(1611.06355). Two stages:

    generator   a conditional GAN (`gengen.gan.cgan`), g: (z, y) ↦ x
    encoders    two networks against the generator, which stays as it is:
                E_z minimises   E_{z, y} ‖z - E_z(g(z | y))‖²     on generated images
                E_y minimises   E_{x, y} ‖y - E_y(x)‖²            on real images, y one-hot

with z ~ N(0, I) and y distributed as in the data. These are the paper's independent encoders (IND).
An edit keeps the latents of an image and changes its class, x' = g(E_z(x) | y'):

    decode(cfg, variables, encode(cfg, variables, x), condition=y')

Samples, encodings and reconstructions are of one generator: its averaged parameters and its batch
norm's averages, at the end of the first stage.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, check_labels, check_latents
from gengen.distributions import total
from gengen.gan import cgan
from gengen.gan import game as games
from gengen.gan.cgan import condition_of
from gengen.gan.game import GENERATOR
from gengen.gan.networks import require_positive
from gengen.nn.codec import Encoder
from gengen.optim import learning_rate
from gengen.stages import Finished, Stage
from gengen.steps import Step, descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, TrainState
from gengen.types import check_shape as check_batch
from gengen.xla import jit

__all__ = [
    "Config", "classify", "condition_of", "decode", "encode", "encoders_method", "reconstruct",
    "sample", "stages",
]  # fmt: skip

ENCODERS = "encoders"  # name of the second stage
ENCODER_Z, ENCODER_Y = "encoder_z", "encoder_y"
FROZEN = "generator"  # collection of the generator's variables in the second stage
PREVIEW = 64  # samples in the picture of the first stage
# Generator, discriminator, E_z, E_y.
Networks = tuple[nn.Module, nn.Module, nn.Module, nn.Module]


@dataclass(frozen=True)
class Config(cgan.Config):
    """That of the conditional GAN, and of the encoders."""

    encoder_channels: tuple[int, ...] = (32, 64)  # of each encoder's levels, for images
    encoder_hidden: tuple[int, ...] = (256,)  # hidden layers of each encoder after its levels
    encoder_learning_rate: float = 1e-3  # of the encoders' Adam
    encoder_share: float = 0.5  # train steps of the encoders, relative to the generator's

    RENAMED: ClassVar[dict[str, str | None]] = {}

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's encoders, beside a conditional GAN of about DCGAN's widths.

        Differences: the paper's encoders have batch norm, 5×5 convolutions and, for y, a hidden
        layer of 512 units; its y is a vector of binary attributes on CelebA, where it is a class
        here; its discriminator gets y after the first layer.
        """
        return cls(
            shape=(64, 64, 3), latent_dim=100, channels=(64, 128, 256, 512), batch_size=64,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating", num_classes=10, projection=False,
            encoder_channels=(32, 64, 128, 256), encoder_hidden=(4096,),
            encoder_learning_rate=2e-4,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device.

        Raises:
            InputError: for data without labels.
        """
        steps = max(1, round(task.steps / (1 + cls.encoder_share)))
        cfg = super().for_task(task._replace(steps=steps))
        return dataclasses.replace(cfg, encoder_channels=cfg.channels or cfg.encoder_channels)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        super().__post_init__()
        for name in ("encoder_learning_rate", "encoder_share"):
            require_positive(name, getattr(self, name))


def networks(cfg: Config, net: Networks | None = None) -> Networks:
    """Return generator, discriminator, E_z and E_y: the Config's, or the user's own."""
    if net is not None:
        return net
    game = cgan.game(cfg)

    def encoder(out: int) -> Encoder:
        return Encoder(cfg.shape, (out,), cfg.encoder_channels, hidden=cfg.encoder_hidden)

    return game.generator, game.discriminator, encoder(cfg.latent_dim), encoder(cfg.num_classes)


# --- training ------------------------------------------------------------------------------------


def stages(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> tuple[Stage, ...]:
    """Return two stages: the conditional GAN, then the encoders against its generator.

    Metrics: those of `cgan.method`, and of `encoders_method`.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, in both stages.
        net: the user's own generator and discriminator, as in `cgan.method`, and the encoders
            E_z: x → [B, latent_dim] and E_y: x → [B, num_classes].
    """

    def start(before: Finished, state: TrainState) -> TrainState:
        own = games.of_player(GENERATOR, before[GENERATOR].variables)
        return state.replace(mutables={FROZEN: jax.tree.map(jnp.array, own)})

    def preview(variables: PyTree, key: Key) -> Array:
        return sample(cfg, variables, key, PREVIEW, net=net)

    return (
        Stage(GENERATOR, cgan.method(cfg, tx, net and net[:2]), preview=preview),
        Stage(ENCODERS, encoders_method(cfg, tx, net), start=start, share=cfg.encoder_share),
    )


def encoders_method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method of the second stage, with the generator in the mutables.

    Metrics: `loss`, the sum of `latent_error`, ‖z - E_z(g(z|y))‖², and `class_error`,
    ‖y - E_y(x)‖², of an example.
    """
    generator, _, encoder_z, encoder_y = networks(cfg, net)

    def init_variables(key: Key, batch: Batch) -> dict[str, PyTree]:
        x, y = check_batch(batch, cfg.shape)[:1], _labels(cfg, batch)[:1]
        keys, z = jax.random.split(key, 3), jnp.zeros((1, cfg.latent_dim))
        params = {
            ENCODER_Z: encoder_z.init(keys[0], x).get("params", {}),
            ENCODER_Y: encoder_y.init(keys[1], x).get("params", {}),
        }
        return {"params": params, FROZEN: generator.init(keys[2], z, y, train=False)}

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, y = check_batch(batch, cfg.shape), _labels(cfg, batch)
        z = rng.normal(key, (len(x), cfg.latent_dim))
        made = _generated(generator, mutables[FROZEN], z, y)
        of_z = total((z - _encoded(encoder_z, params[ENCODER_Z], made)) ** 2).mean()
        hot = jax.nn.one_hot(y, cfg.num_classes)
        of_y = total((hot - _encoded(encoder_y, params[ENCODER_Y], x)) ** 2).mean()
        metrics: Metrics = {"latent_error": of_z, "class_error": of_y}
        return of_z + of_y, (metrics, mutables)

    adam = optax.adam(learning_rate(cfg, cfg.encoder_learning_rate), b2=cfg.b2)
    step = _frozen(descent(loss, tx or adam))
    return build(init_variables, with_ema(step, cfg.ema_decay) if cfg.ema_decay else step)


def _frozen(step: Step) -> Step:
    """`step`, with the mutables as they were: a mean over replicas may round."""

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        moved, metrics = step.update(key, state, batch)
        return moved.replace(mutables=state.mutables), metrics

    return Step(step.init, update)


def _labels(cfg: Config, batch: Batch) -> Array:
    y = condition_of(cfg, batch)
    assert y is not None  # num_classes is above 0
    return y


@jit(0, often=False)
def _generated(net: nn.Module, own: PyTree, z: Array, y: Array) -> Array:
    return jnp.asarray(net.apply(own, z, y, train=False))


@jit(0, often=False)
def _encoded(net: nn.Module, params: PyTree, x: Array) -> Array:
    return jnp.asarray(net.apply({"params": params}, x))


# --- what the model can do -----------------------------------------------------------------------


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: ArrayLike | None = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Sample g(z | y): float32 [num, *shape], images in [-1, 1]. See `cgan.sample`.

    Args:
        cfg: of the model.
        variables: of both stages, or of the first one.
        key: of z.
        num: number of samples.
        condition: labels y [num]; None: each class in turn.
        net: as in `stages`.
    """
    own = variables[GENERATOR]
    return cgan.sample(cfg, own, key, num, condition=condition, net=net and net[:2])


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, *,
    condition: ArrayLike | None = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return the latents E_z(x) of x [B, *shape]: [B, latent_dim].

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1], or vectors.
        condition: labels [B], which E_z does not depend on; checked, and not used here.
        net: as in `stages`.
    """
    z = _by_encoder(cfg, variables, ENCODER_Z, x, net)
    if condition is not None:
        check_labels(condition, len(z), cfg.num_classes)
    return z


def classify(cfg: Config, variables: PyTree, x: ArrayLike, *, net: Networks | None = None) -> Array:
    """Return E_y(x) of x [B, *shape], near 1 for the class and near 0 elsewhere: [B, K]."""
    return _by_encoder(cfg, variables, ENCODER_Y, x, net)


def _by_encoder(
    cfg: Config, variables: PyTree, name: str, x: ArrayLike, net: Networks | None
) -> Array:
    used = networks(cfg, net)[2 if name == ENCODER_Z else 3]
    own = variables[ENCODERS]["params"][name]
    return _encoded(used, own, check_batch({"x": x}, cfg.shape))


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: ArrayLike | None = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return g(z | y) for z [B, latent_dim]: [B, *shape].

    Args:
        cfg: of the model.
        variables: of both stages.
        z: latents.
        condition: labels y [B]. With z = `encode(x)` and a class that x does not have, an edit.
        net: as in `stages`.

    Raises:
        InputError: without labels, or for latents of another shape.
    """
    z = check_latents(z, cfg.latent_dim)
    if condition is None:
        raise InputError(f"this model is conditioned on a class: pass condition=labels [{len(z)}]")
    y = check_labels(condition, len(z), cfg.num_classes)
    own = games.of_player(GENERATOR, variables[GENERATOR])
    return _generated(networks(cfg, net)[0], own, z, y)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, *,
    condition: ArrayLike | None = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return g(E_z(x) | y) for x [B, *shape]: [B, *shape].

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1], or vectors.
        condition: labels y [B]; None: the class that E_y finds in x.
        net: as in `stages`.
    """
    z = encode(cfg, variables, x, condition=condition, net=net)
    y = classify(cfg, variables, x, net=net).argmax(1) if condition is None else condition
    return decode(cfg, variables, z, condition=y, net=net)
