r"""AAE: the adversarial autoencoder.

Makhzani, Shlens, Jaitly, Goodfellow & Frey 2016, *Adversarial Autoencoders* (1511.05644). An
autoencoder whose latents, over the data, are to have the distribution p(z): the aggregated
posterior q(z) = E_x q(z|x) is matched to p(z) by a discriminator D of latents. Each step, on one
batch:

    reconstruction    e and d minimise    E ‖x - d(e(x))‖²
    regularisation    D maximises         E_p(z) ln D(z) + E_x ln (1 - D(e(x)))
                      e maximises         E_x ln D(e(x))

each with its own optimiser. No density of p(z) is needed, only samples: of a Gaussian, a mixture of
ten 2-D Gaussians like petals, or a Swiss roll. With labels (§2.3), D gets the class beside the
latents, and p(z) is sampled in the part that belongs to the class, so that each petal, or each
stretch of the roll, holds one class. For a negative label, which is unknown, D gets an extra class
and z is sampled from all of p(z).

Samples are d(z), z ~ p(z), or z ~ p(z | class).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.contract import (
    Task,
    adapt,
    check_labels,
    check_latents,
    refuse_condition,
    require_num,
)  # fmt: skip
from gengen.nn.codec import Decoder, Encoder
from gengen.nn.mlp import MLP
from gengen.optim import OptimizerConfig, optimizer
from gengen.steps import method as build
from gengen.steps import player, sequence, team
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    PyTree,
    Shape,
    check_shape,
)
from gengen.xla import jit

PRIORS = ("normal", "petals", "swiss_roll")
PETALS = 10  # components of the mixture
TURNS = 1.5  # of the Swiss roll, from three quarters of a turn on; its outer radius is 3
THICKNESS = 0.1  # standard deviation of the roll


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """The paper's algorithm; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    latent_dim: int = 2  # dimensions of z
    prior: str = "normal"  # p(z): N(0, I), or in the plane "petals", "swiss_roll"
    prior_scale: float = 1.0  # factor of p(z)'s samples
    num_classes: int = 0  # of the labels that the discriminator gets; 0: they are not used

    channels: tuple[int, ...] = ()  # of the levels of e and d, for images; (): vectors of pixels
    hidden: tuple[int, ...] = (512, 512)  # hidden layers of e, and in reverse of d
    init_std: float = 0.0  # standard deviation of the initial weights of perceptrons; 0: 1/√inputs
    sigmoid: bool = False  # whether d of images ends in a sigmoid, for pixels as (x+1)/2
    discriminator_hidden: tuple[int, ...] = (512, 512)  # hidden layers of D

    batch_size: int = 100  # examples per step
    learning_rate: float = 3e-4  # of the reconstruction
    # If e is as fast as D, it runs ahead of D and of the reconstruction: all latents collapse into
    # a point. With labels 3e-4 works, and takes fewer steps.
    encoder_learning_rate: float = 1e-4  # of e in the game
    b1: float = 0.5  # of Adam in the game: decay of the gradient's average, per step
    game_momentum: float = 0.0  # of SGD in the game
    discriminator_learning_rate: float = 0.0  # of D; 0: learning_rate

    RENAMED: ClassVar[dict[str, str | None]] = {
        "code": "latent_dim", "scale": "prior_scale", "classes": "num_classes", "widths": "hidden",
        "critic": "discriminator_hidden", "encoder_rate": "encoder_learning_rate",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the network and training of the likelihood of MNIST: §3 and appendix A.1.

        Rates fall to a tenth after 50 and after 1000 epochs of 600 steps. In the paper an image's
        pixels are in [0, 1]: the squared error is a quarter of the one here.
        """
        return cls(
            shape=(28, 28, 1), latent_dim=8, prior="normal", prior_scale=5.0, num_classes=0,
            channels=(), hidden=(1000, 1000), discriminator_hidden=(1000, 1000), init_std=0.01,
            sigmoid=True, batch_size=100, optimizer="sgd", learning_rate=0.01, momentum=0.9,
            encoder_learning_rate=0.1, discriminator_learning_rate=0.1, game_momentum=0.1,
            drop_steps=(30_000, 600_000),
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: a slow game beside a fast reconstruction."""
        return dataclasses.replace(
            adapt(cls(), task), learning_rate=1e-3, discriminator_learning_rate=1e-4,
            encoder_learning_rate=1e-4,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        for name in (
            "latent_dim", "prior_scale", "batch_size", "learning_rate", "encoder_learning_rate",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        for name in ("discriminator_learning_rate", "init_std"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        if self.prior not in PRIORS:
            raise InputError(f"Config.prior = {self.prior!r}; it must be one of {PRIORS}")
        if self.prior != "normal" and self.latent_dim != 2:
            raise InputError(
                f"Config.prior = {self.prior!r} needs latent_dim = 2, not {self.latent_dim}"
            )
        if self.num_classes < 0 or (self.num_classes and self.prior == "normal"):
            raise InputError(
                f"Config.num_classes = {self.num_classes}, but only petals and swiss_roll have a "
                "part for each class: set one of these priors, or num_classes=0"
            )
        if self.prior == "petals" and self.num_classes > PETALS:
            raise InputError(
                f"Config.num_classes = {self.num_classes}, but there are {PETALS} petals"
            )


# --- the networks --------------------------------------------------------------------------------


def encoder(cfg: Config) -> Encoder:
    """Return e: x [B, *shape] → z [B, latent_dim]; deterministic, the simplest of the paper's."""
    return Encoder(cfg.shape, (cfg.latent_dim,), **_layers(cfg))


def decoder(cfg: Config) -> Decoder:
    """Return d: z [B, latent_dim] → x̂ [B, *shape]."""
    return Decoder(cfg.shape, (cfg.latent_dim,), **_layers(cfg))


def _layers(cfg: Config) -> dict[str, Any]:
    return {"channels": cfg.channels, "hidden": cfg.hidden, "init_std": cfg.init_std}


def discriminator(cfg: Config) -> MLP:
    """Return the logit of D: z, and with labels the class [B, num_classes + 1] → [B, 1]."""
    return MLP((*cfg.discriminator_hidden, 1), init_std=cfg.init_std)


def discriminate(cfg: Config, params: PyTree, z: Array, label: Array | None) -> Array:
    """Return the logit of D(z) [B]: above 0 where z is more likely from p(z)."""
    if label is not None:
        known = jnp.where(label < 0, cfg.num_classes, label)
        z = jnp.concatenate([z, jax.nn.one_hot(known, cfg.num_classes + 1)], axis=1)
    return jnp.asarray(discriminator(cfg).apply({"params": params["discriminator"]}, z))[:, 0]


# --- p(z) ----------------------------------------------------------------------------------------


def sample_prior(cfg: Config, key: Key, num: int, label: Array | None = None) -> Array:
    """Sample z ~ p(z) [num, latent_dim], or p(z | label) where a label [num] is not negative."""
    which_key, noise_key = jax.random.split(key)
    eps = rng.normal(noise_key, (num, cfg.latent_dim))
    if cfg.prior == "normal":
        return cfg.prior_scale * eps
    parts = cfg.num_classes or PETALS
    u = parts * rng.uniform(which_key, (num,))
    part = jnp.minimum(jnp.floor(u), parts - 1)
    within = u - part
    if label is not None:
        part = jnp.where(label < 0, part, label)
    if cfg.prior == "swiss_roll":
        return cfg.prior_scale * (swiss_roll((part + within) / parts) + THICKNESS * eps)
    mixture, k = dist.petals(PETALS), part.astype(jnp.int32)
    return cfg.prior_scale * (mixture.means[k] + jnp.einsum("bij,bj->bi", mixture.factors[k], eps))


def swiss_roll(u: Array) -> Array:
    """Return points of the spiral, from the inner end, u = 0, to the outer, u = 1: [B] → [B, 2]."""
    angle = 2 * np.pi * (0.75 + TURNS * u)
    radius = 3 * angle / (2 * np.pi * (0.75 + TURNS))
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


# --- what the model can do -----------------------------------------------------------------------


def condition_of(cfg: Config, batch: Batch) -> Array | None:
    """Return the labels [B] of a batch if `cfg.num_classes` is above 0; negative: unknown."""
    return _labels(cfg, batch)


def _check(cfg: Config, condition: ArrayLike | None, num: int) -> Array | None:
    """Return a condition as labels [num], or None; negative: unknown."""
    if not cfg.num_classes:
        refuse_condition(condition)
    if condition is None:
        return None
    labels = jnp.asarray(condition)
    return jnp.where(labels < 0, -1, check_labels(jnp.maximum(labels, 0), num, cfg.num_classes))


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, *, condition: ArrayLike | None = None
) -> Array:
    """Return the latents of x [B, *shape]: [B, latent_dim].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        condition: labels [B], which only the prior depends on; checked, and not used here.
    """
    z = _encode(cfg, variables["params"], check_shape({"x": x}, cfg.shape))
    _check(cfg, condition, len(z))
    return z


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *, condition: ArrayLike | None = None
) -> Array:
    """Return d(z) for z [B, latent_dim]: [B, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        z: latents.
        condition: labels [B], which only the prior depends on; checked, and not used here.

    Raises:
        InputError: for latents of another shape.
    """
    z = check_latents(z, cfg.latent_dim)
    _check(cfg, condition, len(z))
    x = _decode(cfg, variables["params"], z)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, *, condition: ArrayLike | None = None
) -> Array:
    """Return d(e(x)) for x [B, *shape]: [B, *shape]. See `encode`."""
    return decode(cfg, variables, encode(cfg, variables, x), condition=condition)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: ArrayLike | None = None
) -> Array:
    """Sample d(z), z ~ p(z): float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the samples.
        num: number of samples.
        condition: labels [num], if Config.num_classes is above 0: z is from the class's part of
            p(z), for a negative label from all of it. None: all from all of it.
    """
    require_num(num)
    return decode(cfg, variables, sample_prior(cfg, key, num, _check(cfg, condition, num)))


