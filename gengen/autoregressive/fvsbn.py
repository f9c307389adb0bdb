r"""FVSBN: fully visible sigmoid belief network.

Frey, Hinton & Dayan 1996, *Does the wake-sleep algorithm produce good density estimators?* (NIPS);
Neal 1992. Each dimension is a logistic regression on those before it:

    p(x_i = 1 | x_<i) = σ(b_i + Σ_{j<i} W_ij x_j),    x in {0, 1}^D

ln p(x) is one matrix product. Sampling costs O(D²) per image: once x_j is sampled, W_:j x_j is
added to the logits of all later dimensions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import binary
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.types import Array, Key, Method, PyTree

__all__ = ["Config", "condition_of", "log_prob", "method", "network", "sample"]

LOG_PROB = "exact"  # of the binarised data


@dataclass(frozen=True)
class Config(binary.Config):
    """The fields of `binary.Config`."""

    @classmethod
    def paper(cls) -> Self:
        """Return the model of the paper's 8×8 binary digits.

        The paper trains by a line search with weight decay: pass such an optimiser as `tx`.
        """
        return cls(shape=(8, 8, 1), binarise="threshold")

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, with the rate of `experiments/binary_likelihoods`."""
        return dataclasses.replace(super().for_task(task), learning_rate=1e-2)


class FVSBN(nn.Module):
    """A network: sequences ±1 [B, D] → logits of p(x_i = 1 | x_<i) [B, D]."""

    D: int

    def setup(self):
        self.W = self.param("W", nn.initializers.normal(0.01), (self.D, self.D))
        self.b = self.param("b", nn.initializers.zeros, (self.D,))

    def strict(self) -> Array:
        """Return the strictly lower triangle of W, [D, D]."""
        return jnp.tril(self.W, -1)

    def __call__(self, x: Array) -> Array:
        return self.b + binary.bit(x) @ self.strict().T

    def log_p(self, x: Array) -> Array:
        """Return ln p(x) [B], in nats."""
        return dist.bernoulli(x, self(x))

    def sample(self, key: Key, x: Array, known: Array) -> Array:
        """Return sequences ±1 [B, D] that are x where known."""

        def step(logits: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
            i, column, u, x, known = now
            x = binary.sample_bit(u, logits[:, i], x, known)
            return logits + binary.bit(x)[:, None] * column, x

        start = jnp.broadcast_to(self.b, x.shape)
        each = (jnp.arange(self.D), self.strict().T, rng.uniform(key, x.shape).T, x.T, known.T)
        return jax.lax.scan(step, start, each)[1].T


def network(cfg: Config) -> FVSBN:
    """Return the network of a Config."""
    return FVSBN(binary.dims(cfg))


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
