"""One network for all steps of a diffusion, or one for each: who is nearer to the exact denoiser?

Data: three Gaussians in the plane, of which E[ε | z_t] is known; the cosine schedule, T = 20. The
same small network either is conditioned on t, and shared, or there are T of them, each of one t.
Both see the same 32 examples of every t in a step, so that they cost the same; the many have T
times the parameters. What is measured, after so many steps of training, on 20,000 draws for each t:
the squared error from the exact denoiser, a dimension, mean over t; and the sliced Wasserstein
distance of 20,000 ancestral samples from the mixture (floor: of two sets of the mixture; the exact
denoiser has an error too, of so few steps).

The picture and the table are in docs/DIFFUSION.md.

The main figures; all of them are in docs/DIFFUSION.md.

Expected, as measured (results/shared_denoiser.json), seed 0, two CPU cores, 420 s:

    one network, 300 steps: squared error                               0.00631
    one network, 300 steps: distance                                     0.0976  (real: 0.011)
    one network, 10000 steps: squared error                             0.00022
    one network, 10000 steps: distance                                   0.0493  (real: 0.011)
    one for each t, 300 steps: squared error                            0.01054
    one for each t, 300 steps: distance                                  0.0504  (real: 0.011)
    one for each t, 10000 steps: squared error                          0.00041
    one for each t, 10000 steps: distance                                0.0456  (real: 0.011)
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from exact_mixture import MIXTURE, sliced
from recipe import free_directory, run, table
from record import ROOT, write

from gengen.diffusion import ddpm, exact, samplers
from gengen.diffusion.samplers import EpsFn
from gengen.nn.mlp import TimeMLP
from gengen.training import run_dir
from gengen.types import Array, Key, PyTree

NAME = "shared_denoiser"
T, EACH = 20, 32  # steps of the diffusion; examples of each t in a train step
SCHEDULE, TIMES = ddpm.cosine_schedule(T), jnp.arange(1, T + 1)
NET = TimeMLP(2, hidden_dim=64, num_blocks=2)
WAYS = {"one network": None, "one for each t": 0}  # the axis of t in the parameters


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the recipe."""

    steps: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Lengths of training, each a run of its own."""
    samples: int = 20_000
    """And draws for each t."""
    seed: int = 0
    """Of everything."""
    out: Path | None = None
    """Folder of the picture; runs/shared_denoiser if none."""
    results: bool = False
    """Write results/shared_denoiser.json and the picture of docs/DIFFUSION.md."""


def main(args: Settings) -> None:
    """Train each way for each length; measure; show."""
    start, out = time.monotonic(), args.out or free_directory(Path("runs") / NAME)
    out.mkdir(parents=True, exist_ok=True)
    real, other = (MIXTURE.sample(np.random.default_rng(i), args.samples) for i in range(2))
    floor, best = sliced(other, real), sliced(drawn(exact_fn(), args), real)
    rows, curves = [], {}
    for way, axis in WAYS.items():
        for steps in args.steps:
            params = train(axis, steps, jax.random.key(args.seed))
            errors = excess(axis, params, args)
            distance = sliced(drawn(at(axis, params), args), real)
            rows.append({"way": way, "steps": steps, "error": float(errors.mean()),
                         "distance": distance})  # fmt: skip
            curves[way, steps] = errors
    found = {"rows": rows, "floor": floor, "exact": best}
    print("\n".join(markdown(found)))
    draw(out / "errors.png", curves)
    if args.results:
        settings = {
            "model": "ddpm", "data": {"name": "a mixture of three Gaussians"}, "seed": args.seed,
            "machine": run_dir.machine(), "versions": run_dir.versions(),
        }  # fmt: skip
        write(NAME, settings, figures(found), time.monotonic() - start, table=found)
        shutil.copy(out / "errors.png", ROOT / "docs" / "images" / f"{NAME}_errors.png")


# --- the two ways --------------------------------------------------------------------------------


def predict(axis: int | None, params: PyTree, z: Array) -> Array:
    """ε̂ of z [T, n, 2], those of each t in turn."""
    one = lambda own, z, t: jnp.asarray(NET.apply(own, z, jnp.full(len(z), t)))  # noqa: E731
    return jax.vmap(one, in_axes=(axis, 0, 0))(params, z, TIMES)


def at(axis: int | None, params: PyTree) -> EpsFn:
    """As samplers ask for it: one t at a time."""

    def eps_fn(z: Array, t: Array) -> Array:
        own = params if axis is None else jax.tree.map(lambda p: p[t[0] - 1], params)
        return jnp.asarray(NET.apply(own, z, t))

    return eps_fn


def exact_fn() -> EpsFn:
    """The best there is: E[ε | z_t]."""
    return exact.denoiser(MIXTURE, SCHEDULE)


def noised(key: Key, each: int) -> tuple[Array, Array]:
    """z_t and ε, so many of each t: [T, each, 2]."""
    rows_key, spread_key, noise_key = jax.random.split(key, 3)
    rows = jax.random.categorical(rows_key, jnp.log(jnp.asarray(MIXTURE.weights)), shape=(T, each))
    spread = float(np.sqrt(MIXTURE.covariance[0, 0]))
    x = jnp.asarray(MIXTURE.means, jnp.float32)[rows]
    x = (x + spread * jax.random.normal(spread_key, x.shape)).reshape(-1, 2)
    eps = jax.random.normal(noise_key, x.shape)
    z = ddpm.q_sample(SCHEDULE, x, jnp.repeat(TIMES, each), eps)
    return z.reshape(T, each, 2), eps.reshape(T, each, 2)


def train(axis: int | None, steps: int, key: Key) -> PyTree:
    """L_simple by Adam, its rate falling from 2e-3 to 0: the parameters."""
    init = lambda key: NET.init(key, jnp.zeros((1, 2)), jnp.ones(1, jnp.int32))  # noqa: E731
    init_key, key = jax.random.split(key)
    params = init(init_key) if axis is None else jax.vmap(init)(jax.random.split(init_key, T))
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def loss(params: PyTree, key: Key) -> Array:
        z, eps = noised(key, EACH)
        return jnp.mean(
            jnp.sum((predict(axis, params, z) - eps) ** 2, 0)
        )  # a sum over t: own rates

    def step(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.fold_in(key, i))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    whole = jax.jit(lambda p, s: jax.lax.fori_loop(0, steps, step, (p, s))[0])
    return whole(params, tx.init(params))


# --- what is measured, and shown -----------------------------------------------------------------


def excess(axis: int | None, params: PyTree, args: Settings) -> np.ndarray:
    """The mean squared error from the exact denoiser, a dimension, for each t: [T]."""
    z, _ = noised(jax.random.key(args.seed + 1), args.samples)
    best = exact_fn()(z.reshape(-1, 2), jnp.repeat(TIMES, args.samples)).reshape(z.shape)
    return np.asarray(jnp.mean((predict(axis, params, z) - best) ** 2, (1, 2)))


def drawn(eps_fn: EpsFn, args: Settings) -> np.ndarray:
    """Ancestral samples."""
    sampler: Callable[[Key], Array] = lambda key: samplers.ancestral(  # noqa: E731
        eps_fn, SCHEDULE, key, (args.samples, 2)
    )
    return np.asarray(jax.jit(sampler)(jax.random.key(args.seed)))


def figures(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The table as results have it: names and values."""
    metrics = {}
    for row in found["rows"]:
        name = f"{row['way']}, {row['steps']} steps"
        metrics[f"{name}: squared error"] = {"value": round(row["error"], 5)}
        metrics[f"{name}: distance"] = {
            "value": round(row["distance"], 4), "floor": round(found["floor"], 4),
        }  # fmt: skip
    metrics["exact denoiser: distance"] = {
        "value": round(found["exact"], 4), "floor": round(found["floor"], 4),
    }  # fmt: skip
    return metrics


def markdown(found: dict[str, Any]) -> list[str]:
    """The table of docs/DIFFUSION.md."""
    steps = sorted({row["steps"] for row in found["rows"]})
    lines = [
        [f"{title}, {way}", *(f"{r[key]:.4f}" for r in found["rows"] if r["way"] == way)]
        for key, title in (("error", "squared error"), ("distance", "distance"))
        for way in WAYS
    ]
    return table(["train steps", *(f"{n:,}" for n in steps)], lines)


def draw(path: Path, curves: dict[tuple[str, int], np.ndarray]) -> None:
    """The error by t: a line for each way and length, the longer the darker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=90, layout="constrained")
    axes, lengths = figure.subplots(), sorted({steps for _, steps in curves})
    for way, colour in zip(WAYS, ("#2456c4", "#c4562a"), strict=True):
        for i, steps in enumerate(lengths):
            label = way if i == len(lengths) - 1 else None
            axes.plot(TIMES, curves[way, steps], "-", color=colour, lw=1 + 0.2 * i, label=label,
                      alpha=(i + 1) / len(lengths))  # fmt: skip
    axes.set(yscale="log", xlabel="t", ylabel="squared error from E[ε | z_t]")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
