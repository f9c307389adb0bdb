"""Conditional diffusion on a class, a small image or a grey one, beside a regression network.

Tasks: `class`, the share of 2,000 samples that the data's classifier assigns to the class of their
condition (floor: of held-out images), with the fid, by the guidance w; `small2` and `small4`,
images from ones of half and a quarter of the side; `grey`, colours of the photographs' patches. Of
the last three: the PSNR, of pixels in [-1, 1], of one sample, of the mean of 16, of x̂₀ at t = T, of
a regression network, and of cubic interpolation (grey: of the grey image itself).

The regression network has the same layers, optimiser, average of weights, steps and batches; its
z and t are constants, and it minimises the squared error of x. It estimates E[x|y], whose error is
the least possible. Samples are projected onto {x: Ax = y}; so that the comparison is fair, its
output is reported both as it is and projected. In the task `class`, E[x|y] is the mean image of the
class: its distance from the class means of the training data is measured.

    python experiments/conditional_images.py --task small4 --data fashion --results

And the classes at full size, for an accelerator, with all held-out images and as many samples:

    python experiments/conditional_images.py --data fashion --size full --steps 20000 --results
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from ddpm_images import CHUNK, HELD_OUT, REAL, pictures, words
from recipe import (
    Args,
    again,
    directory,
    draw,
    finish,
    first,
    images,
    over_seeds,
    run,
    scores,
    table,
    titled,
    train,
)

from gengen.data import load
from gengen.diffusion import conditional, ddpm
from gengen.metrics import classifier
from gengen.metrics.similarity import psnr
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Method, check_shape

GUIDANCE = (0.0, 0.5, 1.0, 3.0)
GIVEN, DRAWS = 64, 16  # held-out images that are measured, and samples of each
SHOWN = 5  # the class whose mean is pictured
TASKS: dict[str, dict[str, Any]] = {
    "class": {"num_classes": 10},
    "small2": {"num_classes": 0, "condition_image": "small", "factor": 2},
    "small4": {"num_classes": 0, "condition_image": "small", "factor": 4},
    "grey": {"num_classes": 0, "condition_image": "grey"},
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    task: str = "class"
    """One of class, small2, small4, grey."""
    data: str = "mnist5k"
    """Or fashion; or photographs, which have the colours."""
    size: Literal["small", "full"] = "small"
    """Of the network: for two cores, or for an accelerator."""
    steps: int = 3000
    """Train steps."""
    evaluations: int = 50
    """Of the network, for a draw (with guidance twice as many)."""
    trained: Path | None = None
    """A run directory of this recipe. (default: trained here)"""


def main(args: Settings) -> None:
    """Train both networks, sample, measure."""
    if args.task not in TASKS:
        raise ValueError(f"task = {args.task!r}, but it is one of {', '.join(TASKS)}")
    name, data = f"conditional_{args.task}_{args.data}", first(load(args.data))
    if args.size == "full":
        name += f"_full{args.seed}"
    shared = words(args.steps, args.size) | {"sample_steps": args.evaluations}
    if data.shape[0] < 28:
        shared["patch"] = 2
    cfg = conditional.Config(shape=data.shape, **shared, **TASKS[args.task])
    out = directory(args, name)
    if args.trained is None:
        variables = train(conditional, cfg, data, out, args).variables
    else:
        cfg, variables = again(args.trained, conditional, args.data)
        shutil.copytree(args.trained, out)  # this directory is to tell it all
    cfg = dataclasses.replace(cfg, sample_steps=args.evaluations)
    regression = train(conditional, cfg, data, out / "regression", args, regressor(cfg)).variables
    measured = by_class if args.task == "class" else by_image
    metrics = measured(cfg, variables, regression, out, args)
    shown = ("samples", "class_mean") if args.task == "class" else ("samples",)
    finish(name, out, metrics, args, pictures(args, *shown))


# --- the regression network ----------------------------------------------------------------------


def regressor(cfg: conditional.Config) -> Method:
    """Return the method that trains the network of `cfg` to return E[x|y], by the squared error."""

    def loss(params: Any, mutables: Any, key: Any, batch: Any):
        x = check_shape(batch, cfg.shape)
        labels, y = conditional.split_condition(cfg, conditional.condition_of(cfg, batch), len(x))
        out = mean_given(cfg, params, conditional.one_hot(cfg, labels, len(x)), y, key)
        return jnp.mean((out - x) ** 2), ({}, mutables)

    step = descent(loss, ddpm.optimizer(cfg))
    start = conditional.method(cfg).init
    init = lambda key, batch: {"params": start(key, batch).params}  # noqa: E731
    return build(init, with_ema(step, cfg.ema_decay))


def mean_given(
    cfg: conditional.Config, params: Any, labels: jax.Array, y: jax.Array | None, key: Any = None
) -> jax.Array:
    """Return the network's E[x|y]: [B, *shape]; in training, with a key, with dropout."""
    planes, num = conditional.planes_of(cfg, y), len(labels)
    z, t = jnp.zeros((num, *cfg.shape)), jnp.ones(num, jnp.int32)
    net, is_training = conditional.Denoiser(cfg), key is not None
    rngs = {"dropout": key} if is_training else None
    return jnp.asarray(net.apply({"params": params}, z, t, labels, planes, is_training, rngs=rngs))


