r"""Flow-GAN: a flow trained as the generator of a game, by its likelihood, or by both.

Grover, Dhar & Ermon 2018, *Flow-GAN: Combining Maximum Likelihood and Adversarial Learning in
Generative Models* (1705.08868). The generator is a flow, so its density is known however it is
trained:

    min_G max_D  a · V(G, D) - l · E ln p_G(x)

a = 1, l = 0 is the adversarial game, a = 0, l = 1 maximum likelihood; otherwise it is the hybrid. V
is the Wasserstein game's gap, E f(x) - E f(G(z)). The critic's weights are clipped, and it makes
n_critic moves for each one of the flow (`gengen.gan.wgan`). `log_prob` shows what the paper found:
the game alone gives good-looking samples from a density that hardly covers the data.

The critic gets dequantised pixels, both real and fake, because rounding has no gradient.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.flow import realnvp
from gengen.flow.couplings import CouplingNet
from gengen.flow.pixels import to_logits, to_unit
from gengen.nn.conv import ConvEncoder
from gengen.nn.mlp import MLP
from gengen.optim import ascend, clip_weights, learning_rate
from gengen.steps import method as build
from gengen.steps import player, repeat, sequence, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape

__all__ = [
    "Config", "bits_per_dim", "condition_of", "decode", "discriminate", "encode", "log_prob",
    "method", "sample",
]  # fmt: skip

LOG_PROB = "lower bound"  # of images, by dequantisation; of vectors it is exact


@dataclass(frozen=True)
class Config(realnvp.Config):
    """The flow of `realnvp`, and the game."""

    adversarial_weight: float = 1.0  # a, the weight of the game
    likelihood_weight: float = 0.05  # l, the weight of ln p in nats per dimension

    n_critic: int = 5  # moves of the critic per move of the flow
    weight_clip: float = 0.01  # largest absolute weight of the critic
    critic_learning_rate: float = 5e-5  # of its RMSProp
    critic_channels: tuple[int, ...] = (32, 64)  # of its levels, for images
    critic_hidden: tuple[int, ...] = (128, 128)  # units of its hidden layers, for vectors

    batch_size: int = 320  # examples per step; each move takes an n_critic-th of them

    RENAMED: ClassVar[dict[str, str | None]] = {
        "adversarial": "adversarial_weight", "likelihood": "likelihood_weight",
        "c": "weight_clip", "critic_rate": "critic_learning_rate",
        "critic_widths": "critic_hidden",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's hybrid on CIFAR-10: Real NVP's network against a convolutional critic.

        The flow is that of `realnvp.Config.paper`, and differs from the paper's in the same ways.
        The paper searches the weight of the likelihood; 1 per dimension is a choice of ours. The
        critic has no normalisation layers, and its weights are clipped.
        """
        return cls(
            shape=(32, 32, 3), num_levels=1, num_couplings=3, last_couplings=4, hidden_channels=64,
            num_blocks=8, adversarial_weight=1.0, likelihood_weight=1.0,
            critic_channels=(64, 128, 256), n_critic=5, batch_size=320, learning_rate=1e-3,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: the flow's is that of `realnvp`, in smaller batches.

        The critic has one level for images of less than 8 pixels a side, else two.
        """
        fields = realnvp.task_fields(task)
        fields["batch_size"] = cls().batch_size
        if len(task.shape) == 3:
            most = int(np.log2(max(min(task.shape[:2]), 2))) - 1
            fields["critic_channels"] = cls().critic_channels[: max(most, 1)]
        return dataclasses.replace(cls(), **fields)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name in ("n_critic", "weight_clip", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        weights = (self.adversarial_weight, self.likelihood_weight)
        if min(weights) < 0 or sum(weights) == 0:
            raise InputError(
                f"Config.adversarial_weight = {weights[0]} and Config.likelihood_weight = "
                f"{weights[1]}; neither may be negative, and one must be positive"
            )
        if self.batch_size % self.n_critic:
            raise InputError(
                f"Config.batch_size = {self.batch_size}; it must be a multiple of n_critic = "
                f"{self.n_critic}"
            )


def _flow(variables: PyTree) -> PyTree:
    """Return the flow's own variables."""
    return {"params": variables["params"]["generator"]}


def _critic(cfg: Config) -> ConvEncoder | MLP:
    if len(cfg.shape) == 1:
        return MLP((*cfg.critic_hidden, 1))
    return ConvEncoder(1, cfg.critic_channels)


def discriminate(cfg: Config, variables: PyTree, x: Array) -> Array:
    """Return f(x) [B] of vectors, or of dequantised images in [-1, 1]."""
    return jnp.asarray(_critic(cfg).apply({"params": variables["params"]["critic"]}, x))[:, 0]


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return the flow's ln p(x), or its bound for images, as `realnvp.log_prob`: [B], in nats."""
    refuse_condition(condition)
    return realnvp.log_prob(cfg, _flow(variables), x, key, net=net)


def bits_per_dim(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None,
    *, net: CouplingNet | None = None,
) -> Array:  # fmt: skip
    """Return an upper bound of -log₂ P(pixels) per dimension, as `realnvp.bits_per_dim`: [B]."""
    return realnvp.bits_per_dim(cfg, _flow(variables), x, key, net=net)


def encode(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return z [B, D] of x [B, *shape], as `realnvp.encode`."""
    refuse_condition(condition)
    return realnvp.encode(cfg, _flow(variables), x, net=net)


def decode(
    cfg: Config,
    variables: PyTree,
    z: ArrayLike,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return x [B, *shape] of z [B, D], as `realnvp.decode`."""
    refuse_condition(condition)
    return realnvp.decode(cfg, _flow(variables), z, net=net)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return `num` samples of the flow, float32 [num, *shape], as `realnvp.sample`."""
    refuse_condition(condition)
    return realnvp.sample(cfg, _flow(variables), key, num, net=net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: CouplingNet | None = None
) -> Method:
    """Train the flow by the game, by likelihood, or both.

    Metrics: `critic_loss`, the gap that the critic maximises; `generator_loss`, the weighted sum
    that the flow minimises; `nats`, -ln p(x) per example.

    Args:
        cfg: of the model.
        tx: an optimiser of the flow instead of the Config's Adam.
        net: the network of a coupling, as in `realnvp.method`.
    """
    is_image, dims = len(cfg.shape) == 3, float(np.prod(cfg.shape))

    def init_variables(key: Key, batch: Batch) -> PyTree:
        flow_key, critic_key = jax.random.split(key)
        critic = _critic(cfg).init(critic_key, check_shape(batch, cfg.shape)[:1])
        flow = realnvp.init_variables(cfg, flow_key, batch, net)
        return {"params": {"generator": flow["params"], "critic": critic["params"]}}

    def generate(params: PyTree, key: Key, num: int) -> Array:
        """Return vectors, or dequantised images, of the flow."""
        z = rng.normal(key, (num, int(dims)))
        fake, _ = realnvp.apply(cfg, _flow({"params": params}), z, "to_x", net)
        return to_unit(cfg.alpha, fake) if is_image else fake

    def gap(params: PyTree, key: Key, x: Array) -> Array:
        pixel_key, z_key = jax.random.split(key)
        fake = generate(params, z_key, len(x))
        if is_image:
            logits, _ = to_logits(cfg.alpha, x, rng.uniform(pixel_key, x.shape))
            x = to_unit(cfg.alpha, logits)
        f = lambda x: discriminate(cfg, {"params": params}, x).mean()  # noqa: E731
        return f(x) - f(fake)

    def critic_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        return gap(params, key, check_shape(batch, cfg.shape)), ({}, mutables)

    def flow_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        x = x[:: cfg.n_critic]  # of each replica, as many as one move of the critic takes
        game_key, key = jax.random.split(key)
        nats = -jnp.mean(realnvp.log_density(cfg, _flow({"params": params}), x, key, net))
        loss = cfg.likelihood_weight * nats / dims
        if cfg.adversarial_weight:
            loss += cfg.adversarial_weight * gap(params, game_key, x)
        return loss, ({"nats": nats}, mutables)

    tx = tx or realnvp.optimizer(cfg)
    flow = player("generator", flow_loss, tx)
    if not cfg.adversarial_weight:
        return build(init_variables, with_ema(flow, cfg.ema_decay))
    rate = learning_rate(cfg, cfg.critic_learning_rate, cfg.n_critic)
    rmsprop = optax.rmsprop(rate, decay=0.99)
    climb = optax.chain(ascend(rmsprop), clip_weights(cfg.weight_clip))
    critic = repeat(player("critic", critic_loss, climb), cfg.n_critic)
    return build(init_variables, with_ema(sequence(critic, flow), cfg.ema_decay))
