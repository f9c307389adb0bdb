"""Captions of handwritten digits, from measured attributes: "a thick small seven leaning right".

A caption names the digit and some of three attributes of `gengen.data.strokes`. Each attribute is
compared with quantiles of the same digit in the *training* part of the set:

    stroke thickness    "thin" below the median, else "thick"
    size                "small" below the median, else "big"
    slant               "leaning left" below the quantile 0.3, "leaning right" above 0.7, "upright"

Each attribute is left out of one caption in seven, at random but fixed: a caption that does not
name an attribute is of any. The training part has no example of the combinations `HELD_OUT` of
digit, thickness and slant, whether its caption would name them or not; the test part has.

A caption is `LENGTH` tokens, int32: 1 + the place of each word in `WORDS`, then zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gengen.data.dataset import Dataset, normalise
from gengen.data.strokes import size, slant, stroke_thickness
from gengen.types import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THICKNESS, SIZE = ("thin", "thick"), ("small", "big")
SLANT = ("leaning left", "upright", "leaning right")
WORDS = ("a", *THICKNESS, *SIZE, *DIGITS, "upright", "leaning", "left", "right")
LENGTH = 6  # of "a thin small two leaning right"

# Of each attribute: how it is measured, and the quantiles between its categories.
ATTRIBUTES = {
    "thickness": (stroke_thickness, (0.5,)), "size": (size, (0.5,)), "slant": (slant, (0.3, 0.7)),
}  # fmt: skip
OMITTED = 1 / 7  # of each attribute's mentions

# Digit, thickness and slant that the training part does not have: one combination of each digit.
HELD_OUT = tuple((digit, digit % 2, digit % 3) for digit in range(10))


def thresholds(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quantiles of each attribute: [10, number of quantiles].

    Args:
        images: of the training part, [N, H, W, C] in [-1, 1].
        labels: their digits, [N].

    Raises:
        InputError: if a digit is missing.
    """
    missing = sorted({*range(10)} - {*labels.tolist()})
    if missing:
        raise InputError(f"captions need examples of each digit, but there is no {missing[0]}")
    return {
        name: np.stack([np.quantile(measure(images[labels == d]), at) for d in range(10)])
        for name, (measure, at) in ATTRIBUTES.items()
    }


def categories(
    images: np.ndarray, labels: np.ndarray, limits: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the category of each image by attribute: int [N], from 0.

    Args:
        images: [N, H, W, C] in [-1, 1].
        labels: the digits that they are compared with, [N].
        limits: of `thresholds`.
    """
    return {
        name: (measure(images)[:, None] >= limits[name][labels]).sum(1)
        for name, (measure, _) in ATTRIBUTES.items()
    }


def phrase(digit: int, thickness: int = -1, size: int = -1, slant: int = -1) -> str:
    """Return a caption by the numbers of its categories; below 0, an attribute is not named."""
    words = ["a", THICKNESS[thickness] if thickness >= 0 else "", SIZE[size] if size >= 0 else ""]
    words += [DIGITS[digit], SLANT[slant] if slant >= 0 else ""]
    return " ".join(word for word in words if word)


def to_tokens(
    captions: Sequence[str], words: Sequence[str] = WORDS, length: int = LENGTH
) -> np.ndarray:
    """Return captions as tokens: int32 [N, length], zeros after the last word.

    Raises:
        InputError: for an unknown word, with the known ones; for no word, or too many.
    """
    known = {word: place for place, word in enumerate(words, 1)}
    tokens = np.zeros((len(captions), length), np.int32)
    for row, caption in zip(tokens, captions, strict=True):
        found = caption.lower().replace(",", " ").split()
        unknown = [word for word in found if word not in known]
        if unknown:
            raise InputError(
                f"caption {caption!r}: unknown word {unknown[0]!r}; known words: {', '.join(words)}"
            )
        if not 1 <= len(found) <= length:
            raise InputError(f"caption {caption!r} has {len(found)} words; give 1 to {length}")
        row[: len(found)] = [known[word] for word in found]
    return tokens


def to_text(tokens: np.ndarray, words: Sequence[str] = WORDS) -> list[str]:
    """Return the captions of tokens [N, length]."""
    return [" ".join(str(words[t - 1]) for t in row if t > 0) for row in np.asarray(tokens)]


def with_captions(name: str, data: Dataset, train: Dataset) -> Dataset:
    """Return digits with captions, without the combinations `HELD_OUT` in the training part.

    Args:
        name: of the new set.
        data: digits; the training part itself or another.
        train: the training part, whose quantiles count.

    Raises:
        InputError: for data that are no digits.
    """
    for each in (data, train):
        if "image" not in each.arrays or each.classes != tuple("0123456789"):
            raise InputError(f"{name}: captions are of images of digits, not of {each.name}")
    limits = thresholds(_images(train), train.arrays["label"])
    labels = data.arrays["label"]
    found = categories(_images(data), labels, limits)
    omitted = np.random.RandomState(0).uniform(size=(3, len(labels))) < OMITTED
    named = [np.where(skip, -1, found[k]) for skip, k in zip(omitted, ATTRIBUTES, strict=True)]
    captions = to_tokens([phrase(*row) for row in np.stack([labels, *named], axis=1).tolist()])
    kept = np.ones(len(labels), bool)
    if data is train:
        for digit, thickness, slant in HELD_OUT:
            kept &= (
                (labels != digit)
                | (found["thickness"] != thickness)
                | (found["slant"] != slant)
            )  # fmt: skip
    arrays = {key: array[kept] for key, array in data.arrays.items()}
    return Dataset(name, {**arrays, "caption": captions[kept]}, data.classes)


def _images(data: Dataset) -> np.ndarray:
    return np.asarray(normalise({"image": data.arrays["image"]})["image"])
