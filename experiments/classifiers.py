"""The two classifiers that gengen ships for metrics, mnist-v1 and fashion-v1: minutes on a CPU.

Trained by gengen's own engine on the train split; the test split is looked at once, at the end. A
file made on another machine differs in its last bits, and so in its hash: a new one is pinned under
a new name, for scores of two classifiers cannot be compared.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from gengen import rng
from gengen.compile import compile_step, use_compilation_cache
from gengen.data import Dataset, batch_indices, load, to_batch
from gengen.metrics import classifier
from gengen.metrics.classifier import Network
from gengen.steps import descent, method, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, TrainState


@dataclass(frozen=True)
class Recipe:
    """How one of them is trained."""

    data: str  # what `gengen.data.load` takes, without the split
    steps: int  # train steps
    batch_size: int = 100  # examples a step
    learning_rate: float = 2e-3  # of AdamW, on a cosine to 0
    weight_decay: float = 1e-2  # of AdamW, a step per unit of learning rate
    dropout: float = 0.3  # share of the features left out
    ema_decay: float = 0.998  # a step
    shift: float = 2.0  # largest shift, pixels
    turn: float = 0.0  # largest rotation, radians
    stretch: float = 0.0  # largest change of each side's size, relative
    flip: bool = False  # left and right, every second time


RECIPES = {
    "mnist-v1": Recipe("mnist5k", steps=2000, turn=0.2, stretch=0.12),
    "fashion-v1": Recipe("fashion", steps=6000, shift=1.5, stretch=0.06, flip=True),
}


@dataclass(frozen=True)
class Args:
    """Settings."""

    name: str = "mnist-v1"
    """Which: mnist-v1 or fashion-v1."""
    out: Path = Path("runs")
    """Folder for NAME.safetensors."""
    seed: int = 0
    """Of everything."""
    steps: int | None = None
    """Train steps. (default: the recipe's)"""


def augment(recipe: Recipe, key: Key, x: Array) -> Array:
    """Each image [B, H, W, C] shifted, turned, stretched and perhaps mirrored, by chance."""
    height, width = x.shape[1:3]
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")) - 0.0

    def one(key: Key, image: Array) -> Array:
        keys = jax.random.split(key, 4)
        angle = recipe.turn * jax.random.uniform(keys[0], (), minval=-1)
        size = 1 + recipe.stretch * jax.random.uniform(keys[1], (2,), minval=-1)
        shift = recipe.shift * jax.random.uniform(keys[2], (2,), minval=-1)
        mirror = jnp.where(recipe.flip & jax.random.bernoulli(keys[3]), -1.0, 1.0)
        turned = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        matrix = turned @ jnp.diag(size * jnp.array([1.0, mirror]))
        where = jnp.einsum("ij,jhw->ihw", matrix, grid - centre[:, None, None])
        where = where + (centre + shift)[:, None, None]

        def resampled(plane: Array) -> Array:
            return jax.scipy.ndimage.map_coordinates(plane, list(where), order=1, cval=-1.0)

        return jax.vmap(resampled, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(one)(rng.example_keys(key, x.shape[0]), x)


def train_method(recipe: Recipe, steps: int, network: Network) -> Method:
    """Cross-entropy in nats by AdamW on a cosine, with dropout of features and an average."""
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, steps // 20, steps)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=recipe.weight_decay)
    )

    def init_variables(key: Key, batch: Batch) -> dict[str, PyTree]:
        return dict(network.init(key, batch["image"][:1]))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        augment_key, drop_key = jax.random.split(key)
        x = augment(recipe, augment_key, batch["image"])
        features = jnp.asarray(network.apply({"params": params}, x, method="features"))
        kept = rng.uniform(drop_key, features.shape) >= recipe.dropout
        features = features * kept / (1 - recipe.dropout)
        head = nn.Dense(network.classes)
        scores = jnp.asarray(head.apply({"params": params["head"]}, features))
        right = jnp.mean(scores.argmax(-1) == batch["label"])
        nats = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
        return nats.mean(), ({"accuracy": right}, mutables)

    return method(init_variables, with_ema(descent(loss, tx), recipe.ema_decay))


def train(recipe: Recipe, network: Network, data: Dataset, steps: int, seed: int) -> PyTree:
    """The averaged parameters after `steps`."""
    model = train_method(recipe, steps, network)

    def step(key: Key, state: TrainState, rows: Array, arrays: Batch):
        return model.train_step(key, state, to_batch(arrays, rows))

    compiled = compile_step(step)
    rows = lambda t: batch_indices(len(data), recipe.batch_size, seed, t)  # noqa: E731
    state = model.init(jax.random.key(seed), to_batch(data.arrays, rows(0)))
    arrays, begin = compiled.put(data.arrays), time.monotonic()
    for t in range(steps):
        state, metrics = compiled(jax.random.key(seed + 1), state, rows(t), arrays)
        if (t + 1) % max(1, steps // 10) == 0:
            shown = ", ".join(f"{k} {float(v):.4f}" for k, v in metrics.items())
            print(f"step {t + 1}: {shown}; {time.monotonic() - begin:.0f} s", flush=True)
    return state.ema


def main(args: Args) -> None:
    """Train, write, and only then look at the test split."""
    if args.name not in RECIPES:
        raise InputError(f"name = {args.name!r}, but it is one of {sorted(RECIPES)}")
    use_compilation_cache()
    recipe, network = RECIPES[args.name], Network()
    steps = args.steps or recipe.steps
    data, test = load(recipe.data), load(f"{recipe.data}:test")
    params = jax.device_get(train(recipe, network, data, steps, args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}.safetensors"
    facts = {
        "name": args.name, "data": data.name, "fingerprint": data.fingerprint,
        "shape": data.shape, "class_names": data.classes, "seed": args.seed, "steps": steps,
    }  # fmt: skip
    classifier.save(path, network, params, facts)
    right = classifier.read(path).probabilities(test.arrays["image"]).argmax(1)
    facts |= {
        "test_accuracy": round(float(np.mean(right == test.arrays["label"])), 4),
        "test_examples": len(test),
        "test_fingerprint": test.fingerprint,
    }
    digest = classifier.save(path, network, params, facts)
    print(json.dumps({"file": str(path), "bytes": path.stat().st_size, "sha256": digest} | facts))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"classifiers: {error}")
