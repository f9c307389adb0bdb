"""A multilayer perceptron and its mirror: what autoencoders of vectors are made of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import flax.linen as nn

from gengen.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "linear": lambda x: x,
}


class MirrorMLP(nn.Module):
    """Down through layers hᵢ = s(hᵢ₋₁Wᵢ + bᵢ), and back up through s(hᵢVᵢ + cᵢ).

    The last layer up is affine: what its numbers mean (means, logits) is the model's affair.

    Attributes:
        widths: D, the hidden layers, and the dimension of the code.
        activation: s, a name of `ACTIVATIONS`.
        squash: the code goes through s too; it is affine otherwise.
        tied: Vᵢ = Wᵢᵀ.
    """

    widths: tuple[int, ...]
    activation: str = "relu"
    squash: bool = False
    tied: bool = False

    def setup(self) -> None:
        """The parameters W1, b1, ..., by the layer they belong to on both ways."""
        draw, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        sizes = list(enumerate(pairwise(self.widths), 1))
        self.W = [self.param(f"W{i}", draw, size) for i, size in sizes]
        self.b = [self.param(f"b{i}", zeros, (n,)) for i, (_, n) in sizes]
        if self.tied:
            self.V = [W.T for W in self.W]
        else:
            self.V = [self.param(f"V{i}", draw, (n, m)) for i, (m, n) in sizes]
        self.c = [self.param(f"c{i}", zeros, (m,)) for i, (m, _) in sizes]

    def encode(self, x: Array) -> Array:
        """X [B, D] → the code [B, widths[-1]]."""
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True), 1):
            x = x @ W + b
            if self.squash or i < len(self.W):
                x = ACTIVATIONS[self.activation](x)
        return x

    def decode(self, z: Array) -> Array:
        """The code [B, widths[-1]] → [B, D]."""
        for i in reversed(range(len(self.V))):
            z = z @ self.V[i] + self.c[i]
            if i:
                z = ACTIVATIONS[self.activation](z)
        return z

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x))
