"""From samples and data to a table of scores, each with its error, its sizes and its floor.

The floor of a score is the same metric of real data in the samples' place, as many as there are
samples: what a perfect model would get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gengen.metrics import fid, judge, kid, modes, prdc, similarity, sliced
from gengen.metrics import inception_score as inception
from gengen.metrics.c2st import c2st
from gengen.metrics.classifier import Classifier, consistency
from gengen.metrics.memorisation import nearest_distances
from gengen.metrics.resampling import of_mean, of_share
from gengen.metrics.statistics import Statistics
from gengen.runs.likelihoods import OfHeldOut
from gengen.runs.sides import Examples, GetExtractor, in_chunks
from gengen.types import InputError

MOST_C2ST = 1000  # examples of each set: its networks are fitted until they converge
MOST_KID = 10_000  # reals: more would add little to the error of the samples
REALS_SW = 5  # as many reals as samples, times this, at the most
MOST_JUDGED = 5000  # examples that the judge of classes is fitted to
MODES = {"ring8": modes.ring8, "grid25": modes.grid25}
ARROWS = {"lower": "↓", "higher": "↑", "floor": "→ floor"}


class Score(NamedTuple):
    """A line of the table.

    Attributes:
        metric: "fid[mnist-v1]".
        value: the estimate.
        standard_error: of it, or None where it is not known.
        n_real: real examples that it is of, or None.
        n_fake: samples that it is of; 0 if it is of none.
        floor: the same of real data, or None.
        floor_standard_error: of it, or None.
        better: "lower", "higher", or "floor": the nearer to the floor.
        note: what there is to know about it, or "".
    """

    metric: str
    value: float
    standard_error: float | None
    n_real: int | None
    n_fake: int
    floor: float | None
    floor_standard_error: float | None
    better: str = "lower"
    note: str = ""


class Found(NamedTuple):
    """A metric's estimate: the fields of `Score` that do not concern the floor."""

    value: float
    standard_error: float | None
    n_real: int | None
    n_fake: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Input of a metric; each part is made when it is first needed.

    Attributes:
        real: the reference.
        make_fake: returns the samples or, for a floor, real examples in their place.
        extractor: returns what makes features; its name goes into metrics' names.
        model: what is known of the model itself; None for files of samples, and for a floor.
    """

    real: Examples
    make_fake: Callable[[], Examples]
    extractor: GetExtractor
    model: OfHeldOut | None = None

    @cached_property
    def fake(self) -> Examples:
        """The samples."""
        return self.make_fake()

    def features(self, metric: str, most: int | None = None) -> tuple[Any, Any]:
        """Return the features of both sides.

        Args:
            metric: that needs them.
            most: number of reals that is enough, in a seeded choice; None: all.

        Raises:
            InputError: if statistics are all that is known of a side.
        """
        for side in (self.real, self.fake):
            if isinstance(side.features, Statistics):
                raise InputError(
                    f"{metric}: {side.name} holds statistics alone: only fid is possible"
                )
        return self.real.some(most or self.real.n).features, self.fake.features

    def equal(self, metric: str, most: int | None = None) -> tuple[Any, Any]:
        """Return the features of equally many of both sides, in a seeded choice."""
        self.features(metric)
        n = min(x for x in (self.real.n, self.fake.n, most) if x is not None)
        return self.real.some(n).features, self.fake.some(n).features


# --- metrics --------------------------------------------------------------------------------------


def _fid(c: Comparison) -> dict[str, Found]:
    value, error, _ = fid.fid(real=c.real.features, fake=c.fake.features)
    return {f"fid[{c.extractor().name}]": Found(value, error, c.real.n or None, c.fake.n)}


def _fid_infinity(c: Comparison) -> dict[str, Found]:
    real, fake = c.features("fid_infinity")
    found = fid.fid_infinity(real=real, fake=fake, smallest=min(5000, len(fake) // 2))
    return {f"fid∞[{c.extractor().name}]": Found(*found[:2], len(real), len(fake))}


def _kid(c: Comparison) -> dict[str, Found]:
    real, fake = c.features("kid", MOST_KID)
    found = kid.kid(real=real, fake=fake)
    return {f"kid[{c.extractor().name}]": Found(*found[:2], len(real), len(fake))}


def _prdc(c: Comparison) -> dict[str, Found]:
    real, fake = c.equal("prdc")
    k = min(5, len(real) - 1)
    found = prdc.prdc(real=real, fake=fake, k=k, errors=True)
    errors = found.errors or (None,) * 4
    return {
        f"{name}[{c.extractor().name}]": Found(value, error, len(real), len(fake), f"k = {k}")
        for name, value, error in zip(found._fields[:4], found[:4], errors, strict=True)
    }


def _sw(c: Comparison) -> dict[str, Found]:
    real, fake = c.features("sw", REALS_SW * c.fake.n)
    found = sliced.sliced_wasserstein(real=real, fake=fake)
    return {f"sw2[{c.extractor().name}]": Found(*found[:2], len(real), len(fake))}


def _c2st(c: Comparison) -> dict[str, Found]:
    real, fake = c.equal("c2st", MOST_C2ST)
    found = Found(*c2st(real=real, fake=fake)[:2], len(real), len(fake), "0.5: the same")
    return {f"c2st[{c.extractor().name}]": found}


def _inception_score(c: Comparison) -> dict[str, Found]:
    parts = in_chunks(c.extractor().probabilities, c.fake.read, c.fake.n, "classes")
    value, error, n = inception.inception_score(np.concatenate([*parts]))
    return {f"is[{c.extractor().name}]": Found(value, error, None, n)}


def _modes(c: Comparison) -> dict[str, Found]:
    name = c.real.name.partition(":")[0]
    if name not in MODES:
        raise InputError(f"modes: they are known of {', '.join(MODES)}, not of {c.real.name}")
    found, n = MODES[name](c.fake.all), c.fake.n
    share = found.high_quality or 0.0
    return {
        "modes found": Found(found.found, found.found_error, None, n, f"of {found.total}"),
        "high-quality share": Found(share, of_share(share, n), None, n, "within 3σ of a mode"),
    }


def _nearest(c: Comparison) -> dict[str, Found]:
    found = nearest_distances(c.fake.all, c.real.all)
    mean = Found(float(found.mean()), of_mean(found), c.real.n, c.fake.n, "far below: copies")
    return {"distance to the nearest real example": mean}


def _class(c: Comparison) -> dict[str, Found]:
    asked, extractor = c.fake.labels, c.extractor()
    if asked is None:
        raise InputError(f"class: {c.fake.name} was not asked for classes")
    if isinstance(extractor, Classifier):
        name, classify = extractor.name, extractor.probabilities
    else:
        name, classify = "svm", _judge(c.real)
    probs = np.concatenate([*in_chunks(classify, c.fake.read, c.fake.n, "classes")])
    share = consistency(probs, asked)
    return {f"class[{name}]": Found(share, of_share(share, len(asked)), None, len(asked))}


def _judge(real: Examples) -> Callable[[np.ndarray], np.ndarray]:
    """Return P(class | image) of a support vector machine, fitted to labelled real images."""
    some = real.some(MOST_JUDGED)
    if some.labels is None:
        raise InputError(f"class: {real.name} has no labels to learn classes from")
    images, labels = some.all, some.labels
    if images.ndim != 4:
        raise InputError("class: it is of images")
    fitted = judge.fit(images, labels)
    return lambda x: judge.probabilities(fitted, x)


def _of_model(metric: str, c: Comparison) -> OfHeldOut:
    if c.model is None:
        raise InputError(f"{metric}: it needs the model, a run or an exported file")
    return c.model


def _nats(c: Comparison) -> dict[str, Found]:
    found, note = _of_model("nats", c).nats()
    return {"nats per example": Found(*found[:2], found.n, 0, note)}


def _bits(c: Comparison) -> dict[str, Found]:
    found, note = _of_model("bits", c).bits()
    return {"bits per dimension": Found(*found[:2], found.n, 0, note)}


def _similarity(metric: str, c: Comparison) -> dict[str, Found]:
    model = _of_model(metric, c)
    made, truth = model.cycles if metric == "cycle_l1" else model.pairs
    found = similarity.estimates(made, truth, 255)
    found["cycle_l1"] = found["l1"]
    if metric not in found:
        raise InputError(f"{metric}: images of {truth.shape[1]}×{truth.shape[2]} are too small")
    value, error, n = found[metric]
    scales = f"{similarity.num_scales(*truth.shape[1:3])} scales"
    levels = "levels of 0..255"
    notes = {"psnr": "dB", "ms_ssim": scales, "l1": levels, "cycle_l1": f"{levels}, there and back"}
    note = notes.get(metric, "")
    return {metric: Found(value, error, n, n, note)}


class Metric(NamedTuple):
    """A metric by name.

    Attributes:
        of: a comparison → estimates by name.
        better: as in `Score`.
        has_floor: whether real data can take the samples' place.
    """

    of: Callable[[Comparison], dict[str, Found]]
    better: str
    has_floor: bool = True


METRICS = {  # to add one: a line
    "fid": Metric(_fid, "lower"),
    "fid_infinity": Metric(_fid_infinity, "lower"),
    "kid": Metric(_kid, "lower"),
    "prdc": Metric(_prdc, "higher"),
    "sw": Metric(_sw, "lower"),
    "c2st": Metric(_c2st, "lower"),
    "is": Metric(_inception_score, "higher"),
    "modes": Metric(_modes, "higher"),
    "nearest": Metric(_nearest, "floor"),
    "class": Metric(_class, "higher"),
    "nats": Metric(_nats, "lower", has_floor=False),
    "bits": Metric(_bits, "lower", has_floor=False),
    "l1": Metric(lambda c: _similarity("l1", c), "lower", has_floor=False),
    "cycle_l1": Metric(lambda c: _similarity("cycle_l1", c), "lower", has_floor=False),
    "psnr": Metric(lambda c: _similarity("psnr", c), "higher", has_floor=False),
    "ssim": Metric(lambda c: _similarity("ssim", c), "higher", has_floor=False),
    "ms_ssim": Metric(lambda c: _similarity("ms_ssim", c), "higher", has_floor=False),
}


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse metrics that there are not, or none at all, by an InputError."""
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise InputError(f"no metric {', '.join(unknown)}: there are {', '.join(METRICS)}")


def evaluate(
    comparison: Comparison, metrics: Sequence[str], floor: Comparison | None = None
) -> list[Score]:
    """Score samples, and real data in their place.

    Args:
        comparison: samples and reference.
        metrics: some of `METRICS`.
        floor: real examples in the samples' place, and the reference; None: no floor.

    Raises:
        InputError: for an unknown metric, or one that needs what is not known.
    """
    check_metrics(metrics)
    scores = []
    for name in metrics:
        metric = METRICS[name]
        found = metric.of(comparison)
        beside: dict[str, Found] = {}
        if floor is not None and metric.has_floor and (name != "class" or _labelled(floor)):
            beside = metric.of(floor)
        for key, (value, error, n_real, n_fake, note) in found.items():
            real = beside.get(key)
            at_best, its_error = (real.value, real.standard_error) if real else (None, None)
            scores.append(
                Score(key, value, error, n_real, n_fake, at_best, its_error, metric.better, note)
            )
    return scores


def _labelled(floor: Comparison) -> bool:
    return floor.fake.labels is not None
