"""Numbers of parameters: of a method's network, without making it; and of layers, by hand."""

from itertools import pairwise

import jax
import numpy as np

from gengen.types import Method


def params(method: Method, shape: tuple[int, ...], caption_length: int = 256):
    """The parameters' shapes after `init`, for examples of a shape."""
    x = np.zeros((2, *shape), np.float32)
    name = "image" if len(shape) == 3 else "x"
    batch = {name: x, "label": np.zeros(2, np.int32), "target": x, "other": x}
    batch["caption"] = np.zeros((2, caption_length), np.int32)
    return jax.eval_shape(method.init, jax.random.key(0), batch).params


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def dense(*sizes):
    """Count dense layers' weights and biases."""
    return sum((a + 1) * b for a, b in pairwise(sizes))


def conv(inputs, out, size, bias=True):
    """Count a convolution's weights and biases, size × size."""
    return size * size * inputs * out + bias * out


def strided(inputs, channels, size=4):
    """Count convolutions that each halve the resolution."""
    return sum(conv(a, b, size) for a, b in pairwise((inputs, *channels)))


def conv_encoder(inputs, channels, side, out):
    """Count 4×4 convolutions that halve side × side images, and a dense layer after them."""
    coarse = side // 2 ** len(channels)
    return strided(inputs, channels) + dense(coarse**2 * channels[-1], out)


def conv_decoder(latents, channels, side, out):
    """Count a dense layer, and 3×3 convolutions that each double the resolution.

    Batch norm, a scale and a shift, comes before each convolution; only the last has a bias.
    """
    coarse = side // 2 ** len(channels)
    inner = sum(conv(b, a, 3, bias=False) for a, b in pairwise(channels))
    start = dense(latents, coarse**2 * channels[-1])
    return start + inner + 2 * sum(channels) + conv(channels[0], out, 3)
