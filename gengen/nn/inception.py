r"""InceptionV3 as FID knows it: the network whose features the metric is defined by.

Szegedy et al. 2015, *Rethinking the Inception Architecture for Computer Vision* (1512.00567), in
the form of the TensorFlow graph of 2015-12-05 that Heusel et al. 2017 (1706.08500) measured with.
It differs from the network of today's libraries: 1008 classes; average pools that leave the padding
out of the mean; a *max* pool in the last block; features before any dropout.

    images uint8 [B, H, W, 3] → resized to 299×299, by a protocol → layers → means over positions

Scores of one protocol cannot be compared with another's: see `gengen.nn.protocols`.

Every convolution is followed by batch normalisation, with the statistics of its training: an affine
map, folded into the convolution when weights are read. As a mean of neighbours commutes with a 1×1
convolution, the convolutions that a block applies to its input are one matrix product, `heads`, and
the pool comes after it, on fewer channels.

    variables = from_torch(state_dict)                   # or gengen.nn.weights.load("inception")
    features(variables, images, taps=("2048",))["2048"]  # float32 [B, 2048]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.core import Tracer

from gengen.nn.protocols import PROTOCOLS, SIZE, preprocess
from gengen.nn.state_dict import checked
from gengen.types import Array, InputError, PyTree, Shape
from gengen.xla import compiler_options, on_cpu

CLASSES = 1008
TAPS = ("64", "192", "768", "2048", "logits_unbiased")  # by depth; the numbers are of channels
BN_EPSILON = 1e-3  # of every batch normalisation

_A = {"branch1x1": 64, "branch5x5_1": 48, "branch3x3dbl_1": 64}
_E = {"branch1x1": 320, "branch3x3_1": 384, "branch3x3dbl_1": 448}
# The 1×1 convolutions of a block's input that are one matrix product, with their output channels.
HEADS: dict[str, dict[str, int]] = {
    "Mixed_5b": _A | {"branch_pool": 32},
    "Mixed_5c": _A | {"branch_pool": 64},
    "Mixed_5d": _A | {"branch_pool": 64},
    **{
        f"Mixed_6{block}": {
            "branch1x1": 192, "branch7x7_1": c7, "branch7x7dbl_1": c7, "branch_pool": 192,
        }
        for block, c7 in (("b", 128), ("c", 160), ("d", 160), ("e", 192))
    },
    "Mixed_7a": {"branch3x3_1": 192, "branch7x7x3_1": 192},
    "Mixed_7b": _E | {"branch_pool": 192},
    "Mixed_7c": _E,  # its pool is a maximum, which does not commute
}  # fmt: skip


# --- the network ----------------------------------------------------------------------------------


def _conv(x: Array, channels: int, kernel: Shape, name: str, **how: Any) -> Array:
    """A convolution with its batch normalisation folded in, and ReLU."""
    # A GPU would round float32 to 10 bits of mantissa: off by 1e-2, against 1e-4.
    conv = nn.Conv(channels, kernel, name=name, precision=lax.Precision.HIGHEST, **how)
    return nn.relu(conv(x))


_halving: dict[str, Any] = {"strides": 2, "padding": "VALID"}


def _max_pool(x: Array, strides: int = 2, padding: str = "VALID") -> Array:
    return nn.max_pool(x, (3, 3), (strides, strides), padding)


def _mean_of_neighbours(x: Array) -> Array:
    """The mean over 3×3 positions, of those that lie inside."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _heads(x: Array, block: str | None) -> list[Array]:
    """The block's 1×1 convolutions of its input; the last, if it is `branch_pool`, pooled."""
    widths = HEADS[block or ""]
    dense = nn.Dense(sum(widths.values()), name="heads", precision=lax.Precision.HIGHEST)
    heads = jnp.split(dense(x), np.cumsum(list(widths.values()))[:-1], axis=-1)
    if "branch_pool" in widths:
        heads[-1] = _mean_of_neighbours(heads[-1])
    return [nn.relu(head) for head in heads]


