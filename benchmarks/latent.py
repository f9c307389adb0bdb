"""gengen's VAE beside Pythae's: seconds an epoch in paired turns, and the ELBO that comes of them.

Both train 784 - 512 - 16 codes - 512 - 784 (ReLU, Pythae's own default networks) with the Bernoulli
likelihood and Adam, on the same 4,500 digits of mnist5k, binarised once with a seed, each through
its library's trainer, with what that does by default: Pythae reads examples by a DataLoader and
keeps a copy of its best model; gengen gathers a batch on the device, logs an epoch's losses and
averages its weights, and the averages are what is scored. A third way is Pythae's model in the
plainest PyTorch loop over slices of one tensor. PyTorch is run with two threads, and with one: it
does better so where anything else runs. Each starts from its own library's initial values.

The ways of a turn, which has a seed of its own, run one after the other, in turns the other way
round, each in a process of its own. The first epoch, which compiles, does not count; of the others
the median and the fastest are given. The bound of the 500 test digits is computed for all by one
function, in NumPy float64, from the weights: the KL in closed form, the rest by the same draws. The
targets: as many epochs a second or more; a bound that is not lower by more than 0.5 nats.

    pip install --no-deps pythae; pip install pydantic cloudpickle imageio torch
    python benchmarks/latent.py --out results/benchmarks/latent.json
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from gengen import loop
from gengen.data import Dataset, load
from gengen.training import run_dir
from gengen.vae import vae

HIDDEN, CODES = 512, 16
DRAWS = 50  # of z for an example of the test set


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    epochs: int = 20
    """Of each run."""
    batch_size: int = 100
    """Examples a step."""
    rate: float = 1e-3
    """Of Adam."""
    turns: int = 3
    """Paired runs, each with a seed of its own."""
    out: Path | None = None
    """JSON file for the result."""


class Layer(NamedTuple):
    """An affine map in float64."""

    kernel: np.ndarray  # [in, out]
    bias: np.ndarray  # [out]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.kernel + self.bias


class Weights(NamedTuple):
    """A trained VAE in NumPy."""

    low: float  # what the encoder is given of a black pixel; 1 of a white one
    hidden: Layer
    mean: Layer
    log_std: Callable[[np.ndarray], np.ndarray]  # of the hidden units
    back: Layer
    logits: Layer


class Run(NamedTuple):
    """What a training gave."""

    median: float  # seconds of an epoch
    fastest: float
    elbo: float  # nats


def binarised() -> tuple[np.ndarray, np.ndarray]:
    """Training and test digits, each pixel drawn once: uint8 0 or 1, [N, 28, 28, 1]."""
    rng = np.random.default_rng(0)
    parts = [load(f"mnist5k:{part}").arrays["image"] for part in ("train", "test")]
    train, test = ((rng.random(x.shape) < x / 255).astype(np.uint8) for x in parts)
    return train, test


def elbo(w: Weights, b: np.ndarray) -> float:
    """The mean bound of binary images b [N, 28, 28, 1], in nats."""
    x = b.reshape(len(b), -1).astype(np.float64)
    h = np.maximum(w.hidden(x * (1 - w.low) + w.low), 0)
    mean, log_std = w.mean(h), w.log_std(h)
    kl = 0.5 * np.sum(mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std, axis=1)
    rng, log_p = np.random.default_rng(1), np.zeros(len(x))
    for _ in range(DRAWS):
        z = mean + np.exp(log_std) * rng.normal(size=mean.shape)
        eta = w.logits(np.maximum(w.back(z), 0))
        log_p += np.sum(x * eta - np.logaddexp(0, eta), axis=1) / DRAWS
    return float(np.mean(log_p - kl))


# --- the ways ------------------------------------------------------------------------------------


def ours(train: np.ndarray, seed: int, args: Args) -> tuple[list[float], Weights]:
    """Through `loop.run`."""
    cfg = vae.Config(
        channels=(), hidden=(HIDDEN,), latent_shape=(CODES,), likelihood="bernoulli",
        binarise="threshold",
        batch_size=args.batch_size, learning_rate=args.rate,
    )  # fmt: skip
    data = Dataset("binary digits", {"image": 255 * train})
    steps = len(data) // args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        state = loop.run(
            vae.method(cfg), data, out=out, steps=args.epochs * steps, batch_size=args.batch_size,
            seed=seed, log_every=steps, save_every=10**9,
        )  # fmt: skip
        rows = run_dir.read_metrics(out / "metrics.jsonl")
    ends = [row["seconds"] for row in rows if row["step"] % steps == 0 and row["step"]]
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), state.variables["params"])

    def layer(net: str, i: int) -> Layer:
        return Layer(**p[net]["MLP_0"][f"Dense_{i}"])

    both = layer("encoder", 1)
    mean, raw = (
        Layer(both.kernel[:, part], both.bias[part]) for part in (slice(CODES), slice(CODES, None))
    )

    def log_std(h: np.ndarray) -> np.ndarray:
        return vae.MAX_LOG_STD * np.tanh(raw(h) / vae.MAX_LOG_STD)

    weights = Weights(
        -1.0, layer("encoder", 0), mean, log_std, layer("decoder", 0), layer("decoder", 1)
    )
    return np.diff(ends).tolist(), weights


def of_pythae(model: Any) -> Weights:
    """Its weights."""

    def layer(linear: Any) -> Layer:
        return Layer(
            *(a.detach().numpy().astype(np.float64) for a in (linear.weight.T, linear.bias))
        )

    log_var = layer(model.encoder.log_var)
    return Weights(
        0.0, layer(model.encoder.layers[0][0]), layer(model.encoder.embedding),
        lambda h: 0.5 * log_var(h),
        layer(model.decoder.layers[0][0]), layer(model.decoder.layers[1][0]),
    )  # fmt: skip


def pythae_model(seed: int) -> Any:
    """With its own default networks."""
    import torch  # pyright: ignore[reportMissingImports]
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    return VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=CODES, reconstruction_loss="bce"))


def pythae(train: np.ndarray, seed: int, args: Args) -> tuple[list[float], Weights]:
    """Through Pythae's trainer."""
    import torch  # pyright: ignore[reportMissingImports]
    from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
    from pythae.trainers import (  # pyright: ignore[reportMissingImports]
        BaseTrainer,
        BaseTrainerConfig,
    )
    from pythae.trainers.training_callbacks import (  # pyright: ignore[reportMissingImports]
        TrainingCallback,
    )

    class Clock(TrainingCallback):
        ends: list[float] = []

        def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    clock, x = Clock(), torch.tensor(train).permute(0, 3, 1, 2)
    clock.ends = []
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=args.epochs, learning_rate=args.rate, seed=seed,
            per_device_train_batch_size=args.batch_size, optimizer_cls="Adam", no_cuda=True,
        )  # fmt: skip
        data = BaseDataset(x, torch.zeros(len(x)))
        trainer = BaseTrainer(pythae_model(seed), data, training_config=config, callbacks=[clock])
        trainer.train()
    return np.diff(clock.ends).tolist(), of_pythae(trainer.model)


