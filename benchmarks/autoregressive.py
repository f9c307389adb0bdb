"""Time of the fast samplers, and of a pass of the network for each pixel: 64 images of 28 × 28.

PixelCNN: `pixels.sample_by_pixels` uses the rows above once per row, and within the row computes
only the new pixel; `pixels.sample_by_passes` runs the same network 784 times. NADE: its running
activation, against the O(D²H) evaluation of all hidden layers for each pixel. Each way is one
compiled program; both start from the same key and must give the same images.

    python -m benchmarks.autoregressive --out results/benchmarks/autoregressive.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from gengen import rng
from gengen.autoregressive import binary, nade, pixelcnn, pixels
from gengen.training import run_dir
from gengen.types import Array, Key, PyTree


@dataclass
class Args:
    """What to measure."""

    num: int = 64
    """Images."""
    fast: int = 5
    """Draws of the fast ways; of the slow ones one."""
    out: Path | None = None
    """JSON file for the result."""


@jax.jit(static_argnums=(0, 3))
def naive(cfg: nade.Config, variables: PyTree, key: Key, num: int) -> Array:
    """NADE's images, each dimension's hidden layer from nothing: O(D²H) an image."""
    p, D = variables["params"], binary.dims(cfg)
    u = rng.uniform(key, (num, D))

    def step(d: Array, x: Array) -> Array:
        h = jax.nn.sigmoid(p["c"] + (binary.bit(x) * (jnp.arange(D) < d)) @ p["W"])
        p_d = jax.nn.sigmoid(p["b"][d] + h @ p["V"][d])
        return x.at[:, d].set(jnp.where(u[:, d] < p_d, 1.0, -1.0))

    return jax.lax.fori_loop(0, D, step, jnp.zeros((num, D)))


@jax.jit(static_argnums=(0, 3))
def running(cfg: nade.Config, variables: PyTree, key: Key, num: int) -> Array:
    """The same by the model's own draw."""
    none = jnp.zeros((num, binary.dims(cfg)))
    draw: Any = nade.network(cfg).apply(variables, key, none, none > 0, method="sample")
    return draw


def timed(way: Callable[[], Array], times: int) -> tuple[float, np.ndarray]:
    """Median seconds of a compiled way, and what it gives."""
    found = np.asarray(way())
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        jax.block_until_ready(way())
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)), found


def pair(name: str, fast: Callable[[], Array], slow: Callable[[], Array], args: Args) -> dict:
    """Both ways, and whether they gave the same."""
    (a, x), (b, y) = timed(fast, args.fast), timed(slow, 1)
    same = float(np.mean(x == y))
    print(
        f"{name:22} fast {a:7.3f} s   by passes {b:8.2f} s   ratio {b / a:7.1f}   same {same:.6f}"
    )
    figures = {"fast, s": round(a, 4), "by passes, s": round(b, 3), "ratio": round(b / a, 1)}
    return figures | {"images/s": round(args.num / a, 1), "share of pixels that are equal": same}


def of_pixels(cfg: pixelcnn.Config, args: Args) -> tuple[Callable, Callable]:
    """The two ways of a PixelCNN, its parameters away from the start."""
    net, key = pixelcnn.network(cfg), jax.random.key(0)
    variables = jax.jit(net.init)(key, jnp.zeros((1, *cfg.shape)))
    variables = jax.tree.map(lambda x: 1.5 * x, variables)

    def way(fast: bool) -> Callable[[], Array]:
        return lambda: pixels.sample(
            cfg, net, variables, key, args.num, None, None, None, fast=fast
        )

    return way(True), way(False)


def measure(args: Args) -> dict[str, Any]:
    """The figures of each model."""
    found = {}
    cfg = nade.Config()
    net, key = nade.network(cfg), jax.random.key(0)
    variables = net.init(key, jnp.ones((1, 784)), method="log_p")
    found["nade"] = pair(
        "nade",
        lambda: running(cfg, variables, key, args.num),
        lambda: naive(cfg, variables, key, args.num),
        args,
    )
    found["pixelcnn"] = pair("pixelcnn", *of_pixels(pixelcnn.Config(), args), args)
    return found


def main(args: Args) -> None:
    found = measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) for k, v in asdict(args).items() if k != "out"}
        about = {"versions": run_dir.versions(), "machine": run_dir.machine(), "args": settings}
        run_dir.write_json(args.out, {"benchmark": "autoregressive", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args))
