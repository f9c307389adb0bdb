"""A run's directory: what was run (`config.json`), how it went (`metrics.jsonl`), what came of it.

config.json     model, its Config, data and their fingerprint, seed, versions, machine
metrics.jsonl   one JSON object per logged step
checkpoints/    see gengen.training.checkpoint
samples/        step_00001000.png ...
report.html     all of it on one self-contained page
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import gengen
from gengen.errors import InputError
from gengen.training.provenance import provenance

SCHEMA = 3  # of config.json; raised when a reader of the old form would misread the new
MUST_MATCH = ("model", "config", "data", "engine", "seed")  # what may not change under --resume
LOCK = ".lock"


def _from_1(settings: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had no engine: what is now a choice was always so."""
    return settings | {"engine": {"accumulate": 1, "dtype": "float32", "on_nan": "stop"}}


def _from_2(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of schema 3, where fields of Configs have other names.

    Names are changed by who reads a Config: see `gengen.contract.current_names`.
    """
    return settings


_MIGRATIONS = {1: _from_1, 2: _from_2}  # schema -> what makes its settings those of the next


class Claim:
    """The claim of one training on a run directory; `keep` once there is something to keep."""

    def __init__(self) -> None:
        self.is_kept = False

    def keep(self) -> None:
        """Keep the directory, whatever happens from now on."""
        self.is_kept = True


@contextmanager
def locked(out: Path, resume: bool) -> Iterator[Claim]:
    """Keep other trainings out of `out`; of several processes of one training, the first does.

    A new directory is removed again if anything is raised before the claim is kept: a failed start
    does not block the next.

    Raises:
        InputError: if another process trains there, or nothing can be written there.
    """
    import jax

    claim = Claim()
    if jax.process_index() > 0:
        yield claim
        return
    out = Path(out)
    if resume:
        read(out)  # no folder is made where there is no run
    else:
        _check_free(out)
    absent = [path for path in (out, *out.parents) if not path.exists()]
    lock = FileLock(out / LOCK, blocking=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{out} is in use: another process trains there; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    try:
        yield claim
    except BaseException:
        if not resume and not claim.is_kept:
            _remove(out, absent)
        raise
    finally:
        lock.release()


def _remove(out: Path, absent: Sequence[Path]) -> None:
    """Remove what a run has written in `out`, and the folders that were `absent` before it."""
    for path in out.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    (out / LOCK).unlink(missing_ok=True)
    for path in absent:
        with suppress(OSError):  # another process may have begun there
            path.rmdir()


def create(out: Path, settings: dict[str, Any]) -> None:
    """Make a new run directory with its `config.json`.

    Raises:
        InputError: if `out` holds anything already, or cannot be written.
    """
    out = Path(out)
    _check_free(out)
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", settings)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error


def settings(given: dict[str, Any], data: Any, **numbers: Any) -> dict[str, Any]:
    """What `config.json` holds: `given`, what `data` are, and what the numbers depend on."""
    about = {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "num_examples": len(data),
        "shape": list(data.shape),
    }
    about |= {"source": data.source} if getattr(data, "source", None) else {}
    own = {"schema": SCHEMA, "versions": versions(), "machine": machine()}
    own |= {"classes": list(data.classes)} if getattr(data, "classes", None) else {}
    return {**given, "data": about, **numbers, **provenance(), **own}


def _check_free(out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(p.name != LOCK for p in out.iterdir())):
            cure = "pass --resume to go on with it, or choose another --out"
            what = "a run" if (out / "config.json").exists() else "something else"
            raise InputError(f"{out} holds {what} already: {cure}")
    except OSError as error:
        raise InputError(f"cannot read {out}: {error.strerror or error}") from error


def read(out: Path) -> dict[str, Any]:
    """The settings of the run in `out`.

    Raises:
        InputError: if there is no run, or its schema is unknown. An older one is migrated.
    """
    path = Path(out) / "config.json"
    try:
        settings = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{out} holds no run: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return migrated(settings, path)


def migrated(settings: Any, source: Path) -> dict[str, Any]:
    """Settings of any known schema, in the form of this one.

    Raises:
        InputError: for another schema: it is not guessed at.
    """
    schema = settings.get("schema") if isinstance(settings, dict) else None
    if schema not in (*_MIGRATIONS, SCHEMA):
        raise InputError(
            f"{source} has schema {schema}, but this gengen reads schemas 1 to {SCHEMA}: "
            "use the gengen that wrote it"
        )
    for old in range(schema, SCHEMA):
        settings = _MIGRATIONS[old](settings) | {"schema": old + 1}
    return settings


def check_resumable(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """See that a run goes on as it began; only the number of steps may grow.

    Raises:
        InputError: naming every field that differs, with both values.
    """
    old, new = (json.loads(json.dumps(s)) for s in (old, new))  # tuples and lists alike
    new = new | {"data": _as_before(new.get("data"), old.get("data"))}
    changed = [
        f"{name} was {was!r}, now {now!r}"
        for group in MUST_MATCH
        for name, was, now in _differences(group, old.get(group), new.get(group))
    ]
    if changed:
        raise InputError(
            f"{out} cannot be resumed with another configuration ({'; '.join(changed)}): "
            "use the same, or another --out"
        )


def _as_before(data: Any, before: Any) -> Any:
    """Return `data` with the fingerprint of `before`, if both have the same content.

    A set in memory has another fingerprint than the stream of the same files; `source` is the same.
    """
    names = ("fingerprint", "source")
    if not isinstance(data, dict) or not isinstance(before, dict):
        return data
    here, there = ({d[name] for name in names if name in d} for d in (data, before))
    if not here & there:
        return data
    rest = {k: v for k, v in data.items() if k not in names}
    return rest | {name: before[name] for name in names if name in before}


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        absent = "absent"
        return [
            (
                key if name == "config" else f"{name}.{key}",
                old.get(key, absent),
                new.get(key, absent),
            )
            for key in sorted({*old, *new})
            if old.get(key, absent) != new.get(key, absent)
        ]
    return [] if old == new else [(name, old, new)]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2, default=str) + "\n")
    os.replace(part, path)


class MetricsLog:
    """`metrics.jsonl`, opened to go on from a given step: later lines are dropped."""

    def __init__(self, path: Path, step: int):
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        last = rows[-1] if rows else {}
        # Of training and of pictures, before this session.
        self.seconds, self.preview_seconds = (
            last.get(name, 0.0) for name in ("seconds", "preview_seconds")
        )
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(part, path)
        self._file = open(path, "a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a half-written last one is left out."""
    rows = []
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    names = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]
    own = {"gengen": gengen.__version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in names}


def machine() -> dict[str, Any]:
    """What the run ran on."""
    import jax

    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "num_devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
