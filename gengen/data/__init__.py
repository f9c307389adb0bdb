"""Data: what there is to learn from, in which order, and how it reaches the step.

Names are imported when they are first used, so that `gengen --help` does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengen.data.dataset import Dataset, gather, normalise, to_batch, to_uint8
    from gengen.data.options import DataOptions
    from gengen.data.order import batch_indices
    from gengen.data.sources import AnyData, load, load_data, names, open_data
    from gengen.data.stream import Stream, stream_batches

_MODULES = {
    "dataset": ("Dataset", "gather", "normalise", "to_batch", "to_uint8"),
    "sources": ("AnyData", "load", "load_data", "names", "open_data"),
    "options": ("DataOptions",),
    "order": ("batch_indices",),
    "stream": ("Stream", "stream_batches"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AnyData", "DataOptions", "Dataset", "Stream", "batch_indices", "gather", "load", "load_data",
    "names", "normalise", "open_data", "stream_batches", "to_batch", "to_uint8",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
