"""Curves as SVG paths: one small panel per metric, drawn by the page that shows it.

Paths and ticks are in the units of an SVG `viewBox` of WIDTH × HEIGHT; colours are the page's, so a
curve follows its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 62, 420, 12, 194  # of the area that is drawn into
LOG_FROM = 20.0  # largest over smallest value, from which a logarithmic axis tells more
HUGE = 1e100  # beyond it a value counts as not finite: differences of two would overflow
MAX_POINTS = 500  # of a path: about one per pixel

Number = int | float
Ticks = list[tuple[float, str]]  # (position, label)
Series = tuple[Sequence[Number], Sequence[Number]]  # steps, values


@dataclass(frozen=True)
class Line:
    """One run's curve in a panel.

    Attributes:
        label: which run; "" if there is but one.
        last: the last value, as it was logged.
        raw: path of the logged values; of their extremes where there are too many to draw.
        smooth: path of their local mean; "" where there are too few to smooth.
        bad: horizontal positions of values that are not finite.
        num_bad: how many such values there are.
    """

    label: str
    last: float
    raw: str
    smooth: str
    bad: list[float]
    num_bad: int


@dataclass(frozen=True)
class Panel:
    """One metric, of one run or of several on the same axes, ready to be drawn.

    Attributes:
        name: of the metric.
        lines: a curve for each run.
        x_ticks: positions and labels, from left to right.
        y_ticks: the same, from below.
        log: whether the vertical axis is logarithmic.
    """

    name: str
    lines: list[Line]
    x_ticks: Ticks
    y_ticks: Ticks
    log: bool


def panel(name: str, steps: Sequence[Number], values: Sequence[Number]) -> Panel:
    """Lay out one metric of one run: see `overlay`."""
    return overlay(name, {"": (steps, values)})


def overlay(name: str, series: Mapping[str, Series]) -> Panel:
    """Lay out one metric of several runs on the same axes.

    Args:
        name: of the metric.
        series: by label, the steps when it was logged, [N] increasing, N ≥ 1, and what was logged,
            [N], not finite ones included.

    Returns:
        The panel; local means are Gaussian with a deviation of N/60 values, of logarithms where the
        axis is logarithmic.
    """
    points = {
        label: (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for label, (x, y) in series.items()
    }
    start = min(0.0, *(x[0] for x, _ in points.values()))
    end = max(x[-1] for x, _ in points.values())
    to_x = _map(start, end if end > 0 else 1.0, LEFT, RIGHT)
    x_ticks = [(float(to_x(v)), count(v)) for v in ticks(start, max(end, 1.0), 5)]

    finite = [y[np.abs(y) < HUGE] for _, y in points.values()]  # false for NaN
    # Of a panel without a single finite value, the empty axes and the marks of it are shown.
    shown = [y for y in finite if len(y)] or [np.array([0.0, 1.0])]
    log = _is_log(shown)
    heights = [np.log10(y) for y in shown] if log else shown
    low, high = _limits(heights)
    to_y = _map(low, high, BOTTOM, TOP)
    values_at = decades(low, high) if log else ticks(low, high, 4)
    y_ticks = [
        (float(to_y(math.log10(v) if log else v)), s)
        for v, s in zip(values_at, _labels(values_at), strict=True)
    ]
    lines = [_line(label, x, y, to_x, to_y, log) for label, (x, y) in points.items()]
    return Panel(name, lines, x_ticks, y_ticks, log)


def _line(
    label: str, x: np.ndarray, y: np.ndarray, to_x: Callable, to_y: Callable, log: bool
) -> Line:
    good = np.abs(y) < HUGE
    bad = sorted({round(float(to_x(v)), 0) for v in x[~good]})
    last, x, y = float(y[-1]), x[good], y[good]
    raw = smooth = ""
    if len(y):
        height = np.log10(y) if log else y
        raw = _path(to_x, to_y, *_thin(x, height, extremes=True))
        if len(y) >= 10:
            smooth = _path(to_x, to_y, *_smooth_thin(x, height))
    return Line(label, last, raw, smooth, bad, int((~good).sum()))


def _is_log(shown: Sequence[np.ndarray]) -> bool:
    """Return whether a logarithmic axis tells more: by the range of the local means."""
    if min(y.min() for y in shown) <= 0:
        return False
    means = np.concatenate([np.exp(_smooth(np.log(y))) for y in shown])
    return float(means.max() / means.min()) >= LOG_FROM


def _map(low: Number, high: Number, start: Number, end: Number) -> Callable[[Any], Any]:
    return lambda v: start + (v - low) / (high - low) * (end - start)


def _limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """The vertical extent: all of the local means, and all but the rarest of the values."""
    ends: list[float] = []
    for y in curves:
        mean = _smooth(y)
        ends += np.percentile(y, [0.5, 99.5]).tolist() if len(y) >= 100 else [y.min(), y.max()]
        ends += [mean.min(), mean.max()]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low)
    if room <= 1e-12 * max(abs(low), abs(high)):  # a constant
        room = 0.1 * abs(high) or 1.0
    return float(low - room), float(high + room)


def _smooth(y: np.ndarray) -> np.ndarray:
    """Local mean of y [N]; y itself if it is short."""
    if len(y) < 10:
        return y
    _, y = _thin(np.arange(len(y)), y)
    sigma = max(1.0, len(y) / 60)
    radius = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    # Divided by the weights that lie inside, so that the ends are means too, of fewer values.
    return np.convolve(y, kernel, "same") / np.convolve(np.ones_like(y), kernel, "same")


def _smooth_thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _thin(x, y)[0], _smooth(y)


def _thin(x: np.ndarray, y: np.ndarray, extremes: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS means of consecutive points; or as many pairs of their extremes."""
    if len(x) <= MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MAX_POINTS + 1).astype(int)
    starts, counts = edges[:-1], np.diff(edges)
    mean_x = np.add.reduceat(x, starts) / counts
    if not extremes:
        return mean_x, np.add.reduceat(y, starts) / counts
    pairs = np.stack([np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)], axis=1)
    return np.repeat(mean_x, 2), pairs.ravel()


