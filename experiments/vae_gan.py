"""VAE-GAN on digits beside the VAE of equal size and training: are the samples sharper?

Both have the same encoder, decoder, likelihood and train steps; VAE-GAN has a discriminator
besides. Sharpness is the variance of the Laplacian (each pixel times 4 minus its four neighbours,
pixels in [0, 1]) of an image, the mean over images (real: of the held-out digits). Samples are
means of p(x|z), z of the prior. The pictures: held-out digits over samples of each model, and over
the reconstructions of each.

    python experiments/vae_gan.py --results
"""

from __future__ import annotations

from functools import partial

import numpy as np
from recipe import (
    ChoiceArgs,
    digits,
    directory,
    draw,
    error,
    finish,
    in_parts,
    run,
    scores,
    titled,
)
from recipe import train as fit

from gengen.gan import vae_gan
from gengen.vae import vae

NAME = "vae_gan_mnist5k"
SHOWN = 16


def main(args: ChoiceArgs) -> None:
    """Train both, sample, reconstruct, measure, draw."""
    train, test, x = digits(args.validation)
    out, channels = directory(args, NAME), (16, 32, 64)
    metrics: dict[str, dict[str, float]] = {}
    samples, rows = [], [x[:SHOWN]]
    for name, module, cfg, path in (
        ("VAE-GAN", vae_gan, vae_gan.Config(channels=channels), out),
        ("VAE", vae, vae.Config(channels=channels), out / "vae"),
    ):
        variables = fit(module, cfg, train, path, args).variables
        made = draw(len(test), partial(module.sample, cfg, variables), args.seed)
        back = in_parts(partial(module.reconstruct, cfg, variables), x)
        metrics[f"sharpness of samples, {name}"] = {
            "value": sharpness(made), "floor": sharpness(test.arrays["image"]),
        }  # fmt: skip
        for score, found in scores(made, train, test).items():
            metrics[f"{score} of samples, {name}"] = found
        metrics[f"MSE of a held-out pixel, {name}"] = error(x, back)
        samples.append((name, 2.0 * made[:SHOWN] / 255 - 1))
        samples.append(("", 2.0 * made[SHOWN : 2 * SHOWN] / 255 - 1))
        rows.append(back[:SHOWN])
    titled(out / "samples.png", [("digits", x[:SHOWN]), *samples])
    titled(out / "reconstructions.png", list(zip(("digits", "VAE-GAN", "VAE"), rows, strict=True)))
    finish(NAME, out, metrics, args, ("samples", "reconstructions"))


def sharpness(images: np.ndarray) -> float:
    """The variance of the Laplacian of an image, uint8 [N, H, W, C]; the mean over images."""
    x = np.asarray(images, np.float64)[..., 0] / 255
    middle = x[:, 1:-1, 1:-1]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float((4 * middle - around).var((1, 2)).mean())


if __name__ == "__main__":
    run(main, ChoiceArgs, __doc__)
