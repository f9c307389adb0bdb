r"""GAN with experience replay: the discriminator is shown samples of earlier generators too.

Shrivastava et al. 2017, *Learning from Simulated and Unsupervised Images through Adversarial
Training* (1612.07828, §2.3); as the pool of CycleGAN (1703.10593). A discriminator that sees the
newest samples alone forgets what the generator did before, and the generator goes back to it.

Samples go into a buffer until it is full. From then on each sample, with probability ½, changes
places with one of the buffer, and the discriminator is shown what it was changed for; no place is
taken twice in a step. The generator is judged by its own samples.

The buffer is part of the state: the same under jit, on many devices (all keep the same one, of
samples of the global batch) and after a resume.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Game, Remedy, play
from gengen.gan.minibatch import of_all_replicas, own_rows
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with a buffer."""

    capacity: int = 1024  # samples in the buffer
    probability: float = 0.5  # that a sample is changed for an earlier one

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.capacity < self.batch_size:
            raise InputError(
                f"Config.capacity = {self.capacity}, but a step has batch_size = "
                f"{self.batch_size} samples: the buffer holds at least as many"
            )
        if not 0 <= self.probability <= 1:
            raise InputError(f"Config.probability = {self.probability}, but it is in [0, 1]")


def replay(capacity: int, probability: float = 0.5) -> Remedy:
    """A buffer of samples, between the generator and the discriminator.

    Args:
        capacity: of the buffer; at least the samples of a step.
        probability: that a sample is changed for one of a full buffer.

    Raises:
        InputError: once a step has more samples than there are places.
    """

    def init(x: Array) -> PyTree:
        return {"buffer": jnp.zeros((capacity, *x.shape[1:])), "filled": jnp.int32(0)}

    def shown(params: PyTree, state: PyTree, key: Key, real: Array, fake: Array):
        fresh = of_all_replicas(jax.lax.stop_gradient(fake))
        first, num = of_all_replicas(rng.positions(len(fake))[0])[0], len(fresh)
        if num > capacity:
            raise InputError(f"capacity = {capacity}, but a step has {num} samples: at least those")
        buffer, filled = state["buffer"], state["filled"]
        # The first row's key, so that the parts of an accumulated batch draw differently.
        place_key, swap_key = jax.random.split(jax.random.fold_in(key, first))
        full = filled >= capacity
        # Where the last rows do not fit any more they take the places of those just before.
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

    return Remedy("replay", shown, init=init, keeps_labels=False)


def game(cfg: Config) -> Game:
    """`gan`'s, with the buffer."""
    return dataclasses.replace(gan.game(cfg), remedies=(replay(cfg.capacity, cfg.probability),))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
