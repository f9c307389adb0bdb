"""What the recipes share: their settings, training, scores and the end. Not a recipe itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import tyro
from record import ROOT, record

import gengen
from gengen import loop
from gengen.compile import use_compilation_cache
from gengen.data import AnyData, Dataset, load, to_batch, to_uint8
from gengen.metrics import extractors
from gengen.runs import evaluation, sides, trained
from gengen.runs.trained import Run
from gengen.stages import Stage
from gengen.training import run_dir
from gengen.training.report import write_report
from gengen.training.validation import split
from gengen.types import Method
from gengen.viz.grid import grid, save_png

START = time.monotonic()
CHUNK = 250  # examples at a time, through networks

Metrics = Mapping[str, Mapping[str, float]]  # name → "value", and "floor", that of real data


@dataclasses.dataclass(frozen=True)
class Args:
    """Settings of the recipe."""

    out: Path | None = None
    """Run directory, new. (default: runs/NAME, or the first free number after it)"""
    steps: int = 1500
    """Train steps, of each model or stage."""
    seed: int = 0
    """Of everything."""
    results: bool = False
    """Write results/NAME.json, and pictures into docs/images."""


@dataclasses.dataclass(frozen=True)
class ChoiceArgs(Args):
    """Settings of a recipe whose own settings were chosen on validation digits."""

    validation: bool = False
    """Leave out 500 training digits and score those, not the test digits."""


def run(main: Callable[[Any], None], args: type, description: str | None) -> None:
    """The command line of a recipe; what goes wrong becomes one line."""
    use_compilation_cache()
    try:
        main(tyro.cli(args, description=description))
    except (loop.Interrupted, loop.Diverged, ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


# --- data ----------------------------------------------------------------------------------------


def digits(validation: bool = False) -> tuple[Dataset, Dataset, np.ndarray]:
    """mnist5k: train, test, and the test images in [-1, 1], float32 [500, 28, 28, 1].

    With `validation` both parts are of the training digits; the test digits are not read.
    """
    train = load("mnist5k")
    train, test = split(train, 1 / 9) if validation else (train, load("mnist5k:test"))
    return train, test, images(test)


def images(data: Dataset, num: int | None = None) -> np.ndarray:
    """The first `num` images of a data set in [-1, 1]: float32 [N, H, W, C]."""
    rows = np.arange(len(data) if num is None else num, dtype=np.int32)
    return np.asarray(to_batch(data.arrays, rows)["image"])


def first(data: AnyData, num: int | None = None) -> Dataset:
    """The first `num` examples of data in memory, or all, under the same name."""
    assert isinstance(data, Dataset)
    return Dataset(data.name, {k: a[:num] for k, a in data.arrays.items()}, data.classes)


def in_parts(function: Callable[..., jax.Array], *arrays: np.ndarray) -> np.ndarray:
    """`function` of arrays [N, ...], so many rows at a time."""
    parts = range(0, len(arrays[0]), CHUNK)
    return np.concatenate(
        [np.asarray(function(*(a[i : i + CHUNK] for a in arrays))) for i in parts]
    )


# --- training ------------------------------------------------------------------------------------


def free_directory(path: Path) -> Path:
    """`path`, or `path`-2, -3, ...: the first that does not exist."""
    names = [path] + [path.with_name(f"{path.name}-{i}") for i in range(2, 10_000)]
    return next(p for p in names if not p.exists())


def directory(args: Args, name: str) -> Path:
    """Where the run goes."""
    return args.out or free_directory(Path("runs") / name)


def train(
    module: ModuleType,
    cfg: Any,
    data: AnyData,
    out: Path,
    args: Args,
    model: Method | Sequence[Stage] | None = None,
    dtype: str = "float32",
) -> Run:
    """Train a model for `args.steps` steps, or so many of each stage, in the run directory `out`.

    Args:
        module: of the model.
        cfg: its Config.
        data: to train on.
        out: a new directory.
        args: steps and seed.
        model: the module's method; or another of its methods, or its stages.
        dtype: that networks compute in.

    Returns:
        The trained model.
    """
    stages = model if model is not None else getattr(module, "stages", lambda cfg: ())(cfg)
    steps = args.steps * (1 if isinstance(stages, Method) or not stages else len(stages))
    return gengen.train(
        module, data, config=cfg, method=model, steps=steps, out=out, seed=args.seed,
        preview_every=max(1, steps // 5), engine={"dtype": dtype},
    )  # fmt: skip


def again(path: Path, module: ModuleType, data: str) -> tuple[Any, Any]:
    """The Config and the variables of a run that was done before.

    Raises:
        ValueError: if it is of another model, or of other data.
    """
    model = trained.load(path)
    if model.module is not module or model.settings["data"]["name"] != load(data).name:
        name = module.__name__.rsplit(".", 1)[-1]
        raise ValueError(f"{path} is no run of {name} on {data}: take one, or leave it out")
    return model.cfg, model.variables


# --- scores --------------------------------------------------------------------------------------


def draw(
    num: int, sampler: Callable[[jax.Array, int], Any], seed: int, chunk: int = CHUNK
) -> np.ndarray:
    """`num` samples, `chunk` at a time: uint8."""
    keys = jax.random.split(jax.random.key(seed + 1), -(-num // chunk))
    return to_uint8(np.concatenate([np.asarray(sampler(key, chunk)) for key in keys])[:num])


def scores(
    samples: np.ndarray, real: Dataset, held_out: Dataset, metrics: Sequence[str] = ("fid",)
) -> dict[str, dict[str, float]]:
    """Samples, uint8, against training images, in the features of the data's own classifier.

    The floor is the same of held-out images, as many as there are samples.
    """
    extractor = extractors.load(extractors.suited(real.name, real.shape)[0])
    reference, others = (sides.examples(d.name, d, lambda: extractor) for d in (real, held_out))
    fake = sides.of_samples("samples", samples, lambda: extractor)
    found = evaluation.evaluate(
        evaluation.Comparison(reference, lambda: fake, lambda: extractor),
        metrics,
        evaluation.Comparison(reference, lambda: others.some(len(samples)), lambda: extractor),
    )
    return {
        s.metric: {"value": round(s.value, 4), "floor": round(s.floor or 0.0, 4)} for s in found
    }


def error(x: np.ndarray, out: np.ndarray) -> dict[str, float]:
    """Mean squared error of a pixel, images in [-1, 1]."""
    return {"value": float(np.mean((x - out) ** 2))}


# --- the end -------------------------------------------------------------------------------------


def rows_of(path: Path, *rows: Any, scale: int = 3) -> None:
    """A picture of images, [N, H, W, C] in each row."""
    save_png(path, grid(np.concatenate([np.asarray(r) for r in rows]), len(rows[0])), scale=scale)


def titled(path: Path, rows: Sequence[tuple[str, Any]]) -> None:
    """A picture of images, [N, H, W, C] in each row, with its title to the left."""
    from matplotlib.figure import Figure

    x = grid(np.concatenate([np.asarray(r) for _, r in rows]), len(rows[0][1]))
    x = x.repeat(2, axis=0).repeat(2, axis=1).squeeze()
    (height, width), middles = x.shape[:2], (np.arange(len(rows)) + 0.5) / len(rows)
    margin = 12 + 5 * max(len(title) for title, _ in rows)  # pixels, of letters of 7 points
    figure = Figure(figsize=((width + margin) / 100, height / 100), dpi=100)
    axes = figure.add_axes((margin / (width + margin), 0, width / (width + margin), 1))
    axes.imshow(x, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_yticks(height * middles, [title for title, _ in rows], fontsize=7)
    axes.set_xticks([])
    axes.tick_params(length=0)
    figure.savefig(path)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown: the first column to the left, numbers to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """The mean of what seeds gave, and if there are several their standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def finish(name: str, out: Path, metrics: Metrics, args: Args, shown: Sequence[str] = ()) -> None:
    """Evaluation, report, and the figures on the screen; with --results, what is committed.

    Args:
        name: of the result.
        out: the run directory.
        metrics: what was measured.
        args: of the recipe.
        shown: pictures in `out`, NAME.png, that go into docs/images.
    """
    rounded = {k: {c: round(float(v), 4) for c, v in row.items()} for k, row in metrics.items()}
    listed = [{"name": k, **row} for k, row in rounded.items()]
    (out / "evaluation.json").write_text(json.dumps({"rows": listed}, indent=2))
    report, seconds = write_report(out), time.monotonic() - START
    if args.results:
        record(name, out, rounded, seconds)
        for picture in shown:
            shutil.copy(out / f"{picture}.png", ROOT / "docs" / "images" / f"{name}_{picture}.png")
    done = {"seed": args.seed, "seconds": round(seconds, 1), "machine": run_dir.machine()}
    print(lines(name, {**done, "metrics": rounded}))
    print(f"\npictures  {out}\nreport    {report}")


def lines(name: str, result: Mapping[str, Any]) -> str:
    """What the header of a recipe says of the content of results/NAME.json."""
    machine = result["machine"]
    cores = {2: "two"}.get(machine["cores"], machine["cores"])
    where = f"{cores} CPU cores" if machine["platform"] == "cpu" else machine["device"]
    head = f"Expected, as measured (results/{name}.json), seed {result['seed']}, {where}, "
    rows = [
        f"    {metric:<66}{row['value']:>9.4g}"
        + (f"  (real: {row['floor']:.4g})" if "floor" in row else "")
        for metric, row in result["metrics"].items()
    ]
    return "\n".join([f"{head}{result['seconds']:.0f} s:", "", *rows])
