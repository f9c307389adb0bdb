r"""ALI: adversarially learned inference.

Dumoulin et al. 2017, *Adversarially Learned Inference* (1606.00704). An encoder q(z|x) and a
decoder p(x|z) define two joint distributions, q(x) q(z|x) with q(x) of the data, and p(z) p(x|z).
The discriminator D tells pairs (x, z) of the first from pairs of the second:

    D minimises                    -E ln D(x, ẑ) - E ln (1 - D(x̃, z))
    encoder and decoder minimise   -E ln (1 - D(x, ẑ)) - E ln D(x̃, z)

with ẑ ~ q(z|x) and x̃ ~ p(x|z), z ~ N(0, I). Encoder and decoder move together, with one optimiser.
Where the two joints are equal, q(z|x) is the posterior of the decoder. The encoder is a Gaussian
with a mean and a variance for each x; the Config's decoder is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import check_latents, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.distributions import Normal
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import GENERATOR
from gengen.gan.regularization import r1 as r1_penalty
from gengen.nn.conv import ConvEncoder
from gengen.nn.mlp import MLP
from gengen.steps import method as build
from gengen.steps import player, sequence, team, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, check_shape
from gengen.xla import jit

__all__ = [
    "Config", "Discriminator", "Encoder", "condition_of", "decode", "encode", "method",
    "reconstruct", "sample",
]  # fmt: skip

ENCODER, DISCRIMINATOR = "encoder", "discriminator"
TEAM = "generator_and_encoder"
MAX_LOG_STD = 7.0  # bound of |ln σ| of q(z|x)
Networks = tuple[nn.Module, nn.Module, nn.Module]  # generator, encoder, discriminator


@dataclass(frozen=True)
class Config(networks.Config):
    """The paper's game between networks that a laptop trains."""

    discriminator_hidden: tuple[int, ...] = (256, 256)  # D's hidden layers that see x and z
    feature_dim: int = 128  # features of x, and of z, that D joins
    r1: float = 0.0  # weight of R1, on D's gradient in x and z at pairs of the data

    RENAMED: ClassVar[dict[str, str | None]] = {}

    @classmethod
    def paper(cls) -> Self:
        """Return the sizes of the paper's networks for CIFAR-10, as far as these networks go.

        Differences: the paper has more layers, maxout units, dropout in D, and transposed
        convolutions; it averages no parameters.
        """
        return cls(
            shape=(32, 32, 3), latent_dim=64, channels=(64, 128, 256), discriminator_hidden=(1024,
            1024), feature_dim=512, batch_size=100, learning_rate=1e-4,
            discriminator_learning_rate=1e-4, b1=0.5, b2=0.999, ema_decay=0.0,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        super().__post_init__()
        networks.require_positive("feature_dim", self.feature_dim)
        if not self.r1 >= 0:
            raise InputError(f"Config.r1 = {self.r1}; it must be at least 0")


# --- the networks --------------------------------------------------------------------------------


class Encoder(nn.Module):
    """x [B, *shape] → q(z|x), a Gaussian with a diagonal covariance.

    Attributes:
        latent_dim: of z.
        channels: of the levels, the finest first; (): an MLP, for images too.
        hidden: sizes of the MLP's hidden layers.
    """

    latent_dim: int
    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> Normal:
        h = _features(x, 2 * self.latent_dim, self.channels, self.hidden)
        mean, log_std = jnp.split(h, 2, axis=-1)
        return Normal(mean, MAX_LOG_STD * jnp.tanh(log_std / MAX_LOG_STD))


class Discriminator(nn.Module):
    """D: x [B, *shape], z [B, latent_dim] → logits [B].

    Attributes:
        feature_dim: features of x, and of z.
        joint: hidden layers that see both.
        channels: of the levels of x, the finest first; (): an MLP, for images too.
        hidden: sizes of the MLP's hidden layers.
    """

    feature_dim: int
    joint: tuple[int, ...]
    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, z: Array) -> Array:
        of_x = _features(x, self.feature_dim, self.channels, self.hidden)
        of_z = MLP((self.feature_dim, self.feature_dim))(z)
        both = nn.leaky_relu(jnp.concatenate([of_x, of_z], axis=1), 0.2)
        return MLP((*self.joint, 1))(both)[:, 0]


def _features(x: Array, out: int, channels: tuple[int, ...], hidden: tuple[int, ...]) -> Array:
    """Return `out` features of x [B, *shape] by a network of its own, inside a compact module."""
    if x.ndim == 4 and channels:
        return ConvEncoder(out, channels)(x)
    return MLP((*hidden, out))(x.reshape(len(x), -1))


def players(cfg: Config, net: Networks | None = None) -> Networks:
    """Return generator, encoder and discriminator: the Config's, or the user's own."""
    return net or (
        networks.networks(cfg)[0],
        Encoder(cfg.latent_dim, cfg.channels, cfg.hidden),
        Discriminator(cfg.feature_dim, cfg.discriminator_hidden, cfg.channels, cfg.hidden),
    )


def _sampled(out: Any, key: Key) -> Array:
    """Return x, or a sample where a generator gives a distribution."""
    return out.sample(rng.normal(key, out.mean.shape)) if isinstance(out, Normal) else out


def _mean(out: Any) -> Array:
    return out.mean if isinstance(out, Normal) else jnp.asarray(out)


# --- the train step ------------------------------------------------------------------------------


