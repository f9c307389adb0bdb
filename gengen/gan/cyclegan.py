r"""CycleGAN: translation between two sets of images without pairs.

Zhu, Park, Isola & Efros 2017, *Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks* (1703.10593). G translates a to b, F translates b to a; D_b tells images of b
from G(a), D_a images of a from F(b). With ℓ the losses of the game, both generators minimise

    ℓ(D_b(G(a))) + ℓ(D_a(F(b)))
      + λ (E |F(G(a)) - a| + E |G(F(b)) - b|)          cycle consistency
      + μ (E |G(b) - b| + E |F(a) - a|)                identity, μ = 0 unless a and b are alike

(absolute differences are means over pixels; the second term of the cycle is of F(b), not of G(b)).
Each discriminator minimises ½ E (D(real) - 1)² + ½ E D(fake)², or the log loss. Its fakes come from
a pool of earlier translations: see `gengen.gan.replay`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import DIRECTIONS, Task, adapt, refuse_condition
from gengen.gan import networks
from gengen.gan.game import STATES, Losses
from gengen.gan.pix2pix import discriminator_loss
from gengen.gan.replay import replay
from gengen.gan.translators import (
    PatchGAN,
    ResNet,
    check_images,
    images_in,
    images_of,
    small_levels,
)
from gengen.optim import ScheduledConfig
from gengen.steps import Loss, player, sequence, team, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape
from gengen.xla import jit

GENERATORS = {"ab": "generator_ab", "ba": "generator_ba"}  # names among the parameters
# G: a → b, F: b → a, D_a and D_b: images → logits [B, h, w].
Networks = tuple[nn.Module, nn.Module, nn.Module, nn.Module]

LOSSES = {  # of a discriminator, and of the generator that it judges
    "least_squares": Losses(
        lambda on_real, on_fake: 0.5 * ((on_real - 1) ** 2).mean() + 0.5 * (on_fake**2).mean(),
        lambda on_fake: ((on_fake - 1) ** 2).mean(),
    ),
    "log": Losses(discriminator_loss, lambda on_fake: jax.nn.softplus(-on_fake).mean()),
}


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """The paper's losses, between small networks."""

    shape: Shape = (16, 16, 1)  # of an image of a: (H, W, C)
    other_shape: Shape = (16, 16, 1)  # of an image of b: (H, W, C') of the same size
    # Of the generators' levels, the finest first; each but the first halves the sides.
    channels: tuple[int, ...] = (32, 64)
    num_blocks: int = 3  # residual blocks of a generator, at the coarsest level
    residual: bool = True  # whether generators begin near the identity, where channels are equal
    # Of a discriminator's levels, the finest first; each but the last halves the sides.
    discriminator_channels: tuple[int, ...] = (32, 64)
    loss: str = "least_squares"  # of the game: "least_squares" or "log"
    cycle_weight: float = 10.0  # λ
    identity_weight: float = 0.0  # μ; above 0 only for images of one number of channels
    capacity: int = 50  # translations in each of the two pools
    probability: float = 0.5  # that a translation is swapped for an earlier one
    direction: str = "ab"  # in which `translate` translates, "ab" or "ba"; training: both

    batch_size: int = 16  # images of each kind per step
    learning_rate: float = 1e-3  # of the generators' Adam
    discriminator_learning_rate: float = 2e-4  # of each discriminator's Adam
    b1: float = 0.5  # of Adam: decay of the gradient's average, per step
    b2: float = 0.999  # of Adam: decay of the squared gradient's average, per step
    ema_decay: float = 0.99  # of the average of the parameters that translates, per step; 0: none

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's networks and training, for images of 256×256.

        The paper halves the discriminators' gradients, which Adam does not notice.
        """
        return cls(
            shape=(256, 256, 3), other_shape=(256, 256, 3), channels=(64, 128, 256), num_blocks=9,
            residual=False, discriminator_channels=(64, 128, 256, 512), loss="least_squares",
            cycle_weight=10.0, identity_weight=0.0, capacity=50, probability=0.5, batch_size=1,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data."""
        small_levels(task.shape, 32)  # checks that the sides can be halved
        return adapt(cls(), task)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        factor = 2 ** max(len(self.channels) - 1, 0)
        check_images(self.shape, self.other_shape, "other_shape", factor)
        for name in ("batch_size", "learning_rate", "discriminator_learning_rate"):
            networks.require_positive(name, getattr(self, name))
        if not self.channels or not self.discriminator_channels:
            raise InputError("Config.channels and discriminator_channels need at least one level")
        if self.loss not in LOSSES:
            raise InputError(f"Config.loss = {self.loss!r}; it must be one of {[*LOSSES]}")
        if self.direction not in DIRECTIONS:
            raise InputError(f"Config.direction = {self.direction!r}; it must be 'ab' or 'ba'")
        if min(self.cycle_weight, self.identity_weight) < 0:
            raise InputError("Config.cycle_weight and identity_weight must be at least 0")
        if self.shape != self.other_shape and self.identity_weight:
            raise InputError(
                f"Config.identity_weight = {self.identity_weight}, but images of {self.shape[2]} "
                f"and of {self.other_shape[2]} channels have no identity map: pass --grey, or set "
                "identity_weight=0"
            )
        if self.capacity < self.batch_size:
            raise InputError(
                f"Config.capacity = {self.capacity}; it must be at least Config.batch_size = "
                f"{self.batch_size}, the translations of a step"
            )


