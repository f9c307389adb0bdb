r"""GAN with regularisers: penalties and remedies that go with any discriminator and any loss.

With φ = the logit of D, p the data's law and q the generator's:

    R1              γ/2 E_p ‖∇φ‖²                      Mescheder et al. 2018, 1801.04406
    R2              γ/2 E_q ‖∇φ‖²                      the same
    JS regulariser  γ/2 (E_p (1-D)² ‖∇φ‖² + E_q D² ‖∇φ‖²)    Roth et al. 2017, 1705.09367
    DRAGAN          λ E (‖∇φ(x + δ)‖ - 1)²             Kodali et al. 2017, 1705.07215
                    δ = c · std(x) · u,  u ~ U[0, 1]^D,  x ~ p
    instance noise  D sees x + σε and g(z) + σε'       Sønderby et al. 2017, 1610.04490;
                                                       Arjovsky & Bottou 2017, 1701.04862
    consensus       each player descends loss + γ/2 ‖v‖², v = (∇_D loss_D, ∇_g loss_g)
                                                       Mescheder et al. 2017, 1705.10461

Roth's is what instance noise amounts to for small σ² = γ, without the noise. Instance noise may
fade: σ_t = σ max(0, 1 - t/T). Consensus is not of the discriminator but of the moves: `consensus`
maps the players' losses to others.

The model is `gan`'s with the weights of those that are wanted above 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Discriminator, Game, Penalty, Remedy, play
from gengen.gan.wgan_gp import gradient_penalty, gradients, norm
from gengen.optim import mean_over_replicas
from gengen.steps import Loss
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape

Noise = Callable[[Key, Shape], Array]  # (key, [B, ...]) -> of mean 0 and variance 1


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`; the weight of each regulariser, 0 where it is left out."""

    r1: float = 10.0  # γ of R1
    r2: float = 0.0  # γ of R2
    js: float = 0.0  # γ of the JS regulariser
    dragan: float = 0.0  # λ of DRAGAN
    gradient_penalty: float = 0.0  # λ of WGAN-GP's penalty
    noise: float = 0.0  # σ of instance noise, in the data's units
    noise_steps: int = 0  # until it has faded, T; 0: it does not
    consensus: float = 0.0  # γ of consensus optimisation

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        for name in (*PENALTIES, "noise", "noise_steps", "consensus"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 0")


# --- penalties -----------------------------------------------------------------------------------


def _squares(D: Discriminator, x: Array) -> Array:
    """‖∇φ‖² at each x: [B]."""
    return jnp.sum(gradients(D, x) ** 2, axis=1)


def r1(gamma: float = 10.0) -> Penalty:
    """γ/2 E_p ‖∇φ‖²: D is to be flat on data."""
    return Penalty("r1", lambda D, real, fake, key: gamma / 2 * _squares(D, real).mean())


def r2(gamma: float = 10.0) -> Penalty:
    """γ/2 E_q ‖∇φ‖²: D is to be flat on samples."""
    return Penalty("r2", lambda D, real, fake, key: gamma / 2 * _squares(D, fake).mean())


def js_regulariser(gamma: float = 0.1) -> Penalty:
    """γ/2 (E_p (1-D)² ‖∇φ‖² + E_q D² ‖∇φ‖²)."""

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        on_real, on_fake = jax.nn.sigmoid(-D(real)), jax.nn.sigmoid(D(fake))
        each = on_real**2 * _squares(D, real) + on_fake**2 * _squares(D, fake)
        return gamma / 2 * each.mean()

    return Penalty("js_regulariser", of)


def dragan(weight: float = 10.0, c: float = 0.5) -> Penalty:
    """λ E (‖∇φ(x + δ)‖ - 1)² near data, δ = c · std(x) · u, u uniform in [0, 1] of each pixel.

    std is of all the numbers of the batch.
    """

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        mean, square = mean_over_replicas((real.mean(), (real**2).mean()))
        std = jnp.sqrt(jnp.maximum(square - mean**2, 0))
        near = real + c * std * rng.uniform(key, real.shape)
        return weight * jnp.mean((norm(gradients(D, near)) - 1) ** 2)

    return Penalty("dragan", of)


PENALTIES: dict[str, Callable[[float], Penalty]] = {
    "r1": r1,
    "r2": r2,
    "js": js_regulariser,
    "dragan": dragan,
    "gradient_penalty": gradient_penalty,
}


# --- remedies ------------------------------------------------------------------------------------


def instance_noise(sigma: float, steps: int = 0, noise: Noise = rng.normal) -> Remedy:
    """D sees x + σε and g(z) + σε', in both moves.

    Args:
        sigma: σ, in the data's units.
        steps: moves of D until σ has gone down to 0 in a straight line; 0: it stays.
        noise: draws ε.
    """

    def scale(state: PyTree) -> Array | float:
        return sigma * jnp.maximum(1 - state["moves"] / steps, 0) if steps else sigma

    def shown(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        now = scale(state)
        real_key, fake_key = jax.random.split(key)
        real = real + now * noise(real_key, real.shape)
        fake = fake + now * noise(fake_key, fake.shape)
        return real, fake, {"moves": state["moves"] + 1} if steps else state

    def judged(state: PyTree, key: Key, fake: Array) -> Array:
        return fake + scale(state) * noise(key, fake.shape)

    def init(x: Array) -> PyTree:
        return {"moves": jnp.int32(0)} if steps else {}

    return Remedy("instance_noise", shown, judged, init)


# --- of the moves --------------------------------------------------------------------------------


def consensus(losses: Mapping[str, Loss], gamma: float) -> dict[str, Loss]:
    """Let each player descend his loss + γ/2 ‖v‖², v the gradients of all players for themselves.

    ‖v‖² is 0 at equilibria alone; its gradient pulls a turning field inwards. The metrics of each
    loss stay, and `field` is ‖v‖². v is of the whole batch, on however many devices it is.

    Args:
        losses: each player's, by his name among the parameters.
        gamma: γ.
    """

    def square(params: PyTree, mutables: PyTree, key: Key, batch: Batch) -> Array:
        total = jnp.zeros(())
        for name, loss in losses.items():

            def of_one(own: PyTree, name: str = name, loss: Loss = loss) -> Array:
                return loss({**params, name: own}, mutables, key, batch)[0]

            # The mean before the square: what `descent` averages then is ∇½‖v‖² of the whole.
            v = mean_over_replicas(jax.grad(of_one)(params[name]))
            total += optax.tree.norm(v, squared=True)
        return total

    def with_consensus(loss: Loss) -> Loss:
        def total(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
            value, (metrics, changed) = loss(params, mutables, key, batch)
            v = square(params, mutables, key, batch)
            return value + gamma / 2 * v, ({**metrics, "field": v}, changed)

        return total

    return {name: with_consensus(loss) for name, loss in losses.items()}


# --- the model -----------------------------------------------------------------------------------


def game(cfg: Config) -> Game:
    """`gan`'s, with the penalties and remedies whose weights are not 0."""
    weights = {name: getattr(cfg, name) for name in PENALTIES}
    penalties = tuple(PENALTIES[name](weight) for name, weight in weights.items() if weight)
    remedies = (instance_noise(cfg.noise, cfg.noise_steps),) if cfg.noise else ()
    return dataclasses.replace(gan.game(cfg), penalties=penalties, remedies=remedies)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    played, txs = game(cfg), ((tx, tx) if tx else players.adam(cfg))
    losses = games.moves(played)
    if cfg.consensus:
        losses = consensus(losses, cfg.consensus)
    return play(played, *txs, ema_decay=cfg.ema_decay, losses=losses)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
