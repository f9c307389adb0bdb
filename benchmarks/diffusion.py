"""DDPM beside diffusers' pipeline and denoising-diffusion-pytorch's trainer, on the same device.

Sampling: DDIM, so many evaluations of a U-Net of about as many parameters and multiplications as
the other's (both are printed; ours has at least as many parameters); gengen's is one compiled
program, the other's a loop in Python. Training: a folder of PNG files, 32 × 32, as each reads it
(gengen keeps so small a one in memory, the other decodes each batch anew), with the optimiser, EMA,
log and all; images per second are the median over the steps after the first third. Both take turns,
and the median of turns counts. Needs the extra `compare`.

    python -m benchmarks.diffusion --out results/benchmarks/diffusion.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from PIL import Image

from gengen import loop
from gengen.data import load
from gengen.diffusion import ddpm
from gengen.training import run_dir

SIDE = 32
WIDTHS = (64, 128)  # of every network here
OURS: dict[str, Any] = dict(shape=(SIDE, SIDE, 3), patch=1, channels=WIDTHS)
AS_DIFFUSERS = ddpm.Config(**OURS, num_blocks=(4, 5), sampler="ddim", eta=0.0)
AS_TRAINER = ddpm.Config(**OURS, num_blocks=(5, 6))


@dataclass
class Args:
    """What to measure."""

    batch_size: int = 16
    """Images at a time."""
    evaluations: int = 20
    """Of the network, for a batch of samples."""
    steps: int = 24
    """Of training, in a turn."""
    log_every: int = 1
    """Train steps between lines of our log; an accelerator is asked less often."""
    only: Literal["sampling", "training"] | None = None
    """One of the two. (default: both)"""
    turns: int = 3
    """Of each; the median counts."""
    threads: int = os.cpu_count() or 1
    """Of PyTorch; JAX takes all cores."""
    out: Path | None = None
    """JSON file for the result."""


def size_of(cfg: ddpm.Config) -> dict[str, float]:
    """Parameters, and millions of multiplications for one image."""
    net = ddpm.network(cfg)
    with jax.default_device(jax.devices("cpu")[0]):  # others' libraries do not tell their cost
        x, t = jax.numpy.zeros((1, *cfg.shape)), jax.numpy.ones(1, "int32")
        variables = net.init(jax.random.key(0), x, t)
        cost: Any = jax.jit(net.apply).lower(variables, x, t).compile().cost_analysis()
    count = sum(p.size for p in jax.tree.leaves(variables))
    return {"parameters": count, "million_multiplications": round(cost["flops"] / 2e6)}


def their_size(net: Any) -> dict[str, float]:
    """The same of a network of PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.flop_counter import FlopCounterMode  # pyright: ignore[reportMissingImports]

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, dtype=torch.long))
    count = sum(p.numel() for p in net.parameters())
    total = round(counter.get_total_flops() / 2e6)
    return {"their_parameters": count, "their_million_multiplications": total}


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def sampling(args: Args) -> dict[str, Any]:
    """Images per second of DDIM: ours, and diffusers' pipeline."""
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import (  # pyright: ignore[reportMissingImports]
        DDIMPipeline,
        DDIMScheduler,
        UNet2DModel,
    )

    ends = "DownBlock2D", "UpBlock2D"
    unet = UNet2DModel(
        sample_size=SIDE, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=WIDTHS, down_block_types=ends[:1] * 2, up_block_types=ends[1:] * 2,
        add_attention=False, norm_num_groups=8,
    ).eval()  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = DDIMPipeline(unet, DDIMScheduler(num_train_timesteps=1000)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    cfg, num = replace(AS_DIFFUSERS, sample_steps=args.evaluations), args.batch_size
    images = {"image": np.zeros((1, *cfg.shape), np.float32)}
    variables = ddpm.method(cfg).init(jax.random.key(0), images).variables

    def ours() -> None:
        np.asarray(ddpm.sample(cfg, variables, jax.random.key(1), num))

    def theirs() -> None:
        pipeline(batch_size=num, num_inference_steps=args.evaluations, output_type="np")

    for action in (ours, theirs):
        action()  # compiles, warms
    times = np.array([[timed(ours), timed(theirs)] for _ in range(args.turns)])
    mine, other = num / np.median(times, axis=0)
    return {
        "what": f"sampling, {args.evaluations} evaluations", "of": "diffusers",
        "batch_size": num, "images_per_s": round(mine, 3), "their_images_per_s": round(other, 3),
        "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 3),
        **size_of(cfg), **their_size(unet.to("cpu")),
    }  # fmt: skip


def training(args: Args) -> dict[str, Any]:
    """Images per second of training on a folder: ours, and denoising-diffusion-pytorch's."""
    from denoising_diffusion_pytorch import Unet  # pyright: ignore[reportMissingImports]

    def net() -> Any:
        return Unet(dim=WIDTHS[0], dim_mults=(1, 2), channels=3, full_attn=(False, False))

    rates = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        photographs(folder)
        for turn in range(args.turns):
            mine = our_rate(args, folder, Path(scratch) / f"run{turn}")
            rates.append((mine, their_rate(args, net(), folder, Path(scratch) / f"theirs{turn}")))
    rates = np.array(rates)
    mine, other = np.median(rates, axis=0)
    return {
        "what": "training on a folder of PNG", "of": "denoising-diffusion-pytorch",
        "batch_size": args.batch_size, "images_per_s": round(mine, 3),
        "their_images_per_s": round(other, 3),
        "ratio": round(float(np.median(rates[:, 0] / rates[:, 1])), 3),
        **size_of(AS_TRAINER), **their_size(net()),
    }  # fmt: skip


def photographs(folder: Path) -> None:
    """Squares of two photographs, as PNG files."""
    from sklearn.datasets import load_sample_image

    for name in ("china", "flower"):
        (folder / name).mkdir(parents=True)
        x = load_sample_image(f"{name}.jpg")
        for i in range(0, x.shape[0] - SIDE, 32):
            for j in range(0, x.shape[1] - SIDE, 32):
                part = np.ascontiguousarray(x[i : i + SIDE, j : j + SIDE])
                Image.fromarray(part).save(folder / name / f"{i}-{j}.png")


def our_rate(args: Args, folder: Path, out: Path) -> float:
    """Images per second, as the run's own log has it."""
    loop.run(
        ddpm.method(AS_TRAINER), load(f"folder:{folder}"), out=out, steps=args.steps,
        batch_size=args.batch_size, seed=0, log_every=args.log_every, save_every=args.steps,
    )  # fmt: skip
    lines = run_dir.read_metrics(out / "metrics.jsonl")
    return statistics.median(line["examples_per_s"] for line in lines[len(lines) // 3 :])


def their_rate(args: Args, net: Any, folder: Path, out: Path) -> float:
    """Images per second between one move of their optimiser and the next."""
    from denoising_diffusion_pytorch import (  # pyright: ignore[reportMissingImports]
        GaussianDiffusion,
        Trainer,
    )

    diffusion = GaussianDiffusion(net, image_size=SIDE, timesteps=1000)
    trainer = Trainer(
        diffusion, folder, train_batch_size=args.batch_size, train_num_steps=args.steps,
        gradient_accumulate_every=1, save_and_sample_every=10**9, results_folder=out,
        calculate_fid=False, num_samples=1, augment_horizontal_flip=False,
    )  # fmt: skip
    moments, move = [], trainer.opt.step

    def step(*args: Any, **kwargs: Any) -> Any:
        moments.append(time.perf_counter())
        return move(*args, **kwargs)

    trainer.opt.step = step
    trainer.train()
    return args.batch_size / statistics.median(np.diff(moments)[args.steps // 3 :])


def main(args: Args) -> None:
    """Both, and where --out says so, written."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(args.threads)
    rows = []
    for measure in (sampling, training):
        if args.only not in (None, measure.__name__):
            continue
        rows.append(measure(args))
        print(rows[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        others = {n: version(n) for n in ("torch", "diffusers", "denoising-diffusion-pytorch")}
        settings = {k: str(v) for k, v in asdict(args).items() if k != "out"}
        about = {"versions": {**run_dir.versions(), **others},
                 "machine": run_dir.machine(), "args": settings}  # fmt: skip
        run_dir.write_json(args.out, {"benchmark": "diffusion", "rows": rows, **about})


if __name__ == "__main__":
    main(tyro.cli(Args))
