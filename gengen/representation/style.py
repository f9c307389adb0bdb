r"""Style transfer and texture synthesis: pictures with given features and Gram matrices.

Gatys, Ecker & Bethge 2015, *Texture Synthesis Using Convolutional Neural Networks* (1505.07376)
and *A Neural Algorithm of Artistic Style* (1508.06576). With the features F_l [M_l, N_l] of a
picture at layer l, at M_l places, and P_l and A_l those of the content and of the style picture:

    G_l = F_lᵀF_l / M_l                                 the Gram matrix
    content loss   ½ Σ (F_l - P_l)²
    style loss     Σ_l w_l · 1/(4N_l²) Σ (G_l(F_l) - G_l(A_l))²,   w_l = 1 / number of layers
    loss           α · content + β · style

The division by M_l, which the papers have in the loss, allows pictures of different sizes. Texture
synthesis is α = 0 from noise; a reconstruction of the content of one layer is β = 0.

Features are those of VGG-19 with mean-pools, as in the papers, if the user has its weights
(`gengen weights fetch vgg19`). Else they are those of one layer of random filters of several sizes,
each followed by ReLU (Ustyuzhaninov, Brendel, Gatys & Bethge 2016, *Texture Synthesis Using Shallow
Convolutional Networks with Random Filters*, 1606.00021): good for textures, less so for content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.errors import InputError
from gengen.nn import vgg, weights
from gengen.types import LAYOUT, Array, Key, PyTree

__all__ = [
    "Features", "Targets", "content_loss", "features_for", "gram", "loss_of", "optimise",
    "random_features", "style_loss", "targets", "vgg_features",
]  # fmt: skip

FILTER_SIZES = (3, 5, 7, 11, 15, 23)  # of the random filters, in pixels
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # of VGG-19, as in the papers
CONTENT = ("relu4_2",)
OPTIMIZERS = ("lbfgs", "adam")
FIRST_STEP = 0.1  # root mean square of a step of L-BFGS along the gradient


@dataclass(frozen=True)
class Features:
    """A network whose features pictures are compared by.

    Attributes:
        name: for captions.
        apply: images [1, H, W, 3] in [-1, 1], names of layers -> {name: [1, h, w, N]}.
        style: layers of the style loss.
        content: layers of the content loss.
    """

    name: str
    apply: Callable[[Array, Sequence[str]], dict[str, Array]]
    style: tuple[str, ...]
    content: tuple[str, ...]


def random_features(
    key: Key, num_filters: int = 32, sizes: Sequence[int] = FILTER_SIZES
) -> Features:
    """Return one layer of random filters, ReLU after each; pictures are continued circularly.

    Args:
        key: of the filters.
        num_filters: of each size.
        sizes: sides of the filters, odd, in pixels. Layers are called "size3", "size5", ...
    """
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes) or num_filters < 1:
        raise InputError(
            f"sizes = {tuple(sizes)}, num_filters = {num_filters}: odd, and at least 1"
        )
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
    kernels = {
        # Uniform, of variance 1/fan-in: features of unit scale for noise of unit variance.
        f"size{s}": jax.random.uniform(k, (s, s, 3, num_filters), minval=-1) * (1 / s)
        for s, k in keys.items()
    }

    def apply(x: Array, taps: Sequence[str]) -> dict[str, Array]:
        found = {}
        for tap in taps:
            kernel = kernels[tap]
            half = kernel.shape[0] // 2
            padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)), mode="wrap")
            out = jax.lax.conv_general_dilated(
                padded, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT
            )
            found[tap] = jax.nn.relu(out)
        return found

    name = f"{num_filters} random filters of each of {len(sizes)} sizes"
    return Features(name, apply, tuple(kernels), tuple(kernels)[:3])


def vgg_features(variables: PyTree, padding: str = "SAME") -> Features:
    """Return VGG-19 with mean-pools and the papers' layers.

    Args:
        variables: its weights.
        padding: "SAME": zeros around each map; "CIRCULAR".
    """
    apply = partial(_vgg, variables, padding)
    return Features("VGG-19", apply, STYLE, CONTENT)


def _vgg(variables: PyTree, padding: str, x: Array, taps: Sequence[str]) -> dict[str, Array]:
    return vgg.features(variables, x, taps, pool="mean", padding=padding)


def features_for(key: Key) -> Features:
    """Return VGG-19 if its weights are on this machine, else random filters."""
    if weights.path("vgg19").exists():
        return vgg_features(weights.load("vgg19")[0])
    return random_features(key)


# --- losses --------------------------------------------------------------------------------------


def gram(features: Array) -> Array:
    """Return FᵀF / M of features [1, h, w, N], M = h·w: [N, N]."""
    flat = features.reshape(-1, features.shape[-1])
    return flat.T @ flat / flat.shape[0]


def style_loss(grams: dict[str, Array], wanted: dict[str, Array]) -> Array:
    """Return the mean over layers of Σ (G - A)² / (4N²), for Gram matrices [N, N] by layer: []."""
    terms = [jnp.sum((grams[k] - a) ** 2) / (4 * a.shape[0] ** 2) for k, a in wanted.items()]
    return jnp.mean(jnp.stack(terms))


def content_loss(features: dict[str, Array], wanted: dict[str, Array]) -> Array:
    """Return ½ Σ (F - P)² over layers, places and features: []."""
    return jnp.stack([0.5 * jnp.sum((features[k] - p) ** 2) for k, p in wanted.items()]).sum()


class Targets(NamedTuple):
    """What a picture is to have.

    Attributes:
        grams: Gram matrices, by layer; {}: any style.
        content: features, by layer; {}: any content.
    """

    grams: dict[str, Array]
    content: dict[str, Array]


def targets(
    features: Features, *, style: ArrayLike | None = None, content: ArrayLike | None = None,
    style_layers: Sequence[str] | None = None, content_layers: Sequence[str] | None = None,
) -> Targets:  # fmt: skip
    """Return the Gram matrices of a style picture, and the features of a content picture.

    Args:
        features: the network.
        style: picture [H, W, 3] in [-1, 1]; None: no style loss.
        content: picture [H, W, 3] in [-1, 1]; None: no content loss.
        style_layers: None: those of `features`.
        content_layers: None: those of `features`.

    Raises:
        InputError: for no picture, or another shape.
    """
    if style is None and content is None:
        raise InputError("style and content are None: give at least one picture")
    grams, wanted = {}, {}
    if style is not None:
        found = features.apply(_picture(style), tuple(style_layers or features.style))
        grams = {k: gram(f) for k, f in found.items()}
    if content is not None:
        wanted = features.apply(_picture(content), tuple(content_layers or features.content))
    return Targets(grams, wanted)


def _picture(x: ArrayLike) -> Array:
    x = jnp.asarray(x, jnp.float32)
    if x.ndim != 3 or x.shape[-1] != 3:
        raise InputError(f"a picture is {list(x.shape)}; it must be [H, W, 3]")
    return x[None]


def loss_of(
    features: Features, wanted: Targets, alpha: float = 1e-3, beta: float = 1.0
) -> Callable[[Array], Array]:
    """Return the loss as a function of a picture [H, W, 3]: α · content + β · style.

    Args:
        features: the network.
        wanted: targets; a part that is empty has no loss.
        alpha: weight of the content loss.
        beta: weight of the style loss.
    """
    layers = tuple(dict.fromkeys([*wanted.grams, *wanted.content]))

    def loss(x: Array) -> Array:
        found = features.apply(x[None], layers)
        total = jnp.float32(0)
        if wanted.grams:
            total += beta * style_loss({k: gram(found[k]) for k in wanted.grams}, wanted.grams)
        if wanted.content:
            total += alpha * content_loss(found, wanted.content)
        return total

    return loss


# --- pictures ------------------------------------------------------------------------------------


def optimise(
    loss: Callable[[Array], Array], start: ArrayLike, steps: int, optimizer: str = "lbfgs",
    learning_rate: float = 0.02,
) -> Iterator[tuple[np.ndarray, float]]:  # fmt: skip
    """Minimise a loss over the numbers of a picture, step by step.

    Args:
        loss: of a picture [H, W, 3].
        start: the picture to start from, such as noise or the content.
        steps: number of steps.
        optimizer: "lbfgs", as in the papers, with a line search; or "adam".
        learning_rate: of Adam.

    Yields:
        The picture after each step, float32 [H, W, 3], clipped to [-1, 1], and the loss before it.

    Raises:
        InputError: for another optimizer, or no steps.
    """
    if optimizer not in OPTIMIZERS or steps < 1:
        raise InputError(
            f"optimizer = {optimizer!r}, steps = {steps}; it must be one of "
            f"{', '.join(OPTIMIZERS)}, for at least 1 step"
        )
    tx = optax.adam(learning_rate) if optimizer == "adam" else _lbfgs()
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(x: Array, state: Any, unit: Array) -> tuple[Array, Any, Array]:
        scaled = lambda x: loss(x) / unit  # noqa: E731
        value, grad = jax.value_and_grad(scaled)(x)
        updates, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=scaled)
        return optax.apply_updates(x, updates), state, value * unit  # type: ignore[return-value]

    x = jnp.asarray(start, jnp.float32)
    state, unit = tx.init(x), _unit(loss, x)
    for _ in range(steps):
        x, state, value = step(x, state, unit)
        yield np.clip(np.asarray(x), -1, 1), float(value)


def _unit(loss: Callable[[Array], Array], x: Array) -> Array:
    """Return the unit in which the gradient at x has `FIRST_STEP` for its root mean square.

    L-BFGS without curvature steps along the gradient, and not further than it is long. A tiny
    gradient would not change the picture in float32.
    """
    size = jnp.sqrt(jnp.mean(jax.jit(jax.grad(loss))(x) ** 2))
    return jnp.where(size > 0, size / FIRST_STEP, 1.0)


def _lbfgs() -> optax.GradientTransformationExtraArgs:
    """Return L-BFGS with a backtracking line search, whose loop needs no gradients.

    On CPU gradients of convolutions are many times slower inside of a compiled loop. Such a search
    may end where the curvature is negative: these steps are left out of the memory.
    """
    inner = optax.scale_by_lbfgs(memory_size=20)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        curvature = jnp.vdot(updates - state.updates, params - state.params)
        state = state._replace(
            params=jnp.where(curvature > 0, state.params, params),
            updates=jnp.where(curvature > 0, state.updates, updates),
        )
        return inner.update(updates, state, params)

    search = optax.scale_by_backtracking_linesearch(
        20, decrease_factor=0.5, increase_factor=float("inf"), max_learning_rate=1.0
    )
    positive = optax.GradientTransformation(inner.init, update)
    return optax.chain(positive, optax.scale(-1.0), search)