# --- what is measured ----------------------------------------------------------------------------


def by_class(
    cfg: conditional.Config, variables: Any, regression: Any, out: Path, args: Settings
) -> dict[str, Any]:
    """Measure whether classes are right, and what a regression on the class returns."""
    held_out = first(load(f"{args.data}:test"), HELD_OUT[args.size])
    judge = classifier.load({"mnist5k": "mnist-v1", "fashion": "fashion-v1"}[args.data])

    def agreement(x: np.ndarray, y: np.ndarray) -> float:
        return classifier.consistency(judge.probabilities(x), y)

    real = agreement(held_out.arrays["image"], held_out.arrays["label"])
    metrics, shown = {}, []
    for w in GUIDANCE:
        own = dataclasses.replace(cfg, guidance=w)
        one = lambda k, n, own=own: conditional.sample(own, variables, k, n)  # noqa: E731
        drawn = draw(len(held_out), one, args.seed, CHUNK[args.size])  # each class in turn
        value = agreement(drawn, np.arange(len(drawn)) % 10)
        metrics[f"guidance {w:g}: class asked = class seen"] = {"value": value, "floor": real}
        found = scores(drawn, first(load(args.data), REAL), held_out)
        metrics |= {f"guidance {w:g}: {name}": row for name, row in found.items()}
        rows = 2.0 * drawn[:60].reshape(6, 10, *cfg.shape) / 255 - 1
        shown += [(f"guidance {w:g}", row) for row in rows]
    titled(out / "samples.png", shown)
    return metrics | of_a_class(cfg, variables, regression, out, args)


def of_a_class(
    cfg: conditional.Config, variables: Any, regression: Any, out: Path, args: Settings
) -> dict[str, Any]:
    """Compare the regression network with the class means of the training data."""
    data = first(load(args.data))
    x, labels = images(data), data.arrays["label"]
    means = np.stack([x[labels == k].mean(0) for k in range(cfg.num_classes)])
    every = jnp.eye(cfg.num_classes)
    guess = np.asarray(mean_given(cfg, regression["params"], every, None))
    key, asked = jax.random.key(args.seed + 2), np.full(14, SHOWN)
    samples = conditional.sample(cfg, variables, key, 14, condition=asked)
    row = np.concatenate([means[SHOWN : SHOWN + 1], guess[SHOWN : SHOWN + 1], samples])
    titled(out / "class_mean.png", [("class mean, regression, samples", row)])
    rms = lambda a, b: {"value": float(np.sqrt(np.mean((a - b) ** 2)))}  # noqa: E731
    return {
        "RMSE, regression on the class from the class mean": rms(guess, means),
        "RMSE, a training image from its class mean": rms(x, means[labels]),
    }


