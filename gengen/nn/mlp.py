"""Multilayer perceptrons."""

from __future__ import annotations

import flax.linen as nn

from gengen.nn.embedding import sinusoidal
from gengen.nn.mirror import ACTIVATIONS
from gengen.types import Array


class MLP(nn.Module):
    """Dense layers with an activation between them: x [B, D] → [B, widths[-1]].

    Attributes:
        widths: outputs of each layer.
        activation: a name of `ACTIVATIONS`.
        init_std: standard deviation of the initial weights; 0: 1/√inputs.
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    init_std: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        normal = nn.initializers.normal(self.init_std)
        init = normal if self.init_std else nn.initializers.lecun_normal()
        for width in self.widths[:-1]:
            x = ACTIVATIONS[self.activation](nn.Dense(width, kernel_init=init)(x))
        return nn.Dense(self.widths[-1], kernel_init=init)(x)


class TimeMLP(nn.Module):
    """A residual MLP that knows the time: (x [B, D], t [B], perhaps y [B, K]) → [B, out].

    Attributes:
        out: outputs.
        hidden_dim: units of every hidden layer.
        num_blocks: residual blocks.
    """

    out: int
    hidden_dim: int = 128
    num_blocks: int = 3

    @nn.compact
    def __call__(self, x: Array, t: Array, train: bool = False, y: Array | None = None) -> Array:
        time = nn.swish(nn.Dense(self.hidden_dim)(sinusoidal(t, self.hidden_dim)))
        if y is not None:
            time = time + nn.Dense(self.hidden_dim, use_bias=False, name="condition")(y)
        h = nn.Dense(self.hidden_dim)(x)
        for _ in range(self.num_blocks):
            inner = nn.swish(nn.LayerNorm()(h + nn.Dense(self.hidden_dim)(time)))
            h = h + nn.Dense(self.hidden_dim)(nn.swish(nn.Dense(self.hidden_dim)(inner)))
        return nn.Dense(self.out, kernel_init=nn.initializers.zeros)(nn.swish(h))
