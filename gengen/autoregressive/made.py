r"""MADE: an autoencoder with masks.

Germain, Gregor, Murray & Larochelle 2015, *MADE: Masked Autoencoder for Distribution Estimation*
(1502.03509). Every input has its place d = 1..D in the order, every hidden unit k a number m(k) in
1..D-1, and a weight is kept only where it leads from what may be known to what may know it:

    hidden from below   M^W_{k,k'} = 1[m(k) ≥ m(k')],    from the input: 1[m(k) ≥ d]
    output d            M^V_{d,k}  = 1[d > m(k)],        straight from the input: 1[d > d']

so that output d is a function of x_<d alone, and one pass gives all D conditionals. Training may
take turns between several masks, each with hidden numbers of its own and, if asked, an order of its
own; ln p is then that of the mixture of them all.

A unit with m(k) = d is final once x_d is drawn. So at step d a draw needs of each layer only
the rows with m(k) = d: all steps together cost one pass, not D of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

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
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(binary.Config):
    """That of the family, and of the layers and their masks."""

    widths: tuple[int, ...] = (500,)  # hidden layers
    direct: bool = True  # weights straight from the input
    masks: int = 1  # that training takes turns between
    orders: bool = False  # each mask has an order of its own; the first that of `order`

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        check_positive(self, "masks")
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"Config.widths = {self.widths}: at least one hidden layer")


class Numbers(NamedTuple):
    """The numbers of one mask, or of all of them [masks, ...].

    Attributes:
        d: the place of each input in the order, 1..D: int [D].
        m: the numbers of each layer's units: int [H] each.
    """

    d: np.ndarray
    m: tuple[np.ndarray, ...]


@cache
def numbers(D: int, widths: tuple[int, ...], masks: int, orders: bool) -> Numbers:
    """Every mask's numbers, drawn at random, the same for the same arguments."""
    draw = np.random.default_rng(0)

    def one(mask: int) -> Numbers:
        d = 1 + (draw.permutation(D) if orders and mask else np.arange(D))
        m, least = [], 1
        for width in widths:
            # Not below the least of the layer below: such a unit would be told nothing.
            m.append(draw.integers(min(least, max(D - 1, 1)), max(D, 2), width))
            least = int(m[-1].min())
        return Numbers(d, tuple(m))

    return jax.tree.map(lambda *each: np.stack(each), *[one(mask) for mask in range(masks)])


