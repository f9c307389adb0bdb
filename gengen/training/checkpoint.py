"""Checkpoints that are whole or not there: Orbax writes them, a manifest of hashes vouches.

Orbax makes a save atomic, but reads a flipped bit back without a word. So each step's folder gets a
`MANIFEST.json` with the SHA-256 of every file, written last: a step without one was never finished,
and a step that does not match it is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gengen.training import distributed, former
from gengen.types import InputError, PyTree, TrainState

MANIFEST = "MANIFEST.json"
INDEX = Path("default", "manifest.ocdbt")  # Orbax's: without it no array is found
PATTERN = frozenset("*?[]\\")  # characters of paths that Orbax takes for patterns of file names


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


class Checkpoints:
    """The checkpoints of one run, in `folder/<step>/`; the newest `keep` stay.

    Saving is asynchronous: `save` returns once the state is copied to the host. `close` waits. Of
    several processes all call all of it, with the same state; one folder serves them.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = Path(folder).absolute()
        if distributed.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            _set_aside_invalid(self.folder)
        distributed.wait_for_all("checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._open = ExitStack()
        plain = self._open.enter_context(plain_path(self.folder))
        self._manager = ocp.CheckpointManager(plain, options=options)
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._failed_step = 0

    def save(self, state: TrainState) -> None:
        """Save a state under its own step; one already there is replaced only if it is invalid."""
        self._wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            if is_valid(self.folder / str(step)):
                return
            self._manager.delete(step)
        # Host copies: on CPU the writer would otherwise share buffers that the next step donates.
        host = jax.tree.map(lambda x: np.array(x, copy=True), state)
        try:
            self._manager.save(step, args=ocp.args.StandardSave(host))
        except Exception as failure:  # Orbax and TensorStore raise many kinds
            raise self._failed(step, failure) from failure
        self._finishing = threading.Thread(target=self._finish, args=(step,), daemon=True)
        self._finishing.start()

    def _finish(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if distributed.is_main():
                write_manifest(self.folder / str(step))
        except BaseException as failure:  # handed to whoever waits: a thread has no caller
            self._failure = failure
            self._failed_step = step

    def _wait(self) -> None:
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._failed(self._failed_step, failure) from failure

    def _failed(self, step: int, failure: BaseException) -> SaveFailed:
        last = newest_valid(self.folder)
        kept = f"the last good one is {last}" if last else "there is none before"
        why = " ".join(str(failure).split())[:300]
        return SaveFailed(f"cannot save checkpoint {step} in {self.folder} ({why}); {kept}")

    def close(self) -> None:
        """Wait for the last save, and release what Orbax holds."""
        try:
            self._wait()
        finally:
            self._manager.close()
            self._open.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yield a path of `folder` without characters of patterns: a temporary link, if need be."""
    folder = Path(folder).absolute()
    if not PATTERN & {*str(folder)}:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gengen-") as temporary:
        link = Path(temporary) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _set_aside_invalid(folder: Path) -> None:
    """Take what is not whole out of Orbax's count: it would keep that, and drop the new."""
    for step in steps_in(folder):
        path = folder / str(step)
        if not (path / MANIFEST).exists():  # a save that was broken off
            shutil.rmtree(path)
        elif fault_of(path):
            damaged = path.with_name(f"{step}.damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            path.rename(damaged)


def stages_in(folder: Path) -> list[str]:
    """The names of the stages that have checkpoints in `folder`; none if it is of one method."""
    if not Path(folder).is_dir():
        return []
    return sorted(p.name for p in Path(folder).iterdir() if not p.name[0].isdigit() and steps_in(p))


def steps_in(folder: Path) -> list[int]:
    """The steps that have a folder, whole or not, newest first."""
    if not Path(folder).is_dir():
        return []
    return sorted((int(p.name) for p in Path(folder).iterdir() if p.name.isdigit()), reverse=True)


def newest_valid(folder: Path, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """The folder of the newest checkpoint that is as it was saved, or None.

    Args:
        folder: where `Checkpoints` saved.
        say: called with a line for each checkpoint that is passed over.
    """
    for step in steps_in(folder):
        path = Path(folder).absolute() / str(step)
        fault = fault_of(path)
        if fault is None:
            return path
        say(f"checkpoint {step} is not used: {fault}")
    return None


def restore_variables(
    folder: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, PyTree] | None:
    """`TrainState.variables` of the newest valid checkpoint, whatever optimiser trained it."""
    path = newest_valid(folder, say)
    if path is None:
        return None
    with _reader(path) as (reader, place):
        saved = reader.restore(place, args=ocp.args.StandardRestore())
    params = saved["params"] if saved["ema"] is None else saved["ema"]
    return {"params": params, **saved["mutables"]}


def restore(
    folder: Path, like: TrainState, say: Callable[[str], None] = lambda line: None
) -> TrainState | None:
    """The newest valid checkpoint in `folder`, or None if there is none.

    Args:
        folder: where `Checkpoints` saved.
        like: a state of the same structure; arrays or `jax.ShapeDtypeStruct`s.
        say: as for `newest_valid`.

    Raises:
        InputError: if the checkpoint is of another model: its arrays differ in names or shapes.
    """
    step = -1
    if distributed.is_main():
        path = newest_valid(folder, say)
        step = -1 if path is None else int(path.name)
    step = distributed.from_main(step)
    return None if step < 0 else _read(Path(folder).absolute() / str(step), like)


@contextmanager
def _reader(path: Path) -> Iterator[tuple[Any, Path]]:
    with plain_path(path) as plain, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        yield reader, plain / "default"


def _read(path: Path, like: TrainState) -> TrainState:
    target = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), like)
    with _reader(path) as (reader, place):
        target, convert = former.layout(target, lambda: reader.metadata(place).item_metadata.tree)
        try:
            state = reader.restore(place, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError) as error:
            line = str(error).strip().splitlines()[0]
            raise InputError(f"{path} is a checkpoint of another model: {line}") from error
    # NumPy leaves of another shape or dtype pass Orbax without a word.
    for (place, want), got in zip(
        jax.tree_util.tree_leaves_with_path(target), jax.tree.leaves(state), strict=True
    ):
        if want.shape != got.shape or want.dtype != got.dtype:
            name = jax.tree_util.keystr(place)
            raise InputError(
                f"{path} is a checkpoint of another model: {name} is "
                f"{got.dtype}{got.shape}, not {want.dtype}{want.shape}"
            )
    return jax.tree.map(jnp.array, convert(state))


def write_manifest(path: Path) -> None:
    """Write the SHA-256 of every file under a step's folder, atomically.

    Raises:
        OSError: if Orbax has not written all of it.
    """
    if not (path / INDEX).exists():
        raise OSError(f"{path / INDEX} was not written")
    hashes = {str(p.relative_to(path)): _sha256(p) for p in _files(path)}
    part = path / (MANIFEST + ".part")
    part.write_text(json.dumps(hashes, indent=0, sort_keys=True))
    os.replace(part, path / MANIFEST)


def fault_of(path: Path) -> str | None:
    """What is wrong with a step's folder, in words; None if it is as it was saved."""
    try:
        wanted = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        return "it was never finished"
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    if not (path / INDEX).exists():
        return f"{INDEX} is missing"
    for name, digest in wanted.items():
        try:
            if _sha256(path / name) != digest:
                return f"{name} is not as it was saved"
        except OSError:
            return f"{name} is missing or cannot be read"
    return None


def is_valid(path: Path) -> bool:
    """Whether a step's folder is whole and as it was saved."""
    return fault_of(path) is None


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(MANIFEST))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
