"""Being asked to stop: SIGINT from a keyboard, SIGTERM from a scheduler that wants the machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from gengen.training.record import say


class Interrupted(RuntimeError):
    """The run was asked to stop; a checkpoint was saved."""


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second one stops at once. Main thread only.

    With several processes SIGTERM is left to JAX's runtime, which makes all of them stop at one
    step: see `distributed.asked_to_stop`.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum: int, frame: Any) -> None:
        stop.set()
        say("stopping after this step; once more to stop at once")
        signal.signal(signum, before[signal.Signals(signum)])

    signals = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
    before = {s: signal.signal(s, ask) for s in signals}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
