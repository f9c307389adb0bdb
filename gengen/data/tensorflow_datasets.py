"""Any set of TensorFlow Datasets, read through its random-access data source.

Reading a prepared set needs no TensorFlow. Preparing one (`download=True`) does, for most sets.
Where the set lies: `TFDS_DATA_DIR`, else `GENGEN_DATA_DIR`, else TFDS's own default.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengen.data.dataset import Dataset
from gengen.data.folder import as_data
from gengen.data.images import resized, to_grey
from gengen.data.options import DataOptions
from gengen.data.stream import HostBatch, Stream
from gengen.types import InputError, Shape


def load_tfds(name: str, spec: str, options: DataOptions) -> Dataset | Stream:
    """A set by its name in TFDS: NAME, NAME/CONFIG, with :SPLIT (train, or train[:80%]).

    Raises:
        InputError: for an unknown name or split, a set that is not prepared, or one that is not of
            single images.
    """
    dataset, _, split = spec.partition(":")
    builder = _builder(name, dataset, options)
    info = builder.info
    split = split or "train"
    try:
        num_examples = info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        raise InputError(
            f"{name}: no split {split!r}: there are {', '.join(info.splits)}"
        ) from None
    image_key, label_key = _keys(name, info)
    shape = _shape(name, info.features[image_key].shape, options)
    labels = info.features[label_key] if label_key else None
    classes = tuple(labels.names) if labels is not None and labels.num_classes else None
    reader = TfdsReader(
        dataset, str(builder.data_dir), split, image_key, label_key, options, shape[2]
    )
    fingerprint = _fingerprint(info, split, options)
    return as_data(Stream(name, reader, num_examples, shape, fingerprint, classes), options)


def _builder(name: str, dataset: str, options: DataOptions) -> Any:
    import tensorflow_datasets as tfds

    folder = os.environ.get("TFDS_DATA_DIR") or os.environ.get("GENGEN_DATA_DIR")
    try:
        builder = tfds.builder(dataset, data_dir=folder)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError) as error:
        line = str(error).strip().splitlines()[0][:160]
        raise InputError(f"{name}: TensorFlow Datasets has no such set ({line})") from None
    if not builder.is_prepared():
        if not options.download:
            raise InputError(
                f"{name} is not prepared in {builder.data_path.parent}: pass --download to let "
                "TFDS fetch it, or prepare it elsewhere as array_record and set TFDS_DATA_DIR"
            )
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # of TFDS, the network, or a missing TensorFlow
            line = " ".join(str(error).split())[:200]
            raise InputError(f"{name}: TFDS could not prepare it ({line})") from error
    file_format = getattr(builder.info.file_format, "value", builder.info.file_format)
    if file_format != "array_record":
        raise InputError(
            f"{name} was prepared as {file_format}, which has no random access: prepare it again "
            'with tfds.builder(...).download_and_prepare(file_format="array_record")'
        )
    return builder


def _keys(name: str, info: Any) -> tuple[str, str | None]:
    """Return the names of the one image and, if there is one, the label.

    Of several labels, the one that the set itself is supervised by counts: Omniglot's "label", the
    character, whose name begins with its alphabet's.
    """
    import tensorflow_datasets as tfds

    features = info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if len(images) != 1:
        found = ", ".join(f"{key}: {type(f).__name__}" for key, f in features.items())
        raise InputError(f"{name}: one image an example is needed, but there is {found}")
    if len(labels) > 1:
        labels = [key for key in labels if key in (info.supervised_keys or ())]
    return images[0], labels[0] if len(labels) == 1 else None


def _shape(name: str, given: tuple[int | None, ...], options: DataOptions) -> Shape:
    height, width, channels = given
    if options.size is not None:
        height = width = options.size
    if height is None or width is None:
        raise InputError(f"{name}: its images differ in size: pass --size to bring them to one")
    return height, width, 1 if options.grey else channels or 3


def _fingerprint(info: Any, split: str, options: DataOptions) -> str:
    """Of the name, version and split, and the bytes of the files that hold it."""
    digest = hashlib.sha256(f"{info.full_name} {split} {options.size} {options.crop}".encode())
    digest.update(b"grey" if options.grey else b"")
    for path in info.splits[split].filepaths if hasattr(info.splits[split], "filepaths") else []:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass
class TfdsReader:
    """rows [B] -> those examples; opens the files when first asked, in whatever process.

    Attributes:
        dataset: its name.
        data_dir: the folder of the prepared version.
        split: in TFDS's syntax.
        image_key: the feature that is the image.
        label_key: the feature that is the label, if any.
        options: how images are read.
        channels: of what is returned, 1 or 3.
    """

    dataset: str
    data_dir: str
    split: str
    image_key: str
    label_key: str | None
    options: DataOptions
    channels: int

    def __post_init__(self) -> None:
        """Not opened yet."""
        self._source: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def __call__(self, rows: np.ndarray) -> HostBatch:
        """Read rows."""
        if self._source is None:
            import tensorflow_datasets as tfds

            builder: Any = tfds.builder_from_directory(self.data_dir)
            self._source = builder.as_data_source(split=self.split)
        examples = self._source.__getitems__(rows.tolist())
        batch = {"image": np.stack([self._image(e[self.image_key]) for e in examples])}
        if self.label_key:
            batch["label"] = np.array([e[self.label_key] for e in examples], np.int32)
        return batch

    def _image(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8:
            raise InputError(f"{self.dataset} has {pixels.dtype} images, but they must be uint8")
        if pixels.shape[2] == 4:
            pixels = pixels[..., :3]
        if self.channels == 1 and pixels.shape[2] == 3:
            pixels = to_grey(pixels)
        return resized(pixels, self.options)
