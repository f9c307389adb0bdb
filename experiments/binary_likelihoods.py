"""Binary images in nats: FVSBN, NADE, MADE, PixelCNN, PixelRNN, and a VAE's bound beside them.

The protocol, so that others can compare:

- training images are binarised dynamically: each pixel is 1 with probability v / 255, v its grey
  value in 0..255, drawn anew whenever the image is seen;
- test images are binarised once, the same for all models and seeds and in any framework: pixel = 1
  where `numpy.random.default_rng(0).random((N, 28, 28, 1)) < v / 255`, v in the data's order;
- a tenth of the training images is held out to choose the step by, never trained on; a run ends
  after its steps, or when so many looks bring no lower loss; the best moving average is scored;
- figures are -ln p of all test images, exact, nats per image; of the VAE the bounds: its ELBO, and
  the importance-weighted one of the first 500 images with 500 z each;
- seeds are of the parameters, the order of the data, and all noise; the standard deviation is over
  seeds (n - 1).

A run takes minutes on two cores, so these are not the widths and epochs of the papers: what is
compared is what a laptop gets. A run that was done before, in the same directory, is not repeated.

Expected, as measured (results/binary_mnist5k.json), seed 0, two CPU cores, 3392 s:

    FVSBN: nats, mean                                                     102.1
    FVSBN: nats, std                                                     0.0695
    FVSBN: parameters                                                 6.154e+05
    FVSBN: seconds                                                        28.23
    NADE: nats, mean                                                      96.29
    NADE: nats, std                                                      0.0532
    NADE: parameters                                                  3.146e+05
    NADE: seconds                                                         114.5
    MADE: nats, mean                                                      95.98
    MADE: nats, std                                                       0.126
    MADE: parameters                                                    1.4e+06
    MADE: seconds                                                         55.53
    PixelCNN, gated: nats, mean                                           94.56
    PixelCNN, gated: nats, std                                           0.4203
    PixelCNN, gated: parameters                                       2.829e+04
    PixelCNN, gated: seconds                                              252.5
    PixelRNN, Row LSTM: nats, mean                                        93.89
    PixelRNN, Row LSTM: nats, std                                        0.6704
    PixelRNN, Row LSTM: parameters                                    2.528e+04
    PixelRNN, Row LSTM: seconds                                           375.5
    PixelRNN, Diagonal BiLSTM: nats, mean                                 94.56
    PixelRNN, Diagonal BiLSTM: nats, std                                 0.4753
    PixelRNN, Diagonal BiLSTM: parameters                             1.981e+04
    PixelRNN, Diagonal BiLSTM: seconds                                    291.5
    VAE: nats, at most, by its ELBO, mean                                 104.6
    VAE: nats, at most, by its ELBO, std                                 0.3245
    VAE: nats, at most, by 500 z, first 500, mean                         97.87
    VAE: nats, at most, by 500 z, first 500, std                          0.408
    VAE: parameters                                                   6.155e+05
    VAE: seconds                                                          135.4

Expected, as measured (results/binary_fashion.json), seed 0, two CPU cores, 1424 s:

    FVSBN: nats, mean                                                     250.7
    FVSBN: parameters                                                 6.154e+05
    FVSBN: seconds                                                         24.1
    NADE: nats, mean                                                      237.1
    NADE: parameters                                                  3.146e+05
    NADE: seconds                                                         159.4
    MADE: nats, mean                                                      240.7
    MADE: parameters                                                    1.4e+06
    MADE: seconds                                                          63.5
    PixelCNN, gated: nats, mean                                           245.8
    PixelCNN, gated: parameters                                       2.829e+04
    PixelCNN, gated: seconds                                              214.6
    PixelRNN, Row LSTM: nats, mean                                        243.9
    PixelRNN, Row LSTM: parameters                                    2.528e+04
    PixelRNN, Row LSTM: seconds                                           319.1
    PixelRNN, Diagonal BiLSTM: nats, mean                                   245
    PixelRNN, Diagonal BiLSTM: parameters                             1.981e+04
    PixelRNN, Diagonal BiLSTM: seconds                                    379.7
    VAE: nats, at most, by its ELBO, mean                                 244.1
    VAE: nats, at most, by 500 z, first 500, mean                         240.7
    VAE: parameters                                                   6.155e+05
    VAE: seconds                                                          129.6
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from recipe import Args, finish, in_parts, rows_of, run
from vae_fashion import binarised

from gengen import loop
from gengen.autoregressive import fvsbn, made, nade, pixelcnn, pixelrnn
from gengen.data import Dataset, load, to_batch
from gengen.metrics.likelihood import importance_weighted
from gengen.runs.config import describe as settings
from gengen.training import run_dir
from gengen.training.validation import Validation, split
from gengen.vae import vae

FEW, CODES = 500, 500  # of the importance-weighted bound
LOOKS = 20  # at the validation images


class Model(NamedTuple):
    """What is trained, and how long.

    Attributes:
        module: of the model.
        cfg: its Config.
        steps: at most; rates and steps were chosen by validation images of mnist5k.
    """

    module: ModuleType
    cfg: Any
    steps: int


MODELS = {
    "FVSBN": Model(fvsbn, fvsbn.Config(learning_rate=1e-2), 3000),
    "NADE": Model(nade, nade.Config(hidden_dim=200, learning_rate=1e-2), 1000),
    "MADE": Model(made, made.Config(num_masks=4, learning_rate=3e-3), 3000),
    "PixelCNN, gated": Model(
        pixelcnn,
        pixelcnn.Config(hidden_channels=16, num_layers=5, head_channels=32, learning_rate=3e-3),
        600,
    ),
    "PixelRNN, Row LSTM": Model(
        pixelrnn, pixelrnn.Config(layer_type="row", num_layers=3, learning_rate=5e-3), 500
    ),
    "PixelRNN, Diagonal BiLSTM": Model(
        pixelrnn, pixelrnn.Config(num_layers=2, learning_rate=5e-3), 300
    ),
    "VAE": Model(
        vae, vae.Config(channels=(16, 32, 64), latent_shape=(32,), learning_rate=2e-3), 2000
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    seeds: int = 3
    """How many, from `seed` on."""
    steps: int = 0
    """Of each model; 0: as in the table of this file."""
    times: float = 1.0
    """So many times the steps of that table."""
    patience: int = 4
    """Looks without a lower loss."""
    images: int = 10_000
    """Test images, at most, the first ones."""


def main(args: Settings) -> None:
    """Every model, every seed, and the table."""
    name = f"binary_{args.data}"
    out = args.out or Path("runs") / name
    train, test = load(args.data), load(f"{args.data}:test")
    x = binarised(test)[: args.images]
    metrics: dict[str, dict[str, float]] = {}
    for title, model in MODELS.items():
        seeds = range(args.seed, args.seed + args.seeds)
        found = [once(title, model, train, x, seed, out, args) for seed in seeds]
        for row in found[0]:
            values = np.array([f[row] for f in found])
            if row in ("parameters", "seconds"):
                metrics[f"{title}: {row}"] = {"value": values.mean()}
                continue
            metrics[f"{title}: {row}, mean"] = {"value": values.mean()}
            if len(found) > 1:
                metrics[f"{title}: {row}, std"] = {"value": values.std(ddof=1)}
    first = out / folder("FVSBN", args.seed)
    pictures(first / "samples.png", out, args)
    finish(name, first, metrics, args, ["samples"])


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/AUTOREGRESSIVE.md: a row for each likelihood, a set's figures beside it.

    Args:
        results: the content of results/NAME.json, by NAME, which is binary_DATA.
    """
    sets = [name.removeprefix("binary_") for name in results]
    head = ["", "parameters"] + [f"{data}: {c}" for data in sets for c in ("nats", "seconds")]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    metrics = [result["metrics"] for result in results.values()]
    for name in (k.removesuffix(", mean") for k in metrics[0] if k.endswith(", mean")):
        title, what = name.split(": ")
        row = [
            title + what.removeprefix("nats").replace(", at most, by", ", a bound:"),
            f"{metrics[0][f'{title}: parameters']['value']:,.0f}",
        ]
        for found in metrics:
            std = found.get(f"{name}, std")
            row.append(
                f"{found[f'{name}, mean']['value']:.1f}" + (f" ± {std['value']:.1f}" if std else "")
            )
            row.append(f"{found[f'{title}: seconds']['value']:.0f}")
        rows.append(row)
    return [f"| {' | '.join(row)} |" for row in rows]


