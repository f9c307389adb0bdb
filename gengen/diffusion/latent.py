r"""Latent diffusion: a diffusion of the latents of an autoencoder.

Rombach, Blattmann, Lorenz, Esser & Ommer 2022, *High-Resolution Image Synthesis with Latent
Diffusion Models* (2112.10752). Two stages:

    codec   a VAE whose latents are maps, with a small weight of the KL term: h ≈ E(x), x ≈ D(h)
    prior   the diffusion of h/s, s the standard deviation of the first batch's latents (the
            paper's appendix G); conditioned on a class, or on a small image that is concatenated
            to the latents

The network that is evaluated many times sees few numbers; pixels need one pass of D.
Super-resolution is `condition_image = "small"`, with a small image of the latent map's size.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, require_num
from gengen.data import AnyData, Dataset, to_uint8
from gengen.diffusion import conditional, ddpm
from gengen.diffusion.conditional import condition_of as condition_of
from gengen.diffusion.ddpm import evaluations as evaluations
from gengen.diffusion.ddpm import with_evaluations as with_evaluations
from gengen.diffusion.defaults import task_fields
from gengen.nn.codec import code_map
from gengen.stages import Finished, Stage, coded, resident
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape, data_of
from gengen.vae import vae
from gengen.xla import jit

MAX_CHANNELS = 8  # of a latent map, where its shape is chosen by the image's


@dataclass(frozen=True)
class Config(conditional.Config):
    """The fields of the prior, as in `conditional`, except that shape is the image's; the codec's.

    The default is not conditioned on anything.
    """

    latent_shape: Shape = ()  # of a latent map (h, w, C); (): see `map_shape`
    codec_channels: tuple[int, ...] = (32, 64, 64)  # of its levels; each halves the resolution
    likelihood: str = "gaussian"  # of the codec's pixels, see `vae.Config`
    beta: float = 0.1  # weight of the codec's KL term
    codec_learning_rate: float = 1e-3  # of the codec's Adam
    prior_share: float = 2.0  # of the steps, relative to the codec's 1

    patch: int = 1  # of the prior's network, in places of the map
    channels: tuple[int, ...] = (64,)
    num_blocks: tuple[int, ...] = (4,)
    num_classes: int = 0

    RENAMED: ClassVar[dict[str, str | None]] = {
        "code": "latent_shape", "codec_rate": "codec_learning_rate",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the prior of LDM-4 on images of 256 × 256 pixels (the paper's table 12).

        The network of the prior has 274M parameters, as in the table. Differences: the paper's
        schedule is linear in √β, and its codec is a larger network, trained with perceptual and
        adversarial losses.
        """
        return cls(
            shape=(256, 256, 3), T=1000, schedule="linear", beta_start=1.5, beta_end=19.5,
            prediction="eps", variance="posterior", patch=1, channels=(224, 448, 672, 896),
            num_blocks=(2, 2, 2, 2), attention=(8, 16, 32), num_groups=32, skips="block",
            head_dim=32, time_scale=False,
            dropout=0.0, batch_size=48, learning_rate=9.6e-5, b2=0.999, warmup_steps=0,
            decay_steps=0, ema_decay=0.9999, sampler="ddim", sample_steps=200, eta=1.0,
            num_classes=0, condition_image="", latent_shape=(64, 64, 3), codec_channels=(128, 256),
            likelihood="laplace", beta=1e-6, codec_learning_rate=1e-4,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given images: latent maps of about 4 × 4 places."""
        if len(task.shape) != 3:
            raise InputError(f"data of shape {task.shape}: it must be images; for vectors use ddpm")
        levels = max(1, min(3, math.ceil(math.log2(max(task.shape[:2]) / 4))))
        steps = max(1, round(task.steps * cls.prior_share / (1 + cls.prior_share)))
        fields = task_fields(task._replace(steps=steps))
        fields |= {"patch": 1, "channels": (64,), "num_blocks": (4 if levels > 1 else 2,)}
        fields["codec_channels"] = (32, 64, 64)[:levels]
        if task.accelerator:
            fields |= {"channels": (128,), "codec_channels": (64, 128, 128)[:levels]}
        factor = 2**levels
        if not any(n % factor for n in task.shape[:2]):
            fields["factor"] = factor  # of condition_image = "small"
        return dataclasses.replace(cls(), **fields)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) != 3 or len(self.latent_shape) not in (0, 3):
            raise InputError(
                f"Config.shape = {self.shape}, latent_shape = {self.latent_shape}; both must be "
                "(H, W, C)"
            )
        super().__post_init__()
        for name in ("codec_learning_rate", "prior_share"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if not self.codec_channels:
            raise InputError("Config.codec_channels is empty; the codec needs at least one level")
        small = tuple(n // self.factor for n in self.shape[:2])
        if self.condition_image and small != map_shape(self)[:2]:
            raise InputError(
                f"Config.factor = {self.factor} makes a small image {small} of an image "
                f"{self.shape[:2]}; it must have the size of the latent map "
                f"{map_shape(self)[:2]}: set factor to 2 to the number of codec_channels, and "
                "take a number for which it divides the sides"
            )
        codec(self)


def map_shape(cfg: Config) -> Shape:
    """Return the shape (h, w, C) of a latent map.

    Where the Config leaves it open, h and w are what the codec's levels lead to, and C is at most
    `MAX_CHANNELS`, with at most half as many numbers in the map as in the image.
    """
    if cfg.latent_shape:
        return cfg.latent_shape
    h, w, _ = code_map(cfg.shape, 1, len(cfg.codec_channels))
    channels = math.prod(cfg.shape) // (2 * h * w)
    return (h, w, max(1, min(MAX_CHANNELS, channels)))


def codec(cfg: Config) -> vae.Config:
    """Return the Config of the VAE."""
    return vae.Config(
        shape=cfg.shape, latent_shape=map_shape(cfg), channels=cfg.codec_channels, strides=(),
        likelihood=cfg.likelihood, scale_mode="shared", initial_scale=0.5, min_scale=1e-3,
        binarise="dynamic", covariance="diagonal", prior="normal", beta=cfg.beta,
        num_latent_samples=1,
        batch_size=cfg.batch_size, learning_rate=cfg.codec_learning_rate, ema_decay=0.999,
    )  # fmt: skip


def prior(cfg: Config) -> conditional.Config:
    """Return the Config of the diffusion, of latent maps, which are not bounded."""
    names = [f.name for f in dataclasses.fields(conditional.Config)]
    own = {name: getattr(cfg, name) for name in names}
    own |= {"shape": map_shape(cfg), "clip_denoised": False, "condition_image": ""}
    return conditional.Config(**own)


# --- training ------------------------------------------------------------------------------------


def stages(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> tuple[Stage, ...]:
    """Return two stages: the codec, then the prior on its latents.

    Metrics: those of `vae.method`, and the prior's `loss`, as in `ddpm`.

    Args:
        cfg: of the model.
        tx: an optimiser instead of Adam, in both stages.
        net: a Flax module instead of the prior's network, called as in `conditional.method`:
            `net(z, t, y, planes, train)` with z a batch of latent maps.

    Example:
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, t, y, planes, train):
        ...         time = nn.Dense(8)(t[:, None, None, None] / 20)
        ...         return nn.Conv(z.shape[-1], (3, 3))(nn.swish(nn.Conv(8, (3, 3))(z) + time))
        >>> cfg = Config(shape=(8, 8, 1), T=20, codec_channels=(4,))
        >>> codec_stage, prior_stage = stages(cfg, net=Net())
        >>> batch = {"x": jnp.ones((8, *map_shape(cfg)))}
        >>> state = prior_stage.method.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(prior_stage.method.train_step)(jax.random.key(1), state, batch)
        >>> sorted(metrics)
        ['gradient_norm', 'learning_rate', 'loss']
    """

    def latents(before: Finished, data: AnyData) -> AnyData:
        variables, data = before["codec"].variables, resident(data)
        maps = coded(
            data,
            jax.jit(lambda x: vae.encode(codec(cfg), variables, x)),
            f"{data.name}, codes",
        )
        if not cfg.condition_image:
            return maps
        small = coded(data, jax.jit(lambda x: conditional.measure(cfg, x)), data.name).arrays["x"]
        return Dataset(maps.name, {**maps.arrays, "target": to_uint8(small)}, data.classes)

    return (
        Stage("codec", vae.method(codec(cfg), tx)),
        Stage("prior", prior_method(cfg, tx, net), data=latents, share=cfg.prior_share),
    )


def prior_method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train the diffusion on latents "x" and, where conditioned on them, small images "target"."""

    def inputs(batch: Batch, mutables: PyTree) -> tuple[Array, Array | None]:
        h = check_shape({"x": data_of(batch)}, map_shape(cfg)) / mutables["latent"]["std"]
        return h, jnp.asarray(batch["target"]) if cfg.condition_image else None

    def scale(batch: Batch) -> PyTree:
        return {"latent": {"std": jnp.std(data_of(batch))}}

    return conditional.method_of(prior(cfg), inputs, scale, tx, net)


