r"""Tempered GAN: the data pass through a lens that is trained too, and becomes the identity.

Sajjadi, Parascandolo, Mehrjou & Schölkopf 2018, *Tempered Adversarial Networks* (1802.04374).
The generator moves samples towards the data; a third network, the lens L, moves the data towards
the samples:

    the discriminator is given    L(x) instead of x
    the lens minimises            -λ loss_D(D(L(x)), D(g(z))) + E ‖L(x) - x‖²

with ‖·‖² the sum over an example's numbers. λ falls as 1 - sin(πt/2K) over the first K steps and is
0 afterwards: then only the reconstruction is left, and L becomes the identity.

L(x) = x + r(x), with a network r that is 0 at initialisation: the lens starts as the identity, too.
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

from gengen import rng
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import dcgan, diagnostics, gan, networks
from gengen.gan import game as games
from gengen.gan.game import STATES, Game, Networks, Transform, player_losses
from gengen.nn.mlp import MLP
from gengen.optim import learning_rate
from gengen.steps import method as build
from gengen.steps import player, sequence, with_ema
from gengen.types import Array, Batch, Key, Method, PyTree, check_shape

__all__ = [
    "Config", "Lens", "apply_lens", "condition_of", "game", "lens", "method", "sample", "weight",
]  # fmt: skip


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with the lens."""

    fade_steps: int = 10_000  # train steps until λ is 0: K
    lens_learning_rate: float = 5e-4  # of the lens's Adam
    lens_channels: tuple[int, ...] = (16, 16)  # of its hidden layers, for images
    batch_norm: bool = False  # of images: DCGAN's networks, with batch norm in D too

    RENAMED: ClassVar[dict[str, str | None]] = {
        "fade": "fade_steps", "lens_rate": "lens_learning_rate",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's training on 64×64 images, with the game of DCGAN.

        The widths are those of `wgan.Config.paper`, half of DCGAN's. The paper's lens has residual
        blocks.
        """
        return cls(
            shape=(64, 64, 3), latent_dim=100, channels=(64, 128, 256, 512), batch_size=64,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating", fade_steps=100_000, lens_learning_rate=2e-4,
            lens_channels=(64, 64), batch_norm=True,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        fields = networks.task_fields(task)
        rate = fields.get("learning_rate", cls.lens_learning_rate)
        steps = max(task.steps, 1)
        return dataclasses.replace(cls(), **fields, fade_steps=steps, lens_learning_rate=rate)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        dcgan.check_batch_norm(self)
        for name in ("fade_steps", "lens_learning_rate"):
            networks.require_positive(name, getattr(self, name))


class Lens(nn.Module):
    """L: x [B, *shape] → [B, *shape], the identity at initialisation."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim == 2:
            h = MLP(self.cfg.hidden)(x)
            return x + nn.Dense(x.shape[1], kernel_init=nn.initializers.zeros)(nn.relu(h))
        h = x
        for features in self.cfg.lens_channels:
            h = nn.relu(nn.Conv(features, (3, 3))(h))
        return x + nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros)(h)


def weight(cfg: Config, t: Array) -> Array:
    """Return λ after t steps: 1 - sin(πt/2K), and 0 from K on."""
    return jnp.where(t < cfg.fade_steps, 1 - jnp.sin(math.pi / 2 * t / cfg.fade_steps), 0.0)


def apply_lens(cfg: Config, params: PyTree, x: Array) -> Array:
    """Return L(x) [B, *shape], from the parameters of all players."""
    return jnp.asarray(Lens(cfg).apply({"params": params["lens"]}, x))


def lens(cfg: Config) -> Transform:
    """Return the transform that gives the discriminator L(x); its state counts the lens's steps."""

    def in_discriminator_step(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        return apply_lens(cfg, params, real), fake, state

    return Transform("lens", in_discriminator_step, init=lambda x: {"moves": jnp.int32(0)})


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return `gan`'s game with the lens."""
    played = gan.game(cfg, net or dcgan.networks_of(cfg))
    return dataclasses.replace(played, transforms=(lens(cfg),))


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player, the lens last.

    Metrics: those of `gengen.gan.game.play`; `lens_loss`; `distance`, E ‖L(x) - x‖²; `lambda`.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for all three.
        net: as in `gan.method`.
    """
    played = game(cfg, net)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        players_key, lens_key = jax.random.split(key)
        variables = games.init_variables(played)(players_key, batch)
        own = Lens(cfg).init(lens_key, check_shape(batch, cfg.shape)[:1])["params"]
        return {**variables, "params": {**variables["params"], "lens": own}}

    txs, losses = (tx, tx) if tx else networks.adam(cfg), player_losses(played)
    rate = learning_rate(cfg, cfg.lens_learning_rate)
    step = sequence(
        player("discriminator", losses["discriminator"], txs[0]),
        player("generator", losses["generator"], txs[1]),
        player("lens", _lens_loss(cfg, played), tx or optax.adam(rate, b1=cfg.b1, b2=cfg.b2)),
    )
    step = with_ema(step, cfg.ema_decay) if cfg.ema_decay else step
    return build(init_variables, step, diagnostics.warn)


def _lens_loss(cfg: Config, played: Game):
    def lens_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, variables = check_shape(batch, cfg.shape), {"params": params, **mutables}
        state = mutables[STATES]["lens"]
        fake, _ = games.generate(played, variables, rng.normal(key, (len(x), cfg.latent_dim)))
        real = apply_lens(cfg, params, x)
        logits = [
            games.apply(played.discriminator, "discriminator", variables, inputs)[0]
            for inputs in (real, fake)
        ]
        distance = jnp.sum((real - x) ** 2, axis=tuple(range(1, x.ndim))).mean()
        now = weight(cfg, state["moves"])
        value = distance - now * played.losses.discriminator(*logits)
        states = {**mutables[STATES], "lens": {"moves": state["moves"] + 1}}
        return value, ({"distance": distance, "lambda": now}, {**mutables, STATES: states})

    return lens_loss


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: ArrayLike | None = None,
    net: Networks | None = None,
) -> Array:
    """Sample g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg, net), variables, key, num, condition)
