"""How many samples are scored: as many as can be sampled within minutes on this device."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from gengen.contract import require_num
from gengen.runs import sampling
from gengen.runs.trained import Run
from gengen.types import PyTree

SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000)  # numbers of samples to choose from
CHUNK = SIZES[0]  # samples at once: divides each size, so that sizes share their samples
SECONDS = 120.0  # of sampling, about, where no number is given
Say = Callable[[str], None]


def choose(seconds_per_chunk: float, most: int, seconds: float = SECONDS) -> int:
    """Return the largest number of `SIZES` that is at most `most` and is sampled in time.

    Args:
        seconds_per_chunk: time of `CHUNK` samples.
        most: upper bound; the smallest of `SIZES` is returned all the same.
        seconds: time there is.
    """
    fits = [n for n in SIZES if n <= most and n / CHUNK * seconds_per_chunk <= seconds]
    return max(fits, default=SIZES[0])


def draw(
    run: Run,
    num: int | None,
    most: int,
    seed: int = 0,
    condition: PyTree = None,
    say: Say | None = None,
) -> np.ndarray:
    """Sample from a trained model, as many as asked for or as fit into `SECONDS`.

    The samples are a function of the seed and of their number: the time that was measured chooses
    the number only.

    Args:
        run: the trained model.
        num: number of samples; None: chosen by `choose`.
        most: upper bound of the choice.
        seed: of the noise.
        condition: what they are conditioned on: `num` rows, or at least `most` if num is None.
        say: called with the number and the time it will take, once they are known.

    Returns:
        float32 [N, *shape], images in [-1, 1].
    """
    if num is not None:
        require_num(num)
    chunk, bound = min(num or CHUNK, CHUNK), num or max(most, SIZES[0])
    part = sampling.in_chunks(
        run.module, run.cfg, run.variables, chunk, bound, seed, condition, run.net
    )
    found: list[np.ndarray] = []
    seconds = _seconds(run, part, found, bound > chunk and (num is None or say is not None))
    count = num or choose(seconds or SECONDS, most)
    chunks = -(-count // chunk)
    found = found[:chunks]
    if say is not None:
        left = (seconds or 0) * (chunks - len(found))
        about = f", about {left:.0f} s" if left >= 1 else ""
        say(f"scoring {count:,} samples{about}" + ("" if num else "; --num chooses"))
    return sampling.gathered(part, chunk, count, seconds, say is not None, found)


def _seconds(
    run: Run, part: Callable[..., np.ndarray], found: list[np.ndarray], wanted: bool
) -> float | None:
    """Return the seconds that a chunk takes once compiled; None if it was not measured.

    Where a sample takes few network evaluations, the first chunks are sampled and put into `found`;
    else the time is that of a sampler with fewer evaluations, multiplied.
    """
    if not wanted:
        return None
    if sampling.evaluations(run.module, run.cfg) >= sampling.MANY:
        return sampling.estimated(run.module, run.cfg, part)
    compiling = _timed(lambda: found.append(part(0)))
    if compiling > SECONDS / 2:
        return compiling
    return _timed(lambda: found.append(part(CHUNK)))


def _timed(function: Callable[[], object]) -> float:
    since = time.monotonic()
    function()
    return time.monotonic() - since
