r"""NADE: neural autoregressive distribution estimator.

Larochelle & Murray 2011, *The Neural Autoregressive Distribution Estimator* (AISTATS). Each
dimension d has a hidden layer, and all layers share their weights:

    p(x_d = 1 | x_<d) = σ(b_d + V_d · h_d),    h_d = σ(c + W_:,<d x_<d),    x in {0, 1}^D

The activations are computed recursively, a_1 = c, a_{d+1} = a_d + W_:,d x_d: ln p and a sample cost
O(DH) each, not O(D²H).

If `tied` is false, each dimension has weights of its own, W_d and c_d instead of W and c: O(D²H)
parameters, to measure the value of sharing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import binary
from gengen.autoregressive.conditionals import check_positive
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.types import Array, Key, Method, PyTree

__all__ = ["Config", "condition_of", "log_prob", "method", "network", "sample"]

LOG_PROB = "exact"  # of the binarised data


@dataclass(frozen=True)
class Config(binary.Config):
    """The fields of `binary.Config`, and the hidden layer."""

    hidden_dim: int = 500  # H, hidden units
    tied: bool = True  # whether all dimensions share W and c

    RENAMED: ClassVar[dict[str, str | None]] = {"H": "hidden_dim"}

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's network on binary MNIST: 500 hidden units, a random order.

        As in the paper it is trained by stochastic gradient descent. The paper chooses the rate and
        its decrease by validation; a constant 0.005 is our choice.
        """
        return cls(
            shape=(28, 28, 1), binarise="threshold", order_seed=1, hidden_dim=500, tied=True,
            optimizer="sgd", learning_rate=5e-3, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, as in `experiments/binary_likelihoods.py`."""
        return dataclasses.replace(super().for_task(task), hidden_dim=200, learning_rate=1e-2)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        check_positive(self, "hidden_dim")


class NADE(nn.Module):
    """A network: sequences ±1 [B, D] → logits of p(x_d = 1 | x_<d) [B, D]."""

    D: int
    H: int
    tied: bool = True

    def setup(self):
        D, H, normal = self.D, self.H, nn.initializers.normal
        each = () if self.tied else (D,)
        # W[j] is added with x_j: to a [H], or to the a of each dimension, [D, H].
        self.W = self.param("W", normal(D**-0.5), (D, *each, H))
        self.c = self.param("c", nn.initializers.zeros, (*each, H))
        self.V = self.param("V", normal(H**-0.5), (D, H))
        self.b = self.param("b", nn.initializers.zeros, (D,))

    def logit(self, a: Array, d: Array) -> Array:
        """Return the logit of p(x_d = 1 | x_<d) [B] for activations a [B, H] or [B, D, H]."""
        a = a if self.tied else a[:, d]
        return self.b[d] + jax.nn.sigmoid(a) @ self.V[d]

    def add(self, a: Array, d: Array, x: Array) -> Array:
        """Return a_{d+1} = a_d + W_:,d x_d, for x_d ±1 [B]."""
        return a + jnp.tensordot(binary.bit(x), self.W[d], 0)

    def __call__(self, x: Array) -> Array:
        def step(a: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            d, x = now
            return self.add(a, d, x), self.logit(a, d)

        return jax.lax.scan(step, self._start(x), (jnp.arange(self.D), x.T))[1].T

    def log_p(self, x: Array) -> Array:
        """Return ln p(x) [B], in nats."""
        return dist.bernoulli(x, self(x))

    def sample(self, key: Key, x: Array, known: Array) -> Array:
        """Return sequences ±1 [B, D] that are x where known."""

        def step(a: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
            d, u, x, known = now
            x = binary.sample_bit(u, self.logit(a, d), x, known)
            return self.add(a, d, x), x

        each = (jnp.arange(self.D), rng.uniform(key, x.shape).T, x.T, known.T)
        return jax.lax.scan(step, self._start(x), each)[1].T

    def _start(self, x: Array) -> Array:
        return jnp.broadcast_to(self.c, (len(x), *self.c.shape))


def network(cfg: Config) -> NADE:
    """Return the network of a Config."""
    return NADE(binary.dims(cfg), cfg.hidden_dim, cfg.tied)


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
        observation: examples to complete, [num, *shape] or broadcastable to it.
        mask: true where they are observed: see `conditionals.check_observation`.
    """
    return binary.sample(
        cfg, net or network(cfg), variables, key, num, condition, observation, mask
    )


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, with the methods `log_p(x)` and
            `sample(key, x, known)` of sequences x, ±1 [B, D]: see `gengen.autoregressive.binary`.
    """
    return binary.maximum_likelihood(cfg, net or network(cfg), tx)
