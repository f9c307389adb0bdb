"""A multilayer perceptron and its mirror image: the network of autoencoders of vectors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import flax.linen as nn

from gengen.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "softplus": nn.softplus,
    "linear": lambda x: x,
}


class MirrorMLP(nn.Module):
    """An encoder of layers hᵢ = s(hᵢ₋₁Wᵢ + bᵢ) and its mirrored decoder, of layers s(hᵢVᵢ + cᵢ).

    The decoder's last layer is affine: the model says what its outputs mean (means, logits).

    Attributes:
        sizes: D, the hidden layers, and the dimension of the latents.
        activation: s, a name of `ACTIVATIONS`.
        squash: whether the latents go through s too; they are affine otherwise.
        tied: Vᵢ = Wᵢᵀ.
    """

    sizes: tuple[int, ...]
    activation: str = "relu"
    squash: bool = False
    tied: bool = False

    def setup(self) -> None:
        """Create the parameters W1, b1, ..., numbered by layer in both directions."""
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        layers = list(enumerate(pairwise(self.sizes), 1))
        self.W = [self.param(f"W{i}", init, size) for i, size in layers]
        self.b = [self.param(f"b{i}", zeros, (n,)) for i, (_, n) in layers]
        if self.tied:
            self.V = [W.T for W in self.W]
        else:
            self.V = [self.param(f"V{i}", init, (n, m)) for i, (m, n) in layers]
        self.c = [self.param(f"c{i}", zeros, (m,)) for i, (m, _) in layers]

    def encode(self, x: Array) -> Array:
        """Return the latents [B, sizes[-1]] of x [B, D]."""
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True), 1):
            x = x @ W + b
            if self.squash or i < len(self.W):
                x = ACTIVATIONS[self.activation](x)
        return x

    def decode(self, z: Array) -> Array:
        """Return the outputs [B, D] for latents [B, sizes[-1]]."""
        for i in reversed(range(len(self.V))):
            z = z @ self.V[i] + self.c[i]
            if i:
                z = ACTIVATIONS[self.activation](z)
        return z

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x))
