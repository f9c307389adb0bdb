"""AR(2) of the yearly sunspot numbers, the series for which Yule invented it, and its forecasts.

The model is fitted to 1749-1924, the years of Yule 1927, by each of the three estimators; Yule's
own figures are φ = 1.34254, -0.65504 and a period of 10.60 years. The least-squares fit then
forecasts 1925-1986, which nobody has fitted: from each year one and five years ahead, beside the
last known number and the mean of the fitted years. A band of 95% holds the forecast's mean ± 1.96
standard deviations. The picture has one forecast from 1924 on.

Expected, as measured (results/ar.json), seed 0, two CPU cores, 12 s:

    φ1, least_squares                                                     1.336
    φ2, least_squares                                                   -0.6499
    period, years, least_squares                                          10.57
    φ1, burg                                                              1.339
    φ2, burg                                                              -0.65
    period, years, burg                                                   10.64
    φ1, yule_walker                                                       1.326
    φ2, yule_walker                                                     -0.6419
    period, years, yule_walker                                            10.55
    root mean squared error, 1 year ahead, AR(2)                          20.94
    root mean squared error, 1 year ahead, last number                    31.36
    root mean squared error, 1 year ahead, mean                           54.97
    share of years within the 95% band, 1 year ahead                      0.871
    root mean squared error, 5 years ahead, AR(2)                         52.67
    root mean squared error, 5 years ahead, last number                   93.33
    root mean squared error, 5 years ahead, mean                          56.52
    share of years within the 95% band, 5 years ahead                    0.8103
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
from recipe import Args, directory, finish, run

from gengen.autoregressive import ar
from gengen.data import Dataset
from gengen.runs.config import describe as settings
from gengen.training.closed_form import fit_run
from gengen.types import PyTree
from gengen.viz.grid import INK_COLOUR, _figure, _render, save_png
from gengen.viz.latent import COLOURS

NAME = "ar"
FIRST, SPLIT = 1749, 1924  # years: of the first number, and the last that is fitted
AHEAD = (1, 5)  # years
WIDE = 1.96  # standard deviations: 95% of a Gaussian

# Wolf's yearly means of the relative sunspot number, 1749-1986, in the Zurich scale used till 2015.
SUNSPOTS = """
80.9 83.4 47.7 47.8 30.7 12.2 9.6 10.2 32.4 47.6 54.0 62.9 85.9 61.2 45.1 36.4 20.9 11.4 37.8 69.8
106.1 100.8 81.6 66.5 34.8 30.6 7.0 19.8 92.5 154.4 125.9 84.8 68.1 38.5 22.8 10.2 24.1 82.9 132.0
130.9 118.1 89.9 66.6 60.0 46.9 41.0 21.3 16.0 6.4 4.1 6.8 14.5 34.0 45.0 43.1 47.5 42.2 28.1 10.1
8.1 2.5 0.0 1.4 5.0 12.2 13.9 35.4 45.8 41.1 30.1 23.9 15.6 6.6 4.0 1.8 8.5 16.6 36.3 49.6 64.2 67.0
70.9 47.8 27.5 8.5 13.2 56.9 121.5 138.3 103.2 85.7 64.6 36.7 24.2 10.7 15.0 40.1 61.5 98.5 124.7
96.3 66.6 64.5 54.1 39.0 20.6 6.7 4.3 22.7 54.8 93.8 95.8 77.2 59.1 44.0 47.0 30.5 16.3 7.3 37.6
74.0 139.0 111.2 101.6 66.2 44.7 17.0 11.3 12.4 3.4 6.0 32.3 54.3 59.7 63.7 63.5 52.2 25.4 13.1 6.8
6.3 7.1 35.6 73.0 85.1 78.0 64.0 41.8 26.2 26.7 12.1 9.5 2.7 5.0 24.4 42.0 63.5 53.8 62.0 48.5 43.9
18.6 5.7 3.6 1.4 9.6 47.4 57.1 103.9 80.6 63.6 37.6 26.1 14.2 5.8 16.7 44.3 63.9 69.0 77.8 64.9 35.7
21.2 11.1 5.7 8.7 36.1 79.7 114.4 109.6 88.8 67.8 47.5 30.6 16.3 9.6 33.2 92.6 151.6 136.3 134.7
83.9 69.4 31.5 13.9 4.4 38.0 141.7 190.2 184.8 159.0 112.3 53.9 37.5 27.9 10.2 15.1 47.0 93.8 105.9
105.5 104.5 66.6 68.9 38.0 34.5 15.5 12.6 27.5 92.5 155.4 154.6 140.4 115.9 66.6 45.9 17.9 13.4
"""


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 40
    """Years of the forecast in the picture."""


def main(args: Settings) -> None:
    """Fit, compare with Yule, forecast, draw."""
    x = np.array(SUNSPOTS.split(), np.float32)
    num = SPLIT - FIRST + 1
    data, cfg = Dataset("sunspots", {"x": x[None, :num]}), ar.Config.paper()
    out = directory(args, NAME)
    variables = fit_run(ar, cfg, data, out=out, settings=settings(ar, cfg), seed=args.seed)

    metrics = {}
    for estimator in ("least_squares", *sorted(set(ar.ESTIMATORS) - {"least_squares"})):
        own = dataclasses.replace(cfg, estimator=estimator)
        phi = np.asarray(ar.fit(own, x[None, :num], jax.random.key(0))["params"]["phi"])
        for i, value in enumerate(phi, 1):
            metrics[f"φ{i}, {estimator}"] = {"value": value}
        metrics[f"period, years, {estimator}"] = {"value": period(phi)}
    for years in AHEAD:
        mean, std, truth = rolling(cfg, variables, x, num, years)
        inside = np.abs(truth - mean) <= WIDE * std
        name = f"{years} year{'s' * (years > 1)} ahead"
        last = x[num - 1 : len(x) - years]
        for method, forecast in (("AR(2)", mean), ("last number", last), ("mean", x[:num].mean())):
            metrics[f"root mean squared error, {name}, {method}"] = {"value": rmse(truth, forecast)}
        metrics[f"share of years within the 95% band, {name}"] = {"value": inside.mean()}
    draw(out / "forecast.png", x, *ar.forecast(cfg, variables, x[None, :num], args.steps))
    finish(NAME, out, metrics, args, ("forecast",))


def period(phi: np.ndarray) -> float:
    """The period of the complex roots, in steps: 2π / arccos(φ_1 / (2 √-φ_2))."""
    return float(2 * np.pi / np.arccos(phi[0] / (2 * np.sqrt(-phi[1]))))


def rolling(
    cfg: ar.Config, variables: PyTree, x: np.ndarray, num: int, years: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """Forecasts so many years ahead from each year on, the last fitted one first: [N].

    Returns:
        Their means, their standard deviation, and what came.
    """
    ends = np.arange(num, len(x) - years + 1)  # of what is known
    known = np.stack([x[end - cfg.order : end] for end in ends])
    means, std = ar.forecast(cfg, variables, known, years)
    return means[:, -1], float(std[-1]), x[ends + years - 1]


def rmse(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((truth - forecast) ** 2)))


def draw(path: Path, x: np.ndarray, means: np.ndarray, std: np.ndarray) -> None:
    """The series, and its forecast with the band of 95%."""
    figure, axes = _figure(1000, 300)
    years, later = FIRST + np.arange(len(x)), SPLIT + 1 + np.arange(len(std))
    fitted = years <= SPLIT
    axes.plot(years[fitted], x[fitted], color=INK_COLOUR, linewidth=1, label="fitted")
    axes.plot(years[~fitted], x[~fitted], color=COLOURS[3], linewidth=1, label="what came")
    low, high = means[0] - WIDE * std, means[0] + WIDE * std
    axes.fill_between(later, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="95%")
    axes.plot(later, means[0], color=COLOURS[0], label=f"forecast from {SPLIT}")
    axes.set(xlim=(years[0], max(years[-1], later[-1])))
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", labelcolor=INK_COLOUR)
    save_png(path, _render(figure))


if __name__ == "__main__":
    run(main, Settings, __doc__)
