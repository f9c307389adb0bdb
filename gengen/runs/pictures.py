"""Pictures of what a model makes of real examples: condition, samples, truth; reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.contract import is_label
from gengen.runs import conditions, sampling, translations
from gengen.types import Batch, Key, PyTree, Shape, data_of
from gengen.viz import latent
from gengen.viz.grid import grid, picture

SAMPLES = 6  # of one condition, side by side
ROWS = 8  # conditions
POINTS, IMAGES = 2000, 64  # samples in a preview
PAIRS = 25  # examples beside their reconstructions


def preview(module: ModuleType, cfg: Any, examples: Callable[[], Batch], net: Any = None):
    """Return the picture that a run makes of its samples: a function of (variables, key).

    Samples of a model that samples, in at most `sampling.FEW` network evaluations, of each class in
    turn where there are classes; condition, samples and truth in a row where it is conditioned on
    an image; images and their translations; examples beside their reconstructions where it does not
    sample.

    Args:
        module: of the model.
        cfg: its Config.
        examples: returns some real examples; called only if the picture shows any.
        net: a network to use instead of the Config's.

    Returns:
        (variables, key) -> samples [N, ...], or a picture uint8 [H, W, C]; None for a model that
        neither samples, translates nor reconstructs.
    """
    own = {} if net is None else {"net": net}
    if translations.translates(module):
        return lambda variables, key: translations.preview(module, cfg, variables, examples(), net)
    if not hasattr(module, "sample"):
        if not hasattr(module, "reconstruct"):
            return None
        return lambda variables, key: reconstructions(module, cfg, variables, examples(), net)
    quick = sampling.fast(module, cfg)
    kind = conditions.kind(module, cfg)
    if kind == "image":
        return lambda variables, key: conditioned(
            module, quick, variables, examples(), key, net=net
        )
    num = IMAGES if len(cfg.shape) == 3 else POINTS
    if kind == "label":
        own["condition"] = conditions.in_turn(cfg.num_classes, num)
    return lambda variables, key: module.sample(quick, variables, key, num, **own)


def shown(module: ModuleType, cfg: Any) -> str:
    """Return what the picture of `preview` shows.

    Returns:
        "samples"; "classes", samples of each class in turn; "conditional", condition, samples and
        example in a row; "translations"; "cycles", with reconstructions; "reconstructions"; "" if
        there is no picture.
    """
    if translations.translates(module):
        return "cycles" if len(translations.directions(module)) > 1 else "translations"
    if not hasattr(module, "sample"):
        return "reconstructions" if hasattr(module, "reconstruct") else ""
    kinds = {"image": "conditional", "label": "classes"}
    return kinds.get(conditions.kind(module, cfg), "samples")


def conditioned(
    module: ModuleType,
    cfg: Any,
    variables: PyTree,
    batch: Batch,
    key: Key,
    samples: int = SAMPLES,
    rows: int = ROWS,
    net: Any = None,
) -> np.ndarray:
    """Draw a row for each example: what is known of it, samples, and the example itself.

    Args:
        module: of a model that is conditioned on an image.
        cfg: its Config.
        variables: of the trained model.
        batch: real examples; the first `rows` are used.
        key: of the noise.
        samples: for each example.
        rows: examples at the most.
        net: a network to use instead of the Config's.

    Returns:
        uint8 [H, W, C].
    """
    batch = {name: jnp.asarray(array)[:rows] for name, array in batch.items()}
    truth = np.asarray(data_of(batch))
    condition = module.condition_of(cfg, batch)
    own = {} if net is None else {"net": net}
    drawn = module.sample(
        cfg, variables, key, len(truth) * samples,
        condition=conditions.repeated(condition, samples), **own,
    )  # fmt: skip
    return rows_of_three(condition, np.asarray(drawn), truth)


def rows_of_three(condition: PyTree, samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Lay out condition, samples and truth: uint8 [H, W, C].

    Args:
        condition: images [N, h, w, c], or a dict that holds them.
        samples: [N · S, H, W, C], those of one condition in a row.
        truth: [N, H, W, C].
    """
    leaves = jax.tree.leaves(condition)
    known = next(np.asarray(leaf) for leaf in leaves if not is_label(leaf))
    shape = truth.shape[1:]
    first = np.stack([enlarged(y, shape) for y in known])
    each = samples.reshape(len(truth), -1, *shape)
    cells = np.concatenate([first[:, None], each, truth[:, None]], axis=1)
    return grid(np.clip(cells, -1, 1).reshape(-1, *shape), cells.shape[1])


def enlarged(y: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a measurement as an image of `shape`: its pixels repeated, grey as colour."""
    times = max(1, shape[0] // y.shape[0])
    return np.broadcast_to(np.repeat(np.repeat(y, times, 0), times, 1), shape)


def reconstructions(
    module: ModuleType, cfg: Any, variables: PyTree, batch: Batch, net: Any = None
) -> np.ndarray:
    """Draw examples above their reconstructions: uint8 [H, W, C]."""
    own = {} if net is None else {"net": net}
    batch = {name: jnp.asarray(array)[:PAIRS] for name, array in batch.items()}
    x = np.asarray(data_of(batch))
    condition = module.condition_of(cfg, batch)
    if condition is not None:
        own["condition"] = condition
    out = np.asarray(module.reconstruct(cfg, variables, x, **own))
    if x.ndim == 2:
        return picture(out, x)
    return latent.reconstructions(x, np.clip(out, -1, 1))
