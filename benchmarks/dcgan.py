"""DCGAN's train step beside PyTorch's, eager: the same networks, batch, optimiser and device.

PyTorch's step is that of its DCGAN example: one g(z), shown to D and then judged by D again. Ours
draws a second z for the generator's move, as Algorithm 1 of Goodfellow et al. 2014 has it: one pass
of g more. Both take turns, so many steps each, images in memory; the parameters are as many.
Needs PyTorch: the extra `compare`.

    python -m benchmarks.dcgan --out results/benchmarks/dcgan.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from gengen.compile import compile_step
from gengen.gan import dcgan
from gengen.training import run_dir

Step = Callable[[], None]
KERNEL = 4


@dataclass
class Args:
    """What to measure."""

    batch_sizes: tuple[int, ...] = (16, 64)
    """Each by itself."""
    steps: int = 20
    """In a turn."""
    turns: int = 5
    """Of each; the median counts."""
    threads: int = os.cpu_count() or 1
    """Of PyTorch; JAX takes all cores."""
    out: Path | None = None
    """JSON file for the result."""


def ours(cfg: dcgan.Config, images: np.ndarray) -> tuple[Step, int]:
    """A step of gengen, compiled, and how many parameters there are."""
    method, key = dcgan.method(cfg), jax.random.key(0)
    step, batch = compile_step(method.train_step), {"image": jax.device_put(images)}
    state: Any = step.put(method.init(key, batch))
    count = sum(x.size for x in jax.tree.leaves(state.params))

    def run() -> None:
        nonlocal state
        state, metrics = step(key, state, batch)
        if int(state.step) % 10 == 0:  # as a training does that logs
            jax.block_until_ready(metrics)

    return run, count


def theirs(cfg: dcgan.Config, images: np.ndarray) -> tuple[Step, int]:
    """A step of PyTorch's example, eager."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    height, _, channels = cfg.shape
    coarse, widths = height // 2 ** len(cfg.channels), cfg.channels[::-1]

    def norm(features: int) -> list[Any]:
        return [nn.BatchNorm2d(features, eps=1e-5)]

    up: dict[str, Any] = dict(stride=2, padding=1)
    g: list[Any] = [nn.ConvTranspose2d(cfg.latent_dim, widths[0], coarse, bias=False)]
    for before, after in zip(widths, widths[1:], strict=False):
        g += [*norm(before), nn.ReLU(True)]
        g += [nn.ConvTranspose2d(before, after, KERNEL, bias=False, **up)]
    g += [*norm(widths[-1]), nn.ReLU(True)]
    g += [nn.ConvTranspose2d(widths[-1], channels, KERNEL, **up), nn.Tanh()]
    down: dict[str, Any] = dict(stride=2, padding=1)
    d: list[Any] = [nn.Conv2d(channels, cfg.channels[0], KERNEL, **down), nn.LeakyReLU(0.2, True)]
    for before, after in zip(cfg.channels, cfg.channels[1:], strict=False):
        d += [nn.Conv2d(before, after, KERNEL, bias=False, **down), *norm(after)]
        d += [nn.LeakyReLU(0.2, True)]
    d += [nn.Conv2d(cfg.channels[-1], 1, coarse)]
    G, D = nn.Sequential(*g), nn.Sequential(*d)
    rates = dict(lr=cfg.learning_rate, betas=(cfg.b1, cfg.b2))
    of_g, of_d = (
        torch.optim.Adam(G.parameters(), **rates),
        torch.optim.Adam(D.parameters(), **rates),
    )
    loss = nn.BCEWithLogitsLoss()
    real = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    ones, zeros = torch.ones(len(images)), torch.zeros(len(images))

    def run() -> None:
        of_d.zero_grad()
        fake = G(torch.randn(len(images), cfg.latent_dim, 1, 1))
        (loss(D(real).flatten(), ones) + loss(D(fake.detach()).flatten(), zeros)).backward()
        of_d.step()
        of_g.zero_grad()
        loss(D(fake).flatten(), ones).backward()
        of_g.step()

    count = sum(p.numel() for net in (G, D) for p in net.parameters())
    return run, count


def timed(step: Step, steps: int) -> float:
    """Seconds a step."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - begin) / steps


def measure(args: Args) -> list[dict[str, float]]:
    """Both, in turns, for each size of a batch."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(args.threads)
    rows = []
    for size in args.batch_sizes:
        cfg = dcgan.Config(batch_size=size, ema_decay=0.0)
        images = np.random.default_rng(0).uniform(-1, 1, (size, *cfg.shape)).astype(np.float32)
        (a, n), (b, m) = ours(cfg, images), theirs(cfg, images)
        assert n == m, (n, m)
        for step in (a, b):
            timed(step, 10)  # compiles, warms
        times = np.array([[timed(a, args.steps), timed(b, args.steps)] for _ in range(args.turns)])
        mine, other = np.median(times, axis=0)
        rows.append(
            {
                "batch_size": size, "parameters": n, "ms": round(1e3 * mine, 2),
                "pytorch_ms": round(1e3 * other, 2), "images_per_s": round(size / mine, 1),
                "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 3),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main(args: Args) -> None:
    rows = measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) for k, v in asdict(args).items() if k != "out"}
        about = {"versions": {**run_dir.versions(), "torch": version("torch")},
                 "machine": run_dir.machine(), "args": settings}  # fmt: skip
        run_dir.write_json(args.out, {"benchmark": "dcgan", "rows": rows, **about})


if __name__ == "__main__":
    main(tyro.cli(Args))
