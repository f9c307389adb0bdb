r"""LSGAN: least squares in the place of cross-entropy.

Mao et al. 2017, *Least Squares Generative Adversarial Networks* (1611.04076). D is a number, drawn
to b on data and to a on samples; the generator draws it to c:

    the discriminator descends   ½ E_p (D(x) - b)² + ½ E_z (D(g(z)) - a)²
    the generator descends       ½ E_z (D(g(z)) - c)²

The best D against samples of density q is D* = (b p + a q)/(p + q). Where b - c = 1, b - a = 2,

    ½ E_p (D* - c)² + ½ E_q (D* - c)² = ½ ∫ (p - q)² / (p + q) = ½ χ²(2q ‖ p + q)

with Pearson's χ²(P ‖ Q) = ∫ (P - Q)² / Q: so with a = -1, b = 1, c = 0. The other usual choice, the
default, is a = 0, b = c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from gengen.gan import game as games
from gengen.gan import players
from gengen.gan.game import Game, Losses, play
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(players.Config):
    """The paper's losses; networks of a size that a laptop trains."""

    a: float = 0.0  # what D is drawn to on samples
    b: float = 1.0  # what D is drawn to on data
    c: float = 1.0  # what the generator draws D to on samples

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.a == self.b or self.a == self.c:
            raise InputError(
                f"Config.a = {self.a}, b = {self.b}, c = {self.c}: D is drawn apart, a ≠ b, and "
                "the generator draws it away from a, c ≠ a"
            )


def least_squares(a: float = 0.0, b: float = 1.0, c: float = 1.0) -> Losses:
    """The paper's losses of D's outputs [B], drawn to the numbers a, b and c."""

    def discriminator(on_real: Array, on_fake: Array) -> Array:
        return 0.5 * jnp.mean((on_real - b) ** 2) + 0.5 * jnp.mean((on_fake - a) ** 2)

    def generator(on_fake: Array) -> Array:
        return 0.5 * jnp.mean((on_fake - c) ** 2)

    return Losses(discriminator, generator)


def game(cfg: Config) -> Game:
    """The two networks and the losses."""
    return Game(*players.players(cfg), cfg.shape, cfg.latent, least_squares(cfg.a, cfg.b, cfg.c))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
