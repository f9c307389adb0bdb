r"""GAN: the generative adversarial network.

Goodfellow et al. 2014, *Generative Adversarial Nets* (1406.2661).

    min_g max_D  V(g, D) = E_p ln D(x) + E_z ln (1 - D(g(z)))

The best D against samples of density q is D* = p / (p + q), where V = 2 JS(p, q) - ln 4; at q = p
it is ½ everywhere, and V = -ln 4. The discriminator descends -V. The generator descends

    "minimax"          E ln (1 - D(g(z)))           its part of V; flat where D is sure
    "nonsaturating"   -E ln D(g(z))                 the paper's cure; the same fixed points
    "kl"              -E ln (D / (1 - D))(g(z))     at D* the expectation is KL(q ‖ p)

(a slide has the last as -ln((1-D)/D), which is to be maximised.) With φ the logit of D,
ln D = -softplus(-φ), ln(1-D) = -softplus(φ) and ln(D/(1-D)) = φ.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax

from gengen.gan import game as games
from gengen.gan import players
from gengen.gan.game import Game, Losses, play
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(players.Config):
    """The paper's game; Adam, and networks of a size that a laptop trains."""

    loss: str = "nonsaturating"  # what the generator descends, or "minimax", "kl"

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.loss not in LOSSES:
            raise InputError(f"Config.loss = {self.loss!r}, not one of {[*LOSSES]}")


# --- the losses ----------------------------------------------------------------------------------


def cross_entropy(on_real: Array, on_fake: Array) -> Array:
    """-V: -E ln D(x) - E ln (1 - D(g(z))), of logits [B]."""
    return jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()


def minimax(on_fake: Array) -> Array:
    """E ln (1 - D(g(z))), of logits [B]."""
    return -jax.nn.softplus(on_fake).mean()


def nonsaturating(on_fake: Array) -> Array:
    """-E ln D(g(z)), of logits [B]."""
    return jax.nn.softplus(-on_fake).mean()


def kl(on_fake: Array) -> Array:
    """-E ln (D / (1 - D))(g(z)), of logits [B]."""
    return -on_fake.mean()


LOSSES = {
    "nonsaturating": Losses(cross_entropy, nonsaturating),
    "minimax": Losses(cross_entropy, minimax),
    "kl": Losses(cross_entropy, kl),
}


# --- the model -----------------------------------------------------------------------------------


def game(cfg: Config) -> Game:
    """The two networks and the losses."""
    return Game(*players.players(cfg), cfg.shape, cfg.latent, LOSSES[cfg.loss])


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