# --- latents and sampling ------------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None,
    *, condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the latents of x [B, *shape], divided by their standard deviation: [B, h, w, C].

    `condition` and `net` are of the prior, and not used.
    """
    h = vae.encode(codec(cfg), variables["codec"], x, key)
    return h / variables["prior"]["latent"]["std"]


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike,
    *, condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the images of latents z [B, h, w, C], as `encode` returns them: [B, *shape].

    `condition` and `net` are of the prior, and not used.
    """
    h = jnp.asarray(z) * variables["prior"]["latent"]["std"]
    return vae.decode(codec(cfg), variables["codec"], h)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None,
    *, condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the codec's reconstructions of x [B, *shape]: [B, *shape].

    `condition` and `net` are of the prior, and not used.
    """
    return decode(cfg, variables, encode(cfg, variables, x, key))


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:
    """Sample latents and decode them: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of both stages.
        key: of the noise.
        num: number of samples.
        condition: as `condition_of` returns it, `num` rows. Without labels each class is sampled
            in turn, if there are any.
        net: the network of the prior that was trained instead of the Config's.

    Raises:
        InputError: for a condition that does not fit, or a missing image.
    """
    require_num(num)
    labels, y = conditional.split_condition(cfg, condition, num)
    labels = conditional.one_hot(cfg, conditional.in_turn(cfg, labels, num), num)
    return _sample(cfg, variables, key, labels, y, net)


@jit(0, 5)
def _sample(
    cfg: Config, variables: PyTree, key: Key, labels: Array, y: Array | None, net: nn.Module | None
) -> Array:
    own = prior(cfg)
    eps_fn = conditional.denoiser(own, variables["prior"], labels, y, net)
    x = decode(cfg, variables, ddpm.sample_from(own, eps_fn, key, len(labels)))
    if cfg.consistent and y is not None:
        return conditional.projected(conditional.operator(cfg), x, y)
    return jnp.clip(x, -1, 1)
