r"""Spectral normalisation: layers whose kernel has the largest singular value 1.

Miyato et al. 2018, *Spectral Normalization for Generative Adversarial Networks* (1802.05957). With
W the kernel as a matrix [inputs, outputs], each call in training takes one step of the power
iteration

    v ← Wu / ‖Wu‖,   u ← Wᵀv / ‖Wᵀv‖,   σ(W) ≈ vᵀ W u

and the layer computes with W / σ(W). u and v count as constants in the gradient. A network of such
layers and of activations with slope at most 1 is 1-Lipschitz, as far as its dense layers go; the
kernel of a convolution is normalised as the paper does it, as a matrix [h · w · inputs, outputs].

u [outputs] is kept in the collection "spectral" and moves where that collection is mutable.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gengen.types import Array


def normalised(kernel: Array, u: Array, epsilon: float = 1e-12) -> tuple[Array, Array]:
    """W / σ(W) after one step of the power iteration, and the new u.

    Args:
        kernel: [..., outputs].
        u: [outputs], of norm 1: the guess of the singular vector.
        epsilon: that norms are divided by at least.
    """
    W = kernel.reshape(-1, kernel.shape[-1])
    fixed = jax.lax.stop_gradient(W)
    v = fixed @ u
    v = v / jnp.maximum(jnp.linalg.norm(v), epsilon)
    u = fixed.T @ v
    u = u / jnp.maximum(jnp.linalg.norm(u), epsilon)
    return kernel / jnp.maximum(v @ W @ u, epsilon), u


class _Spectral(nn.Module):
    """To be inherited from before a layer: its parameter "kernel" is given out normalised."""

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        value = super().param(name, *args, **kwargs)
        if name != "kernel":
            return value
        key = self.make_rng("params") if self.is_initializing() else None
        state = self.variable("spectral", "u", _unit, key, value.shape[-1])
        kernel, u = normalised(value, state.value)
        if self.is_mutable_collection("spectral") and not self.is_initializing():
            state.value = u
        return kernel


def _unit(key: Any, size: int) -> Array:
    u = jax.random.normal(key, (size,))
    return u / jnp.linalg.norm(u)


class SpectralDense(_Spectral, nn.Dense):
    """`nn.Dense` of largest singular value 1 (the kernel's; the bias is free)."""


class SpectralConv(_Spectral, nn.Conv):
    """`nn.Conv`; its kernel as a matrix [h · w · inputs, outputs] has largest singular value 1."""
