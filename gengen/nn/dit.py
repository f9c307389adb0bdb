"""Diffusion transformers: Peebles & Xie 2023 (2212.09748), with adaLN-Zero."""

from __future__ import annotations

from typing import Self

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.embedding import sinusoidal
from gengen.nn.unet import TimeEmbedding, depth_to_space, space_to_depth
from gengen.types import Array, InputError

# Blocks, width and heads of the paper's table 1.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
NUM_WAVES = 256  # sines and cosines of the time
MLP_RATIO = 4  # units of a block's hidden layer, relative to its width
EPSILON = 1e-6  # of layer normalisation

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros


class DiT(nn.Module):
    """(x [B, H, W, C], t [B], perhaps y [B, K]) → [B, H, W, out].

    A transformer over patches. Each block normalises its inputs with a scale and a shift, and
    multiplies its outputs by a gate, that are functions of time and class. These are 0 at
    initialisation, where every block is the identity, and the output is 0.

    It is called as a `gengen.nn.unet.UNet` is: `ddpm.method(cfg, net=DiT(...))`. For `edm`,
    `flow_matching` and `score_sde` pass `net=Field(cfg, DiT(...))` with
    `gengen.diffusion.continuous.Field`, which has their times and classes.

    Attributes:
        out: output channels; the paper's have twice the input's, for a variance.
        num_blocks: number of transformer blocks.
        hidden_dim: width of the tokens, a multiple of 4 and of num_heads.
        num_heads: of attention.
        patch: side of a patch, in pixels.
        dropout: rate after attention and after the perceptron, in [0, 1); the paper's is 0.

    Example:
        >>> import jax
        >>> x, t = jnp.ones((2, 8, 8, 1)), jnp.array([1.0, 500.0])
        >>> net = DiT(1, num_blocks=2, hidden_dim=16, num_heads=2)
        >>> variables = net.init(jax.random.key(0), x, t)
        >>> net.apply(variables, x, t).shape
        (2, 8, 8, 1)
    """

    out: int
    num_blocks: int = 12
    hidden_dim: int = 384
    num_heads: int = 6
    patch: int = 2
    dropout: float = 0.0

    @classmethod
    def paper(cls, size: str, out: int, patch: int = 2) -> Self:
        """Return a network of the paper's size "S", "B", "L" or "XL".

        Raises:
            InputError: for another size.
        """
        if size not in SIZES:
            raise InputError(f"size = {size!r}; it must be one of {', '.join(SIZES)}")
        return cls(out, *SIZES[size], patch)

    @nn.compact
    def __call__(self, x: Array, t: Array, train: bool = False, y: Array | None = None) -> Array:
        width = self.hidden_dim
        if width % 4 or width % self.num_heads:
            raise InputError(
                f"hidden_dim = {width}; it must be a multiple of 4 and of num_heads = "
                f"{self.num_heads}"
            )
        patches = space_to_depth(x, self.patch)
        batch, rows, columns, _ = patches.shape
        h = nn.Dense(width, kernel_init=xavier, name="embedding")(patches)
        h = h.reshape(batch, rows * columns, width) + positions(rows, columns, width)
        condition = TimeEmbedding(width, NUM_WAVES, name="time")(t)
        if y is not None:
            condition = condition + ClassEmbedding(width, name="condition")(y)
        condition = nn.swish(condition)
        for i in range(self.num_blocks):
            h = Block(self.num_heads, self.dropout, name=f"Block_{i}")(h, condition, train)
        shift, scale = modulation(2, width, condition)
        h = normalised(h, shift, scale)
        h = nn.Dense(self.patch**2 * self.out, kernel_init=zeros, name="output")(h)
        h = h.reshape(batch, rows, columns, -1).astype(jnp.float32)
        return depth_to_space(h, self.patch)


class Block(nn.Module):
    """Attention and a perceptron of h [B, N, D], modulated by the condition [B, D]."""

    num_heads: int
    dropout: float

    @nn.compact
    def __call__(self, h: Array, condition: Array, train: bool) -> Array:
        width = h.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(6, width, condition)
        attend = nn.MultiHeadDotProductAttention(self.num_heads, kernel_init=xavier)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        h = h + gate1 * drop(attend(normalised(h, shift1, scale1)))
        inner = nn.Dense(MLP_RATIO * width, kernel_init=xavier)(normalised(h, shift2, scale2))
        return h + gate2 * drop(nn.Dense(width, kernel_init=xavier)(nn.gelu(inner)))


class ClassEmbedding(nn.Module):
    """Classes y [B, K], one-hot or zeros for none, → [B, D]: a row of a table of K + 1."""

    width: int

    @nn.compact
    def __call__(self, y: Array) -> Array:
        table = self.param("table", nn.initializers.normal(0.02), (y.shape[-1] + 1, self.width))
        none = 1 - y.sum(-1, keepdims=True)
        return jnp.concatenate([y, none], axis=-1) @ table


def modulation(parts: int, width: int, condition: Array) -> list[Array]:
    """Return `parts` functions of the condition [B, D], each [B, 1, width], 0 at initialisation."""
    dense = nn.Dense(parts * width, kernel_init=zeros, name="modulation")
    return jnp.split(dense(condition)[:, None], parts, axis=-1)


def normalised(h: Array, shift: Array, scale: Array) -> Array:
    """Return h [B, N, D], of mean 0 and variance 1 in each token, times 1 + scale, plus shift."""
    norm = nn.LayerNorm(epsilon=EPSILON, use_bias=False, use_scale=False)
    return norm(h) * (1 + scale) + shift


def positions(rows: int, columns: int, width: int) -> Array:
    """Return sines and cosines of the rows, then of the columns: [rows · columns, width]."""
    row, column = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
    return jnp.concatenate([sinusoidal(v.ravel(), width // 2) for v in (row, column)], axis=-1)
