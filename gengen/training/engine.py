"""How train steps are run: precision, parts of a batch, devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gengen.steps import accumulate, skip_nonfinite
from gengen.training.augmentation import Augment, augmented, flip, name_of
from gengen.training.precision import DTYPES, compute_in
from gengen.types import InputError, Method


@dataclass(frozen=True)
class Engine:
    """How the steps are run. The first five are part of what is trained: a resume keeps them."""

    accumulate: int = 1  # parts of a batch whose gradients are taken one after the other
    dtype: str = "float32"  # that networks compute in; or "bfloat16"
    on_nan: str = "stop"  # or "skip": leave out steps whose gradient is not finite
    flip: bool = False  # mirror training images left to right at random
    augment: Augment | None = None  # (key, batch) -> the batch to train on, see `augmented`
    mode: str = "jit"  # or "pmap"
    num_devices: int | None = None  # see `compile_step`
    inner: int | None = None  # steps per dispatch; 1 on CPU, 20 elsewhere if None
    workers: int = 0  # processes that read streamed data ahead; 0: threads do
    tensorboard: bool = False  # event files besides metrics.jsonl
    profile: int = 0  # trace so many steps once the program is warm

    def __post_init__(self) -> None:
        """Refuse what cannot be, naming the field."""
        if self.on_nan not in ("stop", "skip"):
            raise InputError(f'on_nan = {self.on_nan!r}, but it is "stop" or "skip"')
        if self.dtype not in DTYPES:
            raise InputError(f"dtype = {self.dtype!r}, but it is {' or '.join(DTYPES)}")
        for name, least in (("accumulate", 1), ("workers", 0), ("profile", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}, but it is at least {least}")

    def around(self, method: Method) -> Method:
        """`method` as it is trained by this engine."""
        method = accumulate(compute_in(method, self.dtype), self.accumulate)
        method = skip_nonfinite(method) if self.on_nan == "skip" else method
        for change in (self.augment, flip if self.flip else None):  # the last one comes first
            method = method if change is None else augmented(method, change)
        return method

    def kept(self) -> dict[str, Any]:
        """Return what `config.json` keeps, and a resume compares."""
        always = {name: getattr(self, name) for name in ("accumulate", "dtype", "on_nan")}
        always |= {"flip": True} if self.flip else {}
        return always | ({"augment": name_of(self.augment)} if self.augment else {})
