r"""GAN whose discriminator compares examples: minibatch discrimination or standard deviation.

A discriminator of single examples cannot tell a generator that always makes the same good example
from one that makes many. Two layers let it compare the rows of a batch:

Minibatch discrimination (Salimans et al. 2016, 1606.03498, §3.2). From features f(xᵢ) ∈ R^A and a
tensor T ∈ R^{A×B×C}, Mᵢ = f(xᵢ) T ∈ R^{B×C},

    o(xᵢ)_b = Σⱼ exp(-‖M_{i,b} - M_{j,b}‖₁)          is concatenated to f(xᵢ)

The sum contains j = i, a constant 1, as in the paper; `itself=False` leaves it out.

Minibatch standard deviation (Karras et al. 2018, 1710.10196, §3). The standard deviation of each
number over the batch, √(var + ε), averaged over all numbers, is concatenated to every example.

Both are of the *global* batch, or of groups of it: row i is in group i mod (B / group_size), so
that the number of devices changes nothing. A penalty on ∇D then applies to the sum of the logits of
all rows, not to each row's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import Game, Networks, play, with_networks
from gengen.rng import of_all_replicas, own_rows
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = [
    "Config", "Discriminator", "LAYERS", "MinibatchDiscrimination", "closeness", "condition_of",
    "deviation", "game", "method", "sample", "with_deviation",
]  # fmt: skip

EPSILON = 1e-8  # ε under the root
LAYERS = ("discrimination", "deviation")  # the second is the standard deviation


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with one of the two layers before the discriminator's last."""

    layer: str = "discrimination"  # or "deviation"
    num_kernels: int = 8  # B, of minibatch discrimination
    kernel_dim: int = 4  # C, of each kernel
    group_size: int = 32  # rows that are compared, at most the whole batch; 0: the whole batch

    RENAMED: ClassVar[dict[str, str | None]] = {
        "kernels": "num_kernels", "dims": "kernel_dim", "group": "group_size",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the training of Salimans et al. 2016 on CIFAR-10, and their layer's size.

        Their networks have nine layers with weight normalisation, dropout and noise, and they train
        semi-supervised with feature matching.
        """
        return cls(
            shape=(32, 32, 3), latent_dim=100, channels=(96, 192, 192), hidden=(192, 192),
            batch_size=100, learning_rate=3e-4, discriminator_learning_rate=3e-4, b1=0.5, b2=0.999,
            decay_steps=0, ema_decay=0.0, loss="nonsaturating", layer="discrimination",
            num_kernels=100, kernel_dim=5, group_size=0,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if self.layer not in LAYERS:
            raise InputError(f"Config.layer = {self.layer!r}; it must be one of {LAYERS}")
        for name in ("num_kernels", "kernel_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        size = min(self.group_size, self.batch_size)
        if size < 0 or (size and self.batch_size % size):
            raise InputError(
                f"Config.batch_size = {self.batch_size} is not a multiple of Config.group_size = "
                f"{self.group_size}"
            )


# --- the layers ----------------------------------------------------------------------------------


def _groups(x: Array, size: int) -> Array:
    """Reshape x [B, ...] to [size, B / size, ...]: row i is in group i mod (B / size)."""
    size = min(size or len(x), len(x))  # networks are initialised with a single row
    if len(x) % size:
        raise InputError(
            f"a batch of {len(x)} cannot be split into groups of {size}: set group_size=0"
        )
    return x.reshape(size, len(x) // size, *x.shape[1:])


def closeness(M: Array, group_size: int = 0, itself: bool = True) -> Array:
    """Return Σⱼ exp(-‖M_{i,b} - M_{j,b}‖₁) over the rows j of i's group: [B, num_kernels].

    Args:
        M: of this replica's examples, [B, num_kernels, kernel_dim].
        group_size: rows of a group; 0: all.
        itself: whether the sum contains j = i.
    """
    rows = _groups(of_all_replicas(M), group_size)
    apart = jnp.abs(rows[:, None] - rows[None]).sum(-1)  # [i, j, groups, num_kernels]
    close = jnp.exp(-apart).sum(1).reshape(-1, M.shape[1])
    return own_rows(close, len(M)) - (0.0 if itself else 1.0)


def deviation(x: Array, group_size: int = 0, epsilon: float = EPSILON) -> Array:
    """Return √(var + ε) over each row's group, averaged over the numbers of an example: [B].

    Args:
        x: of this replica's examples, [B, ...].
        group_size: rows of a group; 0: all.
        epsilon: ε.
    """
    rows = _groups(of_all_replicas(x.reshape(len(x), -1)), group_size)
    of_group = jnp.sqrt(rows.var(0) + epsilon).mean(-1)  # [groups]
    return own_rows(jnp.tile(of_group, len(rows)), len(x))


class MinibatchDiscrimination(nn.Module):
    """f [B, A] → [B, A + num_kernels]: the features, and how close the other rows are."""

    num_kernels: int = 50
    kernel_dim: int = 5
    group_size: int = 0
    itself: bool = True

    @nn.compact
    def __call__(self, f: Array) -> Array:
        M = nn.Dense(self.num_kernels * self.kernel_dim, use_bias=False)(f)
        M = M.reshape(-1, self.num_kernels, self.kernel_dim)
        return jnp.concatenate([f, closeness(M, self.group_size, self.itself)], axis=1)


def with_deviation(x: Array, group_size: int = 0) -> Array:
    """Concatenate the batch's standard deviation to x [B, ..., C], as a channel."""
    plane = deviation(x, group_size).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.concatenate([x, jnp.broadcast_to(plane, (*x.shape[:-1], 1))], axis=-1)


# --- the model -----------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """D: x [B, *shape] → logits [B], from features that compare the rows."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        cfg = self.cfg
        if x.ndim == 4:
            for features in cfg.channels:
                x = nn.leaky_relu(nn.Conv(features, (4, 4), (2, 2))(x), 0.2)
        f = x.reshape(len(x), -1)
        for size in cfg.hidden if x.ndim == 2 or not cfg.channels else cfg.hidden[-1:]:
            f = nn.leaky_relu(nn.Dense(size)(f), 0.2)
        if cfg.layer == "deviation":
            f = with_deviation(f, cfg.group_size)
        else:
            f = MinibatchDiscrimination(cfg.num_kernels, cfg.kernel_dim, cfg.group_size)(f)
        return nn.Dense(1)(f)[:, 0]


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return `gan`'s game with a discriminator that compares rows, or the user's networks."""
    own = dataclasses.replace(gan.game(cfg), discriminator=Discriminator(cfg))
    return with_networks(own, net)


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
