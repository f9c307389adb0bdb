"""How train steps are run: precision, parts of a batch, devices."""

from __future__ import annotations

from dataclasses import dataclass

from gengen.steps import accumulate, skip_nonfinite
from gengen.training.precision import DTYPES, compute_in
from gengen.types import InputError, Method


@dataclass(frozen=True)
class Engine:
    """How the steps are run. The first three are part of what is trained: a resume keeps them."""

    accumulate: int = 1  # parts of a batch whose gradients are taken one after the other
    dtype: str = "float32"  # that networks compute in; or "bfloat16"
    on_nan: str = "stop"  # or "skip": leave out steps whose gradient is not finite
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
        return skip_nonfinite(method) if self.on_nan == "skip" else method
