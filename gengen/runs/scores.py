"""Scores of a run, a file or a folder of samples against data: what `gengen evaluate` computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gengen
from gengen.data import AnyData, DataOptions, batch_indices, to_uint8
from gengen.data.pairs import one_kind
from gengen.errors import InputError
from gengen.metrics import extractors
from gengen.metrics.extractors import Extractor
from gengen.metrics.similarity import WINDOW, num_scales
from gengen.metrics.statistics import Statistics
from gengen.runs import conditions, evaluation, sides, sizes, translations
from gengen.runs.evaluation import MODES, Comparison, Score
from gengen.runs.likelihoods import OfHeldOut, observed
from gengen.runs.sides import Examples, GetExtractor
from gengen.runs.trained import Run
from gengen.types import Shape, data_of

MOST = sizes.SIZES[-1]  # samples, where no number is given
Say = Callable[[str], None]


def of_run(
    run: Run,
    data: Any = None,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    seed: int = 0,
    extractor: str | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008  frozen
    floor: bool = True,
    say: Say = lambda line: None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score samples of a trained model against data.

    A model that is conditioned on a class or an image is conditioned on those of the held-out
    examples, or of the reference where none are held out. Of a model that translates, translations
    of these are scored against images of the other kind. For a model that neither samples nor
    translates, its reconstructions of these examples are scored.

    Args:
        run: the trained model.
        data: the reference: a spec or an array, as in `load_data`; None: the run's data.
        metrics: some of `evaluation.METRICS`; None: those that suit the model and the data.
        num: number of samples; None: what can be sampled in `sizes.SECONDS`, at most as many as are
            held out.
        seed: of the samples.
        extractor: of features; None: by the data.
        options: how images are read; as in the run if they are the default.
        floor: whether real data are scored too.
        say: called with the number of samples, the time they take, and the features that count.

    Returns:
        The scores, and a dict of what they are of.
    """
    spec = data if data is not None else run.settings.get("data", {}).get("name")
    if spec is None:
        raise InputError("--data: name the reference, as in --data mnist5k")
    if options == DataOptions() and spec == run.settings.get("data", {}).get("name"):
        options = DataOptions(**run.settings.get("data_options", {}))
    opened = _Opened(spec, options, extractor, floor, say)
    metrics = metrics or default_metrics(opened.name, run.cfg.shape, run)
    unseen = opened.unseen
    if translations.translates(run.module):
        opened.compare_with(run.cfg)

    @cache
    def drawn() -> tuple[np.ndarray, str, np.ndarray | None]:
        most = MOST if isinstance(unseen, Statistics) else min(_num(run, unseen), MOST)
        return samples(run, unseen, num, seed, say, most)

    def fake() -> Examples:
        x, name, labels = drawn()
        return sides.of_samples(name, x, opened.extractor, labels)

    known = not isinstance(unseen, Statistics)
    model = OfHeldOut(run, unseen, lambda: drawn()[0], seed, say) if known else None
    found = _scores(opened, fake, metrics, model)
    about = opened.about(f"{run.path or run.name} ({run.name})", seed, num)
    return found, about | {"checkpoint": _hash_of(run)}


