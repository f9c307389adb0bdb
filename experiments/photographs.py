"""Colour, pixel by pixel: PixelCNN of patches of two photographs, and what its channel order buys.

Patches of 16 × 16 of scikit-learn's photographs; those that are scored come from the right quarter
of each, of which no pixel was trained on. A pixel's red is told what lies above and to the left,
green the red of the same pixel too, blue both: each channel's bits say what that saves. The same on
patches with channels in the other order, blue first: the sum is of one image either way. Heads: 256
levels, each with a probability of its own, and a mixture of discretised logistics, which knows that
levels have neighbours.

Expected, as measured (results/photographs.json), seed 0, two CPU cores, 727 s:

    bits/dim, 256 levels, RGB                                             5.666
    bits/dim, 256 levels, RGB: R                                          5.508
    bits/dim, 256 levels, RGB: G                                          7.101
    bits/dim, 256 levels, RGB: B                                          4.391
    bits/dim, 256 levels, BGR                                              5.99
    bits/dim, 256 levels, BGR: B                                          5.585
    bits/dim, 256 levels, BGR: G                                          7.553
    bits/dim, 256 levels, BGR: R                                          4.831
    bits/dim, 5 logistics, RGB                                            4.503
    bits/dim, 5 logistics, RGB: R                                         4.785
    bits/dim, 5 logistics, RGB: G                                         4.181
    bits/dim, 5 logistics, RGB: B                                         4.542
    bits/dim, 5 logistics, BGR                                            4.057
    bits/dim, 5 logistics, BGR: B                                         4.415
    bits/dim, 5 logistics, BGR: G                                          4.15
    bits/dim, 5 logistics, BGR: R                                         3.606
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from recipe import Args, directory, finish, images, in_parts, rows_of, run, train

from gengen.autoregressive import pixelcnn, pixels
from gengen.data import Dataset, load

NAME = "photographs"
SIZE: dict[str, Any] = dict(
    shape=(16, 16, 3),
    hidden_channels=30,
    num_layers=4,
    first_kernel_size=5,
    head_channels=30,
    batch_size=32,
)
HEADS = {
    "256 levels": pixelcnn.Config(**SIZE, head="categorical"),
    "5 logistics": pixelcnn.Config(**SIZE, head="logistic"),
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 600
    """Train steps of each of the four."""


def main(args: Settings) -> None:
    """Train each, count bits a channel, complete half patches."""
    data, test = load(NAME), load(f"{NAME}:test")
    assert isinstance(data, Dataset) and isinstance(test, Dataset)
    out, x, metrics, rows = directory(args, NAME), images(test), {}, []
    for title, cfg in HEADS.items():
        for order in ("RGB", "BGR"):
            step = 1 if order == "RGB" else -1
            folder = out if not metrics else out / f"{title.replace(' ', '_')}_{order}"
            variables = train(pixelcnn, cfg, turned(data, step), folder, args).variables
            bits = in_parts(lambda x, c=cfg, v=variables: channel_bits(c, v, x), x[..., ::step])
            row = f"bits/dim, {title}"
            metrics[f"{row}, {order}"] = {"value": bits.mean()}
            for channel, each in zip(order, bits.mean(0), strict=True):
                metrics[f"{row}, {order}: {channel}"] = {"value": each}
            if step == 1:
                rows += completions(cfg, variables, x[:12], args.seed)
    rows_of(out / "completions.png", x[:12], *rows)
    finish(NAME, out, metrics, args, ["completions"])


def turned(data: Dataset, step: int) -> Dataset:
    """The data, their channels in the other order if `step` is -1."""
    image = np.ascontiguousarray(np.asarray(data.arrays["image"])[..., ::step])
    return Dataset(data.name, {**data.arrays, "image": image}, data.classes)


def channel_bits(cfg: pixelcnn.Config, variables: Any, x: np.ndarray) -> jax.Array:
    """-log₂ p of each channel's values given all before, a value: [B, C]."""
    net: Any = pixelcnn.network(cfg)
    eta = net.apply(variables, pixels.network_input(cfg, jax.numpy.asarray(x)))
    log_p = pixels.head_of(cfg).log_p(jax.numpy.asarray(x), eta)
    return -log_p.mean((1, 2)) / np.log(2)


def completions(cfg: pixelcnn.Config, variables: Any, x: np.ndarray, seed: int) -> list[np.ndarray]:
    """The upper half and two draws of the lower, and draws of the whole."""
    known = np.zeros(cfg.shape, bool)
    known[:8] = True
    keys = jax.random.split(jax.random.key(seed + 1), 3)
    ends = [pixelcnn.sample(cfg, variables, k, len(x), observation=x, mask=known) for k in keys[:2]]
    return [*map(np.asarray, ends), np.asarray(pixelcnn.sample(cfg, variables, keys[2], len(x)))]


if __name__ == "__main__":
    run(main, Settings, __doc__)