class MADE(nn.Module):
    """Sequences ±1 [B, D], and the mask's number [] → the logits of p(x_d = 1 | x_<d) [B, D]."""

    D: int
    widths: tuple[int, ...]
    direct: bool = True
    masks: int = 1
    orders: bool = False

    def setup(self):
        sizes = (self.D, *self.widths, self.D)
        normal, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.W = [self.param(f"W{i}", normal, pair) for i, pair in enumerate(pairs)]
        self.b = [self.param(f"b{i}", zeros, pair[1:]) for i, pair in enumerate(pairs)]
        if self.direct:
            self.A = self.param("A", nn.initializers.normal(0.01), (self.D, self.D))

    def numbers(self, mask: Array | int) -> Numbers:
        """Those of one mask."""
        every = numbers(self.D, self.widths, self.masks, self.orders)
        return jax.tree.map(lambda each: jnp.asarray(each)[mask], every)

    def masked(self, mask: Array | int) -> tuple[list[Array], Array]:
        """The weights [in, out] of each layer, and those straight from the input [D, D]."""
        d, m = self.numbers(mask)
        layers = [d, *m]
        W = [
            W * (above >= below[:, None])
            for W, below, above in zip(self.W, layers, m, strict=False)
        ]
        W.append(self.W[-1] * (d > layers[-1][:, None]))
        return W, self.A * (d > d[:, None]) if self.direct else jnp.zeros((self.D, self.D))

    def __call__(self, x: Array, mask: Array | int = 0) -> Array:
        W, A = self.masked(mask)
        x = h = binary.bit(x)
        for weights, bias in zip(W[:-1], self.b, strict=False):
            h = jax.nn.relu(h @ weights + bias)
        return h @ W[-1] + self.b[-1] + x @ A

    def log_p(self, x: Array, mask: Array | None = None) -> Array:
        """Ln p(x) [B], in nats, by one mask; None: of the mixture of all of them."""
        if mask is not None:
            return dist.bernoulli(x, self(x, mask))
        parts = jnp.stack([dist.bernoulli(x, self(x, k)) for k in range(self.masks)])
        return jax.nn.logsumexp(parts, axis=0) - np.log(self.masks)

    def draw(self, key: Key, x: Array, known: Array) -> Array:
        """Sequences ±1 [B, D] that are x where known."""
        which_key, key = jax.random.split(key)
        parts = [self._draw(key, x, known, mask) for mask in range(self.masks)]
        # What is known comes first in the first mask's order alone.
        which = jnp.where(
            known.any(1), 0, (rng.uniform(which_key, (len(x),)) * self.masks).astype(int)
        )
        return jnp.stack(parts)[which, jnp.arange(len(x))]

    def _draw(self, key: Key, x: Array, known: Array, mask: int) -> Array:
        """By one mask: at each step only the units that its dimension makes final."""
        W, A = self.masked(mask)
        every = numbers(self.D, self.widths, self.masks, self.orders)
        place = np.argsort(every.d[mask])  # which input is the d-th
        units = [_with_number(m[mask], self.D) for m in every.m]

        def step(carry: tuple[Array, list[Array]], now: tuple[Array, ...]):
            seen, hidden = carry
            i, u, finals = now[0], now[1], now[2:]
            logit = self.b[-1][i] + hidden[-1] @ W[-1][:, i] + seen @ A[:, i]
            seen = seen.at[:, i].set(binary.bit(binary.draw(u, logit, x[:, i], known[:, i])))
            below, hidden = seen, list(hidden)
            for layer, final in enumerate(finals):
                # What stands for no unit reads some unit's row and is dropped when it is written.
                new = jax.nn.relu(below @ W[layer][:, final] + self.b[layer][final])
                below = hidden[layer] = hidden[layer].at[:, final].set(new, mode="drop")
            return (seen, hidden), None

        start = jnp.zeros_like(x), [jnp.zeros((len(x), width)) for width in self.widths]
        each = (jnp.asarray(place), rng.uniform(key, x.shape).T, *map(jnp.asarray, units))
        return 2 * jax.lax.scan(step, start, each)[0][0] - 1


def _with_number(m: np.ndarray, D: int) -> np.ndarray:
    """Which units have m(k) = d, for d = 1..D: int [D, most], filled up with H, which is none."""
    each = [np.flatnonzero(m == d) for d in range(1, D + 1)]
    most = max(len(units) for units in each)
    return np.stack([np.pad(u, (0, most - len(u)), constant_values=len(m)) for u in each])


def network(cfg: Config) -> MADE:
    """The network of a Config."""
    return MADE(binary.dims(cfg), cfg.widths, cfg.direct, cfg.masks, cfg.orders)


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """Ln p of the binary images of x [B, *shape]: [B], in nats; `key` of the binarisation."""
    return binary.log_prob(cfg, network(cfg), variables, x, key)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    given: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Draw `num` binary images: ±1, float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        given: examples to complete, [num, *shape] or what broadcasts to it: by the first mask.
        mask: true where they are known: see `binary.check_given`.
    """
    return binary.sample(cfg, network(cfg), variables, key, num, given, mask)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb ln p(x), each step by one of the masks; `tx` for Adam. Metric: `loss`, nats/example."""

    def which(key: Key) -> tuple[Array]:
        return (jax.random.randint(key, (), 0, cfg.masks),)

    return binary.maximum_likelihood(cfg, network(cfg), tx, which)