def of_source(
    source: str,
    data: str | None,
    metrics: Sequence[str] | None = None,
    num: int | None = None,
    extractor: str | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008  frozen
    floor: bool = True,
    say: Say = lambda line: None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score a folder of images or an .npz of samples or statistics against data."""
    if data is None:
        raise InputError("--data: name the reference, as in --data mnist5k")
    opened = _Opened(data, options, extractor, floor, say)
    made = sides.open_side(source, options)
    if metrics is None:
        known = isinstance(made, Statistics) or isinstance(opened.reference, Statistics)
        shape = () if isinstance(made, Statistics) else made.shape
        metrics = ("fid",) if known else default_metrics(opened.name, shape)
    statistics = tuple(metrics) == ("fid",)

    def fake() -> Examples:
        return sides.examples(source, made, opened.extractor, num, statistics)

    return _scores(opened, fake, metrics, None), opened.about(source, None, num)


def default_metrics(spec: str, shape: Shape, run: Run | None = None) -> tuple[str, ...]:
    """Return the metrics that suit the data and, of a run, what its model can do."""
    vectors = len(shape) == 1
    points = ("sw", *(["modes"] if spec.partition(":")[0] in MODES else []), "c2st")
    chosen = list(points) if vectors else ["fid", "kid", "prdc"]
    if run is None:
        return tuple(chosen)
    module, cfg = run.module, run.cfg
    if translations.translates(module):
        small = min(shape[:2]) < WINDOW
        paired = ("l1", "psnr", *([] if small else ["ssim"]))
        return ("fid", "kid", *(paired if hasattr(cfg, "target_shape") else ("cycle_l1",)))
    kind = conditions.kind(module, cfg) if hasattr(module, "sample") else "nothing"
    if not vectors and (kind == "image" or not hasattr(module, "sample")):
        chosen += ["psnr"] + (["ms_ssim"] if num_scales(*shape[:2]) else [])
    if kind == "label" and not vectors:
        chosen += ["class"]
    if hasattr(module, "log_prob"):
        chosen += ["nats"]
        if not vectors and observed(module, cfg) == "levels":
            chosen += ["bits"]
    return tuple(chosen)


class _Opened:
    """The reference and its held-out part, opened; features are made when they are needed.

    Attributes:
        name: of the reference.
        reference: it.
        held_out: its held-out part; None if none is known.
        extractor: returns the extractor, loaded once.
    """

    def __init__(
        self, spec: Any, options: DataOptions, extractor: str | None, floor: bool, say: Say
    ) -> None:
        self.reference = sides.open_side(spec, options)
        named = getattr(self.reference, "name", "statistics")
        self.name = self.spec = spec if isinstance(spec, str) else str(named)
        known = isinstance(spec, str) and not isinstance(self.reference, Statistics)
        # By its full name: "photos" alone may be a folder or a data set.
        self.other = conditions.held_out_of(str(named)) if known else None
        self.held_out = None if self.other is None else _opened(self.other, options)
        self.floor, self.say = floor, say
        self.floor_name: str | None = None
        self.used: Extractor | None = None
        self.why = ""

        @cache
        def load() -> Extractor:
            name, why = extractor, ""
            if name is None:
                name, why = _suited(self.spec, self.reference)
            self.used, self.why = extractors.load(name), why
            return self.used

        self.extractor: GetExtractor = load

    @property
    def unseen(self) -> AnyData | Statistics:
        """The held-out part, or the reference where none is known."""
        return self.reference if self.held_out is None else self.held_out

    def compare_with(self, cfg: Any) -> None:
        """Compare with the images that translations are to be like, of pairs or of two sets.

        Raises:
            InputError: for data without such images.
        """
        if isinstance(self.reference, Statistics):
            return
        translations.check_data(cfg, self.reference)
        kind = translations.result_kind(cfg)
        self.reference = one_kind(self.reference, kind)
        if self.held_out is not None:
            self.held_out = one_kind(self.held_out, kind)
        self.spec = translations.spec_of(self.name, kind)

    def about(self, fake: str, seed: int | None, num: int | None) -> dict[str, Any]:
        """Return what scores are of, for JSON."""
        used = self.used
        return {
            "fake": fake,
            "real": self.name,
            "real_fingerprint": getattr(self.reference, "fingerprint", None),
            "floor": self.floor_name,
            "extractor": used.name if used else None,
            "extractor_sha256": used.sha256 if used else None,
            "extractor_reason": self.why or None,
            "resize": getattr(used, "protocol", None),
            "seed": seed,
            "num": num,
            "gengen": gengen.__version__,
        }


def _opened(spec: str, options: DataOptions) -> AnyData | None:
    found = sides.open_side(spec, options)
    return None if isinstance(found, Statistics) else found


def _scores(
    opened: _Opened,
    fake: Callable[[], Examples],
    metrics: Sequence[str],
    model: OfHeldOut | None,
) -> list[Score]:
    evaluation.check_metrics(metrics)
    statistics = tuple(metrics) == ("fid",)
    real = sides.examples(opened.name, opened.reference, opened.extractor, None, statistics)
    comparison = Comparison(real, fake, opened.extractor, model)
    found = evaluation.evaluate(comparison, metrics, _floor(opened, comparison, statistics))
    if opened.used is not None:
        opened.say(f"features: {opened.used.name}" + (f", {opened.why}" if opened.why else ""))
    return found


def _floor(opened: _Opened, samples: Comparison, statistics: bool) -> Comparison | None:
    """Return real examples against real ones: held-out ones, or two halves of the reference."""
    real = samples.real
    if not opened.floor or real.batch is None or real.n < 4:
        return None
    if opened.held_out is not None:
        opened.floor_name = opened.other
        side = sides.examples(
            opened.other or "", opened.held_out, opened.extractor, None, statistics
        )
        return Comparison(real, lambda: side.some(samples.fake.n), opened.extractor)
    opened.floor_name = f"halves of {opened.name}"
    order = batch_indices(real.n, real.n, 0, 0)
    first, second = (real.rows(np.sort(half)) for half in np.array_split(order, 2))
    return Comparison(first, lambda: second.some(samples.fake.n), opened.extractor)


def _num(run: Run, data: AnyData) -> int:
    """Return the number of examples that samples can be conditioned on."""
    if translations.translates(run.module):
        return translations.num_sources(run.cfg, data)
    return len(data)


def samples(
    run: Run,
    source: AnyData | Statistics,
    num: int | None,
    seed: int,
    say: Say | None = None,
    most: int = MOST,
) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Return samples as they are scored, uint8 images or float vectors; their name; their classes.

    Args:
        run: the trained model.
        source: examples that they are conditioned on, in a seeded order, as often as needed.
        num: number of samples; None: chosen by the time they take.
        seed: of order and noise.
        say: called with how many there are and how long they take.
        most: upper bound of the choice.
    """
    module, cfg = run.module, run.cfg
    if translations.translates(module) and not isinstance(source, Statistics):
        batch = conditions.examples(source, source.rows(num or most, seed, 0))
        x = translations.of_run(run, module.condition_of(cfg, batch), seed)
        return to_uint8(x), f"{run.path} ({run.name}, translations)", None
    samples_itself = hasattr(module, "sample")
    kind = conditions.kind(module, cfg) if samples_itself else "image"
    condition, batch = None, None
    if kind != "nothing":
        if isinstance(source, Statistics):
            raise InputError(
                f"{run.name} needs examples to be conditioned on, not statistics alone"
            )
        count = num or (max(most, sizes.CHUNK) if samples_itself else most)
        rows = np.resize(batch_indices(len(source), min(count, len(source)), seed, 0), count)
        batch = conditions.examples(source, rows)
        condition = module.condition_of(cfg, batch)
    if samples_itself:
        x = sizes.draw(run, num, most, seed, condition, say)
        name = f"{run.path} ({run.name})"
    elif hasattr(module, "reconstruct"):
        assert batch is not None
        x = run.reconstruct(np.asarray(data_of(batch)), condition)
        name = f"{run.path} ({run.name}, reconstructions)"
    else:
        raise InputError(f"{run.name} neither samples nor reconstructs: there is nothing to score")
    labels = np.asarray(condition)[: len(x)] if kind == "label" else None
    return (to_uint8(x) if x.ndim == 4 else x), name, labels


def _suited(spec: str, reference: Any) -> tuple[str, str]:
    """Return the name of the extractor that suits the data, and why."""
    if not isinstance(reference, Statistics):
        return extractors.suited(spec, reference.shape)
    if reference.extractor is None:
        raise InputError(f"--extractor: {spec} does not say what its features were made with")
    return reference.extractor, f"as {spec} says"


def _hash_of(run: Run) -> str:
    """Return the SHA-256 (hex) of what a run learnt and of its Config."""
    digest = hashlib.sha256(repr(run.cfg).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(run.variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def is_model(source: str | Path) -> bool:
    """Return whether a path is a run directory or an exported file."""
    return str(source).endswith(".safetensors") or (Path(source) / "config.json").exists()
