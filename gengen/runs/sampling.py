"""Sampling from a trained model, some at a time, with progress and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gengen.contract import require_num, rows_of
from gengen.types import PyTree

CHUNK = 256  # samples at once: bounds the memory; one program serves all chunks
FEW = 25  # network evaluations of a sample, at the most, in previews and with --fast
FAST = 20  # what a slower sampler is replaced by there
MANY = 100  # network evaluations from which a run is timed before it starts


def evaluations(module: ModuleType, cfg: Any) -> int:
    """Return the network evaluations that a sample takes: 1 if the model does not say."""
    return module.evaluations(cfg) if hasattr(module, "evaluations") else 1


def fast(module: ModuleType, cfg: Any) -> Any:
    """Return a Config that samples in at most `FEW` network evaluations."""
    if evaluations(module, cfg) <= FEW:
        return cfg
    return module.with_evaluations(cfg, min(FAST, getattr(cfg, "T", FAST)))


def draw(
    module: ModuleType,
    cfg: Any,
    variables: PyTree,
    num: int,
    seed: int = 0,
    condition: PyTree = None,
    net: Any = None,
    say: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Sample from a model, `CHUNK` samples at a time.

    Args:
        module: of the model.
        cfg: its Config.
        variables: of the trained model.
        num: number of samples.
        seed: of the noise.
        condition: what they are conditioned on, `num` rows; None if nothing, or if the model is to
            choose its labels.
        net: a network to use instead of the Config's.
        say: called with what is sampled and, where that takes many network evaluations, how long it
            will take; None: nothing is said or shown.

    Returns:
        float32 [num, *shape], images in [-1, 1].

    Raises:
        InputError: for num < 1, or a condition that the model cannot take.
    """
    require_num(num)
    chunk = min(num, CHUNK)
    part = in_chunks(module, cfg, variables, chunk, num, seed, condition, net)
    seconds = None
    if say is not None:
        seconds = _announce(module, cfg, num, chunk, part, say)
    return gathered(part, chunk, num, seconds, is_shown=say is not None)


def gathered(
    part: Callable[..., np.ndarray],
    chunk: int,
    num: int,
    seconds: float | None,
    is_shown: bool,
    found: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Return `num` samples, chunk by chunk, with a progress bar.

    Args:
        part: as `in_chunks` returns it.
        chunk: samples at once.
        num: number of samples.
        seconds: time of a chunk; None: unknown.
        is_shown: whether there is a bar.
        found: first chunks, where they are sampled already.
    """
    chunks = list(found)
    bar = tqdm(total=num, unit="sample", leave=False, disable=None if is_shown else True)
    with bar, clock(bar, seconds, chunk, num):
        for start in range(0, num, chunk):
            if start >= len(chunks) * chunk:
                chunks.append(part(start))
            bar.update(min(start + chunk, num) - bar.n)
    return np.concatenate(chunks)[:num]


def in_chunks(
    module: ModuleType,
    cfg: Any,
    variables: PyTree,
    chunk: int,
    num: int,
    seed: int = 0,
    condition: PyTree = None,
    net: Any = None,
) -> Callable[..., np.ndarray]:
    """Return the function (start, cfg=cfg) that samples `chunk` samples, from number `start` on.

    Args:
        module: of the model.
        cfg: its Config.
        variables: of the trained model.
        chunk: samples at once.
        num: rows of the condition; a chunk that passes its end goes on at its beginning.
        seed: of the noise, which is a function of (seed, start).
        condition: as in `draw`.
        net: as in `draw`.
    """
    key = jax.random.key(seed)
    own = {} if net is None else {"net": net}

    def part(start: int, cfg: Any = cfg) -> np.ndarray:
        given = own
        if condition is not None:
            rows = np.arange(start, start + chunk) % num
            given = own | {"condition": rows_of(condition, rows)}
        fresh = jax.random.fold_in(key, start)
        return np.asarray(module.sample(cfg, variables, fresh, chunk, **given))

    return part


def _announce(
    module: ModuleType, cfg: Any, num: int, chunk: int, part: Callable, say: Callable[[str], None]
) -> float | None:
    """Say what is sampled, with how many network evaluations and, where they are many, how long.

    Returns:
        Seconds that a chunk will take, where it was timed.
    """
    steps = evaluations(module, cfg)
    what = f"sampling {num} {'images' if len(getattr(cfg, 'shape', ())) == 3 else 'samples'}"
    if steps <= FEW:
        say(f"{what} ...")
        return None
    few = evaluations(module, fast(module, cfg))
    what += f" with {steps} network evaluations each"
    if steps < MANY:
        say(f"{what}; --fast takes {few}, about {few / steps:.0%} of the time ...")
        return None
    say(f"{what}; measuring the time of {few} ...")
    seconds, chunks = estimated(module, cfg, part), -(-num // chunk)
    say(f"about {seconds * chunks:.0f} s; with --fast {seconds * few / steps * chunks:.0f} s")
    return seconds


def estimated(module: ModuleType, cfg: Any, part: Callable[..., np.ndarray]) -> float:
    """Return the seconds that a chunk takes once compiled, by a sampler with fewer evaluations."""
    quick = fast(module, cfg)
    part(0, quick)  # compiles
    since = time.monotonic()
    part(0, quick)
    ratio = evaluations(module, cfg) / evaluations(module, quick)
    return (time.monotonic() - since) * ratio


@contextmanager
def clock(bar: tqdm, seconds: float | None, chunk: int, num: int) -> Iterator[None]:
    """Move the bar within a chunk by the clock, where the time that a chunk takes is known."""
    if seconds is None or bar.disable:
        yield
        return
    over, since = threading.Event(), time.monotonic()

    def tick() -> None:
        while not over.wait(0.5):
            passed = (time.monotonic() - since) / seconds
            whole = int(passed) * chunk
            # The last chunk has fewer samples that count, and takes as long.
            expected = whole + int((passed % 1) * min(chunk, max(0, num - whole)))
            # Never up to the end of the chunk that is being sampled: that is the caller's to say.
            bound = min(bar.n - bar.n % chunk + chunk, num) - 1
            if bar.n < min(expected, bound):
                bar.update(min(expected, bound) - bar.n)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def to_stderr(line: str) -> None:
    """Print a line for the user, beside the progress bar."""
    tqdm.write(f"gengen: {line}", file=sys.stderr)
