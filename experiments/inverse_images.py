"""Inverse problems of held-out images: a missing half, two blurs, a quarter of the side.

An unconditional diffusion (`ddpm_images.py`'s) is the prior; what is seen is y = Ax + σ n, σ = 0.05
of pixels in [-1, 1]. For each operator A and method: the PSNR of one draw and of the mean of 16, of
16 images; that of what needs no prior, the pseudo-inverse A⁺y for the half and the small image, y
itself for the blurs; how far draws differ, a pixel; and the distance of Ax from y in units of σ,
which of x itself is 1. 100 evaluations of the network for a draw, of replacement 5 times as many.

    python experiments/inverse_images.py --prior runs/ddpm_fashion_steps --data fashion --results

The main figures; all of them are in docs/DIFFUSION.md.

Expected, as measured (results/inverse_mnist5k.json), seed 0, two CPU cores, 881 s:

    lower half missing: PSNR, without a prior                             9.389
    lower half missing, pigdm: PSNR, one draw                             15.43
    lower half missing, dps: PSNR, one draw                               16.08
    lower half missing, replacement: PSNR, one draw                       14.06
    Gaussian blur: PSNR, without a prior                                  15.82
    Gaussian blur, pigdm: PSNR, one draw                                  22.32
    Gaussian blur, dps: PSNR, one draw                                    21.89
    Gaussian blur, replacement: PSNR, one draw                            3.606
    motion blur: PSNR, without a prior                                    15.18
    motion blur, pigdm: PSNR, one draw                                    23.71
    motion blur, dps: PSNR, one draw                                      22.91
    motion blur, replacement: PSNR, one draw                              4.331
    4 times smaller: PSNR, without a prior                                14.96
    4 times smaller, pigdm: PSNR, one draw                                16.97
    4 times smaller, dps: PSNR, one draw                                  16.84
    4 times smaller, replacement: PSNR, one draw                          18.57
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ddpm_images import config
from recipe import Args, again, directory, finish, first, images, run, table, titled, train

from gengen.data import load
from gengen.diffusion import ddpm, operators
from gengen.diffusion.inverse import Measurement
from gengen.diffusion.operators import Operator
from gengen.metrics.similarity import psnr
from gengen.types import Shape

NOISE = 0.05
METHODS = ("pigdm", "dps", "replacement")


def _half(shape: Shape) -> Operator:
    known = np.arange(shape[0])[:, None, None] < shape[0] // 2
    return operators.inpaint(np.broadcast_to(known, (*shape[:2], 1)))


OPERATORS: dict[str, tuple[Callable[[Shape], Operator], bool]] = {  # has A a harmless inverse A⁺?
    "lower half missing": (_half, True),
    "Gaussian blur": (lambda shape: operators.convolve(shape, operators.gaussian(1.5)), False),
    "motion blur": (lambda shape: operators.convolve(shape, operators.motion(9, 45.0)), False),
    "4 times smaller": (lambda shape: operators.bicubic(shape, 4), True),
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 3000
    """Train steps of the prior, if it is trained here."""
    prior: Path | None = None
    """A run directory of ddpm_images.py. (default: trained here)"""
    given: int = 16
    """Images that are seen."""
    draws: int = 16
    """Of each image."""
    evaluations: int = 100
    """Of the network, for a draw."""


def main(args: Settings) -> None:
    """See, draw, measure."""
    name, out = f"inverse_{args.data}", directory(args, f"inverse_{args.data}")
    cfg, variables = prior(args, out)
    x = images(first(load(f"{args.data}:test")), args.given)
    metrics: dict[str, dict[str, float]] = {}
    shown = [("images", x)]
    for title, (make, invertible) in OPERATORS.items():
        A = make(cfg.shape)
        clean = A.forward(jnp.asarray(x))
        y = clean + NOISE * np.random.default_rng(args.seed).standard_normal(clean.shape)
        if invertible:  # A⁺ does not blow up the noise, and leaves what is masked unknown
            plain = A.pinv(y)
            y = A.forward(plain)
        else:
            plain = y
        y, plain = np.asarray(y, np.float32), np.asarray(plain)
        metrics[f"{title}: PSNR, without a prior"] = decibels(plain, x)
        shown.append((f"{title}: {'A⁺y' if invertible else 'y'}", plain))
        for method in METHODS:
            drawn = draws(cfg, variables, Measurement(A, y, NOISE), method, args)
            metrics |= figures(f"{title}, {method}", drawn, x, A, y)
            shown += [(f"{method}, one draw", drawn[0]), (f"{method}, mean", drawn.mean(0))]
    titled(out / "samples.png", [(t, np.clip(row, -1, 1)) for t, row in shown])
    finish(name, out, metrics, args, ("samples",))


def prior(args: Settings, out: Path) -> tuple[ddpm.Config, Any]:
    """The diffusion of whole images."""
    if args.prior is None:
        cfg = config(args.steps)
        return cfg, train(ddpm, cfg, load(args.data), out, args).variables
    cfg, variables = again(args.prior, ddpm, args.data)
    shutil.copytree(args.prior, out)  # this directory is to tell it all
    return cfg, variables


def draws(
    cfg: ddpm.Config, variables: Any, measurement: Measurement, method: str, args: Settings
) -> np.ndarray:
    """Return `args.draws` samples for each measurement: [draws, given, *shape]."""
    y = np.tile(np.asarray(measurement.y), (args.draws, 1, 1, 1))
    key, steps = jax.random.key(args.seed + 1), min(args.evaluations, cfg.T)
    x = ddpm.posterior(cfg, variables, key, len(y), measurement._replace(y=y), method, steps)
    return np.asarray(x).reshape(args.draws, args.given, *cfg.shape)


def figures(
    title: str, drawn: np.ndarray, x: np.ndarray, A: Operator, y: np.ndarray
) -> dict[str, dict[str, float]]:
    """What is measured of the draws of one method."""
    again = np.stack([np.asarray(A.forward(jnp.asarray(d))) for d in drawn])
    scale = np.sqrt(np.mean((np.asarray(A.forward(jnp.asarray(x))) - y) ** 2))
    return {
        f"{title}: PSNR, one draw": decibels(drawn[0], x),
        f"{title}: PSNR, mean of {len(drawn)}": decibels(drawn.mean(0), x),
        f"{title}: deviation, a pixel": {"value": float(drawn.std(0, ddof=1).mean())},
        f"{title}: distance from y": {
            "value": float(np.sqrt(np.mean((again - y) ** 2)) / scale),
            "floor": 1.0,
        },
    }


def decibels(guess: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """The mean over images."""
    return {"value": float(np.mean(psnr(np.clip(guess, -1, 1), x, max_val=2.0)))}


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md: a row for each operator and method.

    Args:
        results: the content of results/NAME.json, by NAME, of one set of images.
    """
    (result,) = results.values()
    found = {name: row["value"] for name, row in result["metrics"].items()}
    rows = []
    for title in OPERATORS:
        rows.append([f"{title}, nothing", f"{found[f'{title}: PSNR, without a prior']:.1f}"])
        rows[-1] += ["–"] * 3
        for method in METHODS:
            own = {
                k.split(": ")[1]: v for k, v in found.items() if k.startswith(f"{title}, {method}:")
            }
            one, mean, deviation, distance = own.values()
            rows.append([f"{title}, {method}", f"{one:.1f}", f"{mean:.1f}", f"{deviation:.3f}",
                         f"{distance:.2f}"])  # fmt: skip
    return table(
        ["operator, method", "dB, one sample", "dB, mean of 16", "deviation", "from y, σ"], rows
    )


if __name__ == "__main__":
    run(main, Settings, __doc__)
