"""A data set that fits in memory, and the step from its bytes to a batch.

Images stay uint8 until the step: a quarter of the memory of float32, and the whole of a small set
lives on the device, where `to_batch` gathers and normalises inside jit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.data.arrays import to_data, to_labels
from gengen.data.order import two_orders
from gengen.types import Array, Batch, InputError, Shape

# What an array of each name must be: dtype, ranks and, for messages, the shape in letters.
_LAYOUT = {
    "image": (np.dtype(np.uint8), (4,), "[N, H, W, C]"),
    "x": (np.dtype(np.float32), (2, 4), "[N, D], or maps [N, h, w, D]"),
    "label": (np.dtype(np.int32), (1,), "[N]"),
    "caption": (np.dtype(np.int32), (2,), "[N, L]"),
    "target": (np.dtype(np.uint8), (4,), "[N, H, W, C]"),
    "other": (np.dtype(np.uint8), (4,), "[M, H, W, C]"),
    "other_label": (np.dtype(np.int32), (1,), "[M]"),
}
_IMAGES = ("image", "target", "other")
_UNPAIRED = ("other", "other_label")  # a second source: M examples, in an order of their own

_PER_LEVEL = np.float32(1 / 255)


@dataclass(frozen=True, eq=False)  # eq: two data sets are the same if their fingerprints are
class Dataset:
    """N examples in memory.

    Attributes:
        name: the canonical spec that `load` takes, "mnist5k:train".
        arrays: "image" uint8 [N, H, W, C] or "x" float32 [N, D], or of maps of codes [N, h, w, D],
            and, where known, "label" int32 [N] and "caption" int32 [N, L], tokens of
            `gengen.data.captions`. Of pairs, "target" uint8 [N, H, W, C']. Of two sets without
            pairs, "other" uint8 [M, H, W, C], perhaps with "other_label" int32 [M]. Kept as
            read-only views, so that the fingerprint stays true.
        classes: names of the labels 0, 1, ...; None where they have none.
        source: fingerprint of the `Stream` that reads the same examples, where there is one: so a
            run goes on whether they are kept in memory or streamed.

    Raises:
        InputError: on construction, if the arrays are anything else, empty, of differing lengths,
            not finite, or have a label without a class.
    """

    name: str
    arrays: dict[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        """Check the arrays and lock them."""
        _check(self.name, self.arrays, self.classes)
        object.__setattr__(self, "arrays", {k: _read_only(v) for k, v in self.arrays.items()})

    @classmethod
    def of(
        cls, x: Any, y: Any = None, *, name: str = "array", classes: Sequence[str] | None = None
    ) -> Dataset:
        """Return the data set of arrays of NumPy's usual types, which are converted.

        Args:
            x: vectors [N, D]: float; or images [N, H, W, C] or [N, H, W]: integers in 0..255, bool,
                or float in [0, 1] or [-1, 1]. See `gengen.data.arrays.to_data`.
            y: labels [N] or [N, 1]: integers, bool, or strings, whose sorted values become the
                classes; None: no labels.
            name: of the data set.
            classes: names of the labels 0, 1, ..., where `y` are numbers.

        Raises:
            InputError: for other arrays, NaN, or another number of labels than of examples.

        Example:
            >>> data = Dataset.of([[0.0, 1.0], [2.0, 3.0]], ["even", "odd"])
            >>> data.shape, data.classes
            ((2,), ('even', 'odd'))
        """
        key, data = to_data(name, x)
        arrays, names = {key: data}, None
        if y is not None:
            arrays["label"], names = to_labels(f"{name}: labels", y, len(data))
        if names is None and classes is not None:
            names = tuple(classes)
        return cls(name, arrays, names)

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self._data)

    @property
    def shape(self) -> Shape:
        """Shape of one example: (H, W, C) of an image, (D,) of a vector."""
        return self._data.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the arrays' names, dtypes, shapes and bytes; name and classes aside."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
            digest.update(little.data)
        return digest.hexdigest()

    def rows(self, batch_size: int, seed: int, step: int) -> np.ndarray:
        """Which examples make up the batch of a step: int32 [B], see `batch_indices`.

        If there is a second source: [B, 2], the second column its rows, in an order of their own.
        """
        return two_orders(len(self), self.num_others, batch_size, seed, step)

    @property
    def num_others(self) -> int:
        """Number of examples of the second set; 0 if there is none."""
        return len(self.arrays.get("other", ()))

    @property
    def target_shape(self) -> Shape | None:
        """Shape of the target of an example; None if there are no targets."""
        return self.arrays["target"].shape[1:] if "target" in self.arrays else None

    @property
    def other_shape(self) -> Shape | None:
        """Shape of an example of the second set; None if there is none."""
        return self.arrays["other"].shape[1:] if "other" in self.arrays else None

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return some examples as they are stored: rows int [B] or [B, 2], as of `rows`.

        Of rows [B], those of the second set are the same numbers, from its start again at its end.
        """
        first, others = (rows, rows) if rows.ndim == 1 else (rows[:, 0], rows[:, 1])
        others = others % max(self.num_others, 1)
        return {k: a[others if k in _UNPAIRED else first] for k, a in self.arrays.items()}

    @property
    def _data(self) -> np.ndarray:
        return self.arrays["image"] if "image" in self.arrays else self.arrays["x"]


def to_batch(arrays: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """The examples at `indices`, images normalised as v / 127.5 - 1.

    Pure: jit it with the arrays as arguments, or they become constants of the program.

    Args:
        arrays: those of a `Dataset`, on the host or the device.
        indices: int32 [B], each in 0..N-1, or what `Dataset.rows` gives. An index outside is
            clipped, as nothing can be raised inside jit.

    Returns:
        "image" float32 [B, H, W, C] in [-1, 1], "x" float32 [B, D] as it is, "label" int32 [B].
    """
    return normalise(gather(arrays, indices))


def gather(arrays: Mapping[str, ArrayLike], indices: ArrayLike) -> Batch:
    """The examples at `indices`, as they are stored; the arguments of `to_batch`."""
    rows = jnp.asarray(indices)
    columns = rows[:, None] if rows.ndim == 1 else rows
    return {
        name: _gather(jnp.asarray(a), columns[:, int(name in _UNPAIRED)])
        for name, a in arrays.items()
    }


def normalise(batch: Batch) -> Batch:
    """A batch as it is stored, its images brought from uint8 to float32 in [-1, 1]."""
    batch = dict(batch)
    for name in (name for name in _IMAGES if name in batch):
        # v / 127.5 - 1 with one rounding, in the last product. Written in the usual way, XLA's
        # reciprocal and fused multiply-add make 255 into 1.0000001, outside of [-1, 1].
        batch[name] = (2.0 * batch[name].astype(jnp.float32) - 255.0) * _PER_LEVEL
    return batch


def to_uint8(images: ArrayLike) -> np.ndarray:
    """Pictures of images: the inverse of `to_batch`, rounded and clipped, on the host.

    Args:
        images: float [...], meant to be in [-1, 1]. What lies outside is clipped and NaN becomes
            black, so that a diverged model can still be looked at.

    Returns:
        uint8 [...], the same shape.
    """
    x = np.nan_to_num(np.asarray(images, np.float32), nan=-1.0, posinf=1.0, neginf=-1.0)
    return np.rint((np.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def _gather(array: Array, indices: Array) -> Array:
    # Rows of a matrix: on CPU twice as fast as array[indices] of rank 4 (93 against 185 µs for
    # 128 images). Indices in range are promised, so "clip" saves the masking of "fill".
    rows = jnp.take(array.reshape(array.shape[0], -1), indices, axis=0, mode="clip")
    return rows.reshape(indices.shape + array.shape[1:])


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _check(name: str, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...] | None) -> None:
    if ("image" in arrays) == ("x" in arrays) or not arrays.keys() <= _LAYOUT.keys():
        raise InputError(
            f'{name}: arrays {sorted(arrays)}, but a data set has either "image" or "x", and '
            'perhaps "label", "caption", "target", "other"'
        )
    for key, array in arrays.items():
        dtype, ranks, letters = _LAYOUT[key]
        if array.dtype != dtype or array.ndim not in ranks:
            raise InputError(
                f'{name}: "{key}" is {array.dtype} {list(array.shape)}, but must be {dtype} '
                f"{letters} (Dataset.of(x, y) converts)"
            )
        if array.size == 0:
            raise InputError(f'{name}: "{key}" is empty ({list(array.shape)}): give ≥ 1 example')
    lengths = {key: len(array) for key, array in arrays.items() if key not in _UNPAIRED}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{name}: arrays of differing lengths {lengths}: one row per example")
    if "x" in arrays and not np.isfinite(arrays["x"]).all():
        raise InputError(f'{name}: "x" holds NaN or infinity: remove those examples')
    if "label" in arrays:
        low, high = int(arrays["label"].min()), int(arrays["label"].max())
        if low < 0 or (classes is not None and high >= len(classes)):
            most = "" if classes is None else f"..{len(classes) - 1}, one per class"
            raise InputError(f"{name}: labels lie in {low}..{high}, but must lie in 0{most}")