class InceptionA(nn.Module):
    """35×35 positions: 1×1, 5×5, two 3×3, pool."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one, five, double, pool = _heads(x, self.name)
        five = _conv(five, 64, (5, 5), "branch5x5_2")
        double = _conv(double, 96, (3, 3), "branch3x3dbl_2")
        double = _conv(double, 96, (3, 3), "branch3x3dbl_3")
        return jnp.concatenate([one, five, double, pool], axis=-1)


class InceptionB(nn.Module):
    """35×35 to 17×17 positions."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _conv(x, 384, (3, 3), "branch3x3", **_halving)
        double = _conv(x, 64, (1, 1), "branch3x3dbl_1")
        double = _conv(double, 96, (3, 3), "branch3x3dbl_2")
        double = _conv(double, 96, (3, 3), "branch3x3dbl_3", **_halving)
        return jnp.concatenate([three, double, _max_pool(x)], axis=-1)


class InceptionC(nn.Module):
    """17×17 positions: 1×1, 7×7 and two 7×7 as rows and columns, pool."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one, seven, double, pool = _heads(x, self.name)
        c7 = seven.shape[-1]
        seven = _conv(seven, c7, (1, 7), "branch7x7_2")
        seven = _conv(seven, 192, (7, 1), "branch7x7_3")
        double = _conv(double, c7, (7, 1), "branch7x7dbl_2")
        double = _conv(double, c7, (1, 7), "branch7x7dbl_3")
        double = _conv(double, c7, (7, 1), "branch7x7dbl_4")
        double = _conv(double, 192, (1, 7), "branch7x7dbl_5")
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class InceptionD(nn.Module):
    """17×17 to 8×8 positions."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three, seven = _heads(x, self.name)
        three = _conv(three, 320, (3, 3), "branch3x3_2", **_halving)
        seven = _conv(seven, 192, (1, 7), "branch7x7x3_2")
        seven = _conv(seven, 192, (7, 1), "branch7x7x3_3")
        seven = _conv(seven, 192, (3, 3), "branch7x7x3_4", **_halving)
        return jnp.concatenate([three, seven, _max_pool(x)], axis=-1)