def plain_torch(train: np.ndarray, seed: int, args: Args) -> tuple[list[float], Weights]:
    """Pythae's model in a loop that does nothing else."""
    import torch  # pyright: ignore[reportMissingImports]

    model = pythae_model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate)
    x = torch.tensor(train, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    times = []
    for _ in range(args.epochs):
        begin, order = time.perf_counter(), torch.randperm(len(x))
        for i in range(0, len(x), args.batch_size):
            loss = model({"data": x[order[i : i + args.batch_size]]}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        times.append(time.perf_counter() - begin)
    return times[1:], of_pythae(model)


@contextlib.contextmanager
def quietly():
    """Without the trainers' lines."""
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


class Way(NamedTuple):
    """How a VAE is trained."""

    train: Callable[[np.ndarray, int, Args], tuple[list[float], Weights]]
    threads: int | None = None  # of PyTorch


WAYS = {
    "gengen": Way(ours),
    "Pythae, 2 threads": Way(pythae, 2),
    "Pythae, 1 thread": Way(pythae, 1),
    "Pythae's model, plain PyTorch loop, 2 threads": Way(plain_torch, 2),
    "Pythae's model, plain PyTorch loop, 1 thread": Way(plain_torch, 1),
}


def one(name: str, seed: int, args: Args) -> Run:
    """One run, in this process."""
    (train, test), way = binarised(), WAYS[name]
    if way.threads:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(way.threads)
    with quietly():
        seconds, weights = way.train(train, seed, args)
    return Run(float(np.median(seconds)), min(seconds), elbo(weights, test))


def measure(args: Args) -> dict[str, Any]:
    """Seconds an epoch and the bound of each way, and the ratios to gengen's, by turns."""
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    for turn in range(args.turns):
        for name in list(WAYS)[:: -1 if turn % 2 else 1]:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                run = process.submit(one, name, turn, args).result()
            runs[name].append(run)
            line = f"{run.median:.3f} s an epoch (fastest {run.fastest:.3f}), {run.elbo:.2f} nats"
            print(f"{turn} {name:45} {line}", flush=True)
    columns = {name: np.array(found).T for name, found in runs.items()}
    found: dict[str, Any] = {}
    for i, what in enumerate(("median", "fastest")):
        ratios = {k: v[i] / columns["gengen"][i] for k, v in columns.items()}
        found[f"seconds of the {what} epoch, median"] = {
            k: round(float(np.median(v[i])), 4) for k, v in columns.items()
        }
        found[f"{what} epoch, times gengen's, median"] = {
            k: round(float(np.median(v)), 2) for k, v in ratios.items()
        }
        found[f"{what} epoch, times gengen's, all"] = {
            k: v.round(2).tolist() for k, v in ratios.items()
        }
    found["test ELBO, nats, mean"] = {k: round(float(v[2].mean()), 2) for k, v in columns.items()}
    found["test ELBO, nats, all"] = {k: v[2].round(2).tolist() for k, v in columns.items()}
    return found


def main(args: Args) -> None:
    found = measure(args)
    for name, value in found.items():
        print(f"{name}: {value}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in asdict(args).items() if k != "out"}
        versions = run_dir.versions() | {k: version(k) for k in ("pythae", "torch")}
        about = {"versions": versions, "machine": run_dir.machine(), "args": settings}
        run_dir.write_json(args.out, {"benchmark": "latent", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
