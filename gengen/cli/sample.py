"""`gengen sample`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import jax
import numpy as np

from gengen.cli import given as posterior
from gengen.cli import latent, translate
from gengen.cli.options import GivenOptions
from gengen.cli.output import ARRAYS, FOLDER, PICTURE, Output, output
from gengen.compile import use_compilation_cache
from gengen.contract import rows_of
from gengen.data import open_data
from gengen.errors import InputError
from gengen.runs import conditions, pictures, sampling, trained, translations
from gengen.runs.config import configure
from gengen.training.signals import interruptible
from gengen.types import data_of
from gengen.viz.grid import save_png

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
    if args.classes and (given or asked not in (None, "reconstruct")):
        raise InputError(
            f"--classes and --{asked or 'given'}: classes are of samples and of --reconstruct"
        )
    if args.text and (args.classes or given or asked not in (None, "impute")):
        other = "classes" if args.classes else "given" if given else asked
        raise InputError(f"--text and --{other}: captions are of samples and of --impute")
    if args.num is not None and args.num < 1:
        raise InputError(f"--num {args.num}: at least 1 sample is drawn")
    kinds = (PICTURE,) if asked or given else (PICTURE, ARRAYS, FOLDER)
    out = output(args.out, args.overwrite, kinds)
    run = trained.load(args.run, args.model, say=sampling.to_stderr)
    cfg = configure(run.cfg, args.set)
    run = run._replace(cfg=sampling.fast(run.module, cfg) if args.fast else cfg)
    use_compilation_cache()
    translate.check(args, run)
    if args.text:  # before anything is computed
        conditions.of_text(run.module, run.cfg, args.text, 1)
    if translations.translates(run.module) and not (asked or given):
        translate.write(args, run, out)
        return
    if given:
        picture_of_draws, caption = interruptible(lambda: posterior.draw(args, run))
        save_png(out.path, picture_of_draws, scale=3)
        print(f"{caption}: {out.path}", file=sys.stderr)
        return
    needs_data = conditions.kind(run.module, run.cfg) == "image"
    if not asked and not hasattr(run.module, "sample"):
        if not hasattr(run.module, "reconstruct"):
            raise InputError(f"{run.name} does not sample")
        if args.classes:
            raise InputError(f"--classes: {run.name} does not sample")
        output(args.out, args.overwrite, (PICTURE,))
        sampling.to_stderr(f"{run.name} does not sample: these are reconstructions")
        asked = "reconstruct"
    if asked:
        drawn = interruptible(lambda: latent.draw(asked, args, run))
        save_png(out.path, drawn.array, drawn.scale)
        print(f"{drawn.caption}: {out.path}", file=sys.stderr)
    elif args.data is not None and not needs_data:
        flags = ", ".join(f"--{name}" for name in latent.PICTURES)
        raise InputError(f"--data is whose codes are drawn: say how, with one of {flags}")
    elif needs_data:
        _conditioned(args, run, out)
    else:
        _samples(args, run, out)


def _samples(args: Sample, run: trained.Run, out: Output) -> None:
    out.check_images(run.cfg.shape)
    num = args.num or NUM
    condition = _labels(args, run, num)
    if args.text:
        condition = conditions.of_text(run.module, run.cfg, args.text, num)
    x = interruptible(
        lambda: sampling.draw(
            run.module, run.cfg, run.variables, num, args.seed, condition, run.net,
            sampling.to_stderr,
        )
    )  # fmt: skip
    out.save(x)
    print(f"{num} samples: {out}", file=sys.stderr)


def _conditioned(args: Sample, run: trained.Run, out: Output) -> None:
    """Write samples of a model that is conditioned on an image, for examples of `--data`."""
    options = args.options
    if args.data is None:
        data = conditions.held_out(run.settings, options)
    else:
        data = open_data(args.data, options)
    per_row = pictures.SAMPLES if out.kind == PICTURE else 1
    num = args.num or NUM
    rows = min(-(-num // per_row), len(data))
    batch = conditions.some(data, rows, args.seed)
    if args.classes:
        batch = {**batch, "label": _labels(args, run, rows)}
    condition = run.module.condition_of(run.cfg, batch)
    total = rows * per_row if out.kind == PICTURE else num
    repeated = rows_of(condition, np.arange(total) // per_row % rows)
    x = interruptible(
        lambda: sampling.draw(
            run.module, run.cfg, run.variables, total, args.seed, repeated, run.net,
            sampling.to_stderr,
        )
    )  # fmt: skip
    drawn, shown = None, ""
    if out.kind == PICTURE:
        drawn = pictures.rows_of_three(condition, x, np.asarray(data_of(batch)))
        shown = " (condition, samples, truth)"
    out.save(x, drawn)
    print(
        f"{len(x)} samples, conditioned on {rows} examples of {data.name}{shown}: {out}",
        file=sys.stderr,
    )


def _labels(args: Sample, run: trained.Run, num: int) -> jax.Array | None:
    """Return the labels that are asked for, in turn: int32 [num]; None if none are."""
    if not args.classes:
        return None
    names = run.settings.get("classes")
    return conditions.chosen(run.module, run.cfg, args.classes, num, names)
