"""Optax transforms that games and replicas need.

Each is a plain `optax.GradientTransformation`, to be chained with any other.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gengen.rng import AXIS, axis_is_bound
from gengen.types import InputError, PyTree


def ascend(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Maximise: flip the sign of the gradient, then do as `tx` says.

    The sign is flipped *before* the optimiser: after it, AdamW's decay would become growth.
    """
    return optax.chain(optax.scale(-1.0), tx)


def keep_params_in(projection: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Make the step end inside a set: the update becomes projection(params + update) - params.

    To be the *last* link of a chain. The sum params + update can miss the set by one rounding of
    the largest parameter, since it is computed again when the update is applied.

    Args:
        projection: maps a pytree of parameters to the nearest one in the set.
    """

    def update(updates: PyTree, params: PyTree | None) -> PyTree:
        if params is None:
            raise InputError("keep_params_in needs the parameters: call update(g, state, params)")
        wanted = projection(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, wanted, params)

    return optax.stateless(update)


def clip_weights(c: float) -> optax.GradientTransformation:
    """Keep every weight in [-c, c], as the critic of Wasserstein GAN (arXiv 1701.07875) does."""
    if not c > 0:
        raise InputError(f"c = {c}, but weights are clipped to [-c, c] with c > 0")
    return keep_params_in(lambda params: optax.projections.projection_linf_ball(params, c))


def mean_over_replicas(tree: PyTree, axis: str = AXIS) -> PyTree:
    """Average the floating-point leaves over the replicas; the identity where there is no axis."""
    if not axis_is_bound(axis):
        return tree

    def mean(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.lax.pmean(leaf, axis) if is_float else leaf

    return jax.tree.map(mean, tree)


def replica_mean(axis: str = AXIS) -> optax.GradientTransformation:
    """Average the gradients over the replicas: the *first* link of a chain.

    The mean is of gradients, pmean(grad(loss)): grad(pmean(loss)) under pmap gives each replica its
    own, unaveraged gradient. Under jit, where the axis is unbound, it is the identity.
    """
    return optax.stateless(lambda updates, params: mean_over_replicas(updates, axis))
