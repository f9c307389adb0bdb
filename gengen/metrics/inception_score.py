r"""Inception score: how sure a classifier is of each sample, and how varied the samples are.

Salimans et al. 2016, *Improved Techniques for Training GANs* (1606.03498):

    IS = exp( E_x KL(p(y|x) ‖ p(y)) ),    p(y) = E_x p(y|x)

From 1 (every sample looks alike to the classifier) to the number of classes. With InceptionV3 on
natural images it is "IS"; of another classifier it is written `is[mnist-v1]`. It never sees real
data: noise can score well, and a model that draws one perfect image of each class scores best. Its
floor, here a ceiling, is the score of real held-out images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.metrics.checks import check_probabilities
from gengen.metrics.estimate import Estimate
from gengen.types import InputError


def inception_score(probs: Any, splits: int = 10) -> Estimate:
    """The mean of IS over `splits` parts, in order: split i is rows i·N//splits to (i+1)·N//splits.

    Shuffle samples that come in an order, by class, say. The standard error is the spread over the
    parts divided by √splits; None for one part.

    Args:
        probs: p(y|x), [N, K], rows that sum to 1.
        splits: parts, the paper's 10; a small part scores lower.

    Raises:
        InputError: for fewer than `splits` samples, or what is not probabilities.
    """
    if splits < 1:
        raise InputError(f"splits = {splits}, but there is at least 1")
    p = check_probabilities(probs, at_least=splits)
    edges = [i * len(p) // splits for i in range(splits + 1)]
    scores = [_score(p[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    error = float(np.std(scores, ddof=1) / np.sqrt(splits)) if splits > 1 else None
    return Estimate(float(np.mean(scores)), error, len(p))


def _score(p: np.ndarray) -> float:
    """IS of one part; 0 ln 0 = 0."""
    ratio = np.divide(p, p.mean(axis=0), out=np.ones_like(p), where=p > 0)
    return float(np.exp(np.sum(p * np.log(ratio), axis=1).mean()))
