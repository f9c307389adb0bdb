"""`gengen sample`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import jax
import numpy as np

from gengen.cli import given as posterior
from gengen.cli import latent
from gengen.cli.options import GivenOptions
from gengen.compile import use_compilation_cache
from gengen.data import open_data, to_uint8
from gengen.errors import InputError
from gengen.runs import conditions, pictures, sampling, trained
from gengen.runs.config import configure
from gengen.training.signals import interruptible
from gengen.types import data_of
from gengen.viz.grid import picture, save_png

if TYPE_CHECKING:
    from gengen.cli import Sample

NUM = 64  # samples, if nothing else is asked


def sample(args: Sample) -> None:
    """Write samples of a run or an exported file, or a picture of its codes, to `args.out`."""
    asked, given = latent.asked(args), args.inverse.given is not None
    if asked and given:
        raise InputError(f"--given and --{asked}: one picture at a time")
    if args.inverse != GivenOptions() and not given:
        raise InputError("--operator, --method and their like are of --given: give an image")
    if args.classes and (asked or given):
        raise InputError(f"--classes and --{asked or 'given'}: classes are asked of samples alone")
    _check(args, (".png",) if asked or given else (".png", ".npz"))
    run = trained.load(args.run, args.model, say=sampling.to_stderr)
    cfg = configure(run.cfg, args.set)
    run = run._replace(cfg=sampling.fast(run.module, cfg) if args.fast else cfg)
    use_compilation_cache()
    if given:
        picture_of_draws, caption = interruptible(lambda: posterior.draw(args, run))
        save_png(args.out, picture_of_draws, scale=3)
        print(f"{caption}: {args.out}", file=sys.stderr)
        return
    needs_data = conditions.kind(run.module, run.cfg) == "image"
    if not asked and not hasattr(run.module, "sample"):
        if not hasattr(run.module, "reconstruct"):
            raise InputError(f"{run.name} does not sample")
        if args.classes:
            raise InputError(f"--classes: {run.name} does not sample")
        _check(args, (".png",))
        sampling.to_stderr(f"{run.name} does not sample: these are reconstructions")
        asked = "reconstruct"
    if asked:
        drawn = interruptible(lambda: latent.draw(asked, args, run))
        save_png(args.out, drawn.array, drawn.scale)
        print(f"{drawn.caption}: {args.out}", file=sys.stderr)
    elif args.data is not None and not needs_data:
        flags = ", ".join(f"--{name}" for name in latent.PICTURES)
        raise InputError(f"--data is whose codes are drawn: say how, with one of {flags}")
    elif needs_data:
        _conditioned(args, run)
    else:
        _samples(args, run)


def _samples(args: Sample, run: trained.Run) -> None:
    num = args.num or NUM
    labels = _labels(args, run, num)
    x = interruptible(
        lambda: sampling.draw(
            run.module, run.cfg, run.variables, num, args.seed, labels, run.net, sampling.to_stderr
        )
    )
    if args.out.suffix == ".png":
        save_png(args.out, picture(x), scale=2 if x.ndim == 4 else 1)
    else:
        _save_npz(args, x)
    print(f"{num} samples: {args.out}", file=sys.stderr)


def _conditioned(args: Sample, run: trained.Run) -> None:
    """Write samples of a model that is conditioned on an image, for examples of `--data`."""
    options = args.options
    if args.data is None:
        data = conditions.held_out(run.settings, options)
    else:
        data = open_data(args.data, options)
    per_row = pictures.SAMPLES if args.out.suffix == ".png" else 1
    num = args.num or NUM
    rows = min(-(-num // per_row), len(data))
    batch = conditions.some(data, rows, args.seed)
    if args.classes:
        batch = {**batch, "label": _labels(args, run, rows)}
    condition = run.module.condition_of(run.cfg, batch)
    repeated = conditions.repeated(condition, per_row)
    x = interruptible(
        lambda: sampling.draw(
            run.module, run.cfg, run.variables, rows * per_row, args.seed, repeated, run.net,
            sampling.to_stderr,
        )
    )  # fmt: skip
    if args.out.suffix == ".png":
        image = pictures.rows_of_three(condition, x, np.asarray(data_of(batch)))
        save_png(args.out, image, scale=2)
    else:
        _save_npz(args, x)
    print(
        f"{len(x)} samples, conditioned on {rows} examples of {data.name} "
        f"(condition, samples, truth): {args.out}",
        file=sys.stderr,
    )


def _save_npz(args: Sample, x: np.ndarray) -> None:
    part = args.out.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, arr_0=to_uint8(x) if x.ndim == 4 else x)
    os.replace(part, args.out)


def _labels(args: Sample, run: trained.Run, num: int) -> jax.Array | None:
    """Return the labels that are asked for, in turn: int32 [num]; None if none are."""
    if not args.classes:
        return None
    names = run.settings.get("classes")
    return conditions.chosen(run.module, run.cfg, args.classes, num, names)


def _check(args: Sample, suffixes: tuple[str, ...]) -> None:
    if args.num is not None and args.num < 1:
        raise InputError(f"--num {args.num}: at least 1 sample is drawn")
    if args.out.suffix not in suffixes:
        raise InputError(f"--out {args.out}: the name must end in {' or '.join(suffixes)}")
    if args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} exists: choose another, or pass --overwrite")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.absolute().parent} is no directory")
