"""The codebook of a VQ-VAE: nearest codes, moving averages, restarts. See `gengen.vae.vqvae`.

`cfg` is a Config of `gengen.vae.vqvae`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gengen import rng
from gengen.optim import mean_over_replicas
from gengen.rng import AXIS, axis_is_bound
from gengen.types import Array, Key, PyTree, Shape


def first_codes(key: Key, shape: Shape, dtype: Any = jnp.float32) -> Array:
    """Return initial codes: [K, D]."""
    return jax.random.normal(key, shape, dtype)


def codebook(cfg: Any, variables: PyTree) -> Array:
    """Return the codes e_1..e_K: [K, D]."""
    if not cfg.codebook_decay:
        return jnp.asarray(variables["params"]["codebook"])
    book = variables["codebook"]
    return jnp.asarray(book["sums"]) / book["shares"][:, None]


def nearest(z_e: Array, e: Array) -> Array:
    """Return the index of the code of e [K, D] nearest to each of z_e [..., D]: int32 [...]."""
    # ‖z‖² is the same for all codes.
    return jnp.argmin(jnp.sum(e**2, axis=1) - 2 * z_e @ e.T, axis=-1).astype(jnp.int32)


def straight_through(z_e: Array, z_q: Array) -> Array:
    """Return z_q, with its gradient passed to z_e."""
    return z_e + jax.lax.stop_gradient(z_q - z_e)


def follow(cfg: Any, book: PyTree, z_e: Array, k: Array, key: Key) -> PyTree:
    """Return the codebook's averages after a batch, with unused codes restarted.

    Args:
        cfg: of the model.
        book: "shares" N_k [K] and "sums" m_k [K, D], both per encoding.
        z_e: this replica's encodings [B, *places, D].
        k: the indices of their codes [B, *places].
        key: of the restarts; the same on every replica.

    Returns:
        `book` after the batch, the same on every replica: all statistics are of the global batch.
    """
    flat = z_e.reshape(-1, cfg.code_dim)
    chosen = jax.nn.one_hot(k.reshape(-1), cfg.codebook_size)  # [B · places, K]
    shares, sums = mean_over_replicas((chosen.mean(0), chosen.T @ flat / len(flat)))
    shares = cfg.codebook_decay * book["shares"] + (1 - cfg.codebook_decay) * shares
    sums = cfg.codebook_decay * book["sums"] + (1 - cfg.codebook_decay) * sums
    dead = shares < cfg.restart_threshold / cfg.codebook_size
    fresh = _some_encodings(cfg, z_e, key)
    patience = (
        2 * cfg.restart_threshold / cfg.codebook_size
    )  # restarted again after ln 2 / ln 1/γ steps without use
    return {
        "shares": jnp.where(dead, patience, shares),
        "sums": jnp.where(dead[:, None], fresh * patience, sums),
    }


def _some_encodings(cfg: Any, z_e: Array, key: Key) -> Array:
    """Return K random encodings of the global batch: [K, D], the same on every replica.

    Every encoding has a random score for every code. The largest wins, on whichever replica it is.
    """
    num = len(z_e)
    z_e = z_e.reshape(num, -1, cfg.code_dim)
    score_key, place_key = jax.random.split(key)
    scores = rng.uniform(score_key, (num, cfg.codebook_size))
    place = jax.random.randint(place_key, (cfg.codebook_size,), 0, z_e.shape[1])
    best = jnp.max(scores, axis=0)
    mine = z_e[jnp.argmax(scores, axis=0), place]  # [K, D]
    if not axis_is_bound():
        return mine
    winner = best == jax.lax.pmax(best, AXIS)
    return jax.lax.psum(jnp.where(winner[:, None], mine, 0.0), AXIS)


def perplexity(cfg: Any, k: Array) -> Array:
    """Return e^H of how often the K codes are used in the global batch: 1..K."""
    shares = mean_over_replicas(jax.nn.one_hot(k.reshape(-1), cfg.codebook_size).mean(0))
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))
