r"""Progressive GAN: two networks that grow from 4×4 pixels to the resolution of the images.

Karras, Aila, Laine & Lehtinen 2018, *Progressive Growing of GANs for Improved Quality, Stability,
and Variation* (1710.10196). A stage of training for each resolution r = 4, 8, 16, ... Each goes on
with the weights, the averaged generator and the optimisers' state of the stage before. A block of
two convolutions is added to the end of the generator g and to the beginning of the discriminator D,
and faded in (h are g's features at r/2 pixels, up repeats pixels, down is the mean of 2×2 pixels):

    g      (1 - α) up(rgb_{r/2}(h)) + α rgb_r(block_r(up(h)))
    D      goes on at r/2 pixels from (1 - α) rgb_{r/2}(down(x)) + α down(block_r(rgb_r(x)))
    x      real images at r pixels: (1 - α) up(down(x)) + α x
    α_t    min(1, t / fade_steps) at step t of the stage

At α = 0 the grown networks are the old ones: g' = up(g), D'(x) = D(down(x)). Weights have an
equalised learning rate, g normalises each pixel's features, and D sees the standard deviation over
the minibatch (`gengen.gan.minibatch`). The loss is WGAN-GP's with a drift term, and one step of D
for each of g:

    D minimises  E D(g(z)) - E D(x) + λ E (‖∇D(x̂)‖ - 1)² + ε E D(x)²

Images whose sides are not 4, 8, 16, ... are padded to the next square by repeating their border;
samples are cropped.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Self

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan.game import GENERATOR, Game, Losses, play
from gengen.gan.minibatch import with_deviation
from gengen.gan.networks import require_positive
from gengen.gan.resnet_gan import a
from gengen.gan.wgan_gp import gradient_penalty, wasserstein
from gengen.nn.equalised import EqualisedConv, EqualisedDense, pixel_norm
from gengen.nn.unet import mean_pool, upsample
from gengen.optim import ScheduledConfig, learning_rate
from gengen.stages import Stage, continued
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    PyTree,
    Shape,
    TrainState,
    check_shape,
)  # fmt: skip

__all__ = [
    "Config", "Discriminator", "Generator", "alpha", "condition_of", "fade", "game", "losses",
    "real_images", "resolutions", "sample", "stage_method", "stages",
]  # fmt: skip

FIRST = 4  # pixels of a side at the coarsest resolution
FADE = "fade"  # collection of α in the variables
NAME = "pixels{}"  # of a stage
PREVIEW = 64  # samples in the picture of a stage


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """The paper's training of small networks: settings for minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of an image: (H, W, C) in [-1, 1]
    latent_dim: int = 64  # dimensions of z ~ N(0, I), which g normalises
    # Channels at each resolution, the finest first; the last one is that of 4×4 pixels. Those of
    # resolutions above that of the images are left out.
    channels: tuple[int, ...] = (16, 32, 64, 64)
    start_resolution: int = FIRST  # pixels of the first stage; that of the images: nothing grows

    batch_size: int = 32  # examples per step
    # Examples per step of each stage, the coarsest first; (): batch_size in all.
    batch_sizes: tuple[int, ...] = ()
    learning_rate: float = 1e-3  # of both players' Adam
    # Of each stage, the coarsest first; (): learning_rate in all.
    learning_rates: tuple[float, ...] = ()
    b1: float = 0.0  # of Adam: decay of the gradient's average, per step
    b2: float = 0.99  # of Adam: decay of the squared gradient's average, per step
    ema_decay: float = 0.99  # of the averaged generator that is sampled, per step; 0: none
    # Train steps of each stage in which α rises from 0 to 1: steps of batch_size examples. A stage
    # with a batch size of its own takes as many examples.
    fade_steps: int = 125
    last_share: float = 2.0  # examples of the last stage, relative to each earlier one's

    gradient_penalty: float = 10.0  # λ
    drift: float = 1e-3  # ε, weight of E D(x)²

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's networks and training for CelebA-HQ, 1024×1024.

        Difference: He's constant of g's first layer is that of its 512 inputs; the paper pads z to
        a 4×4 convolution.
        """
        return cls(
            shape=(1024, 1024, 3), latent_dim=512, channels=(16, 32, 64, 128, 256, *[512] * 4),
            start_resolution=4, batch_size=16, batch_sizes=(16, 16, 16, 16, 16, 16, 14, 6, 3),
            learning_rate=1e-3, learning_rates=(), b1=0.0, b2=0.99, ema_decay=0.999,
            fade_steps=50_000, last_share=1.0, gradient_penalty=10.0, drift=1e-3,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device.

        Raises:
            InputError: for vectors.
        """
        if len(task.shape) != 3:
            raise InputError(f"examples of shape {task.shape} are no images: use wgan_gp")
        widest, product, least = (256, 4096, 32) if task.accelerator else (64, 512, 16)
        every = sides(task.shape)
        cfg = cls(
            shape=task.shape,
            latent_dim=widest,
            channels=tuple(max(least, min(widest, product // r)) for r in every[::-1]),
            batch_size=64 if task.accelerator else 32,
        )
        each = task.steps / (len(every) - 1 + cfg.last_share)
        return dataclasses.replace(cfg, fade_steps=max(1, round(each / 2)))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C)")
        every = sides(self.shape)
        if len(self.channels) < len(every) or min(self.channels) < 1:
            raise InputError(
                f"Config.channels = {self.channels}; images of {self.shape[0]}×{self.shape[1]} "
                f"pixels need {len(every)} positive numbers, for {every[::-1]} pixels"
            )
        if self.start_resolution not in every:
            raise InputError(
                f"Config.start_resolution = {self.start_resolution}; it must be one of {every}"
            )
        for name in ("batch_sizes", "learning_rates"):
            each, num = getattr(self, name), len(resolutions(self))
            if each and (len(each) < num or not min(each) > 0):
                raise InputError(
                    f"Config.{name} = {each}; it must be empty, or {num} positive numbers, one for "
                    f"each of the stages {resolutions(self)}"
                )
        for name in ("latent_dim", "batch_size", "learning_rate", "fade_steps", "last_share"):
            require_positive(name, getattr(self, name))
        for name in ("gradient_penalty", "drift"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be in [0, 1)")


def sides(shape: Shape) -> list[int]:
    """Return 4, 8, 16, ... up to the side of the square that images (H, W, C) are padded to."""
    doublings = max(0, math.ceil(math.log2(max(shape[:2]) / FIRST)))
    return [FIRST * 2**n for n in range(doublings + 1)]


def resolutions(cfg: Config) -> list[int]:
    """Return the sides of the images of each stage, in pixels."""
    return [r for r in sides(cfg.shape) if r >= cfg.start_resolution]


# --- images --------------------------------------------------------------------------------------


def fade(alpha: Array, old: Array, new: Array) -> Array:
    """Return (1 - α) old + α new."""
    return (1 - alpha) * old + alpha * new


def _margins(cfg: Config) -> list[tuple[int, int]]:
    """Return what is padded before and after rows and columns."""
    missing = [sides(cfg.shape)[-1] - n for n in cfg.shape[:2]]
    return [(n // 2, n - n // 2) for n in missing]


def real_images(cfg: Config, resolution: int, x: Array, alpha: Array | None = None) -> Array:
    """Return images x [B, *shape] as a stage sees them: [B, resolution, resolution, C].

    Args:
        cfg: of the model.
        resolution: of the stage.
        x: in [-1, 1].
        alpha: weight of the details that the stage before did not have; None: all.
    """
    x = jnp.pad(x, [(0, 0), *_margins(cfg), (0, 0)], mode="edge")
    x = mean_pool(x, sides(cfg.shape)[-1] // resolution)
    return x if alpha is None else fade(alpha, upsample(mean_pool(x)), x)


# --- networks ------------------------------------------------------------------------------------


class _Fading(nn.Module):
    """A network of one or more resolutions, the last of which may be fading in.

    Attributes:
        channels: at each resolution, 4×4 pixels first.
        fades: whether the last one is fading in, with the weight α in the collection "fade".
    """

    channels: tuple[int, ...]
    fades: bool

    def alpha(self) -> Array:
        """Return α."""
        return self.variable(FADE, "alpha", lambda: jnp.zeros(())).value


class Generator(_Fading):
    """g: z [B, latent_dim] → x [B, r, r, out]; `out` is the images' channels."""

    out: int

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        def rgb(x: Array, resolution: int) -> Array:
            return EqualisedDense(self.out, gain=1.0, name=f"rgb{resolution}")(x)

        x = EqualisedDense(FIRST**2 * self.channels[0], name="first")(pixel_norm(z))
        x = pixel_norm(a(x.reshape(len(z), FIRST, FIRST, -1)))
        x = old = pixel_norm(a(EqualisedConv(self.channels[0], name="block4")(x)))
        r = FIRST
        for features in self.channels[1:]:
            r, old = 2 * r, x
            x = upsample(x)
            for i in (1, 2):
                x = pixel_norm(a(EqualisedConv(features, name=f"block{r}_{i}")(x)))
        if not self.fades:
            return rgb(x, r)
        return fade(self.alpha(), upsample(rgb(old, r // 2)), rgb(x, r))


class Discriminator(_Fading):
    """D: x [B, r, r, C] → logits [B], of a minibatch."""

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        def rgb(x: Array, n: int) -> Array:
            return a(EqualisedDense(self.channels[n], name=f"rgb{FIRST * 2**n}")(x))

        last = len(self.channels) - 1
        h = rgb(x, last)
        for n in range(last, 0, -1):
            for i in (1, 2):
                name = f"block{FIRST * 2**n}_{i}"
                h = a(EqualisedConv(self.channels[n + 1 - i], name=name)(h))
            h = mean_pool(h)
            if self.fades and n == last:
                h = fade(self.alpha(), rgb(mean_pool(x), n - 1), h)
        h = a(EqualisedConv(self.channels[0], name="block4")(with_deviation(h)))
        h = a(EqualisedDense(self.channels[0], name="dense")(h.reshape(len(h), -1)))
        return EqualisedDense(1, gain=1.0, name="last")(h)[:, 0]


# --- the game ------------------------------------------------------------------------------------


def losses(drift: float = 1e-3) -> Losses:
    """Return the Wasserstein losses, with ε E D(x)² added to the discriminator's."""
    plain = wasserstein()

    def discriminator(real: Array, fake: Array) -> Array:
        return plain.discriminator(real, fake) + drift * jnp.mean(real**2)

    return Losses(discriminator, plain.generator)


def game(cfg: Config, resolution: int) -> Game:
    """Return the game at a resolution, with the networks of that stage."""
    channels = cfg.channels[::-1][: len(sides((resolution, resolution)))]
    fades, out = resolution > cfg.start_resolution, cfg.shape[2]
    both = Generator(channels, fades, out), Discriminator(channels, fades)
    penalties = (gradient_penalty(cfg.gradient_penalty),)
    shape = (resolution, resolution, out)
    return Game(*both, shape, cfg.latent_dim, losses(cfg.drift), penalties)


def _of_stage(cfg: Config, resolution: int) -> tuple[int, float]:
    """Return the batch size and the learning rate of a stage."""
    place = resolutions(cfg).index(resolution)
    size = cfg.batch_sizes[place] if cfg.batch_sizes else cfg.batch_size
    return size, cfg.learning_rates[place] if cfg.learning_rates else cfg.learning_rate


def alpha(cfg: Config, resolution: int, step: Array | int) -> Array:
    """Return α of a stage after the first, at one of its steps."""
    size = _of_stage(cfg, resolution)[0]
    each = size / (cfg.batch_size * cfg.fade_steps)
    return jnp.minimum(jnp.float32(1), jnp.float32(step) * each)


def stage_method(
    cfg: Config, resolution: int, tx: optax.GradientTransformation | None = None
) -> Method:
    """Return the method of a stage: a step of D, then one of g, on images of its resolution.

    Metrics: see `gengen.gan.game.play`, and `alpha` of a stage that fades in.

    Args:
        cfg: of the model.
        resolution: of the stage, one of `resolutions(cfg)`.
        tx: to use instead of Adam, for both players.
    """
    rate = learning_rate(cfg, _of_stage(cfg, resolution)[1])
    adam = optax.adam(rate, b1=cfg.b1, b2=cfg.b2)
    of_step = partial(alpha, cfg, resolution)
    plain = play(game(cfg, resolution), tx or adam, tx or adam, ema_decay=cfg.ema_decay)
    fades = resolution > cfg.start_resolution

    def prepared(batch: Batch, step: Array | int) -> Batch:
        x = check_shape(batch, cfg.shape)
        return {"image": real_images(cfg, resolution, x, of_step(step) if fades else None)}

    def with_alpha(state: TrainState) -> TrainState:
        if not fades:
            return state
        now = {name: {"alpha": of_step(state.step)} for name in (GENERATOR, "discriminator")}
        return state.replace(mutables={**state.mutables, FADE: now})

    def init(key: Key, batch: Batch) -> TrainState:
        return plain.init(key, prepared(batch, 0))  # where α is 0

    def train_step(key: Key, state: TrainState, batch: Batch):
        own = {"alpha": of_step(state.step)} if fades else {}
        state, metrics = plain.train_step(key, with_alpha(state), prepared(batch, state.step))
        return with_alpha(state), metrics | own  # samples are of the α that is reached

    return plain._replace(init=init, train_step=train_step)


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """Return a stage for each resolution, of as many examples each but for `last_share`.

    Metrics: see `stage_method`.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for both players in all stages.
    """
    found, sides = [], resolutions(cfg)
    for number, r in enumerate(sides):
        size, examples = _of_stage(cfg, r)[0], cfg.last_share if r == sides[-1] else 1.0
        found.append(
            Stage(
                NAME.format(r),
                stage_method(cfg, r, tx),
                start=continued,
                share=examples * cfg.batch_size / size,
                batch_size=size,
                preview=lambda variables, key: sample(cfg, variables, key, PREVIEW),
                replaces=number > 0,
            )
        )
    return tuple(found)


# --- what the model can do -----------------------------------------------------------------------


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: ArrayLike | None = None
) -> Array:
    """Sample g(z): float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: {stage: variables}; the last stage's are used. While there are but earlier ones,
            their pixels are repeated.
        key: of z.
        num: number of samples.
        condition: None; the model is unconditional.
    """
    refuse_condition(condition)
    r = [r for r in resolutions(cfg) if NAME.format(r) in variables][-1]
    x = games.sample(game(cfg, r), variables[NAME.format(r)], key, num)
    factor = sides(cfg.shape)[-1] // r
    x = jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
    (top, _), (left, _) = _margins(cfg)
    return jnp.clip(x[:, top : top + cfg.shape[0], left : left + cfg.shape[1]], -1, 1)
