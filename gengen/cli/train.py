"""`gengen train`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gengen import loop
from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs.train import STEPS, default_out
from gengen.runs.train import train as run
from gengen.training import distributed

if TYPE_CHECKING:
    from gengen.cli import Train


def train(args: Train) -> None:
    """Train the model that `args` names, and print where the report lies."""
    if args.paper and args.preset == "quick":
        raise InputError("--paper and --preset quick: choose one")
    if args.distributed:
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    try:
        trained = run(
            args.model,
            args.data,
            config=args.set,
            preset="paper" if args.paper else args.preset,
            steps=args.steps,
            out=args.out,
            seed=args.seed,
            resume=args.resume,
            data_options=args.options,
            hold_out=args.hold_out,
            patience=args.patience,
            validate_every=args.validate_every,
            log_every=args.log_every,
            save_every=args.save_every,
            preview_every=args.preview_every,
            engine={
                "accumulate": args.accumulate,
                "dtype": args.dtype,
                "on_nan": args.on_nan,
                "mode": args.mode,
                "num_devices": args.devices,
                "workers": args.workers,
                "tensorboard": args.tensorboard,
                "profile": args.profile,
            },
        )
    except loop.Interrupted as stop:
        steps = args.steps or STEPS
        out = args.out or default_out(discover.module(args.model), args.data)
        again = f"gengen train {args.model} --steps {steps} --out {out} --resume"
        raise loop.Interrupted(f"{stop}; to continue: {again}") from None
    if distributed.is_main():
        assert trained.path is not None
        print(f"report: {trained.path / 'report.html'}", file=sys.stderr)
