r"""mDAE, the marginalised denoising autoencoder, in closed form; stacked: mSDA.

Chen, Xu, Weinberger & Sha 2012, *Marginalized Denoising Autoencoders for Domain Adaptation* (ICML,
1206.4683). A linear map W reconstructs x̄ = (x, 1) from x̃, each number of which but the last is set
to 0 with probability p. Over m corrupted copies of the data X̄ [D+1, N] the best is

    W = P Q⁻¹,    Q = X̃ X̃ᵀ / m,    P = X̄ X̃ᵀ / m

and as m → ∞, P and Q tend to their expectations: with S = X̄ X̄ᵀ and q = (1-p, ..., 1-p, 1)

    W = E[P] E[Q]⁻¹,    E[P]_ab = S_ab q_b,    E[Q]_ab = S_ab q_a q_b  (a ≠ b),  S_aa q_a  (a = b)

E[Q]⁻¹ is the inverse of the expectation, not the expectation of the inverse. E[Q] + λI is inverted,
as pixels that are always 0 leave rows of zeros. A layer is h = tanh(W (x, 1)), and the next one is
fitted to h. A classifier gets the input and all layers side by side.

Images are scaled from 0, black, to 1, so that a missing pixel is black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.contract import BaseConfig, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape

__all__ = ["Config", "condition_of", "fit", "fit_copies", "reconstruct", "transform"]


@dataclass(frozen=True)
class Config(BaseConfig):
    """What is fitted."""

    shape: Shape = ()  # of one example: (D,) or (H, W, C); (): any
    corruption_probability: float = 0.5  # p, that a number is set to 0
    num_layers: int = 1  # of the stack
    ridge: float = 1e-5  # λ, added to the diagonal of E[Q]

    RENAMED: ClassVar[dict[str, str | None]] = {
        "p": "corruption_probability", "layers": "num_layers",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the five layers of the paper, which chooses p by cross-validation."""
        return cls(num_layers=5)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if self.shape and (len(self.shape) not in (1, 3) or min(self.shape) < 1):
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C), (D,) or ()")
        if not 0 <= self.corruption_probability < 1:
            raise InputError(
                f"Config.corruption_probability = {self.corruption_probability}; it must be in "
                "[0, 1)"
            )
        if self.num_layers < 1:
            raise InputError(f"Config.num_layers = {self.num_layers}; it must be at least 1")
        if not self.ridge >= 0:
            raise InputError(f"Config.ridge = {self.ridge}; it must be at least 0")


def fit(cfg: Config, x: ArrayLike, key: Key | None = None) -> PyTree:
    """Fit to x [N, *shape] in float64; return {"params": {"W": [num_layers, D, D+1]}}, float32.

    Args:
        cfg: what is fitted.
        x: images in [-1, 1], or vectors.
        key: not used.

    Raises:
        InputError: for another shape, numbers that are not finite, or a singular E[Q].
    """
    h, found = _vectors(x, cfg), []
    for _ in range(cfg.num_layers):
        W = _solve(*expectations(h, cfg.corruption_probability), cfg.ridge)
        found.append(W)
        h = np.tanh(_with_bias(h) @ W.T)
    return {"params": {"W": jnp.asarray(np.stack(found), jnp.float32)}}


def expectations(h: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Return E[P] and E[Q] for h [N, D], float64 [D+1, D+1] each."""
    wide = _with_bias(h)
    S, q = wide.T @ wide, np.append(np.full(h.shape[1], 1 - p), 1.0)
    Q = S * np.outer(q, q)
    np.fill_diagonal(Q, np.diag(S) * q)
    return S * q, Q


def fit_copies(cfg: Config, x: ArrayLike, m: int, seed: int = 0) -> PyTree:
    """Fit the first layer to the average over m corrupted copies, as `fit` does to the expectation.

    It tends to `fit` like m^-½. For comparison: `fit` costs less than one copy.
    """
    if m < 1:
        raise InputError(f"m = {m}; it must be at least 1")
    h, generator = _vectors(x, cfg), np.random.default_rng(seed)
    size = h.shape[1] + 1
    P, Q = np.zeros((size, size)), np.zeros((size, size))
    for _ in range(m):
        kept = _with_bias(h * (generator.random(h.shape) >= cfg.corruption_probability))
        P += _with_bias(h).T @ kept / m
        Q += kept.T @ kept / m
    return {"params": {"W": jnp.asarray(_solve(P, Q, cfg.ridge)[None], jnp.float32)}}


def _solve(P: np.ndarray, Q: np.ndarray, ridge: float) -> np.ndarray:
    """Return P (Q + λI)⁻¹ without the row that reconstructs the 1: [D, D+1]."""
    try:
        W = np.linalg.solve(Q + ridge * np.eye(len(Q)), P[:-1].T).T  # Q is symmetric
    except np.linalg.LinAlgError:
        raise InputError(
            f"Config.ridge = {ridge}, but E[Q] is singular (a number is 0 in all examples): "
            "set ridge = 1e-5"
        ) from None
    return W


def _with_bias(h: np.ndarray) -> np.ndarray:
    return np.concatenate([h, np.ones((len(h), 1))], axis=1)


def _vectors(x: ArrayLike, cfg: Config) -> np.ndarray:
    """Return data as float64 [N, D], checked."""
    given: Any = np.shape(x)
    data = np.asarray(_flat(check_shape({"x": x}, cfg.shape or given[1:])), np.float64)
    if not np.isfinite(data).all():
        raise InputError("x has NaN or infinity: remove those examples")
    return data


def _flat(x: Array) -> Array:
    """Return x as [B, D]; images from 0 to 1."""
    return (x.reshape(x.shape[0], -1) + 1) / 2 if x.ndim == 4 else x


# --- what the model can do -----------------------------------------------------------------------


def transform(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Return features of x [B, *shape], x and the outputs of all layers: [B, (1 + layers) · D].

    Raises:
        InputError: for examples of another size than the fitted ones.
    """
    h = _checked(variables, x)
    features = [h]
    for W in variables["params"]["W"]:
        h = jnp.tanh(h @ W[:, :-1].T + W[:, -1])
        features.append(h)
    return jnp.concatenate(features, axis=1)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the first layer's reconstruction of x [B, *shape], without tanh: [B, *shape].

    Args:
        cfg: of the model.
        variables: of the fitted model.
        x: images in [-1, 1], or vectors.
        condition: None, as the model is unconditional.
    """
    refuse_condition(condition)
    W, h = variables["params"]["W"][0], _checked(variables, x)
    out = (h @ W[:, :-1].T + W[:, -1]).reshape(np.shape(x))
    return 2 * out - 1 if out.ndim == 4 else out


def _checked(variables: PyTree, x: ArrayLike) -> Array:
    W = variables["params"]["W"]
    given: Any = np.shape(x)
    h = _flat(check_shape({"x": x}, given[1:]))
    if h.ndim != 2 or h.shape[1] != W.shape[1]:
        raise InputError(
            f"examples have shape {given[1:]}; they must have {W.shape[1]} numbers, as in the fit"
        )
    return h
