"""Mode collapse, counted: a GAN and seven variants where the modes of the data are known.

Data: `ring8` and `grid25`, Gaussians in the plane, and stacked digits, three digits of mnist5k in
the colour channels of an image: 1,000 modes, read by the shipped classifier. Every way has the same
networks, steps, batches and optimiser, Adam whose rate falls to 0 along a cosine; each is a
composition of the family's parts, nothing more. Each of AdaGAN's generators has as many steps as
another way's one. A sample within 3σ of a mode is of high quality, and finds that mode
(gengen.metrics.modes).

Each run leaves its figures as JSON in the folder RUNS, and is skipped where they lie there already:
a rerun goes on, and several processes may share the work, by --data, --ways and --seeds. With
--results what lies there becomes the table of docs/GAN.md and the picture beside it.

The main figures; all of them are in docs/GAN.md.

Expected, as measured (results/mode_collapse.json), seed 0, two CPU cores, 5383 s:

    grid25, GAN: modes of 25                                              12.33
    stacked, GAN: modes of 1000                                             688
    grid25, minibatch discrimination: modes of 25                         21.67
    stacked, minibatch discrimination: modes of 1000                        710
    grid25, minibatch deviation: modes of 25                                 25
    stacked, minibatch deviation: modes of 1000                             738
    grid25, experience replay: modes of 25                                13.67
    stacked, experience replay: modes of 1000                               688
    grid25, AdaGAN: modes of 25                                              25
    stacked, AdaGAN: modes of 1000                                          729
    grid25, WGAN-GP: modes of 25                                             25
    stacked, WGAN-GP: modes of 1000                                         764
    grid25, R1: modes of 25                                                  25
    stacked, R1: modes of 1000                                              722
    grid25, tempered lens: modes of 25                                    19.67
    stacked, tempered lens: modes of 1000                                   697
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from recipe import run, table
from record import ROOT, write

from gengen.data import Dataset, load, to_batch, to_uint8
from gengen.gan import adagan, gan, minibatch, tempered, wgan_gp
from gengen.gan.game import Game, play, sample
from gengen.gan.regularization import r1
from gengen.gan.replay import replay
from gengen.gan.wgan_gp import gradient_penalty, wasserstein
from gengen.metrics import classifier, modes
from gengen.stages import Stage
from gengen.training import run_dir
from gengen.types import Array, Batch, Key, Method, PyTree, TrainState
from gengen.viz.grid import grid

NAME = "mode_collapse"
CHUNK = 500  # samples at a time
CEILING = 0.9889  # high quality of perfect samples in the plane: 1 - e^{-4.5}


class Problem(NamedTuple):
    """What is learnt, and by what networks; the same for every way."""

    data: Callable[[], Dataset]
    modes: Callable[[np.ndarray], modes.Modes]
    networks: dict[str, Any]  # and batches: fields of `gan.Config`
    steps: int
    rate: float  # of Adam at first
    gamma: float  # of R1
    critic: int = 5  # moves of WGAN-GP's critic
    penalty: float = 1.0  # λ of WGAN-GP
    generators: int = 5  # of AdaGAN
    num: int = 2500  # samples that are judged


def stacked() -> Dataset:
    """20,000 images of three digits of mnist5k, one in each channel."""
    digits = np.asarray(load("mnist5k").arrays["image"])
    rows = np.random.default_rng(0).integers(len(digits), size=(3, 20_000))
    return Dataset("stacked digits", {"image": np.concatenate(digits[rows], axis=-1)})


def stacked_modes(x: np.ndarray) -> modes.Modes:
    """Of images in [-1, 1]."""
    return modes.stacked_digits(to_uint8(x), classifier.load("mnist-v1"))


PLANE: dict[str, Any] = dict(
    shape=(2,), latent_dim=2, hidden=(128, 128), batch_size=256, ema_decay=0.99
)
DEEPER = PLANE | dict(hidden=(128, 128, 128), ema_decay=0.999)
IMAGES: dict[str, Any] = dict(
    shape=(28, 28, 3),
    latent_dim=64,
    channels=(24, 48),
    hidden=(128,),
    batch_size=64,
    ema_decay=0.99,
)
PROBLEMS = {
    "ring8": Problem(lambda: in_memory("ring8"), modes.ring8, PLANE, 8000, 1e-3, 0.1),
    "grid25": Problem(lambda: in_memory("grid25"), modes.grid25, DEEPER, 16_000, 1e-3, 0.1),
    "stacked": Problem(
        stacked,
        stacked_modes,
        IMAGES,
        1200,
        5e-4,
        10.0,
        critic=2,
        penalty=10.0,
        generators=3,
        num=5000,
    ),
}


def in_memory(name: str) -> Dataset:
    """A data set that is no stream."""
    data = load(name)
    assert isinstance(data, Dataset)
    return data


# --- the ways ------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a problem is learnt."""

    stages: tuple[Stage, ...]
    sample: Callable[[dict[str, PyTree], Key, int], Array]


def played(game: Game, method: Method) -> Way:
    """One stage, and samples of its generator."""
    return Way((Stage("gan", method),), lambda v, key, num: sample(game, v["gan"], key, num))


