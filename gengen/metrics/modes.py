r"""Modes found, and the share of samples that lie in one: where the data's modes are known.

Metz et al. 2017 (1611.02163), Srivastava et al. 2017 (VEEGAN, 1705.07761). A sample is of high
quality if it is within 3σ of a mode's centre; a mode is found if a sample of high quality is
nearest to it. Of perfect samples of a Gaussian in 2-D the share is 1 - e^{-4.5} = 0.9889: that is
its ceiling, the figure of real data.

Stacked digits (also VEEGAN's): three digits in the colour channels of an image are one of 1,000
modes, read by a classifier.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gengen.data import toy
from gengen.metrics.checks import check_features, check_images
from gengen.metrics.classifier import Classifier
from gengen.types import InputError

WITHIN = 3.0  # standard deviations


class Modes(NamedTuple):
    """How samples spread over known modes.

    Attributes:
        found: modes that have at least one sample (of high quality, where that is defined).
        total: modes there are.
        high_quality: share of samples within 3σ of a mode; None where modes have no σ.
        kl: KL(shares of the modes ‖ uniform) in nats, of the samples of high quality: 0 if all
            modes have as many, ln(total) if one has all; None if there is no such sample.
        counts: samples (of high quality) of each mode, int [total].
    """

    found: int
    total: int
    high_quality: float | None
    kl: float | None
    counts: np.ndarray

    @property
    def found_error(self) -> float:
        """Standard error of `found`: its spread over samples with Poisson counts of these means."""
        missed = np.exp(-self.counts.astype(np.float64))
        return float(np.sqrt(np.sum(missed * (1 - missed))))


def modes(x: Any, centres: Any, std: float) -> Modes:
    """Count the modes of a mixture of Gaussians of one σ.

    Args:
        x: samples [N, D].
        centres: [K, D].
        std: σ, of each dimension.

    Raises:
        InputError: for NaN, differing D, or σ ≤ 0.
    """
    x, centres = check_features("x", x), check_features("centres", centres)
    if x.shape[1] != centres.shape[1]:
        raise InputError(f"x has {x.shape[1]} dimensions and centres {centres.shape[1]}: as many")
    if not std > 0:
        raise InputError(f"std = {std}, but it is positive")
    nearest, distance = np.zeros(len(x), np.int64), np.full(len(x), np.inf)
    for k, centre in enumerate(centres):
        away = np.linalg.norm(x - centre, axis=1)
        nearest = np.where(away < distance, k, nearest)
        distance = np.minimum(away, distance)
    good = distance <= WITHIN * std
    counts = np.bincount(nearest[good], minlength=len(centres))
    return _summary(counts, float(good.mean()))


def ring8(x: Any) -> Modes:
    """Modes of `gengen.data.toy.ring8` among samples [N, 2]."""
    return modes(x, toy.ring8_centres(), toy.RING8_STD)


def grid25(x: Any) -> Modes:
    """Modes of `gengen.data.toy.grid25` among samples [N, 2]."""
    return modes(x, toy.grid25_centres(), toy.GRID25_STD)


def stacked_digits(images: Any, classifier: Classifier) -> Modes:
    """Modes among images whose C channels are digits: mode 100·a + 10·b + c for C = 3.

    Args:
        images: uint8 [N, 28, 28, C].
        classifier: of one channel: "mnist-v1".
    """
    images = check_images("images", images)
    digits = np.stack(
        [
            classifier.probabilities(images[..., c : c + 1]).argmax(axis=1)
            for c in range(images.shape[-1])
        ]
    )
    classes = (int(classifier.facts["classes"]),) * len(digits)
    index = np.ravel_multi_index(tuple(digits), classes)
    return _summary(np.bincount(index, minlength=int(np.prod(classes))), None)


def _summary(counts: np.ndarray, high_quality: float | None) -> Modes:
    shares = counts[counts > 0] / max(1, counts.sum())
    kl = float(np.sum(shares * np.log(shares * len(counts)))) if len(shares) else None
    return Modes(int(np.count_nonzero(counts)), len(counts), high_quality, kl, counts)
