r"""NADE: the neural autoregressive distribution estimator.

Larochelle & Murray 2011, *The Neural Autoregressive Distribution Estimator* (AISTATS). One hidden
layer for each dimension d, all with the same weights:

    p(x_d = 1 | x_<d) = σ(b_d + V_d · h_d),    h_d = σ(c + W_:,<d x_<d),    x in {0, 1}^D

Neighbours share nearly all of their activations: a_1 = c, a_{d+1} = a_d + W_:,d x_d, so that ln p
and a draw take O(DH) each, not O(D²H).

With `tied` false each dimension has a network of its own, W_d and c_d in the place of W and c:
O(D²H) numbers, to see what the sharing is worth.
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
from gengen.autoregressive.conditionals import check_positive
from gengen.types import Array, Key, Method, PyTree


@dataclass(frozen=True)
class Config(binary.Config):
    """That of the family, and of the hidden layer."""

    H: int = 500  # hidden units
    tied: bool = True  # the same W and c for all dimensions

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        check_positive(self, "H")


class NADE(nn.Module):
    """Sequences ±1 [B, D] → the logits of p(x_d = 1 | x_<d) [B, D]."""

    D: int
    H: int
    tied: bool = True

    def setup(self):
        D, H, normal = self.D, self.H, nn.initializers.normal
        each = () if self.tied else (D,)
        # W[j] is what x_j adds: to the one a [H], or to each dimension's [D, H].
        self.W = self.param("W", normal(D**-0.5), (D, *each, H))
        self.c = self.param("c", nn.initializers.zeros, (*each, H))
        self.V = self.param("V", normal(H**-0.5), (D, H))
        self.b = self.param("b", nn.initializers.zeros, (D,))

    def logit(self, a: Array, d: Array) -> Array:
        """The logit of p(x_d = 1 | x_<d) [B] by the activations a [B, H] or [B, D, H]."""
        a = a if self.tied else a[:, d]
        return self.b[d] + jax.nn.sigmoid(a) @ self.V[d]

    def add(self, a: Array, d: Array, x: Array) -> Array:
        """a_{d+1} = a_d + W_:,d x_d, for x_d ±1 [B]."""
        return a + jnp.tensordot(binary.bit(x), self.W[d], 0)

    def __call__(self, x: Array) -> Array:
        def step(a: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            d, x = now
            return self.add(a, d, x), self.logit(a, d)

        return jax.lax.scan(step, self._start(x), (jnp.arange(self.D), x.T))[1].T

    def log_p(self, x: Array) -> Array:
        """Ln p(x) [B], in nats."""
        return dist.bernoulli(x, self(x))

    def draw(self, key: Key, x: Array, known: Array) -> Array:
        """Sequences ±1 [B, D] that are x where known."""

        def step(a: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
            d, u, x, known = now
            x = binary.draw(u, self.logit(a, d), x, known)
            return self.add(a, d, x), x

        each = (jnp.arange(self.D), rng.uniform(key, x.shape).T, x.T, known.T)
        return jax.lax.scan(step, self._start(x), each)[1].T

    def _start(self, x: Array) -> Array:
        return jnp.broadcast_to(self.c, (len(x), *self.c.shape))


def network(cfg: Config) -> NADE:
    """The network of a Config."""
    return NADE(binary.dims(cfg), cfg.H, cfg.tied)


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
