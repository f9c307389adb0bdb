"""Views of codes in the plane: PCA, multidimensional scaling and t-SNE, a colour for each class.

- PCA: the projection onto the two directions of largest variance, by the singular value
  decomposition of the centred codes.
- MDS: points whose distances are as close to those of the codes as possible; it minimises the
  stress Σ (d_ij - δ_ij)² by SMACOF (Kruskal 1964; de Leeuw 1977), from the points of classical
  MDS.
- t-SNE: points with the same neighbours (van der Maaten & Hinton 2008). The perplexity is the
  number of neighbours that count. Distances between clusters mean nothing.

MDS and t-SNE are scikit-learn's. `gengen sample RUN --embed pca|mds|tsne` draws the codes of any
model with `encode`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from gengen.errors import InputError
from gengen.viz.grid import INK_COLOUR, SAMPLE_COLOUR, _figure, _render
from gengen.viz.latent import COLOURS, _codes

__all__ = ["PERPLEXITY", "VIEWS", "flatten", "mds", "pca", "scatter", "tsne"]

VIEWS = ("pca", "mds", "tsne")
PERPLEXITY = 30.0  # of t-SNE, by default


def pca(z: ArrayLike) -> np.ndarray:
    """Return the first two principal components of codes [N, D]: float64 [N, 2].

    The largest loading of each component is positive. With D = 1 the second component is 0.
    """
    z = _codes(z)
    centred = np.pad(z - z.mean(0), ((0, 0), (0, max(0, 2 - z.shape[1]))))
    # Fewer codes than two have fewer directions: rows of zeros are added.
    rows = np.pad(centred, ((0, max(0, 2 - len(z))), (0, 0)))
    directions = np.linalg.svd(rows, full_matrices=False)[2][:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    return centred @ (directions * np.where(largest < 0, -1, 1)).T


def mds(z: ArrayLike, seed: int = 0) -> np.ndarray:
    """Return points whose distances are like those of codes [N, D]: float64 [N, 2].

    Args:
        z: codes.
        seed: of scikit-learn's MDS.
    """
    from sklearn.manifold import MDS

    view = MDS(2, n_init=1, init="classical_mds", random_state=seed)
    return np.asarray(view.fit_transform(_codes(z)), np.float64)


def tsne(z: ArrayLike, perplexity: float = PERPLEXITY, seed: int = 0) -> np.ndarray:
    """Return points with the neighbours of codes [N, D]: float64 [N, 2].

    Args:
        z: codes.
        perplexity: how many neighbours count, above 0 and below N.
        seed: of scikit-learn's t-SNE.

    Raises:
        InputError: for a perplexity out of range.
    """
    from sklearn.manifold import TSNE

    z = _codes(z)
    if not 0 < perplexity < len(z):
        raise InputError(
            f"perplexity = {perplexity:g}; it must be above 0 and below the number of codes, "
            f"{len(z)}"
        )
    view = TSNE(2, perplexity=perplexity, random_state=seed)
    return np.asarray(view.fit_transform(z), np.float64)


def flatten(
    z: ArrayLike, view: str = "pca", perplexity: float = PERPLEXITY, seed: int = 0
) -> np.ndarray:
    """Return codes [N, D] as points in the plane, float64 [N, 2]; unchanged if D = 2.

    Args:
        z: codes.
        view: "pca", "mds" (keeps distances) or "tsne" (keeps neighbours).
        perplexity: of t-SNE.
        seed: of MDS and t-SNE.

    Raises:
        InputError: for another view, or a perplexity out of range.
    """
    z = _codes(z)
    if view not in VIEWS:
        raise InputError(f"view = {view!r}; it must be one of {', '.join(VIEWS)}")
    if z.shape[1] == 2:
        return z
    if view == "pca" or z.shape[1] == 1:
        return pca(z)
    return mds(z, seed) if view == "mds" else tsne(z, perplexity, seed)


def scatter(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    view: str = "pca",
    perplexity: float = PERPLEXITY,
    seed: int = 0,
    size: int = 640,
) -> np.ndarray:
    """Draw codes as points, a colour for each class, with a legend; the title names the view.

    Args:
        z: codes [N, D].
        labels: classes 0, 1, ... [N]; None: one colour, and no legend.
        classes: names of the classes; None: numbers.
        view: see `flatten`.
        perplexity: see `flatten`.
        seed: see `flatten`.
        size: width and height in pixels.

    Returns:
        uint8 [size, size, 3].

    Raises:
        InputError: for labels that are no classes, or as `flatten`.
    """
    num = len(np.asarray(z))
    y = np.zeros(num, int) if labels is None else np.asarray(labels)
    if y.shape != (num,) or y.dtype.kind not in "iu" or y.min() < 0:
        raise InputError(f"labels are {y.dtype} {y.shape}; they must be classes 0, 1, ... [{num}]")
    points = flatten(z, view, perplexity, seed)
    figure, axes = _figure(size, size)
    for k in np.unique(y):
        name = str(k) if classes is None else classes[k]
        colour = SAMPLE_COLOUR if labels is None else COLOURS[k % len(COLOURS)]
        axes.scatter(*points[y == k].T, s=7, c=colour, alpha=0.7, linewidths=0, label=name)
    axes.set_title(_title(np.shape(z)[1], view, perplexity), fontsize=9, color=INK_COLOUR)
    axes.set_aspect("equal", adjustable="datalim")
    if labels is not None:
        axes.legend(fontsize=8, markerscale=2, frameon=False, ncols=1, loc="center left",
                    bbox_to_anchor=(1, 0.5), labelcolor=INK_COLOUR)  # fmt: skip
    return _render(figure)


def _title(dims: int, view: str, perplexity: float) -> str:
    """Return how codes of so many dimensions were flattened."""
    if dims == 2:
        return "codes"
    if view == "pca" or dims == 1:
        return "first two principal components"
    return "MDS" if view == "mds" else f"t-SNE, perplexity {perplexity:g}"