class InceptionE(nn.Module):
    """8×8 positions: 1×1, 3×3 and two 3×3 whose last is a row beside a column, pool."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one, three, double, *pool = _heads(x, self.name)
        three = [
            _conv(three, 384, (1, 3), "branch3x3_2a"),
            _conv(three, 384, (3, 1), "branch3x3_2b"),
        ]
        double = _conv(double, 384, (3, 3), "branch3x3dbl_2")
        double = [
            _conv(double, 384, (1, 3), "branch3x3dbl_3a"),
            _conv(double, 384, (3, 1), "branch3x3dbl_3b"),
        ]
        if not pool:
            pool = [_conv(_max_pool(x, 1, "SAME"), 192, (1, 1), "branch_pool")]
        return jnp.concatenate([one, *three, *double, *pool], axis=-1)


class InceptionV3(nn.Module):
    """x [B, 299, 299, 3] about [-1, 1] → {tap: [B, channels]}, as deep as the taps ask.

    Attributes:
        taps: some of `TAPS`.
    """

    taps: tuple[str, ...] = ("2048",)

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for tap, stage in zip(TAPS, (_to_64, _to_192, _to_768, _to_2048, _to_logits), strict=True):
            x = stage(x)
            if tap in self.taps:
                found[tap] = x if x.ndim == 2 else x.mean((1, 2))
            if len(found) == len(self.taps):
                break
        return found


def _to_64(x: Array) -> Array:
    x = _conv(x, 32, (3, 3), "Conv2d_1a_3x3", **_halving)
    x = _conv(x, 32, (3, 3), "Conv2d_2a_3x3", padding="VALID")
    return _max_pool(_conv(x, 64, (3, 3), "Conv2d_2b_3x3"))


def _to_192(x: Array) -> Array:
    x = _conv(x, 80, (1, 1), "Conv2d_3b_1x1")
    return _max_pool(_conv(x, 192, (3, 3), "Conv2d_4a_3x3", padding="VALID"))


def _to_768(x: Array) -> Array:
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = InceptionA(name=name)(x)
    x = InceptionB(name="Mixed_6a")(x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = InceptionC(name=name)(x)
    return x


def _to_2048(x: Array) -> Array:
    x = InceptionD(name="Mixed_7a")(x)
    for name in ("Mixed_7b", "Mixed_7c"):
        x = InceptionE(name=name)(x)
    return x.mean((1, 2))


def _to_logits(x: Array) -> Array:
    dense = nn.Dense(CLASSES, use_bias=False, name="fc", precision=lax.Precision.HIGHEST)
    return dense(x)


# --- from images to features ----------------------------------------------------------------------


def features(
    variables: PyTree,
    images: Any,
    taps: Sequence[str] = ("2048",),
    protocol: str = "torch-fidelity",
) -> dict[str, Array]:
    """The network's features of images, by the name of the layer that they are tapped from.

    Only as much of the network is computed as the taps need. Images go through it in parts of a
    fixed number, so that memory does not grow with B and one program serves every B.

    Args:
        variables: from `from_torch`.
        images: uint8 [B, H, W, 3], of any size. Grey images must have their channel repeated by
            the caller (`np.repeat(images, 3, axis=-1)`), floats be quantised
            (`gengen.data.to_uint8`): a score should say that this was done.
        taps: some of "64" and "192" (after the first and second max pool), "768" (after Mixed_6e),
            "2048" (the last), all of them means over positions; "logits_unbiased", which the
            Inception Score takes the softmax of.
        protocol: how images are brought to 299×299: "torch-fidelity", "pytorch-fid", "clean-fid".

    Returns:
        float32 [B, channels] for each tap; 1008 of "logits_unbiased".

    Raises:
        InputError: for images that are not colour, not uint8 or empty, an unknown tap or protocol,
            or weights without the classifier that "logits_unbiased" needs.
    """
    taps = _check(variables, images, taps, protocol)
    if isinstance(images, Tracer):
        return _features(variables, images, taps, protocol)
    most = min(len(images), 8 if on_cpu() else 64)  # 8: what was fastest of 4, 8, 16 and 32
    parts = []
    for start in range(0, len(images), most):
        part = images[start : start + most]
        padding = [(0, most - len(part)), (0, 0), (0, 0), (0, 0)]
        part = np.pad(part, padding) if len(part) < most else part
        parts.append(_compiled()(variables, part, taps, protocol))
    return {tap: jnp.concatenate([p[tap] for p in parts])[: len(images)] for tap in taps}


def _features(variables: PyTree, images: Array, taps: tuple[str, ...], protocol: str) -> PyTree:
    return InceptionV3(taps).apply(variables, preprocess(images, protocol))


@cache
def _compiled() -> Callable[..., dict[str, Array]]:
    return jax.jit(_features, static_argnums=(2, 3), compiler_options=compiler_options())


def _check(variables: PyTree, images: Any, taps: Sequence[str], protocol: str) -> tuple[str, ...]:
    """The taps, once everything is known to be what `features` accepts."""
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol = {protocol!r}: it is one of {', '.join(PROTOCOLS)}")
    if isinstance(taps, str) or not taps or not set(taps) <= set(TAPS):
        raise InputError(f"taps = {taps!r}: a tuple of some of {', '.join(TAPS)}")
    if "logits_unbiased" in taps and "fc" not in variables["params"]:
        raise InputError('the weights have no "fc": without it there is no logits_unbiased')
    dtype = getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8:
        raise InputError(
            f"images are {dtype}, but uint8 0..255 is needed: quantise floats in [-1, 1] by "
            "gengen.data.to_uint8"
        )
    shape = images.shape
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise InputError(
            f"images are {list(shape)}, but [B, H, W, 3] is needed, B, H, W ≥ 1: repeat a grey "
            "channel by np.repeat(images, 3, axis=-1)"
        )
    return tuple(dict.fromkeys(taps))


# --- weights --------------------------------------------------------------------------------------


@cache
def layers() -> dict[str, Shape]:
    """Kernels' shapes by PyTorch's names: {"Mixed_5b.branch1x1": (64, 192, 1, 1)}, [O, I, H, W]."""
    x = jnp.zeros((1, SIZE, SIZE, 3))
    variables = jax.eval_shape(InceptionV3(("2048",)).init, jax.random.key(0), x)
    found: dict[str, Shape] = {}
    leaves: dict[tuple[str, ...], Any] = flatten_dict(variables["params"])
    for (*path, what), leaf in leaves.items():
        if what == "kernel" and path[-1] == "heads":
            widths = HEADS[path[0]].items()
            found |= {f"{path[0]}.{name}": (out, leaf.shape[0], 1, 1) for name, out in widths}
        elif what == "kernel":
            height, width, channels, out = leaf.shape
            found[".".join(path)] = (out, channels, height, width)
    return found


def torch_shapes() -> dict[str, Shape]:
    """The arrays of a public weight file, by name, with their shapes."""
    shapes: dict[str, Shape] = {"fc.weight": (CLASSES, 2048), "fc.bias": (CLASSES,)}
    for name, kernel in layers().items():
        shapes[f"{name}.conv.weight"] = kernel
        shapes |= {f"{name}.bn.{what}": kernel[:1] for what in _NORM}
    return shapes


_NORM = ("weight", "bias", "running_mean", "running_var")  # γ, β and the statistics
# What pytorch-fid's module, which numbers its layers, has in the place of the names of its file.
_NUMBERED = {
    f"blocks.{b}.{i}": name
    for b, block in enumerate(
        (
            ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
            ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
            [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")],
            ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
        )
    )
    for i, name in enumerate(block)
}


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, PyTree]:
    """Weights in PyTorch's form as `variables`, batch normalisation folded into the convolutions.

        kernel ← s · kernel,  bias ← β - s · mean,    s = γ / √(variance + 10⁻³)

    Args:
        state_dict: arrays or tensors by name, as in the weight files of pytorch-fid and
            torch-fidelity (`torch_shapes` lists them) or as of either's module. The module of
            pytorch-fid has no classifier: "logits_unbiased" cannot be had of it.

    Raises:
        InputError: naming arrays that are missing, unexpected, of another shape or not finite.
    """
    named: dict[str, Any] = {}
    for key, value in state_dict.items():
        block, layer = ".".join(key.split(".")[:3]), key.split(".")[3:]
        if not key.endswith(".num_batches_tracked"):
            named[".".join([_NUMBERED[block], *layer]) if block in _NUMBERED else key] = value
    shapes = torch_shapes()
    if any(key.startswith("blocks.") for key in state_dict):
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("fc.")}
    arrays = checked(named, shapes)

    folded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in layers():
        norm = (arrays[f"{name}.bn.{what}"].astype(np.float64) for what in _NORM)
        gamma, beta, mean, variance = norm
        s = gamma / np.sqrt(variance + BN_EPSILON)
        kernel = arrays[f"{name}.conv.weight"].transpose(2, 3, 1, 0)  # to [H, W, I, O]
        folded[name] = s.astype(np.float32) * kernel, beta - s * mean
    params: dict[tuple[str, ...], np.ndarray] = {}
    for block, widths in HEADS.items():
        kernels, biases = zip(*(folded.pop(f"{block}.{name}") for name in widths), strict=True)
        params[block, "heads", "kernel"] = np.concatenate(kernels, axis=-1)[0, 0]
        params[block, "heads", "bias"] = np.concatenate(biases)
    for name, (kernel, bias) in folded.items():
        params[*name.split("."), "kernel"], params[*name.split("."), "bias"] = kernel, bias
    if "fc.weight" in arrays:
        params["fc", "kernel"] = arrays["fc.weight"].T
    return {"params": unflatten_dict({k: jnp.asarray(v, jnp.float32) for k, v in params.items()})}
