"""`gengen train`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gengen import loop
from gengen.compile import use_compilation_cache
from gengen.data import AnyData, DataOptions, Dataset, open_data
from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs.config import configure, from_json
from gengen.training import distributed, run_dir
from gengen.training.closed_form import fit_run
from gengen.training.validation import NO_VALIDATION, Validation, nats, split

if TYPE_CHECKING:
    from gengen.cli import Train


def train(args: Train) -> None:
    """Train the model that `args` names; prints where the report lies."""
    module = discover.module(args.model)
    if args.distributed:
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    out = args.out or Path("runs") / f"{args.model}-{Path(args.data or 'mnist5k').stem}"
    old = run_dir.read(out) if args.resume else {}
    # What is not said is as it was before a resume.
    seed = _first(args.seed, old.get("seed"), 0)
    steps = _first(args.steps, old.get("steps"), 1000)
    options = args.options if args.options != DataOptions() or not old else _options(old)
    data = open_data(_first(args.data, old.get("data", {}).get("name"), "mnist5k"), options)
    cfg = _config(module, data, args.set, old)
    use_compilation_cache()
    validation, how = NO_VALIDATION, _validation(args, steps, old)
    if how:
        data, validation = _held_out(data, module, cfg, **how)
    about = settings(module, cfg, old.get("config")) | {"data_options": dataclasses.asdict(options)}
    about |= {"validation": how} if how else {}
    if hasattr(module, "fit"):
        if args.resume:
            raise InputError(f"{args.model} is fitted at once: there is nothing to resume")
        fit_run(module, cfg, data, out=out, settings=about, seed=seed)
    else:
        model = module.stages(cfg) if hasattr(module, "stages") else module.method(cfg)
        try:
            loop.run(
                model,
                data,
                out=out,
                steps=steps,
                batch_size=cfg.batch_size,
                seed=seed,
                settings=about,
                resume=args.resume,
                preview=preview(module, cfg),
                log_every=args.log_every,
                save_every=args.save_every,
                preview_every=args.preview_every,
                validation=validation,
                engine=_engine(args, old.get("engine", {})),
            )
        except loop.Interrupted as stop:
            again = f"gengen train {args.model} --steps {steps} --out {out} --resume"
            raise loop.Interrupted(f"{stop}; to go on: {again}") from None
    if distributed.is_main():
        print(f"report: {out / 'report.html'}", file=sys.stderr)


def _validation(args: Train, steps: int, old: dict[str, Any]) -> dict[str, Any]:
    """How the run is validated: {} if not at all."""
    before = old.get("validation", {})
    share = _first(args.hold_out, before.get("hold_out"), 0.0)
    if not share:
        if args.patience or args.validate_every:
            raise InputError("--patience and --validate-every need --hold-out, such as 0.1")
        return {}
    every = _first(args.validate_every, before.get("every"), max(1, steps // 50))
    patience = args.patience if args.patience is not None else before.get("patience")
    return {"hold_out": share, "every": every, "patience": patience}


def _held_out(
    data: AnyData, module: ModuleType, cfg: Any, hold_out: float, every: int, patience: int | None
) -> tuple[Dataset, Validation]:
    """What is trained on, and what is made of the rest."""
    if not isinstance(data, Dataset):
        raise InputError("--hold-out splits data in memory: this is a stream")
    data, rest = split(data, hold_out)
    return data, Validation(nats(module, cfg, rest), every, patience)


def _options(old: dict[str, Any]) -> DataOptions:
    """How the run that goes on read its images."""
    return from_json(DataOptions, old.get("data_options", {}))


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _engine(args: Train, old: dict[str, Any]) -> loop.Engine:
    return loop.Engine(
        accumulate=_first(args.accumulate, old.get("accumulate"), 1),
        dtype=_first(args.dtype, old.get("dtype"), "float32"),
        on_nan=_first(args.on_nan, old.get("on_nan"), "stop"),
        mode=args.mode or "jit",
        num_devices=args.devices,
        workers=args.workers,
        tensorboard=args.tensorboard,
        profile=args.profile,
    )


def _config(
    module: ModuleType, data: AnyData, changes: tuple[str, ...], old: dict[str, Any]
) -> Any:
    """The Config: of the run that goes on, or the default one for these data; then --set."""
    if old:
        if old["model"] != _name(module):
            raise InputError(f"the run is of {old['model']}, not of {_name(module)}")
        return configure(from_json(module.Config, old["config"]), changes)
    default = module.Config()
    if hasattr(default, "shape") and not any(c.startswith("shape=") for c in changes):
        default = dataclasses.replace(default, shape=data.shape)
    return configure(default, changes)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def settings(module: ModuleType, cfg: Any, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `config.json` says of the model.

    On resume a field that the Config did not have `before` is left out while it has its default:
    that is always what was done when there was no such field.
    """
    config, default = dataclasses.asdict(cfg), dataclasses.asdict(module.Config())
    if before is not None:
        config = {k: v for k, v in config.items() if k in before or v != default[k]}
    return {"model": _name(module), "family": module.__name__.split(".")[-2], "config": config}


def preview(module: ModuleType, cfg: Any, images: int = 64, points: int = 2000):
    """The loop's `preview` of a model that samples; None for one that does not."""
    if not hasattr(module, "sample"):
        return None
    num = images if len(cfg.shape) == 3 else points
    return lambda variables, key: module.sample(cfg, variables, key, num)
