"""`gengen data inspect`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from gengen.data import AnyData, Dataset, batch_indices, open_data
from gengen.errors import InputError
from gengen.viz.grid import grid, picture, save_png

if TYPE_CHECKING:
    from gengen.cli import Data

SHOWN = 64  # examples in the picture


def inspect(args: Data) -> None:
    """Print what a data set is, and draw some of it."""
    if args.out is not None and args.out.suffix != ".png":
        raise InputError(f"--out {args.out}: the name must end in .png")
    if args.out is not None and args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} exists: choose another, or pass --overwrite")
    data = open_data(args.data, args.options)
    facts = describe(data)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        wide = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:{wide}}  {_line(value)}")
    if args.out is not None:
        save_png(args.out, draw(data), scale=2 if len(data.shape) == 3 else 1)


def describe(data: AnyData) -> dict[str, Any]:
    """Count, shape, range, classes and fingerprint; of a stream, range and classes of a part."""
    resident = isinstance(data, Dataset)
    seen = data.arrays if resident else data.read(_some_rows(data, 1024))
    values = seen["image" if "image" in seen else "x"]
    num_bytes = sum(v.nbytes for v in seen.values())
    if not resident:
        num_bytes = num_bytes // len(values) * len(data)
    facts: dict[str, Any] = {
        "name": data.name,
        "examples": len(data),
        "shape": list(data.shape),
        "dtype": str(values.dtype),
        "range": [values.min().item(), values.max().item()],
        "mean": round(float(values.mean(dtype=np.float64)), 4),
        "bytes": num_bytes,
        "kept": "in memory" if resident else "on disk, streamed",
        "fingerprint": data.fingerprint,
    }
    if not resident:
        facts["looked at"] = len(values)
    if "label" in seen:
        numbers, counts = np.unique(seen["label"], return_counts=True)
        named = [data.classes[n] if data.classes else str(n) for n in numbers]
        facts["classes"] = dict(zip(named, counts.tolist(), strict=True))
    for name in ("target", "other"):
        if name in seen:
            facts[name] = f"{len(seen[name])} x {list(seen[name].shape[1:])}"
    return facts


def draw(data: AnyData) -> np.ndarray:
    """A picture of examples, uint8 [H, W, C].

    A class per row where there are up to 20 of them; of pairs, each input beside its target; of
    unpaired sets, some of the first and then some of the second.
    """
    rows = _some_rows(data, SHOWN if len(data.shape) == 3 else 2000)
    if isinstance(data, Dataset):
        seen = {k: v[rows] for k, v in data.arrays.items() if not k.startswith("other")}
        labels = data.arrays.get("label")
        if "other" in data.arrays:  # half of the picture each
            half = SHOWN // 2
            sides = [data.arrays[name] for name in ("image", "other")]
            some = [x[batch_indices(len(x), min(half, len(x)), 0, 0)] for x in sides]
            return grid(np.concatenate(some), columns=8)
        if labels is not None and len(data.shape) == 3 and len(np.unique(labels)) <= 20:
            kinds = [np.flatnonzero(labels == k)[:10] for k in np.unique(labels)]
            if min(map(len, kinds)) == 10:
                return grid(data.arrays["image"][np.concatenate(kinds)], columns=10)
    else:
        seen = data.read(rows)
    if "target" in seen:  # each input beside its target
        pair = [seen[name] for name in ("image", "target")]
        channels = max(x.shape[3] for x in pair)
        both = [np.broadcast_to(x, (*x.shape[:3], channels)) for x in pair]
        return grid(np.concatenate(both, axis=2))
    return picture(seen["image" if "image" in seen else "x"])


def _some_rows(data: AnyData, num: int) -> np.ndarray:
    return batch_indices(len(data), min(num, len(data)), 0, 0)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} ({n})" for k, n in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
