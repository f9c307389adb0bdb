r"""GAN with experience replay: the discriminator is also trained on samples of earlier generators.

Shrivastava et al. 2017, *Learning from Simulated and Unsupervised Images through Adversarial
Training* (1612.07828, §2.3); as the pool of CycleGAN (1703.10593). A discriminator that is trained
only on the newest samples forgets the earlier ones, and the generator returns to them.

Samples go into a buffer until it is full. From then on each sample is swapped, with probability ½,
for one of the buffer, and the discriminator is trained on that one; no place is used twice in a
step. The generator is trained on its own samples.

The buffer is part of the state: the same under jit, on many devices (all keep the same one, of
samples of the global batch) and after a resume.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import Game, Networks, Transform, play
from gengen.rng import of_all_replicas, own_rows
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = ["Config", "condition_of", "game", "method", "replay", "sample"]


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with a buffer."""

    capacity: int = 1024  # samples in the buffer
    probability: float = 0.5  # that a sample is swapped for an earlier one

    @classmethod
    def paper(cls) -> Self:
        """Return the buffer and the batch of the paper on 35×55 eye images.

        Replay has no network of its own. The paper's generator is a residual network that refines
        simulated images, and is trained by gradient descent; here it is a perceptron of z, trained
        by Adam.
        """
        return cls(
            shape=(35, 55, 1), latent_dim=64, channels=(), hidden=(256, 256), batch_size=512,
            learning_rate=1e-3, discriminator_learning_rate=1e-3, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating", capacity=12_800, probability=0.5,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        fields = networks.task_fields(task)
        return dataclasses.replace(cls(), **fields, capacity=16 * fields["batch_size"])

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if self.capacity < self.batch_size:
            raise InputError(
                f"Config.capacity = {self.capacity}; it must be at least Config.batch_size = "
                f"{self.batch_size}, the number of samples of a step"
            )
        if not 0 <= self.probability <= 1:
            raise InputError(f"Config.probability = {self.probability}; it must be in [0, 1]")


def replay(capacity: int, probability: float = 0.5, name: str = "replay") -> Transform:
    """Return the transform that replaces some samples by earlier ones from a buffer.

    Args:
        capacity: of the buffer; at least the number of samples of a step.
        probability: that a sample is swapped for one of a full buffer.
        name: of the buffer in the state; two buffers of one game have two names.

    Raises:
        InputError: when a step has more samples than the buffer.
    """

    def init(x: Array) -> PyTree:
        return {"buffer": jnp.zeros((capacity, *x.shape[1:])), "filled": jnp.int32(0)}

    def in_discriminator_step(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        fresh = of_all_replicas(jax.lax.stop_gradient(fake))
        first, num = of_all_replicas(rng.positions(len(fake))[0])[0], len(fresh)
        if num > capacity:
            raise InputError(
                f"capacity = {capacity}; it must be at least the {num} samples of a step"
            )
        buffer, filled = state["buffer"], state["filled"]
        # The first row's key, so that the parts of an accumulated batch use different keys.
        place_key, swap_key = jax.random.split(jax.random.fold_in(key, first))
        full = filled >= capacity
        # Where the last rows do not fit, they take the places of those just before.
        at = jnp.where(
            full,
            jax.random.permutation(place_key, capacity)[:num],
            jnp.minimum(filled, capacity - num) + jnp.arange(num),
        )
        swapped = full & jax.random.bernoulli(swap_key, probability, (num,))
        swapped = swapped.reshape(-1, *(1,) * (fresh.ndim - 1))
        earlier = buffer[at]
        buffer = buffer.at[at].set(jnp.where(full & ~swapped, earlier, fresh))
        out = jnp.where(swapped, earlier, fresh)
        state = {"buffer": buffer, "filled": jnp.minimum(filled + num, capacity)}
        return real, own_rows(out, len(fake)), state

    return Transform(name, in_discriminator_step, init=init, keeps_labels=False)


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return `gan`'s game with the buffer."""
    transforms = (replay(cfg.capacity, cfg.probability),)
    return dataclasses.replace(gan.game(cfg, net), transforms=transforms)


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
