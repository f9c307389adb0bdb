r"""DDPM of digits and of clothes: how good it is after how many evaluations, by each sampler.

A U-Net for two cores, on patches of 4 × 4 pixels; one training, then 1,000 samples for each sampler
and number of evaluations. Scores are of the data's own classifier's features, against training
images (the first 10,000); the floor is that of held-out ones (the first 2,000). T = 1000, cosine
schedule; DDIM at η = 1 is the ancestral sampler, in fewer steps.

    python experiments/ddpm_images.py --data fashion --steps 3000 --results

And at full size, patches of 2 × 2 pixels, for an accelerator; there all held-out images count:

    python experiments/ddpm_images.py --data fashion --size full --seed 0 --results \
        --steps 20000 --samples 10000 --evaluations 10 20 50 250 1000

The best of them is larger still, and takes a few minutes of an H100 (docs/DIFFUSION.md; there with
η = 0.5 as well, and half of the GPU):

    python experiments/ddpm_images.py --data fashion --size large --dtype bfloat16 --results \
        --steps 9000 --samples 10000 --evaluations 100 250

The main figures; all of them are in docs/DIFFUSION.md.

Expected, as measured (results/ddpm_mnist5k_steps.json), seed 0, two CPU cores, 1125 s:

    fid[mnist-v1], DDIM, η = 1, 50 evaluations                            196.3  (real: 12.59)
    fid[mnist-v1], DDIM, 50 evaluations                                   297.2  (real: 12.59)
    fid[mnist-v1], multistep, 50 evaluations                              290.2  (real: 12.59)

Expected, as measured (results/ddpm_fashion_steps.json), seed 0, two CPU cores, 1670 s:

    fid[fashion-v1], DDIM, η = 1, 50 evaluations                          202.4  (real: 11.37)
    fid[fashion-v1], DDIM, 50 evaluations                                 226.8  (real: 11.37)
    fid[fashion-v1], multistep, 50 evaluations                            221.9  (real: 11.37)

Expected, as measured (results/ddpm_fashion_full0.json), seed 0, NVIDIA H200, 420 s:

    fid[fashion-v1], DDIM, η = 1, 50 evaluations                          28.84  (real: 1.463)
    fid[fashion-v1], DDIM, η = 1, 250 evaluations                         26.01  (real: 1.463)

Expected, as measured (results/ddpm_fashion_full1.json), seed 1, NVIDIA H200, 347 s:

    fid[fashion-v1], DDIM, η = 1, 50 evaluations                          34.89  (real: 1.463)
    fid[fashion-v1], DDIM, η = 1, 250 evaluations                         26.01  (real: 1.463)

Expected, as measured (results/ddpm_fashion_full2.json), seed 2, NVIDIA H200, 347 s:

    fid[fashion-v1], DDIM, η = 1, 50 evaluations                          29.08  (real: 1.463)
    fid[fashion-v1], DDIM, η = 1, 250 evaluations                         24.76  (real: 1.463)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from recipe import (
    Args,
    directory,
    draw,
    finish,
    first,
    over_seeds,
    run,
    scores,
    table,
    titled,
    train,
)

from gengen.data import load
from gengen.diffusion import ddpm

REAL = 10_000  # images at most that samples are scored against
HELD_OUT = {"small": 2000, "full": 10_000, "large": 10_000}  # the same
CHUNK = {"small": 250, "full": 1000, "large": 1000}  # samples at a time
SIZES: dict[str, dict[str, Any]] = {
    "small": {  # what was found to do on two cores
        "patch": 4, "channels": (64, 128), "num_blocks": (1, 2), "batch_size": 64,
        "learning_rate": 2e-3, "b2": 0.99, "warmup_steps": 50, "ema_decay": 0.995,
    },
    "full": {
        "patch": 2, "channels": (64, 128), "num_blocks": (2, 2), "batch_size": 128,
        "learning_rate": 1e-3, "b2": 0.999, "warmup_steps": 500, "ema_decay": 0.999,
    },
    "large": {
        "patch": 2, "channels": (128, 256), "num_blocks": (2, 2), "attention": (14,),
        "num_groups": 32, "skips": "block", "batch_size": 256, "learning_rate": 1e-3, "b2": 0.999,
        "warmup_steps": 500, "decay_floor": 0.01, "ema_decay": 0.9995,
    },
}  # fmt: skip
SAMPLERS: dict[str, dict[str, Any]] = {
    "DDIM, η = 1": {"sampler": "ddim", "eta": 1.0},
    "DDIM": {"sampler": "ddim"},
    "multistep": {"sampler": "multistep"},
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    size: Literal["small", "full", "large"] = "small"
    """Of the network: for two cores, or for an accelerator."""
    dtype: str = "float32"
    """That the network computes in; or bfloat16."""
    steps: int = 3000
    """Train steps."""
    samples: int = 1000
    """Of each sampler and number of evaluations."""
    evaluations: tuple[int, ...] = (10, 20, 50, 250)
    """Of the network, for a sample."""


def config(steps: int, size: str = "small") -> ddpm.Config:
    """The model of so many train steps."""
    return ddpm.Config(**words(steps, size))


def words(steps: int, size: str) -> dict[str, Any]:
    """What the Configs of all diffusions of images here share."""
    shared = SIZES[size]
    return {
        **shared, "schedule": "cosine", "prediction": "v", "decay_steps": steps,
        "warmup_steps": min(shared["warmup_steps"], steps // 4),
        "sampler": "ddim", "sample_steps": 50, "eta": 1.0,
    }  # fmt: skip


def main(args: Settings) -> None:
    """Train; draw by each way; score."""
    name = f"ddpm_{args.data}_" + ("steps" if args.size == "small" else f"{args.size}{args.seed}")
    data = first(load(args.data))
    held_out = first(load(f"{args.data}:test"), HELD_OUT[args.size])
    cfg, out = config(args.steps, args.size), directory(args, name)
    variables = train(ddpm, cfg, data, out, args, dtype=args.dtype).variables
    metrics: dict[str, dict[str, float]] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    shown = []
    for title, way in SAMPLERS.items():
        for steps in args.evaluations:
            own = dataclasses.replace(cfg, **{"eta": 0.0, **way, "sample_steps": steps})
            one = lambda k, n, own=own: ddpm.sample(own, variables, k, n)  # noqa: E731
            drawn = draw(args.samples, one, args.seed, CHUNK[args.size])
            for score, found in scores(drawn, first(data, REAL), held_out, ("fid", "kid")).items():
                if "±" not in score and "std" not in score:
                    metrics[f"{score}, {title}, {steps} evaluations"] = found
                    curve = curves.setdefault(score, {}).setdefault(title, [])
                    curve.append(found["value"])
            shown.append((f"{title}, {steps} evaluations", 2.0 * drawn[:16] / 255 - 1))
    titled(out / "samples.png", shown)
    plot(out / "curves.png", curves, args.evaluations, metrics)
    finish(name, out, metrics, args, pictures(args, "samples", "curves"))


def pictures(args: Any, *names: str) -> tuple[str, ...]:
    """Those to show of a run: of several seeds at full size, the first one's."""
    return names if args.size == "small" or args.seed == 0 else ()


