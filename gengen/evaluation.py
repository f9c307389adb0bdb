"""From samples and data to a table of scores, each with its error, its n and its floor.

The floor of a score is the same metric of real held-out data in the samples' place, as many as
there are samples: what a perfect model would get. Where data have no held-out part there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from gengen import trained
from gengen.data import AnyData, Dataset, batch_indices, open_data, to_uint8
from gengen.data_options import DataOptions
from gengen.metrics import classifier, fid, kid, modes, prdc, sliced
from gengen.metrics import inception_score as inception
from gengen.metrics.c2st import c2st
from gengen.metrics.estimate import Estimate
from gengen.metrics.statistics import Statistics, of_features
from gengen.metrics.statistics import load as load_statistics
from gengen.types import InputError

CHUNK = 250  # examples at a time, through networks
DEFAULT = ("fid", "kid", "prdc")


@runtime_checkable
class Extractor(Protocol):
    """What turns examples into features; `gengen.metrics.classifier.Classifier` is one."""

    @property
    def name(self) -> str:
        """What scores made with it are called after."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights (hex)."""
        ...

    def features(self, images: np.ndarray, /) -> np.ndarray:
        """Features [N, D] of examples [N, ...]."""
        ...

    def probabilities(self, images: np.ndarray, /) -> np.ndarray:
        """P(class | example) [N, K]."""
        ...


