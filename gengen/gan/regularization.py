r"""GAN with regularisers: penalties and transforms that go with any discriminator and any loss.

With φ = the logit of D, p the distribution of the data and q that of the samples:

    R1              γ/2 E_p ‖∇φ‖²                      Mescheder et al. 2018, 1801.04406
    R2              γ/2 E_q ‖∇φ‖²                      the same
    JS regulariser  γ/2 (E_p (1-D)² ‖∇φ‖² + E_q D² ‖∇φ‖²)    Roth et al. 2017, 1705.09367
    DRAGAN          λ E (‖∇φ(x + δ)‖ - 1)²             Kodali et al. 2017, 1705.07215
                    δ = c · std(x) · u,  u ~ U[0, 1]^D,  x ~ p
    instance noise  D is given x + σε and g(z) + σε'   Sønderby et al. 2017, 1610.04490;
                                                       Arjovsky & Bottou 2017, 1701.04862
    consensus       each player minimises loss + γ/2 ‖v‖², v = (∇_D loss_D, ∇_g loss_g)
                                                       Mescheder et al. 2017, 1705.10461

Roth's regulariser is what instance noise amounts to for small σ² = γ, without the noise. Instance
noise may fade: σ_t = σ max(0, 1 - t/T). Consensus does not regularise the discriminator but both
players: `consensus` maps their losses to others.

The model is `gan` with every regulariser whose weight is above 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import Discriminator, Game, Networks, Penalty, Transform, play
from gengen.gan.wgan_gp import gradient_penalty, gradients, norm
from gengen.optim import mean_over_replicas
from gengen.steps import Loss
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape

__all__ = [
    "Config", "PENALTIES", "condition_of", "consensus", "dragan", "game", "instance_noise",
    "js_regulariser", "method", "r1", "r2", "sample",
]  # fmt: skip

Noise = Callable[[Key, Shape], Array]  # (key, [B, ...]) -> of mean 0 and variance 1


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with the weight of each regulariser; 0 leaves it out."""

    r1: float = 10.0  # γ of R1
    r2: float = 0.0  # γ of R2
    js: float = 0.0  # γ of the JS regulariser
    dragan: float = 0.0  # λ of DRAGAN
    gradient_penalty: float = 0.0  # λ of WGAN-GP's penalty
    noise_std: float = 0.0  # σ of instance noise, in the data's units
    noise_steps: int = 0  # train steps until instance noise has faded: T; 0: it does not fade
    consensus: float = 0.0  # γ of consensus optimisation

    RENAMED: ClassVar[dict[str, str | None]] = {"noise": "noise_std"}

    @classmethod
    def paper(cls) -> Self:
        """Return R1 with the constants of Mescheder et al. 2018, on images of 128×128.

        A regulariser has no network of its own. The paper's networks are residual
        (`gengen.gan.resnet_gan`); these are strided convolutions.
        """
        return cls(
            shape=(128, 128, 3), latent_dim=256, channels=(64, 128, 256, 512, 1024), batch_size=64,
            learning_rate=1e-4, discriminator_learning_rate=1e-4, b1=0.0, b2=0.99, decay_steps=0,
            ema_decay=0.999, loss="nonsaturating", r1=10.0, r2=0.0, js=0.0, dragan=0.0,
            gradient_penalty=0.0, noise_std=0.0, noise_steps=0, consensus=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        fields = networks.task_fields(task) | ({"r1": 0.1} if len(task.shape) == 1 else {})
        return dataclasses.replace(cls(), **fields)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        for name in (*PENALTIES, "noise_std", "noise_steps", "consensus"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")


# --- penalties -----------------------------------------------------------------------------------


def _squares(D: Discriminator, x: Array) -> Array:
    """Return ‖∇φ‖² at each x: [B]."""
    return jnp.sum(gradients(D, x) ** 2, axis=1)


def r1(gamma: float = 10.0) -> Penalty:
    """Return the penalty γ/2 E_p ‖∇φ‖² on D's gradient at real examples."""
    return Penalty("r1", lambda D, real, fake, key: gamma / 2 * _squares(D, real).mean())


def r2(gamma: float = 10.0) -> Penalty:
    """Return the penalty γ/2 E_q ‖∇φ‖² on D's gradient at fake examples."""
    return Penalty("r2", lambda D, real, fake, key: gamma / 2 * _squares(D, fake).mean())


def js_regulariser(gamma: float = 0.1) -> Penalty:
    """Return the penalty γ/2 (E_p (1-D)² ‖∇φ‖² + E_q D² ‖∇φ‖²)."""

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        on_real, on_fake = jax.nn.sigmoid(-D(real)), jax.nn.sigmoid(D(fake))
        each = on_real**2 * _squares(D, real) + on_fake**2 * _squares(D, fake)
        return gamma / 2 * each.mean()

    return Penalty("js_regulariser", of)


def dragan(weight: float = 10.0, c: float = 0.5) -> Penalty:
    """Return the penalty λ E (‖∇φ(x + δ)‖ - 1)² near real examples, δ = c · std(x) · u.

    u is uniform in [0, 1] for each number of x; std is over all numbers of the batch. This is the
    noise of the authors' code; the paper writes δ ~ N(0, cI).
    """

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        mean = mean_over_replicas(real.mean())
        std = jnp.sqrt(mean_over_replicas(((real - mean) ** 2).mean()))
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


# --- transforms ----------------------------------------------------------------------------------


def instance_noise(sigma: float, steps: int = 0, noise: Noise = rng.normal) -> Transform:
    """Return the transform that gives D x + σε and g(z) + σε', in the steps of both players.

    Args:
        sigma: σ, in the data's units.
        steps: number of D's steps in which σ falls linearly to 0; 0: it is constant.
        noise: samples ε.
    """

    def scale(state: PyTree) -> Array | float:
        return sigma * jnp.maximum(1 - state["moves"] / steps, 0) if steps else sigma

    def in_discriminator_step(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        now = scale(state)
        real_key, fake_key = jax.random.split(key)
        real = real + now * noise(real_key, real.shape)
        fake = fake + now * noise(fake_key, fake.shape)
        return real, fake, {"moves": state["moves"] + 1} if steps else state

    def in_generator_step(state: PyTree, key: Key, fake: Array) -> Array:
        return fake + scale(state) * noise(key, fake.shape)

    def init(x: Array) -> PyTree:
        return {"moves": jnp.int32(0)} if steps else {}

    return Transform("instance_noise", in_discriminator_step, in_generator_step, init)


# --- consensus -----------------------------------------------------------------------------------


def squared_field(losses: Mapping[str, Loss]) -> Callable[[PyTree, PyTree, Key, Batch], Array]:
    """Return (params, mutables, key, batch) -> ‖v‖², v being the gradients of all players' losses.

    v is that of the whole batch, on any number of devices. All losses get the same key.

    Args:
        losses: what each player minimises, by its name among the parameters.
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

    return square


def consensus(losses: Mapping[str, Loss], gamma: float) -> dict[str, Loss]:
    """Return losses with γ/2 ‖v‖² added, v being the gradients of all players' own losses.

    ‖v‖² is 0 only at equilibria; its gradient turns a rotating field inwards. The metrics of each
    loss stay, and `field` is ‖v‖². `gengen.gan.simultaneous.descend` moves all players at once, and
    takes v only once.

    Args:
        losses: what each player minimises, by its name among the parameters.
        gamma: γ.
    """
    square = squared_field(losses)

    def with_consensus(loss: Loss) -> Loss:
        def total(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
            value, (metrics, changed) = loss(params, mutables, key, batch)
            v = square(params, mutables, key, batch)
            return value + gamma / 2 * v, ({**metrics, "field": v}, changed)

        return total

    return {name: with_consensus(loss) for name, loss in losses.items()}


# --- the model -----------------------------------------------------------------------------------


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return `gan`'s game with the penalties and transforms whose weights are not 0."""
    weights = {name: getattr(cfg, name) for name in PENALTIES}
    penalties = tuple(PENALTIES[name](weight) for name, weight in weights.items() if weight)
    transforms = (instance_noise(cfg.noise_std, cfg.noise_steps),) if cfg.noise_std else ()
    return dataclasses.replace(gan.game(cfg, net), penalties=penalties, transforms=transforms)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player. `tx` replaces Adam; `net`: as in `gan.method`."""
    played, txs = game(cfg, net), ((tx, tx) if tx else networks.adam(cfg))
    losses = games.player_losses(played)
    if cfg.consensus:
        losses = consensus(losses, cfg.consensus)
    return play(played, *txs, ema_decay=cfg.ema_decay, losses=losses)


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
