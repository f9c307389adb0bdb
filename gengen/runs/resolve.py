"""What a training runs with: from what is given, a file, the run that is continued, and defaults.

The Config begins as the default for the data, as that of the run that is continued, or as that of
the run whose weights are the first ones. Fields of a file are set next, then those that are given.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gengen.contract import Task, adapt
from gengen.data import AnyData, DataOptions
from gengen.data.sources import load_data
from gengen.errors import InputError
from gengen.runs import config, discover
from gengen.runs.trained import Run
from gengen.training import run_dir
from gengen.training.plan import check_positive, shares
from gengen.xla import on_cpu

DATA, STEPS = "mnist5k", 1000  # of a new run, if nothing else is given
FILES = (".json", ".yaml", ".yml")
_OF_DATA = ("shape", "num_classes")  # fields that follow the data


class Asked(NamedTuple):
    """What is given of a run; None: not given."""

    data: Any = None
    options: DataOptions = DataOptions()
    config: Any = None  # a Config, a dict of fields, or ("T=100", ...) of the command line
    file: str | Path | None = None  # of fields, or the config.json of a run
    preset: str | None = None
    steps: int | None = None
    epochs: float | None = None
    hold_out: float | None = None
    seed: int | None = None
    start: Run | None = None  # whose weights are the first ones


class Resolved(NamedTuple):
    """What a run is trained with.

    Attributes:
        cfg: Config of the model.
        data: what is read: training data, from which validation data are yet to be taken.
        options: how images are read.
        steps: train steps in all.
        seed: of data order, initial parameters and noise.
        past: settings of the run that is continued, or else of the file; {} without either.
    """

    cfg: Any
    data: AnyData
    options: DataOptions
    steps: int
    seed: int
    past: dict[str, Any]


def first(*values: Any) -> Any:
    """Return the first value that is not None; None if all are."""
    return next((value for value in values if value is not None), None)


def resolve(module: ModuleType, asked: Asked, old: dict[str, Any]) -> Resolved:
    """Return what a run is trained with.

    Args:
        module: of the model.
        asked: what is given.
        old: settings of the run that is continued; {} for a new one.

    Raises:
        InputError: for what contradicts itself, the data or the model.
    """
    file = read_file(asked.file, module) if asked.file is not None else {}
    past = old or file
    options = asked.options
    if options == DataOptions() and past:
        options = config.from_json(DataOptions, past.get("data_options", {}))
    name = past.get("data", {}).get("name")
    data = load_data(first(asked.data, name, DATA), options=options)

    def config_for(steps: int) -> Any:
        return _config(module, asked, data, steps, file, old)

    steps = _steps(module, asked, data, past, config_for)
    cfg = _scheduled(module, config_for(steps), steps)
    config.check_classes(cfg, data)
    config.check_second(cfg, data)
    return Resolved(cfg, data, options, steps, int(first(asked.seed, past.get("seed"), 0)), past)


def _steps(module: ModuleType, asked: Asked, data: AnyData, past: dict, config_for: Any) -> int:
    """Return the number of train steps: as given, in epochs, as before, or the default."""
    if asked.epochs is None:
        return first(asked.steps, past.get("steps"), STEPS)
    if asked.steps is not None:
        raise InputError("--steps and --epochs: give one of them")
    if not asked.epochs > 0:
        raise InputError(f"epochs = {asked.epochs:g}, but it must be above 0")
    if hasattr(module, "fit"):
        raise InputError(f"--epochs: {discover.name_of(module)} is fitted at once")
    share = first(asked.hold_out, past.get("validation", {}).get("hold_out"), 0.0)
    num = len(data) - round(len(data) * share)
    size = config_for(STEPS).batch_size  # which does not depend on the number of steps
    check_positive(batch_size=size)
    return max(1, math.ceil(asked.epochs * num / size - 1e-9))


def _config(
    module: ModuleType, asked: Asked, data: AnyData, steps: int, file: dict, old: dict
) -> Any:
    """Return the Config."""
    given = asked.config
    if given is not None and not isinstance(given, Mapping | tuple):
        if asked.file is not None:
            raise InputError("a Config and a file of its fields: give one of them")
        return given
    if old:
        cfg = config.from_json(module.Config, old["config"])
    else:
        task = Task(
            tuple(data.shape), config.num_classes(data), steps, accelerator=not on_cpu(),
            target_shape=data.target_shape, other_shape=data.other_shape,
        )  # fmt: skip
        cfg = _initial(module, asked, task)
    if file:
        cfg = config.with_written(cfg, _fields(asked, file, steps))
    if isinstance(given, tuple):
        return config.configure(cfg, given)
    return config.with_fields(cfg, given) if given else cfg


def _scheduled(module: ModuleType, cfg: Any, steps: int) -> Any:
    """Return the Config with a decay of the learning rate that lasts as long as the training.

    Of stages: as long as the longest one.
    """
    if getattr(cfg, "lr_schedule", None) in (None, "constant") or cfg.decay_steps:
        return cfg
    if hasattr(module, "stages"):
        stages = module.stages(dataclasses.replace(cfg, lr_schedule=None))
        steps = max(shares(steps, [stage.share for stage in stages]))
    return dataclasses.replace(cfg, decay_steps=steps)


def _initial(module: ModuleType, asked: Asked, task: Task) -> Any:
    """Return the Config that a new run begins with: that of the first weights, or the default."""
    if asked.start is None:
        return config.initial(module, task, asked.preset)
    if asked.preset is not None:
        raise InputError("--init takes the Config of that run: leave --preset out")
    cfg = adapt(asked.start.cfg, task)
    before = asked.start.settings.get("steps")
    if not getattr(cfg, "decay_steps", 0) or cfg.decay_steps != before:
        return cfg
    return dataclasses.replace(cfg, decay_steps=task.steps)  # as long as the run


def _fields(asked: Asked, file: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return the fields of the Config that a file sets, for other data or steps where given."""
    fields = dict(file["config"])
    if asked.data is not None and "data" in file:
        fields = {k: v for k, v in fields.items() if k not in _OF_DATA}
    if fields.get("decay_steps") and fields["decay_steps"] == file.get("steps"):
        fields["decay_steps"] = steps  # the decay was as long as the run
    return fields


def read_file(path: str | Path, module: ModuleType) -> dict[str, Any]:
    """Return the settings in a file: {"config": fields}, and of a run's config.json all it says.

    Args:
        path: .json or .yaml of Config fields; a run's `config.json`; or a run directory.
        module: of the model.

    Raises:
        InputError: if it cannot be read, holds something else, or is of another model.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    values = _parsed(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} must hold fields of a Config, NAME: VALUE")
    if not isinstance(values.get("config"), dict):
        return {"config": values}
    settings = run_dir.migrated(values, path) if "schema" in values else values
    model, name = settings.get("model"), discover.name_of(module)
    if model is not None and model != name:
        raise InputError(f"{path} is of {model}, not of {name}")
    if isinstance(settings.get("data"), str):
        settings = settings | {"data": {"name": settings["data"]}}
    return settings


def _parsed(path: Path) -> Any:
    """Return what a JSON or YAML file holds."""
    if path.suffix not in FILES:
        raise InputError(f"{path}: the name must end in {', '.join(FILES)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from None
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from None
    import yaml  # which Flax needs, too

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {line}") from None
