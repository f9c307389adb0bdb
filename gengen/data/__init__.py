"""Data: what there is to learn from, in which order, and how it reaches the step."""

from gengen.data.dataset import Dataset, gather, normalise, to_batch, to_uint8
from gengen.data.load import load, names
from gengen.data.order import batch_indices
from gengen.data.stream import Stream, stream_batches

AnyData = Dataset | Stream

__all__ = [
    "AnyData", "Dataset", "Stream", "batch_indices", "gather", "load", "names", "normalise",
    "stream_batches", "to_batch", "to_uint8",
]  # fmt: skip