class Identity:
    """Vectors are their own features."""

    name, sha256 = "identity", "0" * 64

    def features(self, x: np.ndarray) -> np.ndarray:
        """The vectors [N, D]."""
        return x

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Vectors have no classes."""
        raise InputError("is: vectors have no classes to tell")


class Examples(NamedTuple):
    """One side of a comparison.

    Attributes:
        name: where it comes from.
        x: uint8 images [N, H, W, C], or float vectors [N, D]; None if only statistics are known.
        features: float [N, D'], or `Statistics`.
        fingerprint: of the data, or None.
    """

    name: str
    x: np.ndarray | None
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
}
METRICS = (*OF_FEATURES, "is", "modes")
MODES = {"ring8": modes.ring8, "grid25": modes.grid25}


def _fid(real: Any, fake: Any) -> Estimate:
    if isinstance(fake, Statistics):
        reference = real if isinstance(real, Statistics) else of_features(real)
        return Estimate(fid.distance(reference, fake), None, fake.n or 0)
    # Blocks small against D would have biases of their own.
    blocks = 10 if len(fake) >= 20 * np.shape(fake)[1] else 0
    return fid.fid(real=real, fake=fake, blocks=blocks)


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
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise InputError(f"no metric {', '.join(unknown)}: there are {', '.join(METRICS)}")
    scores, n = [], _size(fake) or 0
    for metric in metrics:
        estimates = _estimates(metric, real, fake, extractor)
        floors = {}
        if held_out is not None:
            floors = _estimates(metric, real, _first(held_out, n), extractor)
        for name, found in estimates.items():
            floor = floors.get(name)
            beside = (floor.value, floor.standard_error) if floor else (None, None)
            scores.append(Score(name, found.value, found.standard_error, _size(real), n, *beside))
    return scores


def _estimates(
    metric: str, real: Examples, fake: Examples, extractor: Extractor
) -> dict[str, Estimate]:
    if metric == "is":
        if fake.x is None:
            raise InputError(f"is: {fake.name} holds no images")
        probs = _in_chunks(extractor.probabilities, fake.x, "classes")
        return {f"is[{extractor.name}]": inception.inception_score(probs)}
    if metric == "modes":
        name = real.name.partition(":")[0]
        if name not in MODES or fake.x is None:
            raise InputError(f"modes: they are known of {', '.join(MODES)}, not of {real.name}")
        found = MODES[name](fake.x)
        shares = {"modes found": found.found, "high-quality share": found.high_quality}
        return {k: Estimate(float(v), None, len(fake.x)) for k, v in shares.items()}
    for side in (real, fake):
        if isinstance(side.features, Statistics) and metric != "fid":
            raise InputError(f"{metric}: {side.name} holds statistics alone: only fid is possible")
    return OF_FEATURES[metric](extractor.name, real.features, fake.features)


def _size(side: Examples) -> int | None:
    return side.features.n if isinstance(side.features, Statistics) else len(side.features)


def _first(side: Examples, n: int) -> Examples:
    x = None if side.x is None else side.x[:n]
    return side._replace(x=x, features=side.features[:n])


# --- where examples come from ---------------------------------------------------------------------


def extractor_for(data: str, asked: str | None = None) -> Extractor:
    """The extractor named, or the one that suits a data set.

    Raises:
        InputError: for an unknown one, or if none suits.
    """
    name = data.partition(":")[0]
    own = {"mnist5k": "mnist-v1", "fashion": "fashion-v1"}
    asked = asked or own.get(name) or ("identity" if name in _TOYS else None)
    if asked is None:
        raise InputError(
            f"no features are known to suit {data}: name a classifier, --extractor mnist-v1, "
            "fashion-v1 or NAME.safetensors (see experiments/classifiers.py)"
        )
    return Identity() if asked == "identity" else classifier.load(asked)


_TOYS = ("mouse", "ring8", "grid25", "moons", "checkerboard", "swiss_roll")


def samples_of(source: str, num: int, seed: int) -> tuple[str, np.ndarray]:
    """`num` samples of a run or an exported file: its name, and uint8 images or float vectors."""
    module, cfg, variables, settings = trained.load(source)
    if not hasattr(module, "sample"):
        raise InputError(f"{settings['model']} does not sample")
    key, chunk = jax.random.key(seed), min(num, CHUNK)
    starts = tqdm(
        range(0, num, chunk), "sampling", unit_scale=chunk, unit="sample", disable=None, leave=False
    )
    draw = partial(module.sample, cfg, variables)
    drawn = [np.asarray(draw(jax.random.fold_in(key, start), chunk)) for start in starts]
    x = np.concatenate(drawn)[:num]
    return f"{source} ({settings['model']})", to_uint8(x) if x.ndim == 4 else x


def examples(
    source: str,
    extractor: Extractor,
    num: int | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008
) -> Examples:
    """Real or given examples with their features, cached by data and extractor.

    Args:
        source: what `open_data` takes; or a folder of images; or pytorch-fid's statistics, .npz.
        extractor: makes the features.
        num: the first so many of a seeded order; None: all.
        options: how images are read.
    """
    if source.endswith(".npz") and _is_statistics(source):
        return Examples(source, None, load_statistics(source), None)
    if Path(source).is_dir():
        source = f"folder:{source}"
    data = open_data(source, options)
    rows = np.arange(len(data))
    if num is not None and num < len(data):
        rows = np.sort(batch_indices(len(data), num, 0, 0))
    x = _read(data, rows)
    cached = _cache() / f"{data.fingerprint[:20]}-{len(rows)}-{extractor.sha256[:20]}.npy"
    features = _from_cache(cached, len(rows))
    if features is None:
        features = _in_chunks(extractor.features, x, f"features of {data.name}")
        _to_cache(cached, features)
    return Examples(data.name, x, features, data.fingerprint)


def of_samples(name: str, x: np.ndarray, extractor: Extractor) -> Examples:
    """Samples with their features."""
    return Examples(name, x, _in_chunks(extractor.features, x, f"features of {name}"), None)


def held_out_of(spec: str) -> str | None:
    """The spec of the test part of a data set whose training part `spec` is; None if unknown."""
    name, colon, split = spec.partition(":")
    if name in ("folder", "tfds"):
        start, last, split = spec.rpartition(":")
        return f"{start}:test" if last and split == "train" else None
    if "." in name or name in ("pairs", "halves", "unpaired") or colon and split != "train":
        return None
    return f"{name}:test"


def _is_statistics(path: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file and "sigma" in file
    except (OSError, ValueError, EOFError):
        return False


def _read(data: AnyData, rows: np.ndarray) -> np.ndarray:
    if isinstance(data, Dataset):
        arrays = data.arrays
        return arrays["image" if "image" in arrays else "x"][rows]
    parts = np.array_split(rows, max(1, len(rows) // CHUNK))
    read = [data.read(part) for part in tqdm(parts, data.name, disable=None, leave=False)]
    return np.concatenate([batch["image" if "image" in batch else "x"] for batch in read])


def _in_chunks(function: Callable, x: np.ndarray, what: str) -> np.ndarray:
    starts = range(0, len(x), CHUNK)
    bar = tqdm(starts, what, unit_scale=CHUNK, unit="example", disable=None, leave=False)
    return np.concatenate([function(x[start : start + CHUNK]) for start in bar])


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "gengen" / "features"


def _from_cache(path: Path, num: int) -> np.ndarray | None:
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if len(features) == num else None


def _to_cache(path: Path, features: np.ndarray) -> None:
    """Kept if it can be: a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with open(part, "wb") as file:
            np.save(file, features)
        os.replace(part, path)
    except OSError:
        pass
