r"""VAE-GAN: a VAE whose samples a discriminator compares with data.

The generator is a VAE (`gengen.vae.vae`): q(z|x), p(x|z). With x̃ the decoded z ~ q(z|x), and x_p
the decoded z ~ p(z), the discriminator D minimises

    reconstructed="real"    -ln D(x) - ln D(x̃) - ln (1 - D(x_p))
    reconstructed="fake"    -ln D(x) - ln (1 - D(x̃)) - ln (1 - D(x_p))

and the generator

    likelihood_weight · E_q[-ln p(x|z)] + β KL + feature_weight · ½ ‖φ(x) - φ(x̃)‖²
        + adversarial_weight · (-ln D(x_p)  [- ln D(x̃), where x̃ is fake])

where φ are the features of D's last hidden layer before its perceptron. Encoder and decoder move
together, with one optimiser. Gradients of ln D do not reach the encoder. With
`adversarial_weight=0` and `feature_weight=0` this is `vae`, bit for bit.

"fake" is Larsen et al. 2016, *Autoencoding beyond pixels using a learned similarity metric*
(1512.09300): there the features replace the pixels (likelihood_weight 0, feature_weight 1), and the
paper's γ is 1/adversarial_weight, up to the scale of the decoder's gradient, which Adam ignores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import unconditional as condition_of
from gengen.distributions import total
from gengen.gan import gan
from gengen.gan.game import GENERATOR, of_player
from gengen.nn.mlp import MLP
from gengen.optim import optimizer
from gengen.steps import Step, player, with_ema
from gengen.steps import method as build
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    Metrics,
    PyTree,
    TrainState,
    check_shape,
)
from gengen.vae import bounds, vae
from gengen.vae.bounds import as_data, means, observed, sample_prior, terms, weighted
from gengen.vae.networks import VAE, apply

__all__ = [
    "LOG_PROB", "Config", "Discriminator", "condition_of", "decode", "encode", "log_prob", "method",
    "reconstruct", "sample",
]  # fmt: skip

LOG_PROB = vae.LOG_PROB
DISCRIMINATOR = "discriminator"
RECONSTRUCTED = ("real", "fake")
Networks = tuple[nn.Module, nn.Module]  # of the VAE, and the discriminator


@dataclass(frozen=True)
class Config(vae.Config):
    """That of the VAE, with a discriminator."""

    reconstructed: str = "real"  # what reconstructions are to D: "real" or "fake"
    adversarial_weight: float = 10.0  # of the game, in nats of the ELBO for each nat of ln D
    feature_weight: float = 0.0  # of ½ ‖φ(x) - φ(x̃)‖²
    likelihood_weight: float = 1.0  # of -ln p(x|z)

    discriminator_channels: tuple[int, ...] = (32, 64)  # of D's levels, for images; (): no levels
    discriminator_hidden: tuple[int, ...] = (128,)  # hidden layers of D's perceptron
    discriminator_learning_rate: float = 3e-4  # of D's optimiser

    @classmethod
    def paper(cls) -> Self:
        """Return the networks of Larsen et al. for CelebA of 64×64.

        Differences: the paper's networks have batch norm; its decoder has 256, 128 and 32 channels,
        and no layer of 2048 units; D has 32 channels at full resolution, before three strided
        levels, and its features are those of another layer.
        """
        return cls(
            shape=(64, 64, 3), latent_shape=(128,), likelihood="gaussian", scale_mode="fixed",
            initial_scale=1.0, channels=(64, 128, 256), kernel_size=5, hidden=(2048,),
            batch_size=64, optimizer="rmsprop", learning_rate=3e-4, ema_decay=0.0,
            reconstructed="fake", adversarial_weight=1.0, feature_weight=1.0, likelihood_weight=0.0,
            discriminator_channels=(32, 128, 256, 256), discriminator_hidden=(512,),
            discriminator_learning_rate=3e-4,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        if self.reconstructed not in RECONSTRUCTED:
            raise InputError(
                f"Config.reconstructed = {self.reconstructed!r}; it must be one of {RECONSTRUCTED}"
            )
        for name in ("adversarial_weight", "feature_weight", "likelihood_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        if not self.discriminator_learning_rate > 0:
            raise InputError(
                f"Config.discriminator_learning_rate = {self.discriminator_learning_rate}; it must "
                "be positive"
            )


class Discriminator(nn.Module):
    """D: x [B, *shape] → logits [B] and features φ [B, F].

    Attributes:
        channels: of strided convolutions, the finest first; (): x is a vector, φ = x.
        hidden: sizes of the hidden layers between φ and the logit.
        kernel_size: side of the convolutions' windows.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    kernel_size: int = 4

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        if x.ndim == 4:
            for features in self.channels:
                x = nn.leaky_relu(nn.Conv(features, 2 * (self.kernel_size,), (2, 2))(x), 0.2)
        features = x.reshape(len(x), -1)
        return MLP((*self.hidden, 1))(features)[:, 0], features


