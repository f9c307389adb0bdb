r"""MADE: masked autoencoder for distribution estimation.

Germain, Gregor, Murray & Larochelle 2015, *MADE: Masked Autoencoder for Distribution Estimation*
(1502.03509). Every input has a position d = 1..D in the order, every hidden unit k a number m(k) in
1..D-1. Masks remove the weights that would let an output depend on its own or later inputs:

    hidden from hidden  M^W_{k,k'} = 1[m(k) ≥ m(k')],    from the input: 1[m(k) ≥ d]
    output d            M^V_{d,k}  = 1[d > m(k)],        directly from the input: 1[d > d']

so output d is a function of x_<d only, and one pass gives all D conditionals. Training may sample
from several masks, each with its own hidden numbers and optionally its own order; ln p is then that
of their mixture.

A unit with m(k) = d is final once x_d is sampled. Step d of sampling therefore computes only the
units with m(k) = d of each layer: all steps together cost one pass, not D passes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import binary
from gengen.autoregressive.conditionals import check_positive
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = ["Config", "condition_of", "log_prob", "method", "network", "sample"]

LOG_PROB = "exact"  # of the binarised data


@dataclass(frozen=True)
class Config(binary.Config):
    """The fields of `binary.Config`, the layers and their masks."""

    hidden: tuple[int, ...] = (500,)  # units of the hidden layers
    direct_connections: bool = True  # weights directly from input to output
    num_masks: int = 1  # each step trains one of them, at random
    order_agnostic: bool = False  # each mask has its own order; the first has that of `order_seed`

    RENAMED: ClassVar[dict[str, str | None]] = {
        "widths": "hidden", "direct": "direct_connections", "masks": "num_masks",
        "orders": "order_agnostic",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's best network on binary MNIST: two layers of 8000, 32 masks.

        The optimiser, Adagrad with a rate of 0.01, is that of the authors' code for this network.
        """
        return cls(
            shape=(28, 28, 1), binarise="threshold", hidden=(8000, 8000), num_masks=32,
            direct_connections=True, order_agnostic=True, batch_size=100, optimizer="adagrad",
            learning_rate=0.01, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, as in `experiments/binary_likelihoods.py`."""
        return dataclasses.replace(super().for_task(task), num_masks=4, learning_rate=3e-3)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        check_positive(self, "num_masks")
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(
                f"Config.hidden = {self.hidden}; there must be at least one hidden layer"
            )


class Numbers(NamedTuple):
    """The positions and numbers of one mask, or of all masks [masks, ...].

    Attributes:
        d: the position of each input in the order, 1..D: int [D].
        m: the numbers m(k) of each layer's units: int [H] each.
    """

    d: np.ndarray
    m: tuple[np.ndarray, ...]


@cache
def numbers(D: int, hidden: tuple[int, ...], num_masks: int, order_agnostic: bool) -> Numbers:
    """Return the random numbers of all masks, a function of the arguments."""
    generator = np.random.default_rng(0)

    def one(mask: int) -> Numbers:
        d = 1 + (generator.permutation(D) if order_agnostic and mask else np.arange(D))
        m, least = [], 1
        for units in hidden:
            # Not below the minimum of the previous layer: such a unit would have no input.
            m.append(generator.integers(min(least, max(D - 1, 1)), max(D, 2), units))
            least = int(m[-1].min())
        return Numbers(d, tuple(m))

    return jax.tree.map(lambda *each: np.stack(each), *[one(mask) for mask in range(num_masks)])


class MADE(nn.Module):
    """A network: sequences ±1 [B, D], index [] of a mask → logits of p(x_d = 1 | x_<d) [B, D]."""

    D: int
    hidden: tuple[int, ...]
    direct_connections: bool = True
    num_masks: int = 1
    order_agnostic: bool = False

    def setup(self):
        sizes = (self.D, *self.hidden, self.D)
        normal, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.W = [self.param(f"W{i}", normal, pair) for i, pair in enumerate(pairs)]
        self.b = [self.param(f"b{i}", zeros, pair[1:]) for i, pair in enumerate(pairs)]
        if self.direct_connections:
            self.A = self.param("A", nn.initializers.normal(0.01), (self.D, self.D))

    def numbers(self, mask: Array | int) -> Numbers:
        """Return the numbers of one mask."""
        every = numbers(self.D, self.hidden, self.num_masks, self.order_agnostic)
        return jax.tree.map(lambda each: jnp.asarray(each)[mask], every)

    def masked(self, mask: Array | int) -> tuple[list[Array], Array]:
        """Return the masked weights [in, out] of each layer, and the direct ones [D, D]."""
        d, m = self.numbers(mask)
        layers = [d, *m]
        W = [
            W * (above >= below[:, None])
            for W, below, above in zip(self.W, layers, m, strict=False)
        ]
        W.append(self.W[-1] * (d > layers[-1][:, None]))
        direct = (
            self.A * (d > d[:, None]) if self.direct_connections else jnp.zeros((self.D, self.D))
        )
        return W, direct

    def __call__(self, x: Array, mask: Array | int = 0) -> Array:
        W, A = self.masked(mask)
        x = h = binary.bit(x)
        for weights, bias in zip(W[:-1], self.b, strict=False):
            h = jax.nn.relu(h @ weights + bias)
        return h @ W[-1] + self.b[-1] + x @ A

    def log_p(self, x: Array, mask: Array | None = None) -> Array:
        """Return ln p(x) [B], in nats, of one mask; None: of the mixture of all masks."""
        if mask is not None:
            return dist.bernoulli(x, self(x, mask))
        parts = jnp.stack([dist.bernoulli(x, self(x, k)) for k in range(self.num_masks)])
        return jax.nn.logsumexp(parts, axis=0) - np.log(self.num_masks)

    def sample(self, key: Key, x: Array, known: Array) -> Array:
        """Return sequences ±1 [B, D] that are x where known."""
        which_key, key = jax.random.split(key)
        parts = [self._sample(key, x, known, mask) for mask in range(self.num_masks)]
        # Observed dimensions come first in the order of the first mask only.
        which = jnp.where(
            known.any(1), 0, (rng.uniform(which_key, (len(x),)) * self.num_masks).astype(int)
        )
        return jnp.stack(parts)[which, jnp.arange(len(x))]

    def _sample(self, key: Key, x: Array, known: Array, mask: int) -> Array:
        """Sample with one mask; each step computes only the units that its dimension completes."""
        W, A = self.masked(mask)
        every = numbers(self.D, self.hidden, self.num_masks, self.order_agnostic)
        place = np.argsort(every.d[mask])  # index of the d-th input
        units = [_with_number(m[mask], self.D) for m in every.m]

        def step(carry: tuple[Array, list[Array]], now: tuple[Array, ...]):
            bits, hidden = carry
            i, u, finals = now[0], now[1], now[2:]
            logit = self.b[-1][i] + hidden[-1] @ W[-1][:, i] + bits @ A[:, i]
            new_bit = binary.sample_bit(u, logit, x[:, i], known[:, i])
            bits = bits.at[:, i].set(binary.bit(new_bit))
            below, hidden = bits, list(hidden)
            for layer, final in enumerate(finals):
                # Padding indices read some unit's row, and are dropped when written.
                new = jax.nn.relu(below @ W[layer][:, final] + self.b[layer][final])
                below = hidden[layer] = hidden[layer].at[:, final].set(new, mode="drop")
            return (bits, hidden), None

        start = jnp.zeros_like(x), [jnp.zeros((len(x), units)) for units in self.hidden]
        each = (jnp.asarray(place), rng.uniform(key, x.shape).T, *map(jnp.asarray, units))
        return 2 * jax.lax.scan(step, start, each)[0][0] - 1


def _with_number(m: np.ndarray, D: int) -> np.ndarray:
    """Return the units with m(k) = d, for d = 1..D: int [D, most], padded with H."""
    each = [np.flatnonzero(m == d) for d in range(1, D + 1)]
    most = max(len(units) for units in each)
    return np.stack([np.pad(u, (0, most - len(u)), constant_values=len(m)) for u in each])


def network(cfg: Config) -> MADE:
    """Return the network of a Config."""
    return MADE(
        binary.dims(cfg), cfg.hidden, cfg.direct_connections, cfg.num_masks, cfg.order_agnostic
    )


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:
    """Return ln p of the binary images of x [B, *shape]: [B], in nats. See `binary.log_prob`."""
    return binary.log_prob(cfg, net or network(cfg), variables, x, key, condition)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
    observation: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Return `num` binary images: ±1, float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise.
        num: number of samples.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
        observation: examples to complete, [num, *shape] or broadcastable to it; only the first
            mask is used then.
        mask: true where they are observed: see `conditionals.check_observation`.
    """
    return binary.sample(
        cfg, net or network(cfg), variables, key, num, condition, observation, mask
    )


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by maximum likelihood, with a random mask in each step. Metric: `loss`, nats/example.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, with the methods `log_p(x, mask)` and
            `sample(key, x, known)` of sequences x, ±1 [B, D]: see `gengen.autoregressive.binary`.
    """

    def which(key: Key) -> tuple[Array]:
        return (jax.random.randint(key, (), 0, cfg.num_masks),)

    return binary.maximum_likelihood(cfg, net or network(cfg), tx, which)
