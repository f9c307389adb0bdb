"""Data: what there is to learn from, in which order, and how it reaches the step."""

from gengen.data.dataset import Dataset, to_batch, to_uint8
from gengen.data.load import load, names
from gengen.data.order import batch_indices

__all__ = ["Dataset", "batch_indices", "load", "names", "to_batch", "to_uint8"]
