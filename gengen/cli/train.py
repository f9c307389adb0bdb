"""`gengen train`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from gengen.cli.options import Settings
from gengen.data.options import DataOptions, default
from gengen.errors import InputError
from gengen.runs import discover


@dataclass(frozen=True)
class Train:
    """Train a model: gengen train ddpm --data mnist5k --steps 1000 --out runs/ddpm."""

    model: Positional[str]
    """One of `gengen list`; or a model of your own: ./my_model.py, or package.module."""
    data: Annotated[str | None, default("mnist5k")] = None
    """digits, mnist5k, fashion, ring8, ..., with :test for the test split; the path of a folder of
    images, an .npz or an .npy; pairs:A,B; halves:PATH; unpaired:A,B; tfds:NAME."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = DataOptions()
    steps: Annotated[int | None, default("1000")] = None
    """Train steps in all."""
    epochs: float | None = None
    """Instead of --steps: passes over the data."""
    seed: Annotated[int | None, default("0")] = None
    """Of data order, initial parameters and noise."""
    out: Annotated[Path | None, default("runs/MODEL-DATA")] = None
    """Run directory, new."""
    resume: bool = False
    """Go on with the run in --out: what is not given is as it was."""
    dry_run: bool = False
    """Print the Config, parameters, memory and time that the run would take; write nothing."""
    init: Path | None = None
    """A run directory or exported file whose weights are the first ones (EMA, if there is one), and
    whose Config is the default; not needed again with --resume."""
    set: Settings = field(default=())
    """A field of the model's Config; tuples as 32,64."""
    config: Path | None = None
    """A .json or .yaml of fields of the Config; or the config.json of a run, whose data, steps and
    seed are then the defaults. --set goes before it."""
    preset: Annotated[Literal["quick", "paper"] | None, default("by the device")] = None
    """What the Config starts from: quick, sizes for a CPU; paper, the network and the training of
    the paper."""
    paper: bool = False
    """The same as --preset paper."""
    flip: bool = False
    """Mirror training images left to right at random, pairs together; a resume keeps it."""
    devices: Annotated[int | None, default("one; with --distributed all")] = None
    """Split each batch over that many devices."""
    mode: Annotated[Literal["jit", "pmap"] | None, default("jit")] = None
    """How many devices share a step: one program that XLA splits, or pmap."""
    accumulate: Annotated[int | None, default("1")] = None
    """Take each gradient in that many parts of the batch, to save memory."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, default("float32")] = None
    """What networks compute in; parameters stay float32."""
    on_nan: Annotated[Literal["stop", "skip"] | None, default("stop")] = None
    """At a NaN or infinite loss stop, or leave the step out."""
    workers: int = 0
    """Processes that read streamed data ahead; 0: threads do."""
    tracker: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Send metrics and pictures there too; each needs the extra of gengen of its name."""
    tensorboard: bool = False
    """The same as --tracker tensorboard: event files in OUT/tensorboard."""
    profile: int = 0
    """Trace that many steps for a profiler, once compiled, into OUT/profile."""
    distributed: bool = False
    """One of several processes, each started with the same command. TPU pods, SLURM and Kubernetes
    say the next three by themselves."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which this is, from 0."""
    hold_out: Annotated[float | None, default("none")] = None
    """Share of the data, such as 0.1, that is not trained on. The run keeps the state in which
    -log_prob of it is lowest."""
    patience: int | None = None
    """End after so many validations without a lower value."""
    validate_every: Annotated[int | None, default("steps / 20, at least 50")] = None
    """Steps between validations."""
    validate_num: Annotated[int | None, default("at most 1,000")] = None
    """Held-out examples of each validation, always the same ones."""
    log_every: Annotated[int | None, default("steps / 200, or as before a resume")] = None
    """Steps between lines of metrics.jsonl."""
    save_every: Annotated[int | None, default("steps / 10")] = None
    """Steps between checkpoints."""
    preview_every: Annotated[int | None, default("steps / 8")] = None
    """Steps between pictures in samples/."""

    def __call__(self) -> None:
        """Run the command."""
        train(self)


def train(args: Train) -> None:
    """Train the model that `args` names, and print where the report lies."""
    from gengen import loop
    from gengen.cli.estimate import estimated
    from gengen.runs.train import default_out
    from gengen.runs.train import train as run
    from gengen.training import distributed, run_dir

    if args.paper and args.preset == "quick":
        raise InputError("--paper and --preset quick: choose one")
    if args.distributed:
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    try:
        trained = run(
            args.model,
            args.data,
            config=args.set,
            config_file=args.config,
            preset="paper" if args.paper else args.preset,
            steps=args.steps,
            epochs=args.epochs,
            out=args.out,
            seed=args.seed,
            resume=args.resume,
            init=args.init,
            data_options=args.options,
            hold_out=args.hold_out,
            patience=args.patience,
            validate_every=args.validate_every,
            validate_num=args.validate_num,
            log_every=args.log_every,
            save_every=args.save_every,
            preview_every=args.preview_every,
            flip=args.flip or None,
            engine={
                "accumulate": args.accumulate,
                "dtype": args.dtype,
                "on_nan": args.on_nan,
                "mode": args.mode,
                "num_devices": args.devices,
                "workers": args.workers,
                "profile": args.profile,
            },
            tracker=[name for name in (args.tensorboard and "tensorboard", args.tracker) if name],
            dry_run=args.dry_run,
        )
    except loop.Interrupted as stop:
        out = args.out or default_out(discover.module(args.model), args.data)
        steps = run_dir.read(out)["steps"]
        again = f"gengen train {args.model} --steps {steps} --out {out} --resume"
        raise loop.Interrupted(f"{stop}; to continue: {again}") from None
    if args.dry_run:
        if distributed.is_main():
            print(estimated(trained))
    elif distributed.is_main():
        assert trained.path is not None
        print(f"report: {trained.path / 'report.html'}", file=sys.stderr)
