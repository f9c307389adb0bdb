"""From samples and data to a table of scores, each with its error, its n and its floor.

The floor of a score is the same metric of real held-out data in the samples' place, as many as
there are samples: what a perfect model would get. Where data have no held-out part there is none.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from gengen.data import AnyData, Dataset, batch_indices, load_data, open_data
from gengen.data.options import DataOptions
from gengen.metrics import fid, kid, modes, prdc, sliced
from gengen.metrics import inception_score as inception
from gengen.metrics.c2st import c2st
from gengen.metrics.estimate import Estimate
from gengen.metrics.extractors import Extractor
from gengen.metrics.memorisation import nearest_distances
from gengen.metrics.statistics import Statistics, accumulate, of_features
from gengen.metrics.statistics import load as load_statistics
from gengen.metrics.statistics import save as save_statistics
from gengen.types import InputError

CHUNK = 250  # examples at a time, through networks
MANY = 100_000  # examples: of more, where statistics are enough, features are not kept
DEFAULT = ("fid", "kid", "prdc")


class Examples(NamedTuple):
    """One side of a comparison.

    Attributes:
        name: where it comes from.
        read: some rows of uint8 images [N, H, W, C], or float vectors [N, D]; None if only
            statistics are known.
        features: float [N, D'], or `Statistics`.
        fingerprint: of the data, or None.
    """

    name: str
    read: Callable[[slice], np.ndarray] | None
    features: Any
    fingerprint: str | None


class Score(NamedTuple):
    """A line of the table.

    Attributes:
        metric: "fid[mnist-v1]".
        value: the estimate.
        standard_error: of it, or None.
        n_real: examples of the reference.
        n_fake: samples.
        floor: the same of held-out data, or None.
        floor_standard_error: of it, or None.
    """

    metric: str
    value: float
    standard_error: float | None
    n_real: int | None
    n_fake: int
    floor: float | None
    floor_standard_error: float | None


def _of_prdc(name: str, real: Any, fake: Any) -> dict[str, Estimate]:
    found = prdc.prdc(real=real, fake=fake)
    n = min(found.num_real, found.num_fake)
    return {f"{k}[{name}]": Estimate(getattr(found, k), None, n) for k in found._fields[:4]}


def _of_c2st(name: str, real: Any, fake: Any) -> dict[str, Estimate]:
    n = min(len(real), len(fake))
    return {f"c2st[{name}]": c2st(real=real[:n], fake=fake[:n])}


# name -> (extractor's name, real features, fake features) -> estimates. To add one: a line.
OF_FEATURES: dict[str, Callable[[str, Any, Any], dict[str, Estimate]]] = {
    "fid": lambda name, real, fake: {f"fid[{name}]": _fid(real, fake)},
    "kid": lambda name, real, fake: {f"kid[{name}]": kid.kid(real=real, fake=fake)},
    "prdc": _of_prdc,
    "sw": lambda name, real, fake: {
        f"sw2[{name}]": sliced.sliced_wasserstein(real=real, fake=fake)
    },
    "c2st": _of_c2st,
    "fid_infinity": lambda name, real, fake: {f"fid∞[{name}]": _fid_infinity(real, fake)},
}
MODES = {"ring8": modes.ring8, "grid25": modes.grid25}


def _fid(real: Any, fake: Any) -> Estimate:
    if isinstance(fake, Statistics):
        reference = real if isinstance(real, Statistics) else of_features(real)
        return Estimate(fid.distance(reference, fake), None, fake.n or 0)
    # Blocks small against D would have biases of their own.
    blocks = 10 if len(fake) >= 20 * np.shape(fake)[1] else 0
    return fid.fid(real=real, fake=fake, blocks=blocks)


def _fid_infinity(real: Any, fake: Any) -> Estimate:
    return fid.fid_infinity(real=real, fake=fake, smallest=min(5000, len(fake) // 2))


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse metrics that there are not, or none at all, by an InputError."""
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise InputError(f"no metric {', '.join(unknown)}: there are {', '.join(METRICS)}")


def evaluate(
    real: Examples,
    fake: Examples,
    extractor: Extractor,
    metrics: Sequence[str] = DEFAULT,
    held_out: Examples | None = None,
) -> list[Score]:
    """Score `fake` against `real`, and `held_out` in its place.

    Args:
        real: the reference.
        fake: samples.
        extractor: what made the features; its name goes into the metrics' names.
        metrics: some of `METRICS`.
        held_out: real examples that are not in `real`, for the floor.

    Raises:
        InputError: for an unknown metric, or one that needs what is not known.
    """
    check_metrics(metrics)
    scores, n = [], size(fake)
    for metric in metrics:
        estimates = _estimates(metric, real, fake, extractor)
        floors = {}
        if held_out is not None:
            floors = _estimates(metric, real, _first(held_out, n), extractor)
        for name, found in estimates.items():
            floor = floors.get(name)
            beside = (floor.value, floor.standard_error) if floor else (None, None)
            value = (found.value, found.standard_error)
            scores.append(Score(name, *value, size(real) or None, n, *beside))
    return scores


def _estimates(
    metric: str, real: Examples, fake: Examples, extractor: Extractor
) -> dict[str, Estimate]:
    if metric in OF_EXAMPLES:
        return OF_EXAMPLES[metric](real, fake, extractor)
    for side in (real, fake):
        if isinstance(side.features, Statistics) and metric != "fid":
            raise InputError(f"{metric}: {side.name} holds statistics alone: only fid is possible")
    return OF_FEATURES[metric](extractor.name, real.features, fake.features)


def _inception_score(real: Examples, fake: Examples, extractor: Extractor) -> dict[str, Estimate]:
    parts = _in_chunks(extractor.probabilities, _reader(fake), size(fake), "classes")
    found = inception.inception_score(np.concatenate([*parts]))
    return {f"is[{extractor.name}]": found}


def _modes(real: Examples, fake: Examples, extractor: Extractor) -> dict[str, Estimate]:
    name = real.name.partition(":")[0]
    if name not in MODES:
        raise InputError(f"modes: they are known of {', '.join(MODES)}, not of {real.name}")
    found = MODES[name](_all(fake))
    shares = {"modes found": found.found, "high-quality share": found.high_quality}
    return {k: Estimate(float(v), None, size(fake)) for k, v in shares.items()}


def _nearest(real: Examples, fake: Examples, extractor: Extractor) -> dict[str, Estimate]:
    found = nearest_distances(_all(fake), _all(real))
    error = float(found.std(ddof=1) / np.sqrt(len(found)))
    name = "distance to the nearest real example"
    return {name: Estimate(float(found.mean()), error, size(fake))}


# name -> (real, fake, extractor) -> estimates, of what needs more than features
OF_EXAMPLES: dict[str, Callable[[Examples, Examples, Extractor], dict[str, Estimate]]] = {
    "is": _inception_score,
    "modes": _modes,
    "nearest": _nearest,
}
METRICS = (*OF_FEATURES, *OF_EXAMPLES)
WITHOUT_EXTRACTOR = ("modes", "nearest")


def _reader(side: Examples) -> Callable[[slice], np.ndarray]:
    if side.read is None:
        raise InputError(f"{side.name} holds statistics alone: only fid is possible")
    return side.read


def _all(side: Examples) -> np.ndarray:
    """All of a side in memory."""
    n = size(side)
    return np.concatenate([_reader(side)(slice(i, min(n, i + CHUNK))) for i in range(0, n, CHUNK)])


def size(side: Examples) -> int:
    """How many they are; 0 if statistics do not say."""
    return (side.features.n or 0) if isinstance(side.features, Statistics) else len(side.features)


def _first(side: Examples, n: int) -> Examples:
    many = isinstance(side.features, Statistics)
    return side if many else side._replace(features=side.features[:n])


# --- where examples come from ---------------------------------------------------------------------


def open_side(source: Any, options: DataOptions = DataOptions()) -> AnyData | Statistics:  # noqa: B008
    """Open what `examples` takes: data as in `load_data`, a folder, or statistics (.npz)."""
    if not isinstance(source, str | Path):
        return load_data(source, options=options)
    source = str(source)
    if source.endswith(".npz") and _is_statistics(source):
        return load_statistics(source)
    return open_data(f"folder:{source}" if Path(source).is_dir() else source, options)


def examples(
    name: str,
    data: AnyData | Statistics,
    extractor: Extractor,
    num: int | None = None,
    statistics: bool = False,
) -> Examples:
    """Real or given examples with their features, cached by data and extractor.

    Args:
        name: of them, for the table.
        data: of `open_side`.
        extractor: makes the features.
        num: the first so many of a seeded order; None: all.
        statistics: keep mean and covariance of the features alone, if they are many: then a
            million images need no more memory than `MANY`.

    Raises:
        InputError: for statistics of another extractor's features.
    """
    if isinstance(data, Statistics):
        made, used = (data.extractor, data.sha256), (extractor.name, extractor.sha256)
        if any(m is not None and m != u for m, u in zip(made, used, strict=True)):
            raise InputError(f"{name} was made with {made[0]}, not with this {used[0]}")
        return Examples(name, None, data, None)
    rows = np.arange(len(data))
    if num is not None and num < len(data):
        rows = np.sort(batch_indices(len(data), num, 0, 0))
    read, n = partial(_read, data, rows), len(rows)
    by = (Path(extractor.name).stem, extractor.sha256)
    kind = "statistics" if statistics and n > MANY else "features"
    cached = _cache() / f"{data.fingerprint[:20]}-{n}-{by[0]}-{by[1][:20]}-{kind}.npz"
    features = _from_cache(cached, n)
    if features is None:
        parts = _in_chunks(extractor.features, read, n, f"features of {name}")
        features = accumulate(parts, *by) if kind == "statistics" else np.concatenate([*parts])
        _to_cache(cached, features)
    return Examples(name, read, features, data.fingerprint)


def of_samples(name: str, x: np.ndarray, extractor: Extractor) -> Examples:
    """Samples with their features."""
    parts = _in_chunks(extractor.features, x.__getitem__, len(x), f"features of {name}")
    return Examples(name, x.__getitem__, np.concatenate([*parts]), None)


def _is_statistics(path: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file and "sigma" in file
    except (OSError, ValueError, EOFError):
        return False


def _read(data: AnyData, rows: np.ndarray, part: slice) -> np.ndarray:
    if isinstance(data, Dataset):
        arrays = data.arrays
        return arrays["image" if "image" in arrays else "x"][rows[part]]
    batch = data.read(rows[part])
    return batch["image" if "image" in batch else "x"]


def _in_chunks(
    function: Callable, read: Callable[[slice], np.ndarray], n: int, what: str
) -> Iterator[np.ndarray]:
    words: dict[str, Any] = {"unit_scale": CHUNK, "unit": "example", "leave": False}
    for start in tqdm(range(0, n, CHUNK), what, disable=None, **words):
        yield function(read(slice(start, min(n, start + CHUNK))))


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "gengen" / "features"


def _from_cache(path: Path, n: int) -> np.ndarray | Statistics | None:
    try:
        if path.stem.endswith("statistics"):
            return load_statistics(path)
        with np.load(path, allow_pickle=False) as file:
            features = file["features"]
        return features if len(features) == n else None
    except (InputError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def _to_cache(path: Path, features: np.ndarray | Statistics) -> None:
    """Kept if it can be: a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{os.getpid()}-{path.name}")
        if isinstance(features, Statistics):
            save_statistics(part, features)
        else:
            np.savez(part, features=features)
        os.replace(part, path)
    except OSError:
        pass
