r"""GAN that sees a batch at once: minibatch discrimination, or the minibatch's deviation.

A discriminator of single examples cannot tell a generator that draws one good example for ever
from one that draws many. Two layers let it look at the other rows:

Minibatch discrimination (Salimans et al. 2016, 1606.03498, §3.2). From features f(xᵢ) ∈ R^A and a
tensor T ∈ R^{A×B×C}, Mᵢ = f(xᵢ) T ∈ R^{B×C},

    o(xᵢ)_b = Σⱼ exp(-‖M_{i,b} - M_{j,b}‖₁)          stands beside f(xᵢ)

The sum contains j = i, a constant 1, as in the paper; `itself=False` leaves it out.

Minibatch deviation (Karras et al. 2018, 1710.10196, §3). The standard deviation of each number over
the batch, √(var + ε), averaged over all numbers to one, which stands beside every example.

Both are of the *global* batch, or of groups of it: row i is in group i mod (B / group), so that
how many devices share the batch changes nothing. A penalty on ∇D then holds the sum of the logits
of all rows, not each for itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Game, play
from gengen.rng import AXIS, axis_is_bound
from gengen.types import Array, InputError, Key, Method, PyTree

EPSILON = 1e-8  # ε under the root
LAYERS = ("discrimination", "deviation")


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, with one of the two layers before the discriminator's last."""

    layer: str = "discrimination"  # or "deviation"
    kernels: int = 50  # B, of minibatch discrimination
    dims: int = 5  # C, of each kernel
    group: int = 0  # rows that are compared with each other; 0: the whole batch

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.layer not in LAYERS:
            raise InputError(f"Config.layer = {self.layer!r}, not one of {LAYERS}")
        for name in ("kernels", "dims"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 1")
        if self.group < 0 or (self.group and self.batch_size % self.group):
            raise InputError(
                f"Config.batch_size = {self.batch_size} is no multiple of Config.group = "
                f"{self.group}"
            )


# --- the layers ----------------------------------------------------------------------------------


def of_all_replicas(x: Array) -> Array:
    """The rows of the global batch: x [B, ...] of this replica and of the others, in order."""
    return jax.lax.all_gather(x, AXIS, tiled=True) if axis_is_bound() else x


def own_rows(x: Array, num: int) -> Array:
    """This replica's rows of what `of_all_replicas` gave."""
    if not axis_is_bound():
        return x
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * num, num)


def _groups(x: Array, size: int) -> Array:
    """[B, ...] → [group, B/group, ...]: row i is in group i mod (B / group)."""
    size = min(size or len(x), len(x))  # a network is first shown a single row
    if len(x) % size:
        raise InputError(f"a batch of {len(x)} examples has no groups of {size}: set group=0")
    return x.reshape(size, len(x) // size, *x.shape[1:])


def closeness(M: Array, group: int = 0, itself: bool = True) -> Array:
    """Σⱼ exp(-‖M_{i,b} - M_{j,b}‖₁) over the rows j of i's group: [B, kernels].

    Args:
        M: of this replica's examples, [B, kernels, dims].
        group: rows of a group; 0: all.
        itself: whether the sum contains j = i.
    """
    rows = _groups(of_all_replicas(M), group)
    apart = jnp.abs(rows[:, None] - rows[None]).sum(-1)  # [i, j, groups, kernels]
    close = jnp.exp(-apart).sum(1).reshape(-1, M.shape[1])
    return own_rows(close, len(M)) - (0.0 if itself else 1.0)


def deviation(x: Array, group: int = 0, epsilon: float = EPSILON) -> Array:
    """√(var + ε) over each row's group, averaged over all numbers of an example: [B, ...] → [B].

    Args:
        x: of this replica's examples.
        group: rows of a group; 0: all.
        epsilon: ε.
    """
    rows = _groups(of_all_replicas(x.reshape(len(x), -1)), group)
    of_group = jnp.sqrt(rows.var(0) + epsilon).mean(-1)  # [groups]
    return own_rows(jnp.tile(of_group, len(rows)), len(x))


class MinibatchDiscrimination(nn.Module):
    """f [B, A] → [B, A + kernels]: the features, and how close the other rows are."""

    kernels: int = 50
    dims: int = 5
    group: int = 0
    itself: bool = True

    @nn.compact
    def __call__(self, f: Array) -> Array:
        M = nn.Dense(self.kernels * self.dims, use_bias=False)(f)
        M = M.reshape(-1, self.kernels, self.dims)
        return jnp.concatenate([f, closeness(M, self.group, self.itself)], axis=1)


def with_deviation(x: Array, group: int = 0) -> Array:
    """X [B, ..., C] → [B, ..., C + 1]: the deviation of the batch as a channel of its own."""
    plane = deviation(x, group).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.concatenate([x, jnp.broadcast_to(plane, (*x.shape[:-1], 1))], axis=-1)


# --- the model -----------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """D: x [B, *shape] → logits [B], of features that know of the other rows."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        cfg = self.cfg
        if x.ndim == 4:
            for features in cfg.channels:
                x = nn.leaky_relu(nn.Conv(features, (4, 4), (2, 2))(x), 0.2)
        f = x.reshape(len(x), -1)
        for width in cfg.widths if x.ndim == 2 or not cfg.channels else cfg.widths[-1:]:
            f = nn.leaky_relu(nn.Dense(width)(f), 0.2)
        if cfg.layer == "deviation":
            f = with_deviation(f, cfg.group)
        else:
            f = MinibatchDiscrimination(cfg.kernels, cfg.dims, cfg.group)(f)
        return nn.Dense(1)(f)[:, 0]


def game(cfg: Config) -> Game:
    """`gan`'s, with a discriminator that sees the batch."""
    return dataclasses.replace(gan.game(cfg), discriminator=Discriminator(cfg))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
