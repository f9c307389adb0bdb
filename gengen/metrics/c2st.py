"""Classifier two-sample test: can a network that tries tell samples from data?

Lopez-Paz & Oquab 2017, *Revisiting Classifier Two-Sample Tests* (1610.06545), with the settings
that Lueckmann et al. 2021 (2101.04653, sbibm) made usual: features scaled by the first set's mean
and standard deviation, a perceptron with two hidden layers of 10·D units, 5-fold cross-validation.
The accuracy is 0.5 where the sets cannot be distinguished, which is also its floor, and 1 where
they can. Made for few dimensions (the toy sets) and some thousand examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.metrics.checks import check_pair
from gengen.metrics.estimate import Estimate
from gengen.metrics.resampling import of_share
from gengen.types import InputError


def c2st(
    *, real: Any, fake: Any, folds: int = 5, hidden: int | None = None, seed: int = 1
) -> Estimate:
    """Accuracy of the classifier on examples it was not fitted to, mean over folds, in [0, 1].

    The standard error is the binomial one of that many answers.

    Args:
        real: [N, D].
        fake: [N, D]: as many, or 0.5 would not mean "the same".
        folds: of the cross-validation.
        hidden: units of each hidden layer; 10·D if None.
        seed: of folds and of the network.

    Raises:
        InputError: for sets of differing sizes, fewer than `folds` examples, or NaN.
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    if folds < 2:
        raise InputError(f"folds = {folds}, but cross-validation needs at least 2")
    x, y = check_pair(real, fake, at_least=folds)
    if len(x) != len(y):
        raise InputError(f"{len(x)} real and {len(y)} fake examples: give as many of both")
    # A feature that never changes stays as it is.
    scale = np.where(x.std(axis=0, ddof=1) > 0, x.std(axis=0, ddof=1), 1.0)
    inputs = (np.concatenate([x, y]) - x.mean(axis=0)) / scale
    targets = np.repeat([0, 1], len(x))
    units = hidden or 10 * x.shape[1]
    network = MLPClassifier((units, units), max_iter=10_000, random_state=seed)
    parts = KFold(folds, shuffle=True, random_state=seed)
    accuracy = float(np.mean(cross_val_score(network, inputs, targets, cv=parts)))
    return Estimate(accuracy, of_share(accuracy, len(inputs)), len(x))
