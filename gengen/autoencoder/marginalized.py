r"""mDAE, the marginalised denoising autoencoder, in closed form; stacked: mSDA.

Chen, Xu, Weinberger & Sha 2012, *Marginalized Denoising Autoencoders for Domain Adaptation* (ICML,
1206.4683). A linear map W gives back x̄ = (x, 1) from x̃, each number of which but the last is set to
0 with probability p. Over m damaged copies of the data X̄ [D+1, N] the best is

    W = P Q⁻¹,    Q = X̃ X̃ᵀ / m,    P = X̄ X̃ᵀ / m

and as m → ∞, P and Q tend to their expectations: with S = X̄ X̄ᵀ and q = (1-p, ..., 1-p, 1)

    W = E[P] E[Q]⁻¹,    E[P]_ab = S_ab q_b,    E[Q]_ab = S_ab q_a q_b  (a ≠ b),  S_aa q_a  (a = b)

E[Q]⁻¹ is the inverse of the expectation; the slide that prints E(Q⁻¹) errs. E[Q] + λI is inverted,
as pixels that are always 0 leave rows of zeros. A layer is h = tanh(W (x, 1)), the next is fitted
to h; a classifier sees the input and all layers side by side.

Images count from 0, black, to 1, so that what is lost is black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.types import Array, InputError, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """What is fitted."""

    shape: Shape = ()  # of one example: (D,) or (H, W, C); (): whatever is given
    p: float = 0.5  # probability that a number is lost
    layers: int = 1  # of the stack
    ridge: float = 1e-5  # λ, added to the diagonal of E[Q]

    @staticmethod
    def paper() -> Config:
        """The five layers of the paper; it chooses p by cross-validation."""
        return Config(layers=5)

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if self.shape and (len(self.shape) not in (1, 3) or min(self.shape) < 1):
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C), (D,) or ()")
        if not 0 <= self.p < 1:
            raise InputError(f"Config.p = {self.p}, but it is a probability in [0, 1)")
        if self.layers < 1:
            raise InputError(f"Config.layers = {self.layers}, but it is at least 1")
        if not self.ridge >= 0:
            raise InputError(f"Config.ridge = {self.ridge}, but it is at least 0")


def fit(x: ArrayLike, cfg: Config = Config()) -> PyTree:  # noqa: B008
    """Fit to x [N, *shape] in float64: {"W": [layers, D, D+1]}, float32.

    Raises:
        InputError: for another shape, numbers that are not finite, or an E[Q] that is singular.
    """
    h, found = _vectors(x, cfg), []
    for _ in range(cfg.layers):
        W = _solve(*expectations(h, cfg.p), cfg.ridge)
        found.append(W)
        h = np.tanh(_with_bias(h) @ W.T)
    return {"W": jnp.asarray(np.stack(found), jnp.float32)}


def expectations(h: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    """E[P] and E[Q] for h [N, D], float64 [D+1, D+1] each."""
    wide = _with_bias(h)
    S, q = wide.T @ wide, np.append(np.full(h.shape[1], 1 - p), 1.0)
    Q = S * np.outer(q, q)
    np.fill_diagonal(Q, np.diag(S) * q)
    return S * q, Q


def fit_copies(
    x: ArrayLike,
    m: int,
    cfg: Config = Config(),  # noqa: B008
    seed: int = 0,
) -> PyTree:
    """The same from the explicit average over m damaged copies, the first layer's alone.

    It tends to `fit` like m^-½. For comparison: `fit` costs less than one copy.
    """
    if m < 1:
        raise InputError(f"m = {m}, but an average is over at least 1 copy")
    h, generator = _vectors(x, cfg), np.random.default_rng(seed)
    size = h.shape[1] + 1
    P, Q = np.zeros((size, size)), np.zeros((size, size))
    for _ in range(m):
        kept = _with_bias(h * (generator.random(h.shape) >= cfg.p))
        P += _with_bias(h).T @ kept / m
        Q += kept.T @ kept / m
    return {"W": jnp.asarray(_solve(P, Q, cfg.ridge)[None], jnp.float32)}


def _solve(P: np.ndarray, Q: np.ndarray, ridge: float) -> np.ndarray:
    """P (Q + λI)⁻¹ without the row that gives back the 1: [D, D+1]."""
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
    """Data as float64 [N, D], checked."""
    given: Any = np.shape(x)
    data = np.asarray(_flat(check_shape({"x": x}, cfg.shape or given[1:])), np.float64)
    if not np.isfinite(data).all():
        raise InputError("x has NaN or infinity: remove those examples")
    return data


def _flat(x: Array) -> Array:
    """[B, D]; images from 0 to 1."""
    return (x.reshape(x.shape[0], -1) + 1) / 2 if x.ndim == 4 else x


# --- what the model can do -----------------------------------------------------------------------


def transform(params: PyTree, x: ArrayLike) -> Array:
    """The features of x [B, *shape], itself and the outputs of all layers: [B, (1 + layers) · D].

    Raises:
        InputError: for examples of another size than were fitted.
    """
    h = _checked(params, x)
    features = [h]
    for W in params["W"]:
        h = jnp.tanh(h @ W[:, :-1].T + W[:, -1])
        features.append(h)
    return jnp.concatenate(features, axis=1)


def reconstruct(params: PyTree, x: ArrayLike) -> Array:
    """What the first layer takes x [B, *shape] for, before tanh; in the units of x."""
    W, h = params["W"][0], _checked(params, x)
    out = (h @ W[:, :-1].T + W[:, -1]).reshape(np.shape(x))
    return 2 * out - 1 if out.ndim == 4 else out


def _checked(params: PyTree, x: ArrayLike) -> Array:
    given: Any = np.shape(x)
    h = _flat(check_shape({"x": x}, given[1:]))
    if h.ndim != 2 or h.shape[1] != params["W"].shape[1]:
        raise InputError(
            f"examples have shape {given[1:]}, but {params['W'].shape[1]} numbers each were fitted"
        )
    return h
