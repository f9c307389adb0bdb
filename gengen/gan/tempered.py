r"""Tempered GAN: a lens before the data, at first blurred by the game and in the end clear.

Sajjadi, Parascandolo, Mehrjou & Schölkopf 2018, *Tempered Adversarial Networks* (1802.04374).
Samples move towards the data; a third player, the lens L, moves the data towards the samples:

    the discriminator sees    L(x) in the place of x
    the lens descends         -λ loss_D(D(L(x)), D(g(z))) + E ‖L(x) - x‖²

‖·‖² being the sum over an example's numbers. λ fades as 1 - sin(πt/2K) over the first K steps, and
is 0 after: then nothing but the reconstruction is left, and L is the identity.

L(x) = x + r(x), with r a network that begins as 0: the lens is clear at the start too, and only as
blurred in between as helps the generator.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.gan import failing, gan, players
from gengen.gan import game as games
from gengen.gan.game import Game, Remedy, moves
from gengen.nn.mlp import MLP
from gengen.steps import method as close
from gengen.steps import player, sequence, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with the lens."""

    fade: int = 10_000  # steps until λ is 0: K
    lens_rate: float = 2e-4  # of the lens's Adam
    lens_channels: tuple[int, ...] = (16, 16)  # of its hidden layers, for images

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        for name in ("fade", "lens_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")


class Lens(nn.Module):
    """L: x [B, *shape] → [B, *shape], the identity at first."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim == 2:
            h = MLP(self.cfg.widths)(x)
            return x + nn.Dense(x.shape[1], kernel_init=nn.initializers.zeros)(nn.relu(h))
        h = x
        for features in self.cfg.lens_channels:
            h = nn.relu(nn.Conv(features, (3, 3))(h))
        return x + nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros)(h)


def weight(cfg: Config, t: Array) -> Array:
    """λ after t steps: 1 - sin(πt/2K), and 0 from K on."""
    return jnp.where(t < cfg.fade, 1 - jnp.sin(math.pi / 2 * t / cfg.fade), 0.0)


def look(cfg: Config, params: PyTree, x: Array) -> Array:
    """L(x) [B, *shape], of the parameters of all players."""
    return jnp.asarray(Lens(cfg).apply({"params": params["lens"]}, x))


def lens(cfg: Config) -> Remedy:
    """The discriminator sees L(x); the state counts the lens's moves."""

    def shown(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        return look(cfg, params, real), fake, state

    return Remedy("lens", shown, init=lambda x: {"moves": jnp.int32(0)})


def game(cfg: Config) -> Game:
    """`gan`'s, seen through the lens."""
    return dataclasses.replace(gan.game(cfg), remedies=(lens(cfg),))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each, the lens's last; `tx` in the place of Adam, for all three.

    Metrics: those of `gengen.gan.game.play`; `lens_loss`; `distance`, E ‖L(x) - x‖²; `lambda`.
    """
    played = game(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        players_key, lens_key = jax.random.split(key)
        variables = games.init_variables(played)(players_key, batch)
        own = Lens(cfg).init(lens_key, check_shape(batch, cfg.shape)[:1])["params"]
        return {**variables, "params": {**variables["params"], "lens": own}}

    def lens_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, variables = check_shape(batch, cfg.shape), {"params": params, **mutables}
        state = mutables["remedies"]["lens"]
        fake, _ = games.generate(played, variables, rng.normal(key, (len(x), cfg.latent)))
        seen = look(cfg, params, x)
        logits = [
            games.apply(played.discriminator, "discriminator", variables, shown)[0]
            for shown in (seen, fake)
        ]
        distance = jnp.sum((seen - x) ** 2, axis=tuple(range(1, x.ndim))).mean()
        now = weight(cfg, state["moves"])
        value = distance - now * played.losses.discriminator(*logits)
        states = {**mutables["remedies"], "lens": {"moves": state["moves"] + 1}}
        return value, ({"distance": distance, "lambda": now}, {**mutables, "remedies": states})

    txs = (tx, tx) if tx else players.adam(cfg)
    losses = moves(played)
    step = sequence(
        player("discriminator", losses["discriminator"], txs[0]),
        player("generator", losses["generator"], txs[1]),
        player("lens", lens_loss, tx or optax.adam(cfg.lens_rate, b1=cfg.b1, b2=cfg.b2)),
    )
    step = with_ema(step, cfg.ema_decay) if cfg.ema_decay else step
    return close(init_variables, step, failing.warn)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
