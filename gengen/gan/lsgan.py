r"""LSGAN: least squares instead of cross-entropy.

Mao et al. 2017, *Least Squares Generative Adversarial Networks* (1611.04076). D is a number. It is
trained towards b on data and towards a on samples; the generator is trained to move it towards c:

    the discriminator minimises   ½ E_p (D(x) - b)² + ½ E_z (D(g(z)) - a)²
    the generator minimises       ½ E_z (D(g(z)) - c)²

The best D against samples of density q is D* = (b p + a q)/(p + q). Where b - c = 1, b - a = 2,

    ½ E_p (D* - c)² + ½ E_q (D* - c)² = ½ ∫ (p - q)² / (p + q) = ½ χ²(2q ‖ p + q)

with Pearson's χ²(P ‖ Q) = ∫ (P - Q)² / Q: for example with a = -1, b = 1, c = 0. The other usual
choice, the default, is a = 0, b = c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import unconditional as condition_of
from gengen.gan import dcgan, networks
from gengen.gan import game as games
from gengen.gan.game import Game, Losses, Networks, play, with_networks
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = ["Config", "condition_of", "game", "least_squares", "method", "sample"]


@dataclass(frozen=True)
class Config(networks.Config):
    """The paper's losses, between small networks."""

    a: float = 0.0  # D's target on samples
    b: float = 1.0  # D's target on data
    c: float = 1.0  # the generator's target for D on samples
    batch_norm: bool = False  # of images: DCGAN's networks, with batch norm in D too

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's training on LSUN, 112×112.

        The networks are DCGAN's, as in the paper. The paper's discriminator has 5×5 windows, where
        this has 4×4, and a dense layer at its end; its generator has 3×3 windows, 256 channels down
        to 28×28 pixels and two more layers, which do not change the resolution.
        """
        return cls(
            shape=(112, 112, 3), latent_dim=1024, channels=(64, 128, 256, 512), batch_size=64,
            learning_rate=1e-3, discriminator_learning_rate=1e-3, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, a=0.0, b=1.0, c=1.0, batch_norm=True,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        dcgan.check_batch_norm(self)
        if self.a == self.b or self.a == self.c:
            raise InputError(
                f"Config.a = {self.a}, b = {self.b}, c = {self.c}; a must differ from b, so that "
                "D tells real from fake, and from c, so that the generator learns"
            )


def least_squares(a: float = 0.0, b: float = 1.0, c: float = 1.0) -> Losses:
    """Return the paper's losses of D's outputs [B], with the targets a, b and c."""

    def discriminator(on_real: Array, on_fake: Array) -> Array:
        return 0.5 * jnp.mean((on_real - b) ** 2) + 0.5 * jnp.mean((on_fake - a) ** 2)

    def generator(on_fake: Array) -> Array:
        return 0.5 * jnp.mean((on_fake - c) ** 2)

    return Losses(discriminator, generator)


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the two networks, the Config's or the user's own, with the losses."""
    losses = least_squares(cfg.a, cfg.b, cfg.c)
    both = dcgan.networks_of(cfg)
    return with_networks(Game(*both, cfg.shape, cfg.latent_dim, losses), net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player. `tx` replaces Adam; `net`: as in `gan.method`."""
    txs = (tx, tx) if tx else networks.adam(cfg)
    return play(game(cfg, net), *txs, ema_decay=cfg.ema_decay)


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