def networks(cfg: Config, net: Networks | None = None) -> Networks:
    """Return the VAE's network and the discriminator: the Config's, or the user's own."""
    sizes = (cfg.discriminator_channels, cfg.discriminator_hidden, cfg.kernel_size or 4)
    return net or (VAE(cfg), Discriminator(*sizes))


# --- the losses ----------------------------------------------------------------------------------


def discriminator_loss(cfg: Config, real: Array, decoded: Array, drawn: Array) -> Array:
    """Return D's loss, of its logits [B] on data, reconstructions and samples."""
    sign = -1 if cfg.reconstructed == "real" else 1
    return gan.cross_entropy(real, drawn) + jax.nn.softplus(sign * decoded).mean()


def adversarial_loss(cfg: Config, decoded: Array, drawn: Array) -> Array:
    """Return the generator's part of the game, of D's logits on reconstructions and samples."""
    value = gan.nonsaturating(drawn)
    return value + gan.nonsaturating(decoded) if cfg.reconstructed == "fake" else value


def feature_loss(real: Array, decoded: Array) -> Array:
    """Return ½ ‖φ(x) - φ(x̃)‖², the mean over examples, of features [B, F]."""
    return 0.5 * total((real - decoded) ** 2).mean()


# --- the train step ------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of the discriminator, then one of the VAE.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for both players.
        net: the user's own network of the VAE, see `vae.method`, and discriminator:
            x [B, *shape] → (logits [B], features [B, F]).

    Returns:
        The method. Metrics: `generator_loss`, its terms `reconstruction`, `kl`, and with a weight
        above 0 `adversarial` and `features`; `discriminator_loss`, `real_logit`,
        `reconstructed_logit`, `fake_logit`.
    """
    generator, discriminator = networks(cfg, net)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)[:1]
        own = {
            GENERATOR: generator.init(key, x)["params"],  # by the key that the VAE has
            DISCRIMINATOR: discriminator.init(jax.random.fold_in(key, 1), x)["params"],
        }
        return {"params": own}

    def judged(params: PyTree, x: Array) -> tuple[Array, Array]:
        return discriminator.apply({"params": params[DISCRIMINATOR]}, x)  # pyright: ignore

    def made(params: PyTree, x: Array, key: Key) -> tuple[Array, Array, Array]:
        """Return x̃; x̃ of a z that is held; and x_p."""
        own = {"params": params[GENERATOR]}
        q_key, prior_key = jax.random.split(key)
        q = apply(generator, own, "posterior", x)
        z = q.sample(rng.normal(q_key, (len(x), *cfg.latent_shape)))

        def shown(z: Array) -> Array:
            return as_data(cfg, apply(generator, own, "eta", z))

        held = jax.lax.stop_gradient(z)
        return shown(z), shown(held), shown(sample_prior(cfg, prior_key, len(x)))

    def discrimination(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        observation_key, key = jax.random.split(key)
        decoded, _, drawn = made(params, observed(cfg, x, observation_key), key)
        logits = [judged(params, image)[0] for image in (x, decoded, drawn)]
        names = ("real_logit", "reconstructed_logit", "fake_logit")
        metrics = {name: jnp.mean(on) for name, on in zip(names, logits, strict=True)}
        return discriminator_loss(cfg, *logits), (metrics, mutables)

    def generation(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        image = check_shape(batch, cfg.shape)
        observation_key, noise_key = jax.random.split(key)  # as in `vae.method`
        x = observed(cfg, image, observation_key)
        parts = terms(cfg, generator, {"params": params[GENERATOR], **mutables}, x, noise_key)
        metrics: Metrics = means(parts)
        scaled = parts["reconstruction"] * cfg.likelihood_weight
        value = weighted(cfg, {**parts, "reconstruction": scaled})
        if cfg.adversarial_weight or cfg.feature_weight:
            decoded, held, drawn = made(params, x, jax.random.fold_in(key, 1))
            on_held, on_drawn = judged(params, held)[0], judged(params, drawn)[0]
            metrics["adversarial"] = adversarial_loss(cfg, on_held, on_drawn)
            metrics["features"] = feature_loss(judged(params, image)[1], judged(params, decoded)[1])
            value += cfg.adversarial_weight * metrics["adversarial"]
            value += cfg.feature_weight * metrics["features"]
        return value, (metrics, mutables)

    of_discriminator = tx or optimizer(cfg, cfg.discriminator_learning_rate, b1=0.5)
    first = player(DISCRIMINATOR, discrimination, of_discriminator)
    second = player(GENERATOR, generation, tx or bounds.optimizer(cfg))
    return build(init_variables, with_ema(_both(first, second), cfg.ema_decay))


def _both(first: Step, second: Step) -> Step:
    """One step after the other; the second has the whole step's key, as if it were alone."""

    def init(state: TrainState) -> TrainState:
        return second.init(first.init(state))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = first.update(jax.random.fold_in(key, 1), state, batch)
        state, more = second.update(key, state, batch)
        return state, metrics | more

    return Step(init, update)


