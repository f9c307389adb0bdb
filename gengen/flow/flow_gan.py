r"""Flow-GAN: a flow trained as the generator of a game, by its likelihood, or by both.

Grover, Dhar & Ermon 2018, *Flow-GAN: Combining Maximum Likelihood and Adversarial Learning in
Generative Models* (1705.08868). The generator is a flow, so that its density is known whatever it
is trained by:

    min_G max_D  a · V(G, D) - l · E ln p_G(x)

with a = 1, l = 0 the adversarial game, a = 0, l = 1 maximum likelihood, and both the hybrid. V is
the Wasserstein game's gap, E f(x) - E f(G(z)), with the critic's weights clipped, and n_critic
moves of the critic to one of the flow (`gengen.gan.wgan`). What the paper found is to be seen in
`log_prob`: the game alone gives good-looking draws from a density that hardly covers the data.

The critic sees dequantised pixels, real ones and drawn ones alike: rounding has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.flow import realnvp
from gengen.nn.conv import ConvEncoder
from gengen.nn.mlp import MLP
from gengen.optim import ascend, clip_weights
from gengen.steps import method as close
from gengen.steps import player, repeat, sequence, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape


@dataclass(frozen=True)
class Config(realnvp.Config):
    """A flow as `realnvp` has it, and the game that it plays."""

    adversarial: float = 1.0  # a, the weight of the game
    likelihood: float = 0.05  # l, the weight of ln p in nats per dimension

    n_critic: int = 5  # moves of the critic for each of the flow
    c: float = 0.01  # largest weight of the critic
    critic_rate: float = 5e-5  # of its RMSProp
    critic_channels: tuple[int, ...] = (32, 64)  # of its levels, for images
    critic_widths: tuple[int, ...] = (128, 128)  # its hidden layers, for vectors

    batch_size: int = 320  # examples a step: an n_critic-th for each move

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        for name in ("n_critic", "c", "critic_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if min(self.adversarial, self.likelihood) < 0 or self.adversarial + self.likelihood == 0:
            raise InputError(
                f"Config.adversarial = {self.adversarial} and Config.likelihood = "
                f"{self.likelihood}: neither is below 0, and not both are 0"
            )
        if self.batch_size % self.n_critic:
            raise InputError(
                f"Config.batch_size = {self.batch_size} is no multiple of Config.n_critic = "
                f"{self.n_critic}"
            )


def _flow(variables: PyTree) -> PyTree:
    """The flow's own variables."""
    return {"params": variables["params"]["generator"]}


def _critic(cfg: Config) -> ConvEncoder | MLP:
    if len(cfg.shape) == 1:
        return MLP((*cfg.critic_widths, 1))
    return ConvEncoder(1, cfg.critic_channels)


def criticise(cfg: Config, variables: PyTree, x: Array) -> Array:
    """f(x) [B] of vectors, or of dequantised images in [-1, 1]."""
    return jnp.asarray(_critic(cfg).apply({"params": variables["params"]["critic"]}, x))[:, 0]


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """As `realnvp.log_prob`: exact of vectors, however the flow was trained."""
    return realnvp.log_prob(cfg, _flow(variables), x, key)


def bits_per_dim(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """As `realnvp.bits_per_dim`."""
    return realnvp.bits_per_dim(cfg, _flow(variables), x, key)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """As `realnvp.sample`."""
    return realnvp.sample(cfg, _flow(variables), key, num)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """The game; `tx` in the place of the flow's Adam.

    Metrics: `critic_loss`, the gap that the critic climbs; `generator_loss`, the weighted sum that
    the flow descends; `nats`, -ln p(x) per example.
    """
    is_image, dims = len(cfg.shape) == 3, float(np.prod(cfg.shape))

    def init_variables(key: Key, batch: Batch) -> PyTree:
        flow_key, critic_key = jax.random.split(key)
        critic = _critic(cfg).init(critic_key, check_shape(batch, cfg.shape)[:1])
        flow = realnvp.init_variables(cfg, flow_key, batch)
        return {"params": {"generator": flow["params"], "critic": critic["params"]}}

    def gap(params: PyTree, key: Key, x: Array) -> Array:
        pixel_key, z_key = jax.random.split(key)
        z = rng.normal(z_key, (len(x), int(dims)))
        fake, _ = realnvp.apply(cfg, _flow({"params": params}), z, "to_x")
        if is_image:
            x = realnvp.to_unit(cfg, realnvp.to_line(cfg, x, rng.uniform(pixel_key, x.shape))[0])
            fake = realnvp.to_unit(cfg, fake)
        f = lambda x: criticise(cfg, {"params": params}, x).mean()  # noqa: E731
        return f(x) - f(fake)

    def critic_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        return gap(params, key, check_shape(batch, cfg.shape)), ({}, mutables)

    def flow_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        x = x[:: cfg.n_critic]  # of each replica, what one device would take
        game_key, key = jax.random.split(key)
        nats = -jnp.mean(realnvp.log_density(cfg, _flow({"params": params}), x, key))
        loss = cfg.likelihood * nats / dims
        if cfg.adversarial:
            loss += cfg.adversarial * gap(params, game_key, x)
        return loss, ({"nats": nats}, mutables)

    tx = tx or realnvp.optimizer(cfg)
    flow = player("generator", flow_loss, tx)
    if not cfg.adversarial:
        return close(init_variables, with_ema(flow, cfg.ema_decay))
    climb = optax.chain(ascend(optax.rmsprop(cfg.critic_rate, decay=0.99)), clip_weights(cfg.c))
    critic = repeat(player("critic", critic_loss, climb), cfg.n_critic)
    return close(init_variables, with_ema(sequence(critic, flow), cfg.ema_decay))
