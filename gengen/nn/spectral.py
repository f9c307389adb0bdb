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
from flax.linen.dtypes import promote_dtype

from gengen.types import LAYOUT, Array, Shape


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


def _kernel(layer: nn.Module, shape: Shape) -> Array:
    """The layer's parameter "kernel" [..., outputs], normalised; u moves where it may."""
    kernel = layer.param("kernel", nn.initializers.lecun_normal(), shape)
    key = layer.make_rng("params") if layer.is_initializing() else None
    state = layer.variable("spectral", "u", _unit, key, shape[-1])
    kernel, u = normalised(kernel, state.value)
    if layer.is_mutable_collection("spectral") and not layer.is_initializing():
        state.value = u
    return kernel


def _unit(key: Any, size: int) -> Array:
    u = jax.random.normal(key, (size,))
    return u / jnp.linalg.norm(u)


class SpectralDense(nn.Module):
    """x [B, inputs] → [B, features]; the kernel's largest singular value is 1, the bias is free.

    Attributes:
        features: outputs.
        dtype: to compute in; None: that of x and the parameters.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = _kernel(self, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias


class SpectralConv(nn.Module):
    """x [B, H, W, C] → [B, H/stride, W/stride, features]; the kernel, as a matrix, as above.

    Attributes:
        features: outputs.
        kernel_size: height and width.
        strides: likewise.
        dtype: as above.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = _kernel(self, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return (
            jax.lax.conv_general_dilated(x, kernel, self.strides, "SAME", dimension_numbers=LAYOUT)
            + bias
        )
