"""What a person sees of a training: a progress bar on a terminal, lines in a log file."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from gengen.training.ordering import main_metrics
from gengen.viz.curves import duration

PAUSE = 10.0  # seconds between lines, at the least, where stderr is no terminal
LONG = 1.0  # seconds from which the time of the first step, mostly compilation, is printed
BAR = "{percentage:3.0f}%|{bar:6}|{n_fmt}/{total_fmt} {remaining} left{postfix}"


def say(line: str) -> None:
    """Print a line on stderr, above the progress bar, from the process that writes the logs."""
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)


def megabytes(number: int) -> str:
    """Return a number of bytes for a reader."""
    return f"{number / 1e6:.1f} MB" if number < 1e9 else f"{number / 1e9:.2f} GB"


def say_start(
    settings: Mapping[str, Any], out: Path, stage: str = "", batch_size: int | None = None
) -> None:
    """Print what is trained, on what, how long, and where it is written.

    Args:
        settings: of `config.json`.
        out: run directory.
        stage: its name; "" for a model of one stage.
        batch_size: of the stage; None: of the run.
    """
    data, machine = settings["data"], settings["machine"]
    model = settings.get("model", "a model") + (f", {stage}" if stage else "")
    devices = machine["device"]
    if machine["num_devices"] > 1:
        devices += f" (1 of {machine['num_devices']})"
    say(
        f"training {model} ({settings['parameters']:,} parameters) on {data['name']} "
        f"({data['num_examples']:,} examples)"
    )
    steps, size = settings["steps"], batch_size or settings["batch_size"]
    say(f"{steps:,} steps of batch size {size}, on {devices}, to {out}")


class Progress:
    """Shows how far a training is, how long it will take, and its main metrics.

    On a terminal: a progress bar that fits into one row. Elsewhere, as under SLURM or nohup: a line
    at most every `PAUSE` seconds, and always at the last step.
    """

    def __init__(self, step: int, steps: int):
        main = jax.process_index() == 0
        self._bar = tqdm(
            total=steps, initial=step, disable=None if main else True, dynamic_ncols=True,
            bar_format=BAR,
        )  # fmt: skip
        self._step, self._steps = step, steps
        self._has_lines = not sys.stderr.isatty()
        self._printed = -math.inf  # when the last line was
        self._start = time.monotonic()
        self._warm: tuple[float, int] | None = None  # seconds trained and step, once compiled

    def advance(self, k: int, trained: float) -> None:
        """Note a dispatch of `k` steps; `trained`: seconds of this session until now."""
        self._step += k
        self._bar.update(k)
        if self._warm is None:
            self._warm = trained, self._step
            seconds = time.monotonic() - self._start
            if seconds > LONG:
                say(f"compiled: the first step took {duration(seconds)}")

    def show(self, mean: Mapping[str, float], rate: float, trained: float, is_last: bool) -> None:
        """Show mean metrics, the examples per second and the time left."""
        words = [f"{name} {mean[name]:.3g}" for name in main_metrics(mean)]
        words.append(f"{rate:,.0f} examples/s")
        self._bar.set_postfix_str(_fitting(words, self._room()))
        if not self.takes_lines and not (self._has_lines and is_last):
            return
        self._printed = time.monotonic()
        head = f"step {self._step:,} of {self._steps:,} ({self._step / self._steps:.0%})"
        left = self._left(trained)
        say(", ".join([head, *([f"{duration(left)} left"] if left else []), *words]))

    @property
    def takes_lines(self) -> bool:
        """Whether a line may be printed now: in a log file, `PAUSE` seconds after the last one."""
        return self._has_lines and time.monotonic() - self._printed >= PAUSE

    def _room(self) -> int:
        """Columns of the terminal that are left for metrics."""
        steps = len(f"{self._steps}")
        fixed = len("100%|") + 6 + len("| left, ") + 2 * steps + 1 + len("00:00 ")
        return shutil.get_terminal_size().columns - fixed - 1

    def _left(self, trained: float) -> float:
        """Return the seconds left by the rate of this session, compilation aside; 0 if unknown."""
        return self.step_seconds(trained) * (self._steps - self._step)

    def step_seconds(self, trained: float) -> float:
        """Return the seconds of a step of this session, compilation aside; 0 if unknown."""
        if self._warm is None or self._step <= self._warm[1]:
            return 0.0
        seconds, step = self._warm
        return (trained - seconds) / (self._step - step)

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()


def _fitting(words: list[str], room: int) -> str:
    """Join as many of the first words as fit into `room` columns; at least one."""
    while len(words) > 1 and len(", ".join(words)) > room:
        words = words[:-1]
    return ", ".join(words)
