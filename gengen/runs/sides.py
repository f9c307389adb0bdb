"""The two sides of a comparison: examples, and their features, which are made when needed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gengen.data import AnyData, Dataset, batch_indices, load_data, open_data
from gengen.data.options import DataOptions
from gengen.metrics.extractors import Extractor
from gengen.metrics.statistics import Statistics, accumulate
from gengen.metrics.statistics import load as load_statistics
from gengen.metrics.statistics import save as save_statistics
from gengen.types import InputError

CHUNK = 250  # examples at a time, through networks
MANY = 100_000  # examples: of more, where statistics are enough, features are not kept
GetExtractor = Callable[[], Extractor]  # called only if features are needed


@dataclass(frozen=True, eq=False)
class Examples:
    """One side of a comparison.

    Attributes:
        name: where it comes from.
        n: number of examples; 0 if statistics do not say.
        batch: some rows as arrays: "image", uint8 [N, H, W, C], or "x", float [N, D], and "label",
            int [N], if there are labels; None if only statistics are known.
        make_features: called once, by `features`.
        fingerprint: of the data, or None.
    """

    name: str
    n: int
    batch: Callable[[slice], dict[str, np.ndarray]] | None
    make_features: Callable[[], Any]
    fingerprint: str | None = None

    @cached_property
    def features(self) -> Any:
        """Features, float [N, D'], or `Statistics`."""
        return self.make_features()

    def read(self, rows: slice) -> np.ndarray:
        """Return some rows of uint8 images [N, H, W, C], or float vectors [N, D].

        Raises:
            InputError: if only statistics are known.
        """
        if self.batch is None:
            raise InputError(f"{self.name} holds statistics alone: only fid is possible")
        found = self.batch(rows)
        return found["image" if "image" in found else "x"]

    @cached_property
    def all(self) -> np.ndarray:
        """All examples, in memory."""
        return np.concatenate([self.read(part) for part in _parts(self.n)])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Their labels, int [N]; None if there are none."""
        if self.batch is None or self.n == 0 or "label" not in self.batch(slice(0, 1)):
            return None
        return np.concatenate([self.batch(part)["label"] for part in _parts(self.n)])

    def rows(self, rows: np.ndarray) -> Examples:
        """Return some of them: int [n] of rows. Statistics are returned as they are."""
        if self.batch is None:
            return self
        whole, start = self.batch, np.asarray(rows)

        def batch(part: slice) -> dict[str, np.ndarray]:
            wanted = start[part]
            low, high = int(wanted.min()), int(wanted.max()) + 1
            return {k: a[wanted - low] for k, a in whole(slice(low, high)).items()}

        def features() -> Any:
            made = self.features
            return made if isinstance(made, Statistics) else made[start]

        return Examples(self.name, len(start), batch, features, self.fingerprint)

    def some(self, n: int) -> Examples:
        """Return n of them, or all if they are fewer, in a seeded order."""
        return self if n >= self.n else self.rows(np.sort(batch_indices(self.n, n, 1, 0)))


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
    extractor: GetExtractor,
    num: int | None = None,
    statistics: bool = False,
) -> Examples:
    """Real or given examples; their features are cached by data and extractor.

    Args:
        name: of them, for the table.
        data: of `open_side`.
        extractor: returns what makes the features.
        num: the first so many of a seeded order; None: all.
        statistics: keep mean and covariance of the features alone, if they are many: then a
            million images need no more memory than `MANY`.
    """
    if isinstance(data, Statistics):
        return Examples(name, data.n or 0, None, lambda: _checked(name, data, extractor()))
    rows = np.arange(len(data))
    if num is not None and num < len(data):
        rows = np.sort(batch_indices(len(data), num, 0, 0))

    def batch(part: slice) -> dict[str, np.ndarray]:
        if isinstance(data, Dataset):
            return {k: a[rows[part]] for k, a in data.arrays.items()}
        return data.read(rows[part])

    def features() -> Any:
        return _cached_features(name, data, found.read, len(rows), extractor(), statistics)

    found = Examples(name, len(rows), batch, features, data.fingerprint)
    return found


def of_samples(
    name: str, x: np.ndarray, extractor: GetExtractor, labels: np.ndarray | None = None
) -> Examples:
    """Samples: uint8 images [N, H, W, C] or vectors [N, D], and the classes asked for, [N]."""
    arrays = {"image" if x.ndim == 4 else "x": x} | ({} if labels is None else {"label": labels})

    def features() -> np.ndarray:
        parts = in_chunks(extractor().features, x.__getitem__, len(x), f"features of {name}")
        return np.concatenate([*parts])

    return Examples(name, len(x), lambda rows: {k: a[rows] for k, a in arrays.items()}, features)


def in_chunks(
    function: Callable, read: Callable[[slice], np.ndarray], n: int, what: str
) -> Iterator[np.ndarray]:
    """Yield `function` of `CHUNK` examples at a time, with a progress bar named `what`."""
    words: dict[str, Any] = {"unit": "example", "leave": False, "total": n}
    with tqdm(desc=what, disable=None, **words) as bar:
        for part in _parts(n):
            yield function(read(part))
            bar.update(part.stop - part.start)


def _parts(n: int) -> Iterator[slice]:
    for start in range(0, n, CHUNK):
        yield slice(start, min(n, start + CHUNK))


def _checked(name: str, data: Statistics, extractor: Extractor) -> Statistics:
    made, used = (data.extractor, data.sha256), (extractor.name, extractor.sha256)
    if any(m is not None and m != u for m, u in zip(made, used, strict=True)):
        raise InputError(f"{name} was made with {made[0]}, not with this {used[0]}")
    return data


def _is_statistics(path: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file and "sigma" in file
    except (OSError, ValueError, EOFError):
        return False


# --- the cache ------------------------------------------------------------------------------------


def _cached_features(
    name: str,
    data: AnyData,
    read: Callable[[slice], np.ndarray],
    n: int,
    extractor: Extractor,
    statistics: bool,
) -> Any:
    by = (Path(extractor.name).stem, extractor.sha256)
    kind = "statistics" if statistics and n > MANY else "features"
    cached = _cache() / f"{data.fingerprint[:20]}-{n}-{by[0]}-{by[1][:20]}-{kind}.npz"
    features = _from_cache(cached, n)
    if features is None:
        parts = in_chunks(extractor.features, read, n, f"features of {name}")
        features = accumulate(parts, *by) if kind == "statistics" else np.concatenate([*parts])
        _to_cache(cached, features)
    return features


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
    """Keep features if it can be done: a cache that cannot be written is no error."""
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