def ways(p: Problem, steps: int) -> dict[str, Callable[[], Way]]:
    """All of them by name."""
    cfg = gan.Config(**p.networks)
    game, replace = gan.game(cfg), dataclasses.replace

    def adam(steps: int, b1: float = 0.5) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(p.rate, steps), b1=b1, b2=0.99)

    def with_parts(**parts: Any) -> Way:
        changed = replace(game, **parts)
        return played(changed, play(changed, adam(steps), adam(steps), ema_decay=cfg.ema_decay))

    def comparing_rows(layer: str) -> Way:
        settings = minibatch.Config(
            **p.networks, layer=layer, num_kernels=8, kernel_dim=4, group_size=32
        )
        return with_parts(discriminator=minibatch.game(settings).discriminator)

    def wasserstein_gp() -> Way:
        settings = {**p.networks, "batch_size": p.critic * cfg.batch_size}
        game = wgan_gp.game(wgan_gp.Config(**settings, n_critic=p.critic))
        game = replace(game, losses=wasserstein(), penalties=(gradient_penalty(p.penalty),))
        txs = adam(p.critic * steps, b1=0.0), adam(steps, b1=0.0)
        return played(game, play(game, *txs, n_critic=p.critic, ema_decay=cfg.ema_decay))

    def boosted() -> Way:
        several = adagan.Config(**p.networks, num_generators=p.generators)
        return Way(adagan.stages(several, adam(steps)), lambda *rest: adagan.sample(several, *rest))

    def through_a_lens() -> Way:
        settings = tempered.Config(**p.networks, fade_steps=steps)
        return played(tempered.game(settings), tempered.method(settings, adam(steps)))

    return {
        "GAN": with_parts,
        "minibatch discrimination": lambda: comparing_rows("discrimination"),
        "minibatch deviation": lambda: comparing_rows("deviation"),
        "experience replay": lambda: with_parts(transforms=(replay(16 * cfg.batch_size),)),
        "AdaGAN": boosted,
        "WGAN-GP": wasserstein_gp,
        "R1": lambda: with_parts(penalties=(r1(p.gamma),)),
        "tempered lens": through_a_lens,
    }


# --- the runs ------------------------------------------------------------------------------------


def train(method: Method, data: Dataset, steps: int, batch_size: int, key: Key) -> TrainState:
    """So many steps, on rows drawn anew for each.

    Perceptrons: in one program, as 16,000 steps of half a millisecond would be mostly dispatches;
    convolutions step by step, as their gradients are slow in a loop on CPU.
    """
    init_key, rows_key, key = jax.random.split(key, 3)
    state = method.init(init_key, to_batch(data.arrays, np.arange(batch_size, dtype=np.int32)))
    arrays = jax.device_put(dict(data.arrays))

    def step(state: TrainState, arrays: Batch) -> TrainState:
        each = jax.random.fold_in(rows_key, state.step)
        rows = jax.random.randint(each, (batch_size,), 0, len(data))
        return method.train_step(key, state, to_batch(arrays, rows))[0]

    if "image" in data.arrays:
        compiled = jax.jit(step, donate_argnums=0)
        for _ in range(steps):
            state = compiled(state, arrays)
        return state
    many = jax.jit(lambda s, a: jax.lax.fori_loop(0, steps, lambda _, s: step(s, a), s))
    return many(state, arrays)