def by_image(
    cfg: conditional.Config, variables: Any, regression: Any, out: Path, args: Settings
) -> dict[str, Any]:
    """Measure how near samples, their mean and the regression are, and how samples differ."""
    x = images(first(load(f"{args.data}:test")), GIVEN)
    y = np.asarray(conditional.measure(cfg, x))
    keys = jax.random.split(jax.random.key(args.seed + 1), DRAWS)
    draws = np.stack([conditional.sample(cfg, variables, k, GIVEN, condition=y) for k in keys])
    plain = np.asarray(plainly(cfg, y))
    labels = conditional.one_hot(cfg, None, GIVEN)
    mean = mean_given(cfg, regression["params"], labels, jnp.asarray(y))
    projected = np.asarray(conditional.projected(conditional.operator(cfg), mean, jnp.asarray(y)))
    at_T = np.asarray(first_guess(cfg, variables, y, keys[0]))
    missed = np.abs(np.asarray(conditional.measure(cfg, draws.reshape(-1, *cfg.shape)))
                    - np.tile(y, (DRAWS, 1, 1, 1)))  # fmt: skip

    def decibels(guess: np.ndarray) -> dict[str, float]:
        return {"value": float(np.mean(psnr(guess, x, max_val=2.0)))}

    rows = {
        "images": x,
        "grey" if cfg.condition_image == "grey" else "cubic": plain,
        "one sample": draws[0],
        "another": draws[1],
        f"mean of {DRAWS}": draws.mean(0),
        "regression, projected": projected,
    }
    titled(out / "samples.png", [(title, row[:16]) for title, row in rows.items()])
    return {
        "PSNR, one sample": decibels(draws[0]),
        f"PSNR, mean of {DRAWS} samples": decibels(draws.mean(0)),
        "PSNR, regression": decibels(np.clip(np.asarray(mean), -1, 1)),
        "PSNR, regression, projected": decibels(projected),
        "PSNR, x̂₀ at t = T": decibels(at_T),
        "PSNR, grey" if cfg.condition_image == "grey" else "PSNR, cubic": decibels(plain),
        "standard deviation of samples, a pixel": {
            "value": float(draws.std(0, ddof=1).mean()), "floor": float(x.std(0).mean()),
        },
        "largest difference from the measurement, of 255 levels": {"value": 127.5 * missed.max()},
    }  # fmt: skip


def plainly(cfg: conditional.Config, y: np.ndarray) -> jax.Array:
    """What needs no learning: cubic interpolation, or grey as colour."""
    shape = (len(y), *cfg.shape)
    if cfg.condition_image == "grey":
        return jnp.broadcast_to(y, shape)
    return jnp.clip(jax.image.resize(y, shape, "cubic"), -1, 1)


def first_guess(cfg: conditional.Config, variables: Any, y: np.ndarray, key: Any) -> jax.Array:
    """Return x̂₀ of pure noise, at t = T: an estimate of E[x|y] by the diffusion model itself."""
    planes = conditional.planes_of(cfg, jnp.asarray(y))
    labels = conditional.one_hot(cfg, None, len(y))
    z, t = jax.random.normal(key, (len(y), *cfg.shape)), jnp.full(len(y), cfg.T)
    v = conditional.Denoiser(cfg).apply(variables, z, t, labels, planes)
    schedule = ddpm.noise_schedule(cfg)
    a, b = schedule.alpha_bars[-1] ** 0.5, schedule.one_minus_alpha_bars[-1] ** 0.5
    return jnp.clip(a * z - b * jnp.asarray(v), -1, 1)  # x = √ᾱ z - √(1-ᾱ) v


def by_guidance(result: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """What `by_class` measured, by w: first how many classes are right, then the fid."""
    found: dict[str, list[dict[str, float]]] = {}
    for key, row in result["metrics"].items():
        if key.startswith("guidance"):
            found.setdefault(key.partition(":")[0].removeprefix("guidance "), []).append(row)
    return found


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The tables of docs/DIFFUSION.md: classes by guidance, then images that are asked for again.

    Args:
        results: the content of results/NAME.json, by NAME, which is conditional_TASK_DATA.
    """
    classes, others = [], []
    for name, result in results.items():
        _, task, data = name.split("_")
        if task != "class":
            *decibels, deviation, _ = result["metrics"].values()
            shown = [f"{row['value']:.1f}" for row in decibels]
            others.append([f"{task}, {data}", *shown, f"{deviation['value']:.3f}"])
            continue
        for w, (right, fid, *_) in by_guidance(result).items():
            shown = [f"{100 * right[k]:.1f} %" for k in ("value", "floor")]
            classes.append([f"{data}, w = {w}", *shown, f"{fid['value']:.0f}"])
    head = [
        "task, images", "dB, one sample", f"mean of {DRAWS}", "regression",
        "regression, projected", "x̂₀ at T", "cubic (grey)", "deviation",
    ]  # fmt: skip
    return [*table(["images, guidance", "class right", "of real ones", "fid"], classes), "",
            *table(head, others)]  # fmt: skip


def full_markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md at full size: means over seeds, and deviations.

    Args:
        results: the content of results/NAME.json, by NAME: conditional_class_DATA_fullSEED.
    """
    seeds = [by_guidance(result) for result in results.values()]
    rows = []
    for w, (right, *_) in seeds[0].items():
        rights, fids = ([found[w][i]["value"] for found in seeds] for i in (0, 1))
        shown = f"{over_seeds([100 * r for r in rights])} %", f"{100 * right['floor']:.1f} %"
        rows.append([f"w = {w}", *shown, over_seeds(fids)])
    return table(["guidance", "class right", "of real ones", "fid"], rows)


if __name__ == "__main__":
    run(main, Settings, __doc__)
