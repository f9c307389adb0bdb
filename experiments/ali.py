"""ALI on digits: reconstructions and interpolations beside those of a plain autoencoder.

The autoencoder has ALI's generator, the mean of ALI's encoder, and as many train steps; it
minimises the squared error of a pixel, which ALI never sees. Settings were chosen on training
digits. "class" is the share of the 500 held-out digits whose reconstruction has the class of the
digit, both by the classifier mnist-v1. `reconstructions.png`: digits, ALI's reconstructions, the
autoencoder's; `interpolations.png`: ALI's images of the latents between those of two held-out
digits, a row a pair.

    python experiments/ali.py --results
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from recipe import (
    ChoiceArgs,
    digits,
    directory,
    draw,
    error,
    finish,
    in_parts,
    rows_of,
    run,
    scores,
)
from recipe import train as fit

from gengen.data import to_uint8
from gengen.distributions import total
from gengen.gan import ali
from gengen.gan.game import GENERATOR
from gengen.metrics import classifier
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Method, check_shape
from gengen.viz import latent
from gengen.viz.grid import save_png

NAME = "ali_mnist5k"
SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Settings(ChoiceArgs):
    """Settings of the recipe."""

    steps: int = 2500
    """Train steps of each model."""


def main(args: Settings) -> None:
    """Train both, reconstruct, interpolate, measure, draw."""
    train, test, x = digits(args.validation)
    cfg = ali.Config(
        latent_dim=16, discriminator_hidden=(512, 512), feature_dim=256, learning_rate=1e-3,
        ema_decay=0.99,
    )  # fmt: skip
    out = directory(args, NAME)
    judge = classifier.load("mnist-v1")
    metrics, rows, known = {}, [x[:SHOWN]], judge.probabilities(to_uint8(x)).argmax(1)
    runs = (("ALI", out, None), ("autoencoder", out / "autoencoder", autoencoder(cfg)))
    for name, path, model in runs:
        variables = fit(ali, cfg, train, path, args, model).variables
        got = in_parts(partial(ali.reconstruct, cfg, variables), x)
        rows.append(got[:SHOWN])
        metrics[f"class of reconstruction = class of digit, {name}"] = {
            "value": classifier.consistency(judge.probabilities(to_uint8(got)), known)
        }
        metrics[f"MSE of a held-out pixel, {name}"] = error(x, got)
        for score, found in scores(to_uint8(got), train, test).items():
            metrics[f"{score} of the reconstructions, {name}"] = found
        if name == "ALI":
            made = draw(len(test), partial(ali.sample, cfg, variables), args.seed)
            for score, found in scores(made, train, test).items():
                metrics[f"{score} of samples, {name}"] = found
            z = np.asarray(ali.encode(cfg, variables, x[:SHOWN]))
            decode = partial(ali.decode, cfg, variables)
            ways = latent.interpolations(decode, z[::2], z[1::2], SHOWN, spherical=True)
            save_png(out / "interpolations.png", ways, scale=2)
    rows_of(out / "reconstructions.png", *rows, scale=2)
    finish(NAME, out, metrics, args, ("reconstructions", "interpolations"))


def autoencoder(cfg: ali.Config) -> Method:
    """Train ALI's generator and encoder's mean by the squared error; its D is not trained."""
    generator, encoder, _ = ali.players(cfg)
    initial = ali.method(cfg).init

    def init_variables(key: Any, batch: Any) -> dict[str, Any]:
        variables = dict(initial(key, batch).variables)
        names = (GENERATOR, ali.ENCODER)
        return {**variables, "params": {k: variables["params"][k] for k in names}}

    def loss(params: Any, mutables: Any, key: Any, batch: Any):
        x = check_shape(batch, cfg.shape)
        q: Any = encoder.apply({"params": params[ali.ENCODER]}, x)
        own = {"params": params[GENERATOR], **{k: v[GENERATOR] for k, v in mutables.items()}}
        out, changed = generator.apply(own, q.mean, train=True, mutable=[*mutables])
        mutables = {k: {GENERATOR: v} for k, v in changed.items()}
        return total((x - jnp.asarray(out)) ** 2).mean(), ({}, mutables)

    step = with_ema(descent(loss, optax.adam(1e-3)), cfg.ema_decay)
    return build(init_variables, step)


if __name__ == "__main__":
    run(main, Settings, __doc__)