def plot(
    path: Path, curves: dict[str, dict[str, list[float]]], evaluations: tuple[int, ...],
    metrics: dict[str, dict[str, float]],
) -> None:  # fmt: skip
    """A panel for each score, a line for each sampler, and the floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 3.6), dpi=90, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(curves)))
    for axes, (score, lines) in zip(panels, curves.items(), strict=True):
        for title, values in lines.items():
            axes.plot(evaluations, values, "o-", label=title, lw=1, ms=4)
        floor = next(row["floor"] for key, row in metrics.items() if key.startswith(score))
        axes.axhline(floor, color="#888888", ls="--", lw=0.8, label="held-out images")
        axes.set(xscale="log", xlabel="evaluations", title=score)
        axes.set_xticks(evaluations, [str(n) for n in evaluations])
    panels[0].legend(fontsize=8)
    figure.savefig(path)


def place(metric: str) -> tuple[str, str]:
    """Row and column of a metric in the tables: its score and sampler; its evaluations."""
    score, way, evaluations = metric.replace(", η", " η").split(", ")
    return f"{score.split('[')[0]}, {way}", evaluations.removesuffix(" evaluations")


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md: for each set, score and sampler, by evaluations.

    Args:
        results: the content of results/NAME.json, by NAME, which is ddpm_DATA_steps.
    """
    rows: dict[str, list[str]] = {}
    counts: dict[str, None] = {}
    for name, result in results.items():
        for key, row in result["metrics"].items():
            title, evaluations = place(key)
            rows.setdefault(f"{name.split('_')[1]}, {title}", []).append(f"{row['value']:.0f}")
            counts[evaluations] = None
    return table(["evaluations", *counts], [[title, *row] for title, row in sorted(rows.items())])


def full_markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md at full size: of several seeds the mean and deviation.

    Args:
        results: the content of results/NAME.json, by NAME, which is ddpm_DATA_fullSEED.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for result in results.values():
        for key, row in result["metrics"].items():
            title, evaluations = place(key)
            found.setdefault(title, {}).setdefault(evaluations, []).append(row["value"])
    rows = [[title, *map(over_seeds, row.values())] for title, row in sorted(found.items())]
    return table(["evaluations", *next(iter(found.values()))], rows)


if __name__ == "__main__":
    run(main, Settings, __doc__)
