"""VGG-19's features: what style transfer compares pictures by.

Simonyan & Zisserman 2014, *Very Deep Convolutional Networks for Large-Scale Image Recognition*
(1409.1556), configuration E without its classifier: five levels of 3×3 convolutions, each followed
by ReLU, with a 2×2 pool between levels.

    x [B, H, W, 3] → conv1_1 → relu1_1 → conv1_2 → relu1_2 → pool → conv2_1 → ... → relu5_4

A tap is the map of a convolution, "conv4_2", or of its ReLU, "relu4_2": of level l, with
H / 2^(l-1) rows. Gatys, Ecker & Bethge (1508.06576), when they make pictures, put means in the
place of the maxima of the pools: `pool="mean"`.

    variables = from_torch(state_dict)                       # or gengen.nn.weights.load("vgg19")
    features(variables, x, taps=("relu1_1", "relu4_2"))["relu4_2"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.state_dict import checked
from gengen.types import Array, InputError, PyTree, Shape

LEVELS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions, channels
NAMES = [f"{level}_{i}" for level, (n, _) in enumerate(LEVELS, 1) for i in range(1, n + 1)]
TAPS = tuple(f"{kind}{name}" for name in NAMES for kind in ("conv", "relu"))  # by depth
# Of the data that the public weights were trained on: red, green, blue in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """x [B, H, W, 3], normalised → {tap: [B, h, w, channels]}, as deep as the taps ask.

    Attributes:
        taps: some of `TAPS`.
        pool: "max", or "mean".
        padding: of the convolutions: "SAME", zeros; or "CIRCULAR".
    """

    taps: tuple[str, ...] = TAPS
    pool: str = "max"
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        pool = nn.max_pool if self.pool == "max" else nn.avg_pool
        found: dict[str, Array] = {}
        for name in NAMES:
            if len(found) == len(self.taps):
                break
            if name[0] > "1" and name.endswith("_1"):
                x = pool(x, (2, 2), (2, 2))
            conv = nn.Conv(_channels(name), (3, 3), padding=self.padding, name=f"conv{name}")(x)
            x = nn.relu(conv)
            both = {f"conv{name}": conv, f"relu{name}": x}
            found |= {tap: both[tap] for tap in both if tap in self.taps}
        return found


def features(
    variables: PyTree,
    images: Any,
    taps: Sequence[str] = TAPS,
    pool: str = "max",
    padding: str = "SAME",
) -> dict[str, Array]:
    """Maps of features of images, by tap; to be differentiated, and compiled, by the caller.

    Args:
        variables: from `from_torch`.
        images: float32 [B, H, W, 3], meant to be in [-1, 1]; H and W at least 2^(l-1) for a tap of
            level l.
        taps: some of `TAPS`.
        pool: how levels are joined.
        padding: of the convolutions: "SAME", zeros; or "CIRCULAR": maps move with the image.

    Returns:
        float32 [B, h, w, channels] for each tap.

    Raises:
        InputError: for images that are not float or not colour, or too small for the taps, and for
            an unknown tap or pool.
    """
    if isinstance(taps, str) or not taps or not set(taps) <= set(TAPS):
        raise InputError(f"taps = {taps!r}: a tuple of some of conv1_1, relu1_1, ..., relu5_4")
    if pool not in ("max", "mean"):
        raise InputError(f'pool = {pool!r}: "max" or "mean"')
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"images are {images.dtype}, but floats in [-1, 1] are needed: v/127.5 - 1"
        )
    shape, level = images.shape, max(int(tap[4]) for tap in taps)
    smallest = 2 ** (level - 1)
    if len(shape) != 4 or shape[3] != 3 or shape[0] == 0 or min(shape[1:3]) < smallest:
        raise InputError(
            f"images are {list(shape)}, but [B, H, W, 3] is needed, H, W ≥ {smallest} for level "
            f"{level}: repeat a grey channel by jnp.repeat(images, 3, axis=-1)"
        )
    x = ((images + 1) / 2 - jnp.array(MEAN)) / jnp.array(DEVIATION)
    wanted = tuple(dict.fromkeys(taps))
    found: Any = VGG19(wanted, pool, padding).apply(variables, x)
    return {tap: found[tap] for tap in wanted}


def _channels(name: str) -> int:
    return LEVELS[int(name[0]) - 1][1]


def _places() -> dict[str, int]:
    """Where torchvision has the convolutions in its list of them, their ReLUs and the pools."""
    return {name: 2 * i + int(name[0]) - 1 for i, name in enumerate(NAMES)}


def torch_shapes() -> dict[str, Shape]:
    """The arrays of torchvision's vgg19 that are needed, by name, with their shapes."""
    shapes: dict[str, Shape] = {}
    before = 3
    for name, place in _places().items():
        shapes[f"features.{place}.weight"] = (_channels(name), before, 3, 3)
        shapes[f"features.{place}.bias"] = (_channels(name),)
        before = _channels(name)
    return shapes


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, PyTree]:
    """Weights in torchvision's form as `variables`.

    Args:
        state_dict: arrays or tensors by name, "features.0.weight" to "features.34.bias"; what
            begins with "classifier." is not needed.

    Raises:
        InputError: naming arrays that are missing, unexpected, of another shape or not finite.
    """
    needed = {k: v for k, v in state_dict.items() if not k.startswith("classifier.")}
    arrays = checked(needed, torch_shapes())
    return {
        "params": {
            f"conv{name}": {
                "kernel": jnp.asarray(arrays[f"features.{place}.weight"].transpose(2, 3, 1, 0)),
                "bias": jnp.asarray(arrays[f"features.{place}.bias"]),
            }
            for name, place in _places().items()
        }
    }
