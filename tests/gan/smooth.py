"""A discriminator that is smooth, in JAX and in NumPy, and its slopes by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np

_draw = np.random.default_rng(5)
A, B = _draw.normal(size=(3, 6)), _draw.normal(size=6)
REAL, FAKE = _draw.normal(size=(2, 7, 3)).astype(np.float32)
KEY = jax.random.key(11)


def D(x):
    """B·tanh(xA): [N, 3] → [N]."""
    return jnp.tanh(x @ jnp.asarray(A, jnp.float32)) @ jnp.asarray(B, jnp.float32)


def numpy_D(x):
    """The same in float64."""
    return np.tanh(x @ A) @ B


def slopes(x, step=1e-5):
    """∇D at each x by central differences in float64, whose error is some step² = 1e-10."""
    x = np.asarray(x, np.float64)
    sides = [
        (numpy_D(x + step * e) - numpy_D(x - step * e)) / (2 * step) for e in np.eye(x.shape[1])
    ]
    return np.stack(sides, axis=1)


def squares(x):
    """‖∇D‖² at each x."""
    return np.sum(slopes(x) ** 2, axis=1)


def uniform(key, shape):
    """What `gengen.rng.uniform` says that it draws: row i from fold_in(key, i)."""
    rows = [jax.random.uniform(jax.random.fold_in(key, i), shape[1:]) for i in range(shape[0])]
    return np.asarray(rows, np.float64)


def normal(key, shape):
    """Likewise `gengen.rng.normal`."""
    rows = [jax.random.normal(jax.random.fold_in(key, i), shape[1:]) for i in range(shape[0])]
    return np.asarray(rows, np.float64)