def figures(problem: str, way: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train one way on one problem, count its modes; a part of the samples is kept."""
    start, p = time.monotonic(), PROBLEMS[problem]
    found, data = ways(p, steps)[way](), p.data()
    before: dict[str, TrainState] = {}
    batch = p.networks["batch_size"] * (p.critic if way == "WGAN-GP" else 1)
    for i, stage in enumerate(found.stages):
        own = stage.data(before, data)
        assert isinstance(own, Dataset)
        key = jax.random.fold_in(jax.random.key(seed), i)
        length = round(steps * stage.share)
        before[stage.name] = train(stage.method, own, length, batch, key)
    variables = {name: state.variables for name, state in before.items()}
    keys = jax.random.split(jax.random.key(1000 + seed), p.num // CHUNK)
    x = np.concatenate([np.asarray(found.sample(variables, key, CHUNK)) for key in keys])
    counted, kept = p.modes(x), x[:CHUNK]
    np.save(folder / f"{stem(problem, way, seed)}.npy", to_uint8(kept) if x.ndim == 4 else kept)
    return {
        "data": problem, "way": way, "seed": seed, "steps": steps, "found": counted.found,
        "total": counted.total, "high_quality": counted.high_quality, "kl": counted.kl,
        "samples": p.num, "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def stem(problem: str, way: str, seed: int) -> str:
    """Of the files of one run."""
    return f"{problem}-{way.replace(' ', '_')}-{seed}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the recipe."""

    data: tuple[str, ...] = ("ring8", "grid25", "stacked")
    """Which problems."""
    ways: tuple[str, ...] = ()
    """Which ways; none: all of them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run for each; of stacked digits the first alone."""
    steps: int = 0
    """Train steps; 0: those of the problem."""
    out: Path = Path("runs") / NAME
    """Folder of the runs."""
    results: bool = False
    """Write results/mode_collapse.json, the table of docs/GAN.md and its picture."""


def main(args: Settings) -> None:
    """Do the runs that are not done; show all."""
    start, rows = time.monotonic(), []
    args.out.mkdir(parents=True, exist_ok=True)
    for problem in args.data:
        for seed in args.seeds[: 1 if problem == "stacked" else None]:
            steps = args.steps or PROBLEMS[problem].steps
            for way in args.ways or ways(PROBLEMS[problem], steps):
                path = args.out / f"{stem(problem, way, seed)}.json"
                if not path.exists():
                    run_dir.write_json(path, figures(problem, way, seed, steps, args.out))
                rows.append(json.loads(path.read_text()))
                print(rows[-1], flush=True)
    lines = summary(rows)
    print("\n".join(markdown(lines)))
    draw(args.out / "samples.png", rows, args.out)
    if args.results:
        settings = {
            "model": "gan, and what it is mended with", "data": {"name": ", ".join(args.data)},
            "seed": 0, "machine": run_dir.machine(), "versions": run_dir.versions(),
        }  # fmt: skip
        seconds = sum(row["seconds"] for row in rows) + time.monotonic() - start
        write(NAME, settings, figures_of(lines), seconds, table=lines)
        shutil.copy(args.out / "samples.png", ROOT / "docs" / "images" / f"{NAME}.png")


# --- what is shown -------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds: a line for each way, a cell for each problem."""
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = {}
        for problem in dict.fromkeys(row["data"] for row in rows):
            own = [row for row in rows if (row["way"], row["data"]) == (way, problem)]
            found = [row["found"] for row in own]
            shares = [row["high_quality"] for row in own if row["high_quality"] is not None]
            kls = [row["kl"] for row in own if row["kl"] is not None]
            cells[problem] = {
                "found": float(np.mean(found)), "fewest": min(found), "total": own[0]["total"],
                "high_quality": float(np.mean(shares)) if shares else None,
                "kl": float(np.mean(kls)) if kls else None, "seeds": len(own),
                "seconds": float(np.mean([row["seconds"] for row in own])),
            }  # fmt: skip
        lines.append({"way": way, **cells})
    return lines


def figures_of(lines: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The summary as results have it: names and values."""
    metrics = {}
    for line in lines:
        for problem, cell in line.items():
            if problem == "way":
                continue
            name = f"{problem}, {line['way']}"
            metrics[f"{name}: modes of {cell['total']}"] = {"value": cell["found"]}
            if cell["high_quality"] is not None:
                metrics[f"{name}: high quality"] = {
                    "value": round(cell["high_quality"], 4), "floor": CEILING,
                }  # fmt: skip
            else:
                metrics[f"{name}: KL from uniform, nats"] = {"value": round(cell["kl"], 4)}
    return metrics


def markdown(lines: list[dict[str, Any]]) -> list[str]:
    """The table of docs/GAN.md."""
    problems = [k for k in lines[0] if k != "way"]
    head = ["way"]
    for problem in problems:
        plane = lines[0][problem]["high_quality"] is not None
        total = f"{lines[0][problem]['total']:,}"
        head += [f"{problem}: modes of {total}", "high quality" if plane else "KL, nats", "s"]
    rows = []
    for line in lines:
        row = [line["way"]]
        for problem in problems:
            cell = line[problem]
            few = f" (≥ {cell['fewest']})" if cell["fewest"] < cell["found"] else ""
            share = cell["high_quality"]
            row += [
                f"{cell['found']:.4g}{few}",
                f"{cell['kl']:.2f}" if share is None else f"{100 * share:.1f} %",
                f"{cell['seconds']:.0f}",
            ]
        rows.append(row)
    return table(head, rows)


def draw(path: Path, rows: list[dict[str, Any]], folder: Path) -> None:
    """A row for each problem, a column for each way: samples of the first seed."""
    from matplotlib.figure import Figure

    first = {(r["data"], r["way"]): r for r in reversed(rows)}
    problems, names = (list(dict.fromkeys(r[k] for r in rows)) for k in ("data", "way"))
    figure = Figure(
        figsize=(2.1 * len(names), 2.25 * len(problems) + 0.2), dpi=80, layout="constrained"
    )
    panels = figure.subplots(len(problems), len(names), squeeze=False)
    for i, problem in enumerate(problems):
        for axes, way in zip(panels[i], names, strict=True):
            row = first[problem, way]
            x = np.load(folder / f"{stem(problem, way, row['seed'])}.npy")
            if x.ndim == 4:
                axes.imshow(grid(x[:36].astype(np.float32) / 127.5 - 1, 6))
            else:
                half = {"ring8": 3.0, "grid25": 5.0}[problem]
                axes.scatter(*x.T, s=2, c="#26547c", linewidths=0)
                axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            axes.set(xticks=[], yticks=[], title=way if i == 0 else "")
            axes.set_xlabel(f"{row['found']} of {row['total']:,}")
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
