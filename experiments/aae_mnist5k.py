"""Codes of held-out digits: adversarial autoencoders beside VAEs (the AAE paper's figures 2 and 4).

Above, p(z) = N(0, I); below, a mixture of ten 2-D Gaussians; draws of it are grey. The last column
knows the labels: a stretch of the Swiss roll, or a petal, for each class. Counted is the MMD²
between 500 codes and 500 draws of p(z), Gaussian kernel of width 1; "real" is that of draws with
draws. Codes of a VAE are the means of q(z|x), which spread less than draws of q(z|x) do: its MMD²
here is not that of its aggregate posterior. The AAE's rates were chosen so that it does not
collapse; the VAE has the default ones.

Expected, as measured (results/aae_mnist5k.json), seed 0, two CPU cores, 194 s:

    MMD² of codes and p(z), AAE, normal                                  0.0018  (real: -0.002)
    fid[mnist-v1] of samples, AAE, normal                                 418.3  (real: 12.59)
    MMD² of codes and p(z), VAE, normal                                  0.0123  (real: 0.0018)
    fid[mnist-v1] of samples, VAE, normal                                 459.9  (real: 12.59)
    MMD² of codes and p(z), AAE with labels, Swiss roll                  0.0077  (real: -0.001)
    fid[mnist-v1] of samples, AAE with labels, Swiss roll                 686.5  (real: 12.59)
    MMD² of codes and p(z), AAE, petals                                  0.0423  (real: -0)
    fid[mnist-v1] of samples, AAE, petals                                 477.1  (real: 12.59)
    MMD² of codes and p(z), VAE, petals                                  0.0677  (real: 0.0001)
    fid[mnist-v1] of samples, VAE, petals                                 593.7  (real: 12.59)
    MMD² of codes and p(z), AAE with labels, petals                     -0.0017  (real: -0)
    fid[mnist-v1] of samples, AAE with labels, petals                     367.4  (real: 12.59)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
from recipe import Args, digits, directory, draw, finish, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.autoencoder import adversarial
from gengen.divergences import mmd
from gengen.vae import vae
from gengen.viz.latent import COLOURS

NAME = "aae_mnist5k"
# Without labels an encoder that plays at the rate of the reconstruction collapses all latents into
# a point that runs from the discriminator.
SLOW_GAME: dict[str, Any] = dict(
    learning_rate=1e-3, discriminator_learning_rate=1e-4, encoder_learning_rate=1e-4
)
LABELLED: dict[str, Any] = dict(num_classes=10, encoder_learning_rate=3e-4)


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 2000
    """Train steps, of each model."""


class Panel(NamedTuple):
    """A trained model's codes, and draws of what they should be."""

    title: str
    codes: np.ndarray
    prior: np.ndarray


def models() -> dict[str, tuple[Any, Any]]:
    """Titles of the panels, row by row; module and Config."""
    flat: Any = dict(channels=(), hidden=(512, 512))
    return {
        "AAE, normal": (adversarial, adversarial.Config(**SLOW_GAME)),
        "VAE, normal": (vae, vae.Config(latent_shape=(2,), **flat)),
        "AAE with labels, Swiss roll": (
            adversarial, adversarial.Config(prior="swiss_roll", **LABELLED)
        ),
        "AAE, petals": (adversarial, adversarial.Config(prior="petals", **SLOW_GAME)),
        "VAE, petals": (vae, vae.Config(latent_shape=(2,), prior="petals", **flat)),
        "AAE with labels, petals": (
            adversarial, adversarial.Config(prior="petals", **LABELLED)
        ),
    }  # fmt: skip


def main(args: Settings) -> None:
    """Train all, draw the maps, measure."""
    train, test, x = digits()
    out = directory(args, NAME)
    keys = jax.random.split(jax.random.key(args.seed + 1), 2)
    panels, pictures, metrics = [], [], {}
    for number, (title, (module, cfg)) in enumerate(models().items()):
        folder = out / f"{number}" if number else out
        variables = fit(module, cfg, train, folder, args).variables
        codes = in_parts(partial(module.encode, cfg, variables), x)
        prior, other = (np.asarray(module.sample_prior(cfg, key, len(x))) for key in keys)
        panels.append(Panel(title, codes, prior))
        metrics[f"MMD² of codes and p(z), {title}"] = {
            "value": mmd(codes, prior, 1.0), "floor": mmd(other, prior, 1.0),
        }  # fmt: skip
        samples = draw(len(test), partial(module.sample, cfg, variables), args.seed)
        pictures.append(samples[:20])
        for score, found in scores(samples, train, test).items():
            metrics[f"{score} of samples, {title}"] = found
    maps(out / "codes.png", panels, test.arrays["label"])
    rows_of(out / "drawn.png", *pictures, scale=2)
    finish(NAME, out, metrics, args, ("codes",))


def maps(path: Path, panels: list[Panel], labels: np.ndarray) -> None:
    """Two rows of three maps: codes coloured by class over draws of p(z) in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), dpi=80, layout="constrained")
    for axes, panel in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.scatter(*panel.prior.T, s=7, c="#d8d4cc", linewidths=0)
        axes.scatter(*panel.codes.T, s=10, c=[COLOURS[k] for k in labels], linewidths=0)
        axes.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[])
        axes.set_title(panel.title, fontsize=11)
        for spine in axes.spines.values():
            spine.set(color="#dedad1")
    names = [figure.axes[0].scatter([], [], s=24, c=c, label=str(k)) for k, c in enumerate(COLOURS)]
    figure.legend(handles=names, loc="outside lower center", ncols=10, frameon=False)
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(128).save(path)  # a third of the bytes


if __name__ == "__main__":
    run(main, Settings, __doc__)
