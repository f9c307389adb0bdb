"""Translations of real images by a trained model, in one direction or both, and pictures of them.

A direction is "ab", from "image" to "target" or "other" of a batch, or "ba", the other way. What a
model can do is what its module defines: see `gengen.contract`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.contract import DIRECTIONS
from gengen.data import AnyData
from gengen.data.derived import TRANSFORMS
from gengen.data.pairs import two
from gengen.errors import InputError
from gengen.runs import conditions, discover
from gengen.runs.trained import Run
from gengen.types import Batch, PyTree, Shape
from gengen.viz.grid import grid

CHUNK = 100  # images at a time
ROWS, TRIPLETS = 6, 3  # of a picture


def translates(module: ModuleType) -> bool:
    """Return whether a model translates images."""
    return hasattr(module, "translate")


def directions(module: ModuleType) -> tuple[str, ...]:
    """Return the directions that a model is trained in."""
    return DIRECTIONS if hasattr(module, "with_direction") else DIRECTIONS[:1]


def direction_of(cfg: Any) -> str:
    """Return the direction in which a Config translates."""
    return getattr(cfg, "direction", DIRECTIONS[0])


def in_direction(module: ModuleType, cfg: Any, direction: str) -> Any:
    """Return a Config that translates in a direction.

    Raises:
        InputError: for a direction that there is not, or in which the model was not trained.
    """
    name = discover.name_of(module)
    if direction not in DIRECTIONS:
        raise InputError(f"direction {direction}: it is {' or '.join(DIRECTIONS)}")
    if direction not in directions(module):
        raise InputError(f"direction {direction}: {name} is trained to translate a to b only")
    return module.with_direction(cfg, direction) if hasattr(module, "with_direction") else cfg


def result_kind(cfg: Any) -> str:
    """Return the name that real images like the translations have in a batch."""
    if direction_of(cfg) == DIRECTIONS[1]:
        return "image"
    return "target" if hasattr(cfg, "target_shape") else "other"


def source_shape(module: ModuleType, cfg: Any) -> Shape:
    """Return the shape of the images that a Config translates."""
    return tuple(module.condition_of(cfg, conditions.blank_of(cfg)).shape[1:])


def num_sources(cfg: Any, data: AnyData) -> int:
    """Return the number of images of a data set that a Config translates."""
    return data.num_others if direction_of(cfg) == DIRECTIONS[1] else len(data)


def check_data(cfg: Any, data: AnyData) -> None:
    """Check that data have the images that a model is scored on.

    Raises:
        InputError: if they are neither pairs nor two sets, as the model needs.
    """
    paired = hasattr(cfg, "target_shape")
    if (data.target_shape if paired else data.other_shape) is None:
        cure = "pairs:A,B, halves:PATH, edges:DATA or grey:DATA" if paired else "unpaired:A,B"
        raise InputError(f"{data.name} has no images to compare translations with: use {cure}")


def spec_of(spec: str, kind: str) -> str:
    """Return the spec of the images of one kind of pairs or of two sets, where it has its own."""
    name, _, rest = spec.partition(":")
    if name == "unpaired":
        return two(rest, name)[int(kind == "other")]
    return rest if name in TRANSFORMS and kind == "target" else spec


def translate(
    module: ModuleType, cfg: Any, variables: PyTree, x: Any, seed: int = 0, net: Any = None
) -> np.ndarray:
    """Return the translations of images, `CHUNK` at a time: float32 [N, ...] in [-1, 1].

    Args:
        module: of the model.
        cfg: its Config, which says the direction.
        variables: of the trained model.
        x: images [N, H, W, C] in [-1, 1].
        seed: of noise, where the model uses any.
        net: networks to use instead of the Config's.

    Raises:
        InputError: for images of another shape than the model was trained on.
    """
    x, own = np.asarray(x), {} if net is None else {"net": net}
    shape = source_shape(module, cfg)
    if tuple(x.shape[1:]) != shape or not len(x):
        raise InputError(
            f"images to translate are {list(x.shape)}; they must be [N, "
            f"{', '.join(map(str, shape))}] in the direction {direction_of(cfg)}"
        )
    found = []
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        rows = np.arange(min(CHUNK, len(x))) % len(part)  # the last part too is of this many
        key = jax.random.fold_in(jax.random.key(seed), start)
        made = module.translate(cfg, variables, jnp.asarray(part[rows]), key, **own)
        found.append(np.asarray(made)[: len(part)])
    return np.concatenate(found)


def back(
    module: ModuleType, cfg: Any, variables: PyTree, y: Any, seed: int = 0, net: Any = None
) -> np.ndarray:
    """Return translations y translated back; arguments and errors of `translate`."""
    way = DIRECTIONS[1 - DIRECTIONS.index(direction_of(cfg))]
    return translate(module, in_direction(module, cfg, way), variables, y, seed, net)


def of_run(run: Run, x: Any, seed: int = 0, direction: str | None = None) -> np.ndarray:
    """Return the translations of images by a run; see `Run.translate`."""
    if not translates(run.module):
        raise InputError(f"{run.name} does not translate images")
    cfg = run.cfg if direction is None else in_direction(run.module, run.cfg, direction)
    return translate(run.module, cfg, jax.tree.map(jnp.asarray, run.variables), x, seed, run.net)


def error(module: ModuleType, cfg: Any, data: AnyData, net: Any = None):
    """Return the mean absolute error of translations of data, as a `Validation.loss`.

    Of pairs against the targets, of two sets of images that are translated there and back.
    """
    batch = conditions.examples(data, data.rows(len(data), 0, 0))
    x = np.asarray(module.condition_of(cfg, batch))

    def loss(variables: PyTree, key: Any) -> float:
        y = translate(module, cfg, variables, x, 0, net)
        if "target" in batch:
            return float(np.abs(y - np.asarray(batch["target"])).mean())
        return float(np.abs(back(module, cfg, variables, y, 0, net) - x).mean())

    return loss


# --- pictures ------------------------------------------------------------------------------------


def shown(module: ModuleType) -> str:
    """Return what stands third in a triplet: "reconstruction", or "target"."""
    return "reconstruction" if len(directions(module)) > 1 else "target"


def preview(
    module: ModuleType, cfg: Any, variables: PyTree, batch: Batch, net: Any = None
) -> np.ndarray:
    """Draw triplets image · translation · target or reconstruction, of each direction.

    Args:
        module: of the model.
        cfg: its Config.
        variables: of the trained model.
        batch: real examples.
        net: networks to use instead of the Config's.

    Returns:
        uint8 [H, W, C].
    """
    ways, blocks = directions(module), []
    for way in ways:
        now = in_direction(module, cfg, way)
        num = ROWS * TRIPLETS // len(ways)
        x = np.asarray(module.condition_of(now, batch))[:num]
        truth = batch["target"][: len(x)] if len(ways) == 1 and "target" in batch else None
        blocks.append(of_images(module, now, variables, x, truth, 0, net))
    return stacked([np.concatenate(parts) for parts in zip(*map(alike, blocks), strict=True)])


def of_images(
    module: ModuleType,
    cfg: Any,
    variables: PyTree,
    x: np.ndarray,
    truth: Any = None,
    seed: int = 0,
    net: Any = None,
) -> list[np.ndarray]:
    """Return images, their translations and, where known, targets or reconstructions."""
    y = translate(module, cfg, variables, x, seed, net)
    columns = [np.asarray(x), y]
    if truth is not None:
        columns.append(np.asarray(truth))
    elif len(directions(module)) > 1:
        columns.append(back(module, cfg, variables, y, seed, net))
    return columns


def alike(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Return images of several shapes as images of one: grey as colour, small ones enlarged."""
    height = max(x.shape[1] for x in columns)
    width = max(x.shape[2] for x in columns)
    channels = max(x.shape[3] for x in columns)
    found = []
    for x in columns:
        times = max(1, min(height // x.shape[1], width // x.shape[2]))
        x = x.repeat(times, 1).repeat(times, 2)
        gap = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
        x = np.pad(x, gap, constant_values=-1)
        found.append(np.broadcast_to(x, (*x.shape[:3], max(channels, x.shape[3]))))
    return found


def stacked(columns: list[np.ndarray], triplets: int = TRIPLETS) -> np.ndarray:
    """Lay out images side by side, those of one example together: uint8 [H, W, C]."""
    columns = alike(columns)
    cells = np.clip(np.stack(columns, axis=1), -1, 1)
    return grid(cells.reshape(-1, *cells.shape[2:]), triplets * len(columns))
