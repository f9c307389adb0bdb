"""Classifiers of the offline data sets: features and class probabilities where there is no network.

No standard network exists for digits or for clothes, so gengen ships two of its own, small, trained
once by `experiments/classifiers.py` and pinned here by their hash: "mnist-v1" and "fashion-v1". A
score made with one is written `fid[mnist-v1]`, never "FID": it can be compared with other scores of
the same classifier and with its floor, the same of real held-out data, and with nothing else.

    classifier = load("mnist-v1")
    features = classifier.features(images)            # uint8 [N, 28, 28, 1] → float32 [N, 96]
    probs = classifier.probabilities(images)          # → float32 [N, 10]
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from gengen.data import normalise
from gengen.metrics.checks import check_images, check_labels, check_probabilities
from gengen.nn.tensors import flat, nested
from gengen.types import Array, InputError, PyTree, Shape

FOLDER = Path(__file__).parent / "weights"
PINNED = {  # SHA-256 of the file of each shipped classifier
    "mnist-v1": "592bc2eb0a59f0df398be05137f7bee2aa15eaef7670cba4400a290002e72b2a",
    "fashion-v1": "182d77afbb5d650d6038274018daf641147fef04feb4a31f13c8a2f8485b8da4",
}
BATCH = 250  # images at a time: the last batch is padded, so one program is compiled
_KEY = "gengen"  # of the facts in a file's metadata


class Network(nn.Module):
    """x [B, H, W, C] in [-1, 1] → class scores (logits) [B, classes].

    Strided convolutions to a quarter of the resolution, two residual blocks, dense: few and wide
    channels, where a CPU is at its best.

    Attributes:
        classes: number of classes.
        width: number of features.
        channels: of the half, quarter and eighth of the resolution.
    """

    classes: int = 10
    width: int = 96
    channels: tuple[int, int, int] = (48, 96, 128)

    def setup(self) -> None:
        """The layers."""
        half, quarter, eighth = self.channels
        self.stem = nn.Conv(half, (4, 4), (2, 2))
        self.down = nn.Conv(quarter, (3, 3), (2, 2))
        self.norms = [nn.LayerNorm() for _ in range(2)]
        self.convs = [nn.Conv(quarter, (3, 3)) for _ in range(2)]
        self.last = nn.Conv(eighth, (3, 3), (2, 2), padding="VALID")
        self.dense = nn.Dense(self.width)
        self.head = nn.Dense(self.classes)

    def features(self, x: Array) -> Array:
        """What the last layer sees: [B, width]."""
        h = nn.swish(self.down(nn.swish(self.stem(x))))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = h + nn.swish(conv(norm(h)))
        h = nn.swish(self.last(h))
        return nn.swish(self.dense(h.reshape(h.shape[0], -1)))

    def __call__(self, x: Array) -> Array:
        return self.head(self.features(x))


@jax.jit(static_argnums=0)
def _evaluate(network: Network, params: PyTree, images: Array) -> tuple[Array, Array]:
    """Features [B, width] and probabilities [B, classes] of uint8 images [B, H, W, C]."""
    x = normalise({"image": images})["image"]
    features = network.apply({"params": params}, x, method="features")
    scores = network.apply({"params": params}, features, method=lambda net, f: net.head(f))
    return jnp.asarray(features), jax.nn.softmax(jnp.asarray(scores))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier of images.

    Attributes:
        name: "mnist-v1".
        sha256: of its file (hex): kept with every statistic made from its features.
        shape: of an image, (H, W, C).
        facts: the file's metadata: data set and its fingerprint, seed, held-out accuracy, ...
    """

    name: str
    sha256: str
    shape: Shape
    facts: dict[str, Any]
    _network: Network = field(repr=False)
    _params: PyTree = field(repr=False)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Activations before the last layer, float32 [N, width], of uint8 images [N, H, W, C].

        Raises:
            InputError: for other than uint8, or images of another size.
        """
        return self._over_batches(images, 0)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """P(class | image), float32 [N, classes], of uint8 images [N, H, W, C]."""
        return self._over_batches(images, 1)

    def _over_batches(self, images: np.ndarray, which: int) -> np.ndarray:
        images = check_images("images", images, self.shape)
        parts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            padded = np.zeros((BATCH, *self.shape), np.uint8)
            padded[: len(part)] = part
            out = _evaluate(self._network, self._params, jnp.asarray(padded))[which]
            parts.append(np.asarray(out)[: len(part)])
        return np.concatenate(parts)


@cache
def load(name: str) -> Classifier:
    """A shipped classifier by its name, or one of your own by its file.

    Args:
        name: "mnist-v1" (mnist5k), "fashion-v1", or the path of a .safetensors file that `save`
            wrote.

    Raises:
        InputError: for an unknown name, a file that is missing or damaged, or a shipped one that
            is not the one this gengen was released with.
    """
    if name in PINNED:
        return read(FOLDER / f"{name}.safetensors", PINNED[name])
    if name.endswith(".safetensors"):
        return read(Path(name))
    raise InputError(f"classifier {name!r}: it is one of {sorted(PINNED)} or a .safetensors file")


def read(path: Path, sha256: str | None = None) -> Classifier:
    """Read a classifier's file; no code in it is run.

    Args:
        path: of the file.
        sha256: what its hash must be; None: whatever it is.

    Raises:
        InputError: if it is missing, damaged, not a classifier, or of another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): reinstall gengen") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"{path} has SHA-256 {found[:12]}…, but {sha256[:12]}… is pinned: reinstall gengen"
        )
    try:
        arrays, facts = parse(content), _facts(content)
        network = Network(facts["classes"], facts["width"], tuple(facts["channels"]))
        shape = tuple(int(n) for n in facts["shape"])
        params = nested({k: v.astype(np.float32) for k, v in arrays.items()})
        _check_params(network, params, shape)
        return Classifier(facts["name"], found, shape, facts, network, jax.device_put(params))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not a classifier that gengen wrote ({line})") from None


def save(path: Path, network: Network, params: PyTree, facts: dict[str, Any]) -> str:
    """Write a classifier as float16 safetensors and return the file's SHA-256 (hex).

    Half precision costs no accuracy and half the size; `read` computes in float32.

    Args:
        path: of the file.
        network: its shape goes into the metadata.
        params: of the network.
        facts: what else goes there, JSON: name, shape (H, W, C), data, fingerprint, seed, ...
    """
    arrays = {k: np.asarray(v, np.float16) for k, v in flat(params).items()}
    sizes = {"classes": network.classes, "width": network.width, "channels": network.channels}
    content = serialise(arrays, {_KEY: json.dumps(facts | sizes)})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def consistency(probs: Any, labels: Any) -> float:
    """Share of samples that the classifier reads as the class they were asked to be, in [0, 1].

    Floor: the same of real held-out data, the classifier's accuracy. A conditional model can pass
    it by drawing only typical examples: look at recall and coverage beside it.

    Args:
        probs: P(class | sample) [N, classes].
        labels: the classes asked for, int [N].
    """
    probs = check_probabilities(probs)
    labels = check_labels(labels, len(probs), probs.shape[1])
    return float(np.mean(probs.argmax(1) == labels))


def _facts(content: bytes) -> dict[str, Any]:
    """The metadata; the header of a safetensors file is JSON behind its length."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])


def _check_params(network: Network, params: PyTree, shape: Shape) -> None:
    wanted = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, wanted):
        raise ValueError("its arrays are not those of the network")
