"""Configs from the command line, from JSON, and from the data."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import tyro

from gengen.contract import Task, adapt, current_names, default_config
from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs.describe import describe as description
from gengen.training import run_dir

PRESETS = ("quick", "paper")


def configure(default: Any, settings: tuple[str, ...]) -> Any:
    """Return a copy of the Config `default` with fields set, as in ("channels=32,64", "T=100").

    Raises:
        InputError: for an unknown field, with the closest known one, or a value of another type.
    """
    changes = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: write it as FIELD=VALUE")
        name = _field(type(default), name)
        changes[name] = _value(name, text, get_type_hints(type(default))[name])
    return dataclasses.replace(default, **changes)


def with_fields(default: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of the Config `default` with fields set to Python values.

    Raises:
        InputError: for an unknown field, with the closest known one.
    """
    known = {_field(type(default), name): value for name, value in changes.items()}
    return dataclasses.replace(default, **known)


def with_written(default: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of the Config `default` with fields set to what JSON or YAML holds.

    Raises:
        InputError: for an unknown field, with the closest known one, or a value of another type.
    """
    changes, kinds = {}, get_type_hints(type(default))
    for name, value in current_names(type(default), values).items():
        known = _field(type(default), name)
        if isinstance(value, str) and kinds[known] is str:
            changes[known] = value
            continue
        items = value if isinstance(value, list | tuple) else [value]
        changes[known] = _value(known, ",".join(map(str, items)), kinds[known])
    return dataclasses.replace(default, **changes)


def _field(config_type: type, name: str) -> str:
    """Return the present name of a field."""
    names = [field.name for field in dataclasses.fields(config_type)]
    present = current_names(config_type, {name: None})
    if not present:
        raise InputError(f"Config.{name} no longer exists: leave it out")
    (present,) = present
    if present not in names:
        raise InputError(f"Config has no field {name!r}{discover.suggestion(name, names)}")
    return present


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        words = text.strip("()[]").replace(",", " ").split()
        with redirect_stderr(io.StringIO()):  # tyro prints a box; gengen prints one line
            return tyro.cli(tyro.conf.Positional[kind], args=words, console_outputs=False)
    except SystemExit:
        wanted = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
        wanted = str(wanted).replace("typing.", "")
        raise InputError(f"{name} = {text!r} cannot be read as {wanted}") from None


def from_json(config_type: type, values: Mapping[str, Any]) -> Any:
    """Return the Config that `dataclasses.asdict` and JSON made `values` of.

    Fields may have the names of an earlier gengen.

    Raises:
        InputError: for a field that this gengen does not know.
    """
    values = current_names(config_type, values)
    unknown = sorted({*values} - {field.name for field in dataclasses.fields(config_type)})
    if unknown:
        raise InputError(f"the run's Config has {', '.join(unknown)}, unknown to this gengen")
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return config_type(**tuples)


def initial(module: ModuleType, task: Task, preset: str | None = None) -> Any:
    """Return the Config that a new run of a model starts from.

    Args:
        module: of the model.
        task: the data, the number of steps and the device.
        preset: None: the default for the task; "quick": the default for a CPU, on any device;
            "paper": the network and the training of the paper, for the data's shape.

    Raises:
        InputError: for another preset, or a model that cannot take such data.
    """
    if preset not in (None, *PRESETS):
        raise InputError(f"preset = {preset!r}; it must be one of {', '.join(PRESETS)}")
    try:
        if preset == "paper":
            return adapt(module.Config.paper(), task)
        if preset == "quick":
            task = task._replace(accelerator=False)
        return default_config(module.Config, task)
    except InputError as error:
        raise InputError(
            f"{discover.name_of(module)} on data of shape {task.shape}: {error}"
        ) from None


def check_classes(cfg: Any, data: Any) -> None:
    """Check that a Config's number of classes is that of the data.

    Raises:
        InputError: if the model is conditioned on more or fewer classes than the data have.
    """
    num, labelled = getattr(cfg, "num_classes", 0), num_classes(data)
    if num and labelled and num != labelled:
        raise InputError(
            f"Config.num_classes = {num}, but {data.name} has {labelled} classes: "
            f"set num_classes={labelled}, or leave it out"
        )


def check_second(cfg: Any, data: Any) -> None:
    """Check that a model can be trained on the two sets of images that the data are.

    Raises:
        InputError: if the sets differ in shape and the model takes one shape.
    """
    other = getattr(data, "other_shape", None)
    if other is not None and tuple(other) != tuple(data.shape) and not hasattr(cfg, "other_shape"):
        raise InputError(
            f"{data.name}: examples are {list(data.shape)} and {list(other)}, but this model takes "
            "one shape: pass --size, or --grey, to bring them to one"
        )


def num_classes(data: Any) -> int:
    """Return the number of classes of a data set's labels; 0 if unknown, or without labels."""
    if getattr(data, "classes", None):
        return len(data.classes)
    label = getattr(data, "arrays", {}).get("label")
    return 0 if label is None else int(label.max()) + 1


def describe(module: ModuleType, cfg: Any, before: Mapping[str, Any] | None = None) -> dict:
    """Return what `config.json` says of a model.

    On resume a field that the Config did not have `before` is left out while it has its default:
    that is what was done when there was no such field.
    """
    config, default = dataclasses.asdict(cfg), dataclasses.asdict(type(cfg)())
    if before is not None:
        config = {k: v for k, v in config.items() if k in before or v != default[k]}
    found = description(module)
    about = {"model": found.name, "family": found.family, "title": found.title}
    return {**about, "paper": found.reference.replace("*", ""), "config": config}


def migrate(out: Path, module: ModuleType) -> dict[str, Any]:
    """Bring the `config.json` of a run to the present schema, in place; return its settings.

    Raises:
        InputError: if there is no run, or its Config has fields that this gengen does not know.
    """
    old = run_dir.read(out)
    config = old.get("config")
    if config is not None:
        from_json(module.Config, config)  # refuses unknown fields before anything is written
        names = current_names(module.Config, config)
        if names != config:
            old = old | {"config": names}
            run_dir.write_json(Path(out) / "config.json", old)
    return old
