"""`gengen sample`."""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from gengen.cli import given as posterior
from gengen.cli import latent
from gengen.cli.options import GivenOptions
from gengen.compile import use_compilation_cache
from gengen.data import to_uint8
from gengen.errors import InputError
from gengen.runs import trained
from gengen.runs.config import configure
from gengen.viz.grid import picture, save_png

if TYPE_CHECKING:
    from gengen.cli import Sample

CHUNK = 256  # samples drawn at once: bounds the memory, and is compiled once
NUM = 64  # samples, if nothing else is asked


def sample(args: Sample) -> None:
    """Draw samples from a run or an exported file, or a picture of its codes, into `args.out`."""
    asked, given = latent.asked(args), args.inverse.given is not None
    if asked and given:
        raise InputError(f"--given and --{asked}: one picture at a time")
    if args.inverse != GivenOptions() and not given:
        raise InputError("--operator, --method and their like are of --given: give an image")
    if args.classes and (asked or given):
        raise InputError(f"--classes and --{asked or 'given'}: classes are asked of samples alone")
    _check(args, (".png",) if asked or given else (".png", ".npz"))
    model = trained.load(args.run, lambda line: print(f"gengen: {line}", file=sys.stderr))
    model = model._replace(cfg=configure(model.cfg, args.set))
    use_compilation_cache()
    if given:
        picture_of_draws, caption = posterior.draw(args, model)
        save_png(args.out, picture_of_draws, scale=3)
        print(f"{caption}: {args.out}", file=sys.stderr)
    elif asked:
        drawn = latent.draw(asked, args, model)
        save_png(args.out, drawn.array, drawn.scale)
        print(f"{drawn.caption}: {args.out}", file=sys.stderr)
    else:
        _samples(args, model)


def _samples(args: Sample, model: trained.Trained) -> None:
    module, cfg, variables, settings = model
    if not hasattr(module, "sample"):
        raise InputError(f"{settings['model']} does not sample")
    num, y = args.num or NUM, _classes(args, model)
    key, chunk = jax.random.key(args.seed), min(num, CHUNK)
    starts = tqdm(range(0, num, chunk), unit_scale=chunk, unit="sample", disable=None)
    drawn = []
    for start in starts:
        told = {"y": np.resize(np.roll(y, -start), chunk)} if len(y) else {}
        fresh = jax.random.fold_in(key, start)
        drawn.append(np.asarray(module.sample(cfg, variables, fresh, chunk, **told)))
    x = np.concatenate(drawn)[:num]
    if args.out.suffix == ".png":
        save_png(args.out, picture(x), scale=2 if x.ndim == 4 else 1)
    else:
        part = args.out.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, arr_0=to_uint8(x) if x.ndim == 4 else x)
        os.replace(part, args.out)
    print(f"{num} samples: {args.out}", file=sys.stderr)


def _classes(args: Sample, model: trained.Trained) -> np.ndarray:
    """What is asked for, checked: the whole list, once."""
    classes, name = getattr(model.cfg, "classes", 0), model.settings["model"]
    if args.classes and not (classes and "y" in inspect.signature(model.module.sample).parameters):
        raise InputError(f"--classes: this {name} is told none")
    wrong = [k for k in args.classes if not 0 <= k < classes]
    if wrong:
        raise InputError(f"--classes {wrong[0]}: this {name} knows 0 to {classes - 1}")
    return np.array(args.classes, np.int32)


def _check(args: Sample, suffixes: tuple[str, ...]) -> None:
    if args.num is not None and args.num < 1:
        raise InputError(f"--num {args.num}: at least 1 sample is drawn")
    if args.out.suffix not in suffixes:
        raise InputError(f"--out {args.out}: the name must end in {' or '.join(suffixes)}")
    if args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} exists: choose another, or pass --overwrite")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.absolute().parent} is no directory")
