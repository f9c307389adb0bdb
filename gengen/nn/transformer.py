"""A causal transformer, with a cache of keys and values for decoding token by token.

Vaswani et al. 2017 (1706.03762), with the normalisation before each layer. The logits of place i
depend on the tokens before i alone: the input is shifted by one place, behind a learnt start.

`Transformer.__call__` computes all places at once, for training. `step` computes one place from the
token before it and the `Cache` of earlier places; both give the same logits. A loop over `step`
takes L times the work of a token, where a loop over whole passes takes L times that of L tokens.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from gengen.types import Array, InputError
from gengen.xla import computed_once

EXPANSION = 4  # width of a block's hidden layer, relative to hidden_dim
Cache = Array  # keys and values of each layer, [num_layers, 2, B, L, num_heads, D]


class Transformer(nn.Module):
    """tokens [B, L] → logits [B, L, num_tokens].

    Attributes:
        num_tokens: size of the vocabulary.
        length: L, the number of places.
        hidden_dim: width of the residual stream.
        num_layers: number of blocks.
        num_heads: of attention; must divide hidden_dim.
        dropout: rate, of embeddings and of the output of each layer, while training.
    """

    num_tokens: int
    length: int
    hidden_dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.0

    def setup(self):
        """Create the layers.

        Raises:
            InputError: if the heads do not share hidden_dim equally.
        """
        if self.hidden_dim % self.num_heads:
            raise InputError(
                f"num_heads = {self.num_heads}; it must divide hidden_dim = {self.hidden_dim}"
            )
        small = nn.initializers.normal(0.02)
        self.table = self.param("table", small, (self.num_tokens, self.hidden_dim))
        self.start = self.param("start", small, (self.hidden_dim,))
        self.positions = self.param("positions", small, (self.length, self.hidden_dim))
        self.blocks = [Block(self.num_heads, self.dropout) for _ in range(self.num_layers)]
        self.drop = nn.Dropout(self.dropout)
        self.norm, self.head = nn.LayerNorm(), nn.Dense(self.num_tokens)

    def __call__(self, tokens: Array, train: bool = False) -> Array:
        """Return the logits of all places; with `train`, a key "dropout" is needed."""
        return self.of_embedded(self.embed(tokens), train)

    def embed(self, tokens: Array) -> Array:
        """Return the embeddings of tokens [...]: [..., hidden_dim]."""
        # A product: on CPU the gradient of a gather is a slow scatter.
        return jax.nn.one_hot(tokens, self.num_tokens, dtype=self.table.dtype) @ self.table

    def of_embedded(self, e: Array, train: bool = False) -> Array:
        """Return the logits [B, L, num_tokens] of embedded tokens e [B, L, hidden_dim]."""
        first = jnp.broadcast_to(self.start, (len(e), 1, self.hidden_dim))
        x = jnp.concatenate([first, e[:, :-1]], axis=1) + self.positions
        x = self.drop(x, deterministic=not train)
        for block in self.blocks:
            x = block(computed_once(x), train)
        return self.head(self.norm(x))

    def empty(self, num: int) -> Cache:
        """Return the cache of `num` sequences before their first place."""
        heads = (self.num_heads, self.hidden_dim // self.num_heads)
        return jnp.zeros((self.num_layers, 2, num, self.length, *heads), self.table.dtype)

    def step(self, cache: Cache, before: Array, i: Array) -> tuple[Array, Cache]:
        """Return the logits of place i [B, num_tokens], and the cache with place i.

        Args:
            cache: of the places before i.
            before: the token at place i - 1, int [B]; for i = 0 it does not matter.
            i: the place, int [].
        """
        e = jnp.where(i == 0, self.start, self.embed(before))
        x = (e + self.positions[i])[:, None]
        layers = []
        for block, kept in zip(self.blocks, cache, strict=True):
            x, kept = block.step(x, kept, i)
            layers.append(kept)
        return self.head(self.norm(x))[:, 0], jnp.stack(layers)


class Block(nn.Module):
    """Attention and a perceptron, each added to x [B, L, C].

    Attributes:
        num_heads: of attention.
        dropout: rate.
    """

    num_heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Array, train: bool = False, kept: Array | None = None, i: Array | int = 0
    ) -> Array | tuple[Array, Array]:
        """Return the block's output; of place i alone, and the cache, if there is one.

        Args:
            x: [B, L, C]; with a cache [B, 1, C].
            train: whether to apply dropout.
            kept: keys and values of the places before i, [2, B, L, num_heads, D].
            i: the place of x.
        """
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        qkv = nn.Dense(3 * width, name="qkv")(nn.LayerNorm(name="norm1")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.num_heads, -1), 2, 0)
        if kept is not None:
            new = jnp.stack([k, v])
            kept = jax.lax.dynamic_update_slice(kept, new.astype(kept.dtype), (0, 0, i, 0, 0))
            k, v = kept[0], kept[1]
        x = x + drop(nn.Dense(width, name="out")(attention(q, k, v, i).reshape(x.shape)))
        h = nn.gelu(nn.Dense(EXPANSION * width, name="wide")(nn.LayerNorm(name="norm2")(x)))
        x = x + drop(nn.Dense(width, name="narrow")(h))
        return x if kept is None else (x, kept)

    def step(self, x: Array, kept: Array, i: Array) -> tuple[Array, Array]:
        """Return the output [B, 1, C] at place i, and the cache with it."""
        return self(x, False, kept, i)  # type: ignore[return-value]


def attention(q: Array, k: Array, v: Array, first: Array | int = 0) -> Array:
    """Return causal attention: place first + n of the queries sees places 0..first + n.

    Args:
        q: queries [B, N, heads, D].
        k: keys [B, L, heads, D].
        v: values [B, L, heads, D].
        first: the place of the first query.
    """
    scores = jnp.einsum("bnhd,blhd->bhnl", q, k) / q.shape[-1] ** 0.5
    is_seen = jnp.arange(k.shape[1]) <= first + jnp.arange(q.shape[1])[:, None]
    weights = jax.nn.softmax(jnp.where(is_seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhnl,blhd->bnhd", weights, v)
