"""A trained model: from a run directory, or from the one file that `gengen export` makes of it.

The file is safetensors: arrays under their path, "params/Dense_0/kernel", and in the header's
metadata the settings of the run. Reading it runs no code, and takes no more memory than the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gengen.errors import InputError
from gengen.nn.tensors import flat, nested
from gengen.runs import discover
from gengen.runs.config import from_json
from gengen.training import run_dir
from gengen.training.checkpoint import restore_variables, stages_in
from gengen.training.validation import FOLDER as BEST
from gengen.types import PyTree

SUFFIX = ".safetensors"
_KEY = "gengen"  # of the settings in the metadata


class Trained(NamedTuple):
    """A trained model.

    Attributes:
        module: gengen's module of it.
        cfg: its Config.
        variables: what its `sample` and other functions take; of stages, a dict of them by name.
        settings: of the run: data, seed, versions, ...
    """

    module: ModuleType
    cfg: Any
    variables: PyTree
    settings: dict[str, Any]


def load(path: str | Path, say: Callable[[str], None] = lambda line: None) -> Trained:
    """Read a run directory's newest valid checkpoint, or its best, or an exported file.

    The best, if the run was validated (`gengen.training.validation`).

    Args:
        path: of either.
        say: told of each checkpoint that is passed over.

    Raises:
        InputError: if it is neither, has no checkpoint yet, or is of another gengen.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        variables, settings = _read(path)
    else:
        settings = run_dir.read(path)
        variables = restore_variables(path / BEST, say)
        if variables is None:
            variables = _from_run(path / "checkpoints", say)
        if variables is None:
            raise InputError(f"{path} has no checkpoint yet: train it further")
    module = discover.module(settings["model"])
    return Trained(module, from_json(module.Config, settings["config"]), variables, settings)


def _from_run(folder: Path, say: Callable[[str], None]) -> PyTree | None:
    stages = stages_in(folder)
    if not stages:
        return restore_variables(folder, say)
    found = {name: restore_variables(folder / name, say) for name in stages}
    return None if any(v is None for v in found.values()) else found


def export(
    run: str | Path, file: str | Path, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Write what a run learnt as one safetensors file.

    Raises:
        InputError: for a name that does not end in .safetensors, or is taken.
    """
    file = Path(file)
    if file.suffix != SUFFIX:
        raise InputError(f"{file}: the name must end in {SUFFIX}")
    if file.exists():
        raise InputError(f"{file} exists: choose another name")
    trained = load(run, say)
    arrays = flat(trained.variables)
    part = file.with_suffix(".part")
    save_file(arrays, part, metadata={_KEY: json.dumps(trained.settings)})
    os.replace(part, file)
    return file


def _read(path: Path) -> tuple[PyTree, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        # The library checks every offset of the header against the size of the file.
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a whole safetensors file ({line})") from None
    try:
        settings = run_dir.migrated(json.loads(metadata[_KEY]), path)
        _ = settings["model"], settings["config"]  # it must have both
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} was not made by gengen export: it names no model") from None
    try:
        return nested(arrays), settings
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
