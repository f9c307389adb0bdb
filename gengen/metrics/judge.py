"""A judge of digits that no generative model of gengen was trained with: a calibrated SVM.

It is fixed here, in code, and fitted on real training digits whenever it is needed: nothing is
stored. Its answers mean something only beside those for real held-out digits, and for images that
are near digits: pure noise it calls a 2, and is sure of it. So look at the shares of the classes
and at `memorisation.nearest_distances` too, and at the pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CONFIDENT = 0.8  # probability of the likeliest class


def fit(images: np.ndarray, labels: np.ndarray) -> Any:
    """An RBF support vector machine with Platt's probabilities (3 folds), fitted on real images.

    Args:
        images: uint8 [N, H, W, C].
        labels: [N].

    Returns:
        A scikit-learn classifier of `_pixels(images)`.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    judge = CalibratedClassifierCV(SVC(C=10, gamma="scale"), cv=3)
    return judge.fit(_pixels(images), labels)


def probabilities(judge: Any, images: np.ndarray) -> np.ndarray:
    """P(class | image) [N, classes] for uint8 images [N, H, W, C]."""
    return judge.predict_proba(_pixels(images))


def confident_share(probs: np.ndarray, at_least: float = CONFIDENT) -> float:
    """Share of images whose likeliest class has probability `at_least`."""
    return float(np.mean(probs.max(axis=1) >= at_least))


def class_shares(probs: np.ndarray) -> np.ndarray:
    """Share of images whose likeliest class is k, for every k."""
    return np.bincount(probs.argmax(axis=1), minlength=probs.shape[1]) / len(probs)


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