def inference_loss(on_data: Array, on_samples: Array) -> Array:
    """Return the loss of encoder and decoder, of D's logits on (x, ẑ) and on (x̃, z)."""
    return gan.cross_entropy(on_samples, on_data)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of the discriminator, then one of encoder and decoder.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for both.
        net: the user's own generator(z, train=) → x or a `Normal` p(x|z), encoder(x) → `Normal`,
            and discriminator(x, z) → logits [B].

    Returns:
        The method. Metrics: `discriminator_loss`, `r1` if it has a weight, `data_logit`,
        `sample_logit`, `generator_and_encoder_loss`; `log_std`, the mean of ln σ of q(z|x).
    """
    generator, encoder, discriminator = players(cfg, net)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x, z = check_shape(batch, cfg.shape)[:1], jnp.zeros((1, cfg.latent_dim))
        keys = jax.random.split(key, 3)
        found = {
            GENERATOR: generator.init(keys[0], z, train=False),
            ENCODER: encoder.init(keys[1], x),
            DISCRIMINATOR: discriminator.init(keys[2], x, z),
        }
        variables: dict[str, PyTree] = {
            "params": {name: own.get("params", {}) for name, own in found.items()}
        }
        for collection, tree in found[GENERATOR].items():
            if collection != "params":
                variables[collection] = {GENERATOR: tree}
        return variables

    def judged(params: PyTree, x: Array, z: Array) -> Array:
        return jnp.asarray(discriminator.apply({"params": params[DISCRIMINATOR]}, x, z))

    def pairs(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        """Return (x, ẑ), (x̃, z), q(z|x), and the mutables."""
        x = check_shape(batch, cfg.shape)
        q_key, z_key, x_key = jax.random.split(key, 3)
        q: Any = encoder.apply({"params": params[ENCODER]}, x)
        inferred = q.sample(rng.normal(q_key, q.mean.shape))
        z = rng.normal(z_key, (len(x), cfg.latent_dim))
        own = {"params": params[GENERATOR]} | {k: tree[GENERATOR] for k, tree in mutables.items()}
        out, changed = generator.apply(own, z, train=True, mutable=[*mutables])
        changed = {k: {GENERATOR: tree} for k, tree in changed.items()}
        return (x, inferred), (_sampled(out, x_key), z), q, {**mutables, **changed}

    def discrimination(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        (x, inferred), fake, _, _ = pairs(params, mutables, key, batch)
        on_data, on_samples = judged(params, x, inferred), judged(params, *fake)
        value = gan.cross_entropy(on_data, on_samples)
        metrics: Metrics = {"data_logit": on_data.mean(), "sample_logit": on_samples.mean()}
        if cfg.r1:
            of = r1_penalty(cfg.r1).of
            in_x = of(lambda x: judged(params, x, inferred), x, fake[0], key)
            in_z = of(lambda z: judged(params, x, z), inferred, fake[1], key)
            metrics["r1"] = in_x + in_z
            value += metrics["r1"]
        return value, (metrics, mutables)

    def inference(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        data, fake, q, mutables = pairs(params, mutables, key, batch)
        value = inference_loss(judged(params, *data), judged(params, *fake))
        return value, ({"log_std": q.log_std.mean()}, mutables)

    for_d, for_both = (tx, tx) if tx else networks.adam(cfg)
    step = sequence(
        player(DISCRIMINATOR, discrimination, for_d),
        team(TEAM, (GENERATOR, ENCODER), inference, for_both),
    )
    return build(init_variables, with_ema(step, cfg.ema_decay) if cfg.ema_decay else step)


# --- what the model can do -----------------------------------------------------------------------


def posterior(
    cfg: Config, variables: PyTree, x: ArrayLike, *, net: Networks | None = None
) -> Normal:
    """Return q(z|x) for x [B, *shape]."""
    own = {"params": variables["params"][ENCODER]}
    return _encoded(players(cfg, net)[1], own, check_shape({"x": x}, cfg.shape))


@jit(0, often=False)
def _encoded(net: nn.Module, own: PyTree, x: Array) -> Any:
    return net.apply(own, x)


@jit(0, often=False)
def _decoded(net: nn.Module, own: PyTree, z: Array) -> Any:
    return net.apply(own, z, train=False)


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return the mean of q(z|x) for x [B, *shape]: [B, latent_dim].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        condition: None, as the model is unconditional.
        net: as in `method`.
    """
    refuse_condition(condition)
    return posterior(cfg, variables, x, net=net).mean


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return x, or E[x|z], for z [B, latent_dim]: [B, *shape].

    Raises:
        InputError: for latents of another shape, or if there is a condition.
    """
    refuse_condition(condition)
    z = check_latents(z, cfg.latent_dim)
    return _mean(_decoded(players(cfg, net)[0], games.of_player(GENERATOR, variables), z))


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return the decoded mean of q(z|x) for x [B, *shape]: [B, *shape]. See `encode`."""
    return decode(cfg, variables, encode(cfg, variables, x, condition=condition, net=net), net=net)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Sample p(x|z), z ~ N(0, I): float32 [num, *shape], images in [-1, 1]."""
    refuse_condition(condition)
    require_num(num)
    z_key, x_key = jax.random.split(key)
    own = games.of_player(GENERATOR, variables)
    z = rng.normal(z_key, (num, cfg.latent_dim))
    return _sampled(_decoded(players(cfg, net)[0], own, z), x_key)