@jit(0, often=False)
def _encode(cfg: Config, params: PyTree, x: Array) -> Array:
    return jnp.asarray(encoder(cfg).apply({"params": params["encoder"]}, x))


@jit(0, often=False)
def _decode(cfg: Config, params: PyTree, z: Array) -> Array:
    x = jnp.asarray(decoder(cfg).apply({"params": params["decoder"]}, z))
    return 2 * jax.nn.sigmoid(x) - 1 if cfg.sigmoid and len(cfg.shape) == 3 else x


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by reconstruction, then D, then e against D; `tx` instead of the Config's optimisers.

    Metrics: `reconstruction_loss`, the squared error of an example; `discriminator_loss` and
    `encoder_loss`, in nats: ln 4 and ln 2 if D cannot tell latents from samples of p(z).
    """
    rates = (cfg.discriminator_learning_rate or cfg.learning_rate, cfg.encoder_learning_rate)
    for_d, for_e = (
        tx or optimizer(cfg, rate, momentum=cfg.game_momentum, b1=cfg.b1) for rate in rates
    )

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)[:1]
        keys, z = jax.random.split(key, 3), jnp.zeros((1, cfg.latent_dim))
        d_input = jnp.zeros((1, cfg.latent_dim + (cfg.num_classes + 1 if cfg.num_classes else 0)))
        params = {
            "encoder": encoder(cfg).init(keys[0], x)["params"],
            "decoder": decoder(cfg).init(keys[1], z)["params"],
            "discriminator": discriminator(cfg).init(keys[2], d_input)["params"],
        }
        return {"params": params}

    def reconstruction(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        out = _decode(cfg, params, _encode(cfg, params, x))
        return dist.total((x - out) ** 2).mean(), ({}, mutables)

    def discrimination(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, label = check_shape(batch, cfg.shape), _labels(cfg, batch)
        z = sample_prior(cfg, key, x.shape[0], label)
        on_prior = discriminate(cfg, params, z, label)
        on_latents = discriminate(cfg, params, _encode(cfg, params, x), label)
        value = jax.nn.softplus(-on_prior).mean() + jax.nn.softplus(on_latents).mean()
        return value, ({}, mutables)

    def deception(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        on_latents = discriminate(cfg, params, _encode(cfg, params, x), _labels(cfg, batch))
        return jax.nn.softplus(-on_latents).mean(), ({}, mutables)

    return build(
        init_variables,
        sequence(
            team("reconstruction", ("encoder", "decoder"), reconstruction,
                 tx or optimizer(cfg)),
            player("discriminator", discrimination, for_d),
            player("encoder", deception, for_e),
        ),
    )  # fmt: skip


def _labels(cfg: Config, batch: Batch) -> Array | None:
    if not cfg.num_classes:
        return None
    if "label" not in batch:
        raise InputError(
            f'Config.num_classes > 0, but a batch has {sorted(batch)} and no "label": set '
            "num_classes=0"
        )
    return jnp.asarray(batch["label"], jnp.int32)
