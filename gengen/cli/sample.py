"""`gengen sample`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from gengen import trained
from gengen.cli import latent
from gengen.compile import use_compilation_cache
from gengen.config import configure
from gengen.data import to_uint8
from gengen.errors import InputError
from gengen.viz.grid import picture, save_png

if TYPE_CHECKING:
    from gengen.cli import Sample

CHUNK = 256  # samples drawn at once: bounds the memory, and is compiled once
NUM = 64  # samples, if nothing else is asked


def sample(args: Sample) -> None:
    """Draw samples from a run or an exported file, or a picture of its codes, into `args.out`."""
    asked = latent.asked(args)
    _check(args, (".png",) if asked else (".png", ".npz"))
    model = trained.load(args.run, lambda line: print(f"gengen: {line}", file=sys.stderr))
    model = model._replace(cfg=configure(model.cfg, args.set))
    use_compilation_cache()
    if asked:
        drawn = latent.draw(asked, args, model)
        save_png(args.out, drawn.array, drawn.scale)
        print(f"{drawn.caption}: {args.out}", file=sys.stderr)
    else:
        _samples(args, model)


def _samples(args: Sample, model: trained.Trained) -> None:
    module, cfg, variables, settings = model
    if not hasattr(module, "sample"):
        raise InputError(f"{settings['model']} does not sample")
    num = args.num or NUM
    key, chunk = jax.random.key(args.seed), min(num, CHUNK)
    starts = tqdm(range(0, num, chunk), unit_scale=chunk, unit="sample", disable=None)
    drawn = [
        np.asarray(module.sample(cfg, variables, jax.random.fold_in(key, start), chunk))
        for start in starts
    ]
    x = np.concatenate(drawn)[:num]
    if args.out.suffix == ".png":
        save_png(args.out, picture(x), scale=2 if x.ndim == 4 else 1)
    else:
        part = args.out.with_suffix(".part")
        with open(part, "wb") as file:
            np.savez(file, arr_0=to_uint8(x) if x.ndim == 4 else x)
        os.replace(part, args.out)
    print(f"{num} samples: {args.out}", file=sys.stderr)


def _check(args: Sample, suffixes: tuple[str, ...]) -> None:
    if args.num is not None and args.num < 1:
        raise InputError(f"--num {args.num}: at least 1 sample is drawn")
    if args.out.suffix not in suffixes:
        raise InputError(f"--out {args.out}: the name must end in {' or '.join(suffixes)}")
    if args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} exists: choose another, or pass --overwrite")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.absolute().parent} is no directory")
