"""Super-resolution in latent space, beside the diffusion of pixels and beside interpolation.

Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* (2112.10752),
section 4.4: the small image, 7 × 7 pixels, is concatenated to the latents, here maps of
7 × 7 × 4. The codec, the prior and the diffusion of pixels have `--steps` train steps each, of 64
images. Of 64 held-out images, by each model: the PSNR of one sample and of the mean of 16 of
them, both as they are sampled and projected onto the images with the given small image; and the
consistency, which is the root mean square difference between the small image of a sample, not
projected, and the given one, in levels of 255. Its scale is the same difference between the small
images of two held-out images: a model that ignored the condition would come to that.

    python experiments/latent_superresolution.py --results

Expected, as measured (results/latent_superresolution_mnist5k.json), seed 0, two CPU cores, 359 s:

    PSNR, nearest pixel                                                   13.78
    PSNR, cubic interpolation                                             14.46
    PSNR, the codec's reconstruction                                       23.2
    PSNR, one sample, latent                                              18.75
    PSNR, mean of 16, latent                                              19.81
    PSNR, one sample, projected, latent                                   19.08
    PSNR, mean of 16, projected, latent                                   20.05
    consistency, of 255 levels, latent                                    5.525
    PSNR, one sample, pixels                                              16.93
    PSNR, mean of 16, pixels                                              18.43
    PSNR, one sample, projected, pixels                                   17.09
    PSNR, mean of 16, projected, pixels                                   18.49
    consistency, of 255 levels, pixels                                    4.085
    difference of two images' small images, of 255 levels                 61.48
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from conditional_images import DRAWS, GIVEN, TASKS, plainly
from ddpm_images import words
from recipe import Args, directory, finish, first, images, run, table, titled, train

from gengen.data import load
from gengen.diffusion import conditional, latent
from gengen.diffusion.conditional import projected
from gengen.metrics.similarity import psnr


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 800
    """Train steps of each network: the codec, its prior, the diffusion of pixels."""
    evaluations: int = 50
    """Of a network, for a sample."""


def main(args: Settings) -> None:
    """Train both models, sample, measure."""
    name = f"latent_superresolution_{args.data}"
    data, out = first(load(args.data)), directory(args, name)
    shared: dict[str, Any] = words(args.steps, "small") | {"sample_steps": args.evaluations}
    shared |= {"shape": data.shape, "consistent": False, **TASKS["small4"]}
    pixels = conditional.Config(**shared)
    own: dict[str, Any] = shared | {
        "patch": 1, "channels": (64,), "num_blocks": (4,), "latent_shape": (7, 7, 4),
        "codec_channels": (32, 64), "prior_share": 1.0,
    }  # fmt: skip
    codes = latent.Config(**own)
    models = {
        "latent": (latent, codes, train(latent, codes, data, out, args).variables),
        "pixels": (
            conditional, pixels, train(conditional, pixels, data, out / "pixels", args).variables
        ),
    }  # fmt: skip
    metrics = measured(models, out, args)
    finish(name, out, metrics, args, ("samples",))


def measured(models: dict[str, Any], out: Path, args: Settings) -> dict[str, dict[str, float]]:
    """Measure samples of both models, and what needs no model."""
    _, cfg, variables = models["latent"]
    x = images(first(load(f"{args.data}:test")), GIVEN)
    y = np.asarray(conditional.measure(cfg, x))
    nearest = y.repeat(cfg.factor, 1).repeat(cfg.factor, 2)
    guesses = {
        "nearest pixel": nearest,
        "cubic interpolation": np.asarray(plainly(cfg, y)),
        "the codec's reconstruction": np.asarray(latent.reconstruct(cfg, variables, x)),
    }
    metrics = {f"PSNR, {title}": decibels(guess, x) for title, guess in guesses.items()}
    shown = [("images", x), *guesses.items()]
    for title, (module, own, trained) in models.items():
        drawn = draws(module, own, trained, y, args.seed)
        metrics |= figures(title, cfg, drawn, x, y)
        shown += [(f"{title}, one sample", drawn[0]), (f"{title}, another", drawn[1])]
    metrics["difference of two images' small images, of 255 levels"] = levels(y, np.roll(y, 1, 0))
    titled(out / "samples.png", [(title, row[:16]) for title, row in shown])
    return metrics


def draws(module: Any, cfg: Any, variables: Any, y: np.ndarray, seed: int) -> np.ndarray:
    """Return `DRAWS` samples for each small image: [DRAWS, GIVEN, *shape]."""
    keys = jax.random.split(jax.random.key(seed + 1), DRAWS)
    return np.stack([module.sample(cfg, variables, k, len(y), condition=y) for k in keys])


def figures(
    title: str, cfg: conditional.Config, drawn: np.ndarray, x: np.ndarray, y: np.ndarray
) -> dict[str, dict[str, float]]:
    """What is measured of the samples of one model, which are not projected."""
    small = np.stack([np.asarray(conditional.measure(cfg, d)) for d in drawn])
    A, given = conditional.operator(cfg), jnp.asarray(y)
    onto = np.stack([np.asarray(projected(A, jnp.asarray(d), given)) for d in drawn])
    return {
        f"PSNR, one sample, {title}": decibels(drawn[0], x),
        f"PSNR, mean of {DRAWS}, {title}": decibels(drawn.mean(0), x),
        f"PSNR, one sample, projected, {title}": decibels(onto[0], x),
        f"PSNR, mean of {DRAWS}, projected, {title}": decibels(onto.mean(0), x),
        f"consistency, of 255 levels, {title}": levels(small, y),
    }


def levels(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The root mean square difference of pixels in [-1, 1], in levels of 255."""
    return {"value": 127.5 * float(np.sqrt(np.mean((a - b) ** 2)))}


def decibels(guess: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """The mean PSNR over images."""
    return {"value": float(np.mean(psnr(guess, x, max_val=2.0)))}


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md: a row for each model.

    Args:
        results: the content of results/NAME.json, by NAME, which is latent_superresolution_DATA.
    """
    rows = []
    for name, result in results.items():
        for title in ("latent", "pixels"):
            found = [r for k, r in result["metrics"].items() if k.endswith(f", {title}")]
            shown = [f"{row['value']:.1f}" for row in found]
            rows.append([f"{name.split('_')[-1]}, {title}", *shown])
    head = ["images, model", "dB, one sample", f"mean of {DRAWS}", "one sample, projected",
            f"mean of {DRAWS}, projected", "consistency"]  # fmt: skip
    return table(head, rows)


if __name__ == "__main__":
    run(main, Settings, __doc__)