def folder(title: str, seed: int) -> str:
    """Where a run goes, below the recipe's directory."""
    return f"{title.lower().replace(', ', '_').replace(' ', '_')}_{seed}"


def once(
    title: str, model: Model, train: Dataset, x: np.ndarray, seed: int, out: Path, args: Settings
) -> dict[str, float]:
    """One run's figures; from its directory, if it was done before."""
    place = out / folder(title, seed)
    kept = place / "figures.json"
    if kept.exists():
        return json.loads(kept.read_text())
    module, cfg, steps = model
    steps = args.steps or round(steps * args.times)
    begin = time.monotonic()
    seen, rest = split(train, 0.1)
    state = loop.run(
        module.method(cfg), seen, out=place, steps=steps, batch_size=cfg.batch_size, seed=seed,
        settings=settings(module, cfg),
        validation=Validation(held_out(module, cfg, rest), max(1, steps // LOOKS), args.patience),
    )  # fmt: skip
    seconds, key = time.monotonic() - begin, jax.random.key(seed + 1)
    scorers: dict[str, Callable[[], Any]] = {
        "nats": lambda: -scores(module, cfg, state.variables, x, key).mean(),
    }
    if module is vae:
        weights = in_parts(
            lambda x: vae.log_weights(cfg, state.variables, x, key, CODES).T, x[:FEW]
        )
        scorers = {
            "nats, at most, by its ELBO": scorers["nats"],
            f"nats, at most, by {CODES} z, first {FEW}": lambda: (
                -importance_weighted(weights).value
            ),
        }
    found = {row: float(score()) for row, score in scorers.items()}
    found |= {"parameters": run_dir.read(place)["parameters"], "seconds": round(seconds, 1)}
    drawn = {"mean": False} if module is vae else {}
    np.save(place / "drawn.npy", module.sample(cfg, state.variables, key, 16, **drawn))
    kept.write_text(json.dumps(found, indent=2))
    print(title, "seed", seed, found, flush=True)
    return found


def scores(module: ModuleType, cfg: Any, variables: Any, x: np.ndarray, key: Any) -> np.ndarray:
    """Ln p of binary images, or the VAE's ELBO, nats. Binarising ±1 changes nothing."""
    if module is vae:
        return in_parts(lambda x: vae.elbo(cfg, variables, x, key), x)
    return in_parts(lambda x: module.log_prob(cfg, variables, x), x)


def held_out(module: ModuleType, cfg: Any, rest: Dataset) -> Callable[[Any, Any], float]:
    """The validation loss: of images that are binarised the same way each time."""
    rows = np.arange(min(len(rest), 1000), dtype=np.int32)
    grey = np.asarray(to_batch(rest.arrays, rows)["image"])
    x = np.where(np.random.default_rng(1).random(grey.shape) < (grey + 1) / 2, 1, -1)
    x = x.astype(np.float32)
    return lambda variables, key: float(-scores(module, cfg, variables, x, key).mean())


def pictures(path: Path, out: Path, args: Settings) -> None:
    """A row of 16 draws of each model."""
    rows_of(path, *(np.load(out / folder(t, args.seed) / "drawn.npy") for t in MODELS), scale=2)


if __name__ == "__main__":
    run(main, Settings, __doc__)
