r"""GAN: the generative adversarial network.

Goodfellow et al. 2014, *Generative Adversarial Nets* (1406.2661).

    min_g max_D  V(g, D) = E_p ln D(x) + E_z ln (1 - D(g(z)))

The best D against samples of density q is D* = p / (p + q), where V = 2 JS(p, q) - ln 4; at q = p
it is ½ everywhere, and V = -ln 4. The discriminator minimises -V. The generator minimises

    "minimax"          E ln (1 - D(g(z)))           its part of V; flat where D is certain
    "nonsaturating"   -E ln D(g(z))                 the paper's alternative; the same fixed points
    "kl"              -E ln (D / (1 - D))(g(z))     at D* the expectation is KL(q ‖ p)

With φ the logit of D, ln D = -softplus(-φ), ln(1-D) = -softplus(φ) and ln(D/(1-D)) = φ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import jax
import optax
from jax.typing import ArrayLike

from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import networks
from gengen.gan.game import Game, Losses, Networks, play, with_networks
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = ["Config", "LOSSES", "condition_of", "game", "method", "sample"]


@dataclass(frozen=True)
class Config(networks.Config):
    """The paper's game with Adam, between small networks."""

    loss: str = "nonsaturating"  # of the generator: "nonsaturating", "minimax" or "kl"

    @classmethod
    def paper(cls) -> Self:
        """Return the sizes of the paper's networks on MNIST.

        The paper's discriminator has maxout units and dropout, its z is uniform, and it is trained
        by gradient descent with momentum instead of Adam.
        """
        return cls(
            shape=(28, 28, 1), latent_dim=100, channels=(), hidden=(1200, 1200), batch_size=100,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating",
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if self.loss not in LOSSES:
            raise InputError(f"Config.loss = {self.loss!r}; it must be one of {[*LOSSES]}")


# --- the losses ----------------------------------------------------------------------------------


def cross_entropy(on_real: Array, on_fake: Array) -> Array:
    """Return -V = -E ln D(x) - E ln (1 - D(g(z))), of logits [B]."""
    return jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()


def minimax(on_fake: Array) -> Array:
    """Return E ln (1 - D(g(z))), of logits [B]."""
    return -jax.nn.softplus(on_fake).mean()


def nonsaturating(on_fake: Array) -> Array:
    """Return -E ln D(g(z)), of logits [B]."""
    return jax.nn.softplus(-on_fake).mean()


def kl(on_fake: Array) -> Array:
    """Return -E ln (D / (1 - D))(g(z)), of logits [B]."""
    return -on_fake.mean()


LOSSES = {
    "nonsaturating": Losses(cross_entropy, nonsaturating),
    "minimax": Losses(cross_entropy, minimax),
    "kl": Losses(cross_entropy, kl),
}


# --- the model -----------------------------------------------------------------------------------


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the two networks, the Config's or the user's own, with the losses."""
    both = networks.networks(cfg)
    return with_networks(Game(*both, cfg.shape, cfg.latent_dim, LOSSES[cfg.loss]), net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player. Metrics: see `gengen.gan.game.play`.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for both players.
        net: the user's own generator and discriminator, Flax modules that are called as
            generator(z [B, latent_dim], y, train=) -> x [B, *shape] and
            discriminator(x [B, *shape], y, train=) -> logits [B]; y is None, or the labels of a
            conditional model.

    Example:
        >>> import flax.linen as nn
        >>> import jax.numpy as jnp
        >>> class Linear(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, y=None, train=False):
        ...         return nn.Dense(2)(z)
        >>> class Quadratic(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, y=None, train=False):
        ...         return nn.Dense(1)(jnp.concatenate([x, x**2], axis=1))[:, 0]
        >>> cfg, net = Config(shape=(2,), latent_dim=2, batch_size=4), (Linear(), Quadratic())
        >>> m = method(cfg, net=net)
        >>> batch = {"x": jnp.ones((4, 2))}
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = m.train_step(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3, net=net).shape
        (3, 2)
    """
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
