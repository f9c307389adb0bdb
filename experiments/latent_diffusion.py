"""Latent diffusion beside pixel diffusion: how good, and how long for a sample.

Two models of the same images: `ddpm_images.py`'s of pixels, and the diffusion of a VAE's 4 × 4 × 8
codes. Each draws 1,000 samples in as many evaluations of its network, 50; the time is the median of
five draws of 250, compiled, taking turns. Scores are of the data's own classifier's features,
against training images (the first 10,000); the floor is that of held-out ones (the first 2,000).
The codec's own error is what bounds the latent model: held-out images, encoded and decoded. The
codec has 2,000 train steps and its prior 4,000, the model of pixels 3,000.

    python experiments/latent_diffusion.py --data fashion --pixels runs/ddpm_fashion_steps --results

Expected, as measured (results/latent_mnist5k.json), seed 0, two CPU cores, 594 s:

    fid[mnist-v1], latent                                                 145.3  (real: 12.59)
    kid[mnist-v1], latent                                                 507.6  (real: -44.49)
    fid[mnist-v1], pixels                                                 196.3  (real: 12.59)
    kid[mnist-v1], pixels                                                 695.9  (real: -44.49)
    fid[mnist-v1], held-out images decoded                                13.03  (real: 12.59)
    squared error of the codec, a pixel                                  0.0181
    images a second, latent                                               156.3
    images a second, pixels                                               45.25
    pixels' time over latent's                                            3.455
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ddpm_images import config as of_pixels
from recipe import (
    CHUNK,
    Args,
    again,
    directory,
    draw,
    error,
    finish,
    first,
    images,
    in_parts,
    run,
    scores,
    table,
    titled,
    train,
)  # fmt: skip

from gengen.data import Dataset, load, to_uint8
from gengen.diffusion import ddpm, latent

REAL, HELD_OUT = 10_000, 2000  # images at most that samples are scored against
TURNS = 5


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 3000
    """Train steps of the pixels' model; the codec has ⅔ of them, its prior 4/3."""
    samples: int = 1000
    """Of each."""
    evaluations: int = 50
    """Of each network, for a sample."""
    pixels: Path | None = None
    """A run directory of ddpm_images.py. (default: trained here, beside the other)"""


def main(args: Settings) -> None:
    """Train both; draw in turns; score."""
    name, data = f"latent_{args.data}", first(load(args.data))
    held_out, out = first(load(f"{args.data}:test"), HELD_OUT), directory(args, name)
    cfg = latent.Config(
        schedule="cosine", prediction="v", batch_size=64, learning_rate=2e-3, b2=0.99,
        warmup_steps=min(50, args.steps // 4), decay_steps=4 * args.steps // 3, ema_decay=0.995,
        sampler="ddim", sample_steps=args.evaluations, eta=1.0,
        latent_shape=(4, 4, 8), codec_channels=(32, 64, 64), channels=(64,), num_blocks=(4,),
    )  # fmt: skip
    variables = train(latent, cfg, data, out, args).variables
    pixel_cfg, pixel_variables = pixels(args, data, out)

    def of_latent(key: jax.Array, num: int) -> jax.Array:
        return latent.sample(cfg, variables, key, num)

    def of_ddpm(key: jax.Array, num: int) -> jax.Array:
        return ddpm.sample(pixel_cfg, pixel_variables, key, num)

    ways = {"latent": of_latent, "pixels": of_ddpm}
    drawn = {title: draw(args.samples, way, args.seed) for title, way in ways.items()}
    metrics: dict[str, Any] = {}
    for title, x in drawn.items():
        found = scores(x, first(data, REAL), held_out, ("fid", "kid"))
        metrics |= {f"{k}, {title}": v for k, v in found.items() if "±" not in k and "std" not in k}
    x = images(held_out)
    decoded = in_parts(lambda x: latent.reconstruct(cfg, variables, x), x)
    found = scores(to_uint8(decoded), first(data, REAL), held_out)
    metrics |= {f"{k}, held-out images decoded": v for k, v in found.items()}
    metrics["squared error of the codec, a pixel"] = error(x, decoded)
    seconds = timed(ways)
    for title, value in seconds.items():
        metrics[f"images a second, {title}"] = {"value": CHUNK / value}
    metrics["pixels' time over latent's"] = {"value": seconds["pixels"] / seconds["latent"]}
    shown = [("images", x[:16]), ("decoded", decoded[:16])]
    for title, samples in drawn.items():
        shown += [(title, 2.0 * samples[i : i + 16] / 255 - 1) for i in (0, 16)]
    titled(out / "samples.png", shown)
    finish(name, out, metrics, args, ("samples",))


def pixels(args: Settings, data: Dataset, out: Path) -> tuple[ddpm.Config, Any]:
    """The diffusion of pixels: its Config, to sample in as many evaluations; its variables."""
    if args.pixels is not None:
        cfg, variables = again(args.pixels, ddpm, args.data)
    else:
        cfg = of_pixels(args.steps)
        variables = train(ddpm, cfg, data, out / "pixels", args).variables
    way = {"sampler": "ddim", "sample_steps": args.evaluations, "eta": 1.0}
    return dataclasses.replace(cfg, **way), variables


def timed(ways: dict[str, Callable[[jax.Array, int], jax.Array]]) -> dict[str, float]:
    """Seconds for `CHUNK` samples of each, taking turns."""
    seconds: dict[str, list[float]] = {title: [] for title in ways}
    for turn in range(TURNS):
        for title, way in ways.items():
            begin = time.perf_counter()
            jax.block_until_ready(way(jax.random.key(turn), CHUNK))
            seconds[title].append(time.perf_counter() - begin)
    return {title: statistics.median(s) for title, s in seconds.items()}


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/DIFFUSION.md: a row for each model of each set of images.

    Args:
        results: the content of results/NAME.json, by NAME, which is latent_DATA.
    """
    rows = []
    for name, result in results.items():
        for title in ("latent", "pixels"):
            found = {
                k: r["value"] for k, r in result["metrics"].items() if k.endswith(f", {title}")
            }
            shown = [f"{value:.0f}" for value in found.values()]  # fid, kid, images a second
            rows.append([f"{name.split('_')[1]}, {title}", *shown])
    return table(["images, model", "fid", "kid", "images/s"], rows)


if __name__ == "__main__":
    run(main, Settings, __doc__)