def _path(to_x: Callable, to_y: Callable, x: np.ndarray, y: np.ndarray) -> str:
    # A spike far outside stays a spike to the clip of the drawing area; the number stays short.
    py = np.clip(to_y(y), TOP - 1000, BOTTOM + 1000)
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(to_x(x), py, strict=True)]
    # A lone point is a line of no length: round caps make it a dot.
    return "M" + "L".join(points if len(points) > 1 else points * 2)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within [low, high], low < high: about so many, 1, 2 or 5 · 10^k apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis within [10^low, 10^high]: 1, 2, 5 · 10^k where few."""
    multiples = (1, 2, 5) if high - low < 2 else (1, 3) if high - low < 3 else (1,)
    every = math.ceil((high - low) / 6)
    return [
        m * 10.0**k
        for k in range(math.floor(low), math.ceil(high) + 1)
        for m in multiples
        if k % every == 0 and low <= math.log10(m * 10.0**k) <= high
    ]


def _labels(values: list[float]) -> list[str]:
    return [number(float(f"{v:.6g}")) for v in values]


def number(v: Number, digits: int = 4) -> str:
    """A measured number for a reader: "0.03127", "−1,234", "2.5·10⁻⁷", "NaN"."""
    if math.isnan(v):
        return "NaN"
    sign, size = "−" if v < 0 else "", abs(v)
    if math.isinf(size):
        return sign + "∞"
    if size == 0:
        return "0"
    if isinstance(v, int):
        return f"{sign}{size:,}"
    if 1e-4 <= size < 1e7:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{size:,.{decimals}f}"
        return sign + (text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa, exponent = f"{size:.{digits - 2}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{sign}{'' if mantissa == '1' else mantissa + '·'}10{raised}"


def count(v: Number) -> str:
    """A number of steps for an axis: "800", "1,200", "25k", "1.5M"."""
    if abs(v) >= 1e6:
        return f"{v / 1e6:.4g}M"
    return f"{v / 1e3:.4g}k" if abs(v) >= 1e4 else f"{v:,.6g}"


def duration(seconds: Number) -> str:
    """A time for a reader: "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if not np.isfinite(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
