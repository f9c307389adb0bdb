r"""FVSBN: the fully visible sigmoid belief net.

Frey, Hinton & Dayan 1996, *Does the wake-sleep algorithm produce good density estimators?* (NIPS);
Neal 1992. Each dimension is a logistic regression on those before it:

    p(x_i = 1 | x_<i) = σ(b_i + Σ_{j<i} W_ij x_j),    x in {0, 1}^D

All of ln p(x) is one matrix product, and so is drawing: once x_j is drawn, W_:j x_j is added to the
logits of all that come after it, O(D²) an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive import binary
from gengen.types import Array, Key, Method, PyTree


@dataclass(frozen=True)
class Config(binary.Config):
    """What every model of binary images is told: there is nothing else to choose."""


class FVSBN(nn.Module):
    """Sequences ±1 [B, D] → the logits of p(x_i = 1 | x_<i) [B, D]."""

    D: int

    def setup(self):
        self.W = self.param("W", nn.initializers.normal(0.01), (self.D, self.D))
        self.b = self.param("b", nn.initializers.zeros, (self.D,))

    def strict(self) -> Array:
        """W without what it has on its diagonal and above: j < i alone, [D, D]."""
        return jnp.tril(self.W, -1)

    def __call__(self, x: Array) -> Array:
        return self.b + binary.bit(x) @ self.strict().T

    def log_p(self, x: Array) -> Array:
        """Ln p(x) [B], in nats."""
        return dist.bernoulli(x, self(x))

    def draw(self, key: Key, x: Array, known: Array) -> Array:
        """Sequences ±1 [B, D] that are x where known."""

        def step(logits: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
            i, column, u, x, known = now
            x = binary.draw(u, logits[:, i], x, known)
            return logits + binary.bit(x)[:, None] * column, x

        start = jnp.broadcast_to(self.b, x.shape)
        each = (jnp.arange(self.D), self.strict().T, rng.uniform(key, x.shape).T, x.T, known.T)
        return jax.lax.scan(step, start, each)[1].T


def network(cfg: Config) -> FVSBN:
    """The network of a Config."""
    return FVSBN(binary.dims(cfg))


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
        given: examples to complete, [num, *shape] or what broadcasts to it.
        mask: true where they are known: see `binary.check_given`.
    """
    return binary.sample(cfg, network(cfg), variables, key, num, given, mask)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb ln p(x); `tx` in the place of Adam. Metric: `loss`, nats per example."""
    return binary.maximum_likelihood(cfg, network(cfg), tx)
