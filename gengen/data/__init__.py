"""Data: what there is to learn from, in which order, and how it reaches the step."""

from gengen.data.dataset import Dataset, gather, normalise, to_batch, to_uint8
from gengen.data.load import load, names, open_data
from gengen.data.order import batch_indices
from gengen.data.stream import Stream, stream_batches
from gengen.data_options import DataOptions

AnyData = Dataset | Stream

__all__ = [
    "AnyData", "DataOptions", "Dataset", "Stream", "batch_indices", "gather", "load", "names",
    "normalise", "open_data", "stream_batches", "to_batch", "to_uint8",
]  # fmt: skip
