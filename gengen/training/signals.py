"""Answering SIGINT from a keyboard, and SIGTERM from a scheduler, while a computation runs."""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

POLL = 0.1  # seconds between looks at the stop event
GRACE = 1.0  # seconds that the main thread has to notice a second signal
T = TypeVar("T")

_abandoned: list[threading.Thread] = []  # threads that were not waited for


class Interrupted(RuntimeError):
    """The run was asked to stop; a checkpoint was saved."""


class Abandoned(KeyboardInterrupt):
    """A computation was abandoned because its stop event was set."""


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT or SIGTERM sets; a second one stops at once. Main thread only.

    With several processes SIGTERM is left to JAX's runtime, which makes all of them stop at one
    step: see `distributed.asked_to_stop`.
    """
    import jax

    from gengen.training.progress import say

    stop, again = threading.Event(), threading.Event()
    if not _is_main_thread() or jax.process_count() > 1:
        yield stop
        return

    def answer() -> None:
        say("stopping: a checkpoint is saved first; once more to stop at once")

    def ask(signum: int, frame: Any) -> None:
        if not stop.is_set():
            stop.set()
            if not is_watched:
                answer()
            return
        again.set()
        handler = before[signal.Signals(signum)]
        signal.signal(signum, handler)
        signal.raise_signal(signum)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _watched(tuple(before), answer, again) as is_watched:
            yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _watched(
    signals: tuple[int, ...], answer: Callable[[], None], again: threading.Event
) -> Iterator[bool]:
    """Answer signals while XLA holds the main thread, as when it compiles.

    Python's own handlers wait until the main thread is back. A thread here calls `answer` at the
    first signal. At a second one it ends the process if the handler does not set `again` within
    `GRACE` seconds.

    Yields:
        Whether signals are watched: not where an event loop does that, as in a notebook.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    former = signal.set_wakeup_fd(writer)

    def watch() -> None:
        is_first = True
        while number := os.read(reader, 1):
            if number[0] in signals and is_first:
                answer()
                is_first = False
            elif number[0] in signals and not again.wait(GRACE):
                print("gengen: interrupted", file=sys.stderr, flush=True)
                os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    try:
        if former == -1:
            thread.start()
        else:
            signal.set_wakeup_fd(former)
        yield former == -1
    finally:
        again.set()
        signal.set_wakeup_fd(former)
        os.close(writer)
        if former == -1:
            thread.join()
        os.close(reader)


def interruptible(function: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Return `function()`, or raise KeyboardInterrupt within 0.2 s after Ctrl-C.

    Python runs signal handlers in the main thread, between bytecodes: a compiled program of XLA
    delays them until it ends. The function therefore runs in a thread of its own, while the main
    thread waits. An interrupted function is abandoned: it goes on in the background, and its value
    or error is lost. A command then ends with `leave`, which does not wait for it.

    Args:
        function: what to compute. It takes no arguments. Called directly, without a thread, where
            Python would not run a signal handler anyway: outside the main thread.
        stop: an event that abandons the function too, such as that of `stop_signals`.

    Raises:
        KeyboardInterrupt: after Ctrl-C; `Abandoned` if `stop` was set.
    """
    if not _is_main_thread():
        return function()
    done, value, error = threading.Event(), [], []

    def compute() -> None:
        try:
            value.append(function())
        except BaseException as caught:  # raised again in the main thread
            error.append(caught)
        finally:
            done.set()

    target = contextvars.copy_context().run  # the caller's context variables hold there too
    thread = threading.Thread(target=target, args=(compute,), daemon=True)
    try:
        thread.start()
        while not done.wait(POLL):
            if stop is not None and stop.is_set():
                raise Abandoned
    except KeyboardInterrupt:
        _abandoned.append(thread)
        raise
    if error:
        raise error[0]
    return value[0]


def leave(code: int) -> None:
    """End the process with `code` if an abandoned function still computes; else return.

    The interpreter would wait for XLA at its exit. Output is flushed; other exit handlers are
    skipped.
    """
    if any(thread.is_alive() for thread in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
