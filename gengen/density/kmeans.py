r"""k-means: Lloyd's algorithm, started by k-means++.

Lloyd 1982, *Least Squares Quantization in PCM* (IEEE Trans. Inf. Theory 28(2)); Arthur &
Vassilvitskii 2007, *k-means++: The Advantages of Careful Seeding*.

    inertia = Σ_n min_k |x_n - m_k|²

    assign:  k_n = argmin_k |x_n - m_k|²
    update:  m_k = the mean of the x_n with k_n = k

The inertia falls at every step, to a local minimum. k-means++ draws each initial centre from the
data with a probability proportional to the squared distance to the nearest centre so far. Of
`num_starts` runs, side by side, the one with the smallest inertia counts. A cluster that loses all
of its points gets the point that is farthest from its own centre, as in scikit-learn.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gengen.contract import BaseConfig, Task, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.density.vectors import require_rows, vectors
from gengen.types import Array, InputError, Key, PyTree, Shape
from gengen.xla import jit

__all__ = [
    "Config", "Run", "condition_of", "decode", "encode", "fit", "inertia", "labels", "lloyd",
    "plus_plus", "reconstruct",
]  # fmt: skip


@dataclass(frozen=True)
class Config(BaseConfig):
    """Data, number of clusters and stopping rule."""

    shape: Shape = (2,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    num_clusters: int = 3  # k
    num_starts: int = 10  # runs from other initial centres; the best one counts
    max_steps: int = 300  # of Lloyd's algorithm
    # Lloyd stops when the centres move by less, Σ_k |Δm_k|² relative to the data's mean variance;
    # 0: when they stay where they are.
    tolerance: float = 1e-4

    @classmethod
    def paper(cls) -> Self:
        """Return Lloyd's algorithm, run until the centres stay; the paper prescribes no data."""
        return cls(max_steps=10_000, tolerance=0.0)

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: ten clusters of images, three of vectors."""
        num = 10 if len(task.shape) == 3 else cls.num_clusters
        return dataclasses.replace(cls(), shape=task.shape, num_clusters=num)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (D,) or (H, W, C)")
        for name in ("num_clusters", "num_starts", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        if not self.tolerance >= 0:
            raise InputError(f"Config.tolerance = {self.tolerance}; it must be at least 0")


class Run(NamedTuple):
    """The end of one run of Lloyd's algorithm.

    Attributes:
        centers: m [K, D].
        inertia: Σ_n min_k |x_n - m_k|² [].
        steps: number of steps taken, int32 [].
    """

    centers: Array
    inertia: Array
    steps: Array


def fit(cfg: Config, x: ArrayLike, key: Key, *, start: ArrayLike | None = None) -> PyTree:
    """Find the centres.

    Args:
        cfg: of the model.
        x: the data, [N, *shape].
        key: of the initial centres.
        start: the initial centres [K, D], for one run; None: k-means++, `num_starts` times.

    Returns:
        {"params": {"centers": m [K, D]}}, float32.

    Raises:
        InputError: for another shape, fewer examples than clusters, or numbers that are not
            finite.
    """
    data = vectors(cfg.shape, x)
    require_rows(data, cfg.num_clusters, f"num_clusters = {cfg.num_clusters}")
    mean = data.mean(0)  # |x|² - 2xm + |m|² is exact to few digits far from the origin
    data = data - mean
    if start is None:
        best = _best_of(cfg, data, jax.random.split(key, cfg.num_starts))
    else:
        best = lloyd(cfg, data, jnp.asarray(start, jnp.float32) - mean)
    return {"params": {"centers": best.centers + mean}}


@jit(0, often=False)
def _best_of(cfg: Config, x: Array, keys: Key) -> Run:
    """Return the run of the smallest inertia, one for each key [num_starts]."""

    def one(key: Key) -> Run:
        return _lloyd(cfg, x, plus_plus(key, x, cfg.num_clusters))

    runs = jax.vmap(one)(keys)
    best = jnp.argmin(runs.inertia)
    return jax.tree.map(lambda leaf: leaf[best], runs)


def plus_plus(key: Key, x: Array, num: int) -> Array:
    """Return `num` initial centres [num, D] from x [N, D] by k-means++."""

    def add(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
        nearest, log_share = carry
        center = x[jax.random.categorical(key, log_share)]
        nearest = jnp.minimum(nearest, jnp.sum((x - center) ** 2, axis=1))
        return (nearest, jnp.log(nearest)), center

    first = jnp.full(len(x), jnp.inf), jnp.zeros(len(x))  # the first centre: uniform
    return jax.lax.scan(add, first, jax.random.split(key, num))[1]


def _lloyd(cfg: Config, x: Array, start: Array) -> Run:
    """Run Lloyd's algorithm on x [N, D] from the centres [K, D]."""
    least = cfg.tolerance * jnp.mean(jnp.var(x, axis=0))

    def moves(carry: tuple[Array, Array, Array]) -> Array:
        steps, _, shift = carry
        return (steps < cfg.max_steps) & (shift > least)

    def advance(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        steps, centers, _ = carry
        new = _step(x, centers)
        return steps + 1, new, jnp.sum((new - centers) ** 2)

    begin = (jnp.int32(0), start, jnp.float32(jnp.inf))
    steps, centers, _ = jax.lax.while_loop(moves, advance, begin)
    return Run(centers, _squares(x, centers, labels(x, centers)).sum(), steps)


lloyd = jit(0, often=False)(_lloyd)


def _step(x: Array, centers: Array) -> Array:
    """Return the means of the points that are nearest to each centre: [K, D]."""
    found = labels(x, centers)
    member = jax.nn.one_hot(found, len(centers), dtype=x.dtype)  # [N, K]
    counts, sums = member.sum(0), member.T @ x
    counts, sums = jax.lax.cond(
        (counts == 0).any(), lambda: _refilled(x, centers, found, counts, sums),
        lambda: (counts, sums),
    )  # fmt: skip
    means = sums / jnp.maximum(counts, 1)[:, None]
    # Empty still, since there are fewer distinct points than clusters: beside the largest one.
    return jnp.where((counts > 0)[:, None], means, means[counts.argmax()])


def _refilled(
    x: Array, centers: Array, found: Array, counts: Array, sums: Array
) -> tuple[Array, Array]:
    """Return counts [K] and sums [K, D] after each empty cluster got one of the farthest points.

    The points are removed from their clusters. If all points lie on their centres, nothing changes.
    """
    num = len(centers)
    distance, far = jax.lax.top_k(_squares(x, centers, found), num)
    place = jnp.argsort(counts > 0)  # the empty clusters first, in their order
    moved = ((jnp.arange(num) < jnp.sum(counts == 0)) & (distance[0] > 0)).astype(x.dtype)
    old, points = found[far], x[far] * moved[:, None]
    counts = counts.at[place].add(moved).at[old].add(-moved)
    return counts, sums.at[place].add(points).at[old].add(-points)


def labels(x: Array, centers: Array) -> Array:
    """Return the index of the nearest centre [K, D] for x [N, D]: int32 [N]."""
    return jnp.argmin(jnp.sum(centers**2, axis=1) - 2 * x @ centers.T, axis=1)


def _squares(x: Array, centers: Array, found: Array) -> Array:
    """Return the squared distance of each point to its centre: [N]."""
    return jnp.sum((x - centers[found]) ** 2, axis=1)


def _centers(variables: PyTree) -> Array:
    """Return the centres [K, D]; those of a loaded run are NumPy arrays."""
    return jnp.asarray(variables["params"]["centers"])


def inertia(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Return Σ_n min_k |x_n - m_k|² for x [N, *shape]: []. It is differentiable in x and m."""
    data, centers = vectors(cfg.shape, x), _centers(variables)
    found = encode(cfg, variables, x)[:, 0]
    return _squares(data, centers, found).sum()


def encode(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the index of the nearest centre for x [B, *shape]: int32 [B, 1]."""
    refuse_condition(condition)
    centers = _centers(variables)
    middle = centers.mean(0)  # for the same reason as in `fit`
    return labels(vectors(cfg.shape, x) - middle, centers - middle)[:, None]


def decode(cfg: Config, variables: PyTree, z: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the centres with indices z [B, 1]: [B, *shape]."""
    refuse_condition(condition)
    found = jnp.asarray(z).astype(jnp.int32)[:, 0]
    return _centers(variables)[found].reshape(-1, *cfg.shape)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the nearest centre of each example x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, condition=condition))
