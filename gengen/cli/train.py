"""`gengen train`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gengen import discover, loop, run_dir
from gengen.cli.settings import configure, from_json
from gengen.compile import use_compilation_cache
from gengen.data import Dataset, load
from gengen.errors import InputError

if TYPE_CHECKING:
    from gengen.cli import Train


def train(args: Train) -> None:
    """Train the model that `args` names; prints where the report lies."""
    module = discover.module(args.model)
    out = args.out or Path("runs") / f"{args.model}-{Path(args.data or 'mnist5k').stem}"
    old = run_dir.read(out) if args.resume else None
    name = args.data or (old["data"]["name"] if old else "mnist5k")
    seed = args.seed if args.seed is not None else old["seed"] if old else 0
    steps = args.steps if args.steps is not None else old["steps"] if old else 1000
    data = load(name)
    cfg = _config(module, data, args.set, old)
    use_compilation_cache()
    try:
        loop.run(
            module.method(cfg),
            data,
            out=out,
            steps=steps,
            batch_size=cfg.batch_size,
            seed=seed,
            settings=settings(module, cfg),
            resume=args.resume,
            preview=preview(module, cfg),
            log_every=args.log_every,
            save_every=args.save_every,
            preview_every=args.preview_every,
            mode="pmap" if args.devices else "jit",
            num_devices=args.devices,
        )
    except loop.Interrupted as stop:
        again = f"gengen train {args.model} --steps {steps} --out {out} --resume"
        raise loop.Interrupted(f"{stop}; to go on: {again}") from None
    print(f"report: {out / 'report.html'}", file=sys.stderr)


def _config(
    module: ModuleType, data: Dataset, changes: tuple[str, ...], old: dict[str, Any] | None
) -> Any:
    """The Config: of the run that goes on, or the default one for these data; then --set."""
    if old is not None:
        if old["model"] != _name(module):
            raise InputError(f"the run is of {old['model']}, not of {_name(module)}")
        return configure(from_json(module.Config, old["config"]), changes)
    default = module.Config()
    if hasattr(default, "shape") and not any(c.startswith("shape=") for c in changes):
        default = dataclasses.replace(default, shape=data.shape)
    return configure(default, changes)


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def settings(module: ModuleType, cfg: Any) -> dict[str, Any]:
    """What `config.json` says of the model."""
    family = module.__name__.split(".")[-2]
    return {"model": _name(module), "family": family, "config": dataclasses.asdict(cfg)}


def preview(module: ModuleType, cfg: Any, images: int = 64, points: int = 2000):
    """The loop's `preview` of a model that samples; None for one that does not."""
    if not hasattr(module, "sample"):
        return None
    num = images if len(cfg.shape) == 3 else points
    return lambda variables, key: module.sample(cfg, variables, key, num)
