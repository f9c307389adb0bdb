"""gengen: deep generative models in JAX and Flax, from mixtures to diffusion, on one engine.

    import gengen
    run = gengen.train("ddpm", data="mnist5k", steps=1500, out="runs/ddpm")
    images = run.sample(16, seed=0)
    run = gengen.load("runs/ddpm")
    run.evaluate("mnist5k:test", metrics=("fid", "kid"))

`train`, `load`, `load_data` and `Run` are imported when they are first used: `import gengen` alone
does not import JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengen.data.sources import load_data
    from gengen.runs.train import train
    from gengen.runs.trained import Run, load

__version__ = "0.1.0"
__all__ = ["Run", "load", "load_data", "train"]

_HOME = {
    "Run": "gengen.runs.trained",
    "load": "gengen.runs.trained",
    "load_data": "gengen.data.sources",
    "train": "gengen.runs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
