"""Train steps and sampling of a U-Net on an accelerator, beside PyTorch's compiled ones.

The U-Net is that of Ho et al. 2020 with wider channels, written once more in PyTorch; both have as
many parameters, which is checked, and the same optimiser, clipping and average of the weights.
PyTorch runs `torch.compile` with channels_last; bfloat16 by autocast there and by `compute_in`
here; float32 products in TF32 in both. Every contender is a process of its own, compiles beside the
others, and is timed alone: all take turns, and the medians of turns count. `share of peak` counts
three times the multiplications of a forward pass for a train step. Needs PyTorch.

    python -m benchmarks.accelerator --out results/benchmarks/accelerator.json
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.torch_unet import torch_unet

Run = Callable[[], float]  # one turn; seconds of a step, or of a batch of samples
PEAKS = {"H100": (989e12, 494e12), "H200": (989e12, 494e12)}  # dense bfloat16, TF32; FLOP/s
SIDE = 32


@dataclass
class Args:
    """What to measure."""

    what: tuple[str, ...] = ("unet-bfloat16", "unet-float32", "sample-float32")
    """Pairs to time: unet, a train step; sample, DDIM."""
    width: int = 160
    """Channels of the finest level of the U-Net, a multiple of 32."""
    batch_size: int = 128
    """Images of a step."""
    evaluations: int = 50
    """Of the network, for a batch of samples."""
    steps: int = 10
    """In a turn, of training."""
    turns: int = 9
    """Of each; medians count."""
    limit: float = 240.0
    """Seconds after which no turn begins."""
    out: Path | None = None
    """JSON file for the result."""
    worker: str = ""
    """What a process times: "ours" or "theirs", a colon, and one of `what`. For internal use."""


def unet_config(args: Args) -> Any:
    """Return the Config of the U-Net: 55M parameters at width 160."""
    from gengen.diffusion import ddpm

    w = args.width
    return ddpm.Config(
        shape=(SIDE, SIDE, 3), patch=1, channels=(w, 2 * w, 2 * w, 2 * w), num_blocks=(2, 2, 2, 2),
        attention=(16,), num_heads=4, num_groups=32, skips="block", batch_size=args.batch_size,
        learning_rate=2e-4, warmup_steps=0, sampler="ddim", sample_steps=args.evaluations, eta=0.0,
        clip_denoised=False,
    )  # fmt: skip


# --- gengen --------------------------------------------------------------------------------------


def ours(what: str, args: Args) -> tuple[Run, int]:
    """Return a turn of gengen, compiled, and the number of parameters."""
    import jax

    from gengen.compile import compile_step
    from gengen.diffusion import ddpm
    from gengen.training.precision import compute_in

    kind, dtype = what.split("-")
    key, numbers = jax.random.key(0), np.random.default_rng(0)
    cfg = unet_config(args)
    images = numbers.uniform(-1, 1, (args.batch_size, *cfg.shape)).astype(np.float32)
    method = compute_in(ddpm.method(cfg), dtype)
    batch = {"image": jax.device_put(images)}
    state: Any = method.init(key, batch)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    if kind == "sample":
        variables = state.variables

        def sampled() -> float:
            begin = time.perf_counter()
            jax.block_until_ready(ddpm.sample(cfg, variables, key, args.batch_size))
            return time.perf_counter() - begin

        return sampled, count
    step = compile_step(method.train_step)
    state = step.put(state)

    def trained() -> float:
        nonlocal state
        begin = time.perf_counter()
        for _ in range(args.steps):
            state, _ = step(key, state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - begin) / args.steps

    return trained, count


# --- PyTorch -------------------------------------------------------------------------------------


def theirs(what: str, args: Args) -> tuple[Run, int]:
    """Return a turn of PyTorch, compiled, and the number of parameters."""
    import torch  # pyright: ignore[reportMissingImports]

    kind, dtype = what.split("-")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True

    def cast() -> Any:
        low = dtype == "bfloat16"
        return torch.autocast(device, torch.bfloat16) if low else contextlib.nullcontext()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def turn(action: Callable[[], Any], times: int) -> Run:
        def run() -> float:
            begin = time.perf_counter()
            for _ in range(times):
                action()
            wait()
            return (time.perf_counter() - begin) / times

        return run

    cfg = unet_config(args)
    from gengen.diffusion.prediction import noise_schedule

    bars = torch.tensor(noise_schedule(cfg).alpha_bars, dtype=torch.float32, device=device)
    net = torch_unet(cfg).to(device, memory_format=torch.channels_last)
    count = sum(p.numel() for p in net.parameters())
    shape = (args.batch_size, 3, SIDE, SIDE)
    compiled = torch.compile(net)
    if kind == "sample":
        times = np.linspace(0, cfg.T, args.evaluations + 1).round().astype(int)[::-1]

        @torch.no_grad()
        def sampled() -> Any:
            z = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
            for t, s in zip(times[:-1], times[1:], strict=True):
                a, b = bars[t - 1], bars[s - 1] if s else torch.ones((), device=device)
                with cast():
                    v = compiled(z, torch.full((len(z),), int(t), device=device)).float()
                x, eps = a.sqrt() * z - (1 - a).sqrt() * v, (1 - a).sqrt() * z + a.sqrt() * v
                z = b.sqrt() * x + (1 - b).sqrt() * eps
            return z

        return turn(sampled, 1), count
    images = torch.rand(shape, device=device).mul(2).sub(1)
    images = images.contiguous(memory_format=torch.channels_last)
    adam = torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.99), fused=device == "cuda")
    own = list(net.parameters())
    average = [p.detach().clone() for p in own]

    def trained() -> None:
        t = torch.randint(1, cfg.T + 1, (len(images),), device=device)
        eps, a = torch.randn_like(images), bars[t - 1][:, None, None, None]
        z, v = a.sqrt() * images + (1 - a).sqrt() * eps, a.sqrt() * eps - (1 - a).sqrt() * images
        with cast():
            loss = (compiled(z, t).float() - v).square().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0, foreach=True)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in own], 0.005)

    return turn(trained, args.steps), count


# --- turns ---------------------------------------------------------------------------------------


def work(args: Args) -> None:
    """Compile, say so, and time a turn for each line of standard input."""
    side, what = args.worker.split(":")
    run, count = (ours if side == "ours" else theirs)(what, args)
    begin = time.monotonic()
    run()
    run()
    ready = {"parameters": count, "seconds": round(time.monotonic() - begin, 1)}
    print(json.dumps({"ready": ready}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"turn": run()}), flush=True)


@contextlib.contextmanager
def contenders(args: Args) -> Iterator[dict[str, subprocess.Popen]]:
    """Start all contenders side by side; they compile at once."""
    settings = {k: v for k, v in asdict(args).items() if k not in ("what", "out", "worker")}
    words = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    found: dict[str, subprocess.Popen] = {}
    for what in args.what:
        for side in ("ours", "theirs"):
            name = f"{side}:{what}"
            command = [sys.executable, "-m", "benchmarks.accelerator", "--worker", name, *words]
            found[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
            )
    try:
        yield found
    finally:
        for process in found.values():
            process.kill()


def answer(process: subprocess.Popen) -> dict[str, Any]:
    """Return the next line of JSON that a contender prints; {} if it has ended."""
    assert process.stdout
    for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line)
    return {}


def measure(args: Args) -> list[dict[str, Any]]:
    """Let both sides of each pair take turns; return a row for each pair."""
    rows, begin = [], time.monotonic()
    with contenders(args) as found:
        ready = {name: answer(process).get("ready", {}) for name, process in found.items()}
        print("ready", round(time.monotonic() - begin), "s:", ready, flush=True)
        for what in args.what:
            sides = [f"{side}:{what}" for side in ("ours", "theirs")]
            turns: list[list[float]] = []
            for _ in range(args.turns):
                if time.monotonic() - begin > args.limit:
                    break
                turns.append([_turn(found[name]) for name in sides if ready[name]])
            if turns and all(ready[name] for name in sides):
                rows.append(row(what, args, np.array(turns), *(ready[name] for name in sides)))
                print(rows[-1], flush=True)
    return rows


def _turn(process: subprocess.Popen) -> float:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process).get("turn", float("nan"))


def row(
    what: str, args: Args, turns: np.ndarray, own: dict[str, Any], other: dict[str, Any]
) -> dict[str, Any]:
    """Return the medians of a pair."""
    assert own["parameters"] == other["parameters"], (what, own, other)
    mine, his = (float(m) for m in np.median(turns, axis=0))
    ratios = turns[:, 1] / turns[:, 0]
    found = {
        "what": what, "batch_size": args.batch_size, "parameters": own["parameters"],
        "ms": round(1e3 * mine, 2), "pytorch_ms": round(1e3 * his, 2),
        "images_per_s": round(args.batch_size / mine, 1), "turns": len(turns),
        "ratio": round(float(np.median(ratios)), 3),
        "quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
        "compile_s": own["seconds"], "pytorch_compile_s": other["seconds"],
    }  # fmt: skip
    device = device_name()
    peaks = next((v for k, v in PEAKS.items() if k in device), None)
    if peaks and what.startswith("unet"):
        flops = 6.0 * multiplications(args) * args.batch_size
        peak = peaks[0 if what.endswith("bfloat16") else 1]
        found |= {"share_of_peak": round(flops / mine / peak, 3),
                  "pytorch_share_of_peak": round(flops / his / peak, 3)}  # fmt: skip
    return found


def multiplications(args: Args) -> float:
    """Return the multiplications of a forward pass of the U-Net for one image, from its layers."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.flop_counter import FlopCounterMode  # pyright: ignore[reportMissingImports]

    net = torch_unet(unet_config(args))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, SIDE, SIDE), torch.ones(1))
    return counter.get_total_flops() / 2


def device_name() -> str:
    """Return the name of PyTorch's device."""
    import torch  # pyright: ignore[reportMissingImports]

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def main(args: Args) -> None:
    if args.worker:
        return work(args)
    rows = measure(args)
    if args.out:
        from gengen.training import run_dir

        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) for k, v in asdict(args).items() if k not in ("out", "worker")}
        about = {"versions": {**run_dir.versions(), "torch": version("torch")},
                 "device": device_name(), "args": settings}  # fmt: skip
        run_dir.write_json(args.out, {"benchmark": "accelerator", "rows": rows, **about})


if __name__ == "__main__":
    main(tyro.cli(Args))