def networks_of(cfg: Config, net: Networks | None = None) -> Networks:
    """Return G, F, D_a and D_b."""
    if net is not None:
        return net
    residual = cfg.residual and cfg.shape == cfg.other_shape
    generators = [
        ResNet(shape[2], cfg.channels, cfg.num_blocks, residual)
        for shape in (cfg.other_shape, cfg.shape)
    ]
    D = PatchGAN(cfg.discriminator_channels)
    return generators[0], generators[1], D, D


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of both generators together, then one of each discriminator.

    Metrics: `generators_loss` and its parts `adversarial_loss`, `cycle_loss` and `identity_loss`,
    each the sum of both directions before its weight; `discriminator_a_loss`,
    `discriminator_b_loss`.

    Args:
        cfg: of the model.
        tx: optimiser of all, instead of Adam.
        net: the four networks, as in `networks_of`.
    """
    for_d, for_g = (tx, tx) if tx else networks.adam(cfg)
    pools = {name: replay(cfg.capacity, cfg.probability, f"pool_{name}") for name in "ab"}
    names = (*GENERATORS.values(), "discriminator_a", "discriminator_b")
    nets = dict(zip(names, networks_of(cfg, net), strict=True))

    def init_variables(key: Key, batch: Batch) -> PyTree:
        a, b = (x[:1] for x in images_of(batch, cfg.shape, "other", cfg.other_shape))
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        params = {
            name: nets[name].init(keys[name], a if name in (names[0], names[2]) else b)["params"]
            for name in names
        }
        states = {pools[name].name: pools[name].init(x) for name, x in (("a", a), ("b", b))}
        return {"params": params, STATES: states}

    step = sequence(
        team("generators", names[:2], _generators_loss(cfg, nets), for_g),
        player("discriminator_a", _discriminator_loss(cfg, nets, pools, "a"), for_d),
        player("discriminator_b", _discriminator_loss(cfg, nets, pools, "b"), for_d),
    )
    return build(init_variables, with_ema(step, cfg.ema_decay) if cfg.ema_decay else step)


def _apply(nets: dict[str, nn.Module], params: PyTree, name: str, x: Array) -> Array:
    return jnp.asarray(nets[name].apply({"params": params[name]}, x))


def _generators_loss(cfg: Config, nets: dict[str, nn.Module]) -> Loss:
    """Return the loss of both generators."""
    of_game = LOSSES[cfg.loss].generator

    def distance(x: Array, y: Array) -> Array:
        return jnp.abs(x - y).mean()

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        def on(name: str, x: Array) -> Array:
            return _apply(nets, params, name, x)

        a, b = images_of(batch, cfg.shape, "other", cfg.other_shape)
        fake_b, fake_a = on("generator_ab", a), on("generator_ba", b)
        parts = {
            "adversarial_loss": of_game(on("discriminator_b", fake_b))
            + of_game(on("discriminator_a", fake_a)),
            "cycle_loss": distance(on("generator_ba", fake_b), a)
            + distance(on("generator_ab", fake_a), b),
            "identity_loss": jnp.zeros(()),
        }
        if cfg.identity_weight:
            parts["identity_loss"] = distance(on("generator_ab", b), b) + distance(
                on("generator_ba", a), a
            )
        value = parts["adversarial_loss"] + cfg.cycle_weight * parts["cycle_loss"]
        return value + cfg.identity_weight * parts["identity_loss"], (parts, mutables)

    return loss


def _discriminator_loss(cfg: Config, nets: dict[str, nn.Module], pools: dict, kind: str) -> Loss:
    """Return the loss of the discriminator of a or b, on translations from its pool."""
    generator, pool = GENERATORS["ba" if kind == "a" else "ab"], pools[kind]

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        a, b = images_of(batch, cfg.shape, "other", cfg.other_shape)
        real, source = (a, b) if kind == "a" else (b, a)
        fake, states = _apply(nets, params, generator, source), mutables[STATES]
        real, fake, state = pool.in_discriminator_step(params, states[pool.name], key, real, fake)
        on_real, on_fake = (_apply(nets, params, f"discriminator_{kind}", x) for x in (real, fake))
        value = LOSSES[cfg.loss].discriminator(on_real, on_fake)
        return value, ({}, {**mutables, STATES: {**states, pool.name: state}})

    return loss


def condition_of(cfg: Config, batch: Batch) -> Array:
    """Return the images of a batch that `translate` translates: those of a, or of b in "ba"."""
    return jnp.asarray(batch["image" if cfg.direction == "ab" else "other"])


def with_direction(cfg: Config, direction: str) -> Config:
    """Return a Config that translates in a direction, "ab" or "ba"."""
    return dataclasses.replace(cfg, direction=direction)


def translate(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key,
    *,
    condition: ArrayLike | None = None,
    net: Networks | None = None,
) -> Array:
    """Return G(x), or F(x) where `cfg.direction` is "ba": float32 [B, H, W, C] in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images of a or, with "ba", of b.
        key: not used: the translation is a function of x.
        condition: None, since x is the condition.
        net: as in `method`.
    """
    refuse_condition(condition)
    is_ab = cfg.direction == "ab"
    x = images_in(x, cfg.shape if is_ab else cfg.other_shape)
    generator = networks_of(cfg, net)[0 if is_ab else 1]
    return _translate(generator, variables["params"][GENERATORS[cfg.direction]], x)


@jit(0, often=False)
def _translate(net: nn.Module, params: PyTree, x: Array) -> Array:
    return jnp.asarray(net.apply({"params": params}, x))