# --- what the model can do: what its VAE can -----------------------------------------------------


def _vae(cfg: Config, variables: PyTree, net: Networks | None) -> tuple[PyTree, nn.Module]:
    """Return the VAE's own variables and its network."""
    return of_player(GENERATOR, variables), networks(cfg, net)[0]


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return the mean of q(z|x) for x [B, *shape]: [B, *latent_shape]. See `vae.encode`."""
    own, used = _vae(cfg, variables, net)
    return vae.encode(cfg, own, x, key, condition=condition, net=used)


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return E[x|z] for z [B, *latent_shape]: [B, *shape]. See `vae.decode`."""
    own, used = _vae(cfg, variables, net)
    return vae.decode(cfg, own, z, condition=condition, net=used)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: Networks | None = None,
) -> Array:  # fmt: skip
    """Return the decoded mean of q(z|x) for x [B, *shape]: [B, *shape]. See `encode`."""
    own, used = _vae(cfg, variables, net)
    return vae.reconstruct(cfg, own, x, key, condition=condition, net=used)


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: Networks | None = None, num: int = 64,
) -> Array:  # fmt: skip
    """Return the importance-weighted bound of ln p(x): [B], in nats. See `vae.log_prob`."""
    own, used = _vae(cfg, variables, net)
    return vae.log_prob(cfg, own, x, key, condition=condition, net=used, num=num)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: PyTree = None, net: Networks | None = None, mean: bool | None = None,
) -> Array:  # fmt: skip
    """Sample z from the prior and decode it: float32 [num, *shape]. See `vae.sample`."""
    own, used = _vae(cfg, variables, net)
    return vae.sample(cfg, own, key, num, condition=condition, net=used, mean=mean)
