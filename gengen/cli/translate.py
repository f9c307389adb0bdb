"""`gengen sample` of models that translate images: of given images, or of the run's data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gengen.cli.output import PICTURE, Output
from gengen.data import AnyData, DataOptions, normalise, open_data
from gengen.data.images import SUFFIXES, BadImage, content_of, decode
from gengen.errors import InputError
from gengen.runs import conditions, translations
from gengen.runs.trained import Run
from gengen.training.signals import interruptible
from gengen.types import Shape

if TYPE_CHECKING:
    from gengen.cli import Sample


def check(args: Sample, run: Run) -> None:
    """Check that --input and --direction are of a model that translates."""
    if not translations.translates(run.module):
        for name, value in (("input", args.input), ("direction", args.direction)):
            if value is not None:
                raise InputError(f"--{name}: {run.name} does not translate images")


def write(args: Sample, run: Run, out: Output) -> None:
    """Write translations of a run; a picture shows each image before its translation."""
    if args.classes:
        raise InputError(f"--classes: {run.name} translates images: choose them by --input")
    if args.input is not None and args.data is not None:
        raise InputError("--input and --data: give one of them")
    cfg = run.cfg
    if args.direction is not None:
        cfg = translations.in_direction(run.module, cfg, args.direction)
    most = args.num or translations.ROWS * translations.TRIPLETS
    x, truth, name = _images(args, run, cfg, most)
    made = interruptible(
        lambda: translations.of_images(run.module, cfg, run.variables, x, truth, args.seed, run.net)
    )
    drawn = translations.stacked(made) if out.kind == PICTURE else None
    out.save(made[1], drawn)
    third = "" if len(made) < 3 else " · target" if truth is not None else " · reconstruction"
    shown = f" (image · translation{third})" if drawn is not None else ""
    print(f"{len(x)} translations of {name}{shown}: {out}", file=sys.stderr)


def _images(
    args: Sample, run: Run, cfg: object, num: int
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return images, their targets where known, and where they come from."""
    if args.input is None:
        data = _of_run(args, run)
        translations.check_data(cfg, data)
        count = min(num, translations.num_sources(cfg, data))
        batch = conditions.examples(data, data.rows(count, args.seed, 0))
        truth = np.asarray(batch["target"]) if "target" in batch else None
        return np.asarray(run.module.condition_of(cfg, batch)), truth, data.name
    shape = translations.source_shape(run.module, cfg)
    path = Path(args.input)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _file(path, shape, args.options)[None], None, args.input
    data = open_data(args.input, _reading(args.options, run, shape))
    batch = conditions.examples(data, data.rows(min(num, len(data)), args.seed, 0))
    x = np.asarray(batch.get("image", np.zeros((0,))))
    if x.ndim == 4 and x.shape[3] == 1 < shape[2]:
        x = np.repeat(x, shape[2], axis=3)
    return x, None, data.name


def _of_run(args: Sample, run: Run) -> AnyData:
    if args.data is None:
        return conditions.held_out(run.settings, args.options)
    return open_data(args.data, args.options)


def _reading(options: DataOptions, run: Run, shape: Shape) -> DataOptions:
    """Return how images are read: as asked, or as those of the run in the model's size."""
    if options != DataOptions():
        return options
    before = DataOptions(**run.settings.get("data_options", {}))
    size = shape[0] if shape[0] == shape[1] else None
    return DataOptions(size=size, crop=before.crop, grey=shape[2] == 1)


def _file(path: Path, shape: Shape, options: DataOptions) -> np.ndarray:
    """Return an image file in [-1, 1], float32, in the model's size where that is square."""
    if options == DataOptions() and shape[0] == shape[1]:
        options = DataOptions(size=shape[0])
    try:
        pixels = decode(content_of(path), options, grey=shape[2] == 1)
    except BadImage as error:
        raise InputError(f"{path}: {error}") from None
    return np.asarray(normalise({"image": pixels})["image"])
