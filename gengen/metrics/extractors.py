"""What turns examples into features, by name.

    mnist-v1, fashion-v1       classifiers that come with gengen
    inception                  FID's InceptionV3, with torch-fidelity's resize: the original's
    inception-pytorch-fid      with pytorch-fid's, and so on for each of `gengen.nn.protocols`
    identity                   vectors as they are
    pixels                     pixels as they are
    random-v1                  a fixed random network: any images, without weights
    NAME.safetensors           a classifier of your own

A score is named after them, `fid[mnist-v1]`, as scores of two extractors cannot be compared. Grey
images have their channel repeated for Inception; others do the same without a word.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from gengen.metrics import classifier
from gengen.metrics.random_features import RandomFeatures
from gengen.nn import inception, weights
from gengen.nn.protocols import PROTOCOLS
from gengen.types import InputError, PyTree, Shape


@runtime_checkable
class Extractor(Protocol):
    """Features of examples, and classes where it knows some."""

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
        """The vectors [N, D].

        Raises:
            InputError: for images.
        """
        if np.ndim(x) != 2:
            raise InputError(f"identity: it takes vectors [N, D], not {list(np.shape(x))}")
        return x

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Vectors have no classes."""
        raise InputError("is: vectors have no classes to tell")


class Pixels:
    """Pixels as features: for data without an extractor of their own, and metrics of examples."""

    name, sha256 = "pixels", "0" * 64

    def features(self, x: np.ndarray) -> np.ndarray:
        """Return the pixels of uint8 images [N, H, W, C] in [0, 1], float32 [N, H·W·C]."""
        return np.asarray(x, np.float32).reshape(len(x), -1) / 255

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Pixels have no classes."""
        raise InputError("is: pixels have no classes")


class Inception:
    """FID's network: 2048 features, 1008 classes.

    Attributes:
        protocol: how images are brought to 299×299 (`gengen.nn.protocols`).
        sha256: of the file that the weights come from (hex).
        name: "inception" if that is the published one and the resize the original's.
    """

    def __init__(self, variables: PyTree, sha256: str, protocol: str = "torch-fidelity"):
        self._variables, self.sha256, self.protocol = variables, sha256, protocol
        parts = ["inception"]
        if protocol != "torch-fidelity":
            parts.append(protocol)
        if sha256 != weights.PUBLISHED["inception"].sha256:
            parts.append(sha256[:8])
        self.name = "-".join(parts)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The last layer's, float32 [N, 2048], of uint8 images [N, H, W, 1 or 3]."""
        return np.asarray(self._tapped(images, "2048"))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """P(class | image), float32 [N, 1008], without the classifier's bias as in the original."""
        return np.asarray(jax.nn.softmax(self._tapped(images, "logits_unbiased")))

    def _tapped(self, images: np.ndarray, tap: str) -> Any:
        if np.ndim(images) != 4:
            raise InputError(f"{self.name}: it takes images, not {list(np.shape(images))}")
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        return inception.features(self._variables, images, (tap,), self.protocol)[tap]


_INCEPTIONS = {
    "inception" if name == "torch-fidelity" else f"inception-{name}": name for name in PROTOCOLS
}
_PLAIN = {extractor.name: extractor for extractor in (Identity, Pixels, RandomFeatures)}
NAMES = (*classifier.PINNED, *_INCEPTIONS, *_PLAIN)


@cache
def load(name: str) -> Extractor:
    """The extractor of that name.

    Raises:
        InputError: for an unknown one, or one whose weights are not here, naming the ways to them.
    """
    if name in _PLAIN:
        return _PLAIN[name]()
    if name in _INCEPTIONS:
        variables, sha256 = weights.load("inception")
        return Inception(jax.device_put(variables), sha256, _INCEPTIONS[name])
    if name in classifier.PINNED or name.endswith(".safetensors"):
        return classifier.load(name)
    raise InputError(f"extractor {name!r}: it is one of {', '.join(NAMES)} or a .safetensors file")


_OWN = {"mnist5k": "mnist-v1", "fashion": "fashion-v1"}


def suited(name: str, shape: Shape) -> tuple[str, str]:
    """Return the extractor for a data set, and why it is chosen.

    Vectors are their own features; a shipped classifier reads its own data set; other images go
    through Inception if its weights are here, else through the random network.
    """
    if len(shape) == 1:
        return "identity", "vectors are their own features"
    known = _OWN.get(name.partition(":")[0])
    if known and classifier.load(known).shape == tuple(shape):
        return known, f"the classifier of {name.partition(':')[0]}"
    if weights.path("inception").is_file():
        return "inception", "the network of FID"
    return (
        RandomFeatures.name,
        "a random network, as no classifier is made for these data and there are no weights of "
        "Inception: gengen weights fetch inception",
    )
