"""A convolutional VAE of binary digits, and what its codes are good for.

Bernoulli likelihood, pixels drawn anew with their grey value as probability whenever an image is
seen ("dynamic" binarisation, see gengen.vae.vae): nats per binary image, over all 500 held-out
digits. Beside the prior's samples stand those of a Gaussian mixture fitted to the codes of training
images (the aggregate posterior; to the means of q(z|x)), and of the same network trained without
the KL term, a plain autoencoder, whose decoder makes little of a code of N(0, I): its own codes are
not of that scale, and no mixture is fitted to them. The pictures: two rows of samples of each
of these three; reconstructions; ways between codes; codes by class; and digits that are partly
unknown, each completed eight times (vae.impute).

Expected, as measured (results/vae_mnist5k.json), seed 0, two CPU cores, 231 s:

    ELBO, nats per image                                                 -105.1
    its term E ln p(x|z)                                                 -83.64
    its term KL                                                           21.51
    ln p(x) by 250 codes an image, nats per image                        -98.72
    fid[mnist-v1], samples                                                334.6  (real: 12.59)
    fid[mnist-v1], aggregate posterior                                     57.8  (real: 12.59)
    fid[mnist-v1], autoencoder, random codes                              834.5  (real: 12.59)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
from recipe import Args, digits, directory, draw, finish, images, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.density import gmm
from gengen.metrics.likelihood import importance_weighted
from gengen.representation import embedding
from gengen.vae import vae
from gengen.viz import latent
from gengen.viz.grid import save_png

NAME = "vae_mnist5k"
CODES = 250  # of the importance-weighted bound
COPIES = 8  # ways to complete a digit


def main(args: Args) -> None:
    """Train, bound ln p(x), sample, and draw the pictures."""
    train, test, x = digits()
    cfg, key = vae.Config(channels=(16, 32, 64)), jax.random.key(args.seed + 1)
    out = directory(args, NAME)
    variables = fit(vae, cfg, train, out, args).variables
    decode = partial(vae.decode, cfg, variables)

    parts = vae.elbo_terms(cfg, variables, x, key)
    nats = {name: float(term.mean()) for name, term in parts.items()}
    bound = importance_weighted(np.asarray(vae.log_weights(cfg, variables, x, key, CODES)).T)
    metrics = {
        "ELBO, nats per image": {"value": -nats["reconstruction"] - nats["kl"]},
        "its term E ln p(x|z)": {"value": -nats["reconstruction"]},
        "its term KL": {"value": nats["kl"]},
        f"ln p(x) by {CODES} codes an image, nats per image": {"value": bound.value},
    }

    codes = in_parts(partial(vae.encode, cfg, variables), images(train))
    mixture = gmm.Config(shape=cfg.latent_shape, num_components=10)
    aggregate = gmm.fit(mixture, codes, jax.random.key(0))
    plain = dataclasses.replace(cfg, beta=0.0)
    blind = fit(vae, plain, train, out / "autoencoder", args).variables
    kinds = []
    for name, sampler in (
        ("samples", partial(vae.sample, cfg, variables)),
        ("aggregate posterior", lambda k, n: decode(gmm.sample(mixture, aggregate, k, n))),
        ("autoencoder, random codes", partial(vae.sample, plain, blind)),
    ):
        samples = draw(len(test), sampler, args.seed)
        kinds += [samples[:16], samples[16:32]]
        for score, found in scores(samples, train, test).items():
            metrics[f"{score}, {name}"] = found

    rows_of(out / "samples.png", *kinds, scale=2)
    rows_of(out / "reconstructions.png", x[:16], vae.reconstruct(cfg, variables, x[:16]), scale=2)
    completions(out / "completions.png", cfg, variables, x[:10], key)
    z = np.asarray(vae.encode(cfg, variables, x))
    ways = latent.interpolations(decode, z[:8], z[8:16], 16, spherical=True)
    save_png(out / "interpolations.png", ways, scale=2)
    view = embedding.scatter(z, test.arrays["label"], test.classes, "tsne")
    save_png(out / "codes.png", view)
    finish(NAME, out, metrics, args, ("samples", "completions"))


def completions(path: Path, cfg: vae.Config, variables: dict, x: np.ndarray, key) -> None:
    """A column for each image: it, what is known of it, grey what is not, and what might be.

    Of every other image the lower half is missing, of the others a square in the middle.
    """
    height, width = cfg.shape[:2]
    mask = np.ones((len(x), *cfg.shape), bool)
    mask[::2, height // 2 :] = False
    mask[1::2, height // 4 : -height // 4, width // 4 : -width // 4] = False
    missing = np.where(mask, x, 0)
    several = vae.impute(
        cfg, variables, np.tile(missing, (COPIES, 1, 1, 1)), np.tile(mask, (COPIES, 1, 1, 1)), key
    )
    rows_of(path, x, missing, *np.split(np.asarray(several), COPIES), scale=2)


if __name__ == "__main__":
    run(main, Args, __doc__)
