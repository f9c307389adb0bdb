"""VQ-VAE: digits as 7 × 7 codes of 64 atoms.

The bound counts the codes at ln 64 nats each, as under a uniform prior: a prior that is learnt
over them, the second stage, costs less. The picture: digits, what comes back of their codes, and
the codes, an atom the lighter the lighter the digits are where it stands.

Expected, as measured (results/vqvae_mnist5k.json), seed 0, two CPU cores, 286 s:

    perplexity of 64 atoms                                                53.59
    atoms never used                                                          0
    ELBO, nats per image                                                 -237.3
    its term ln p(x|z)                                                   -33.51
    its term KL, 49 ln 64                                                 203.8
    MSE of a held-out pixel                                              0.0305
    fid[mnist-v1] of the reconstructions                                  14.07  (real: 12.59)
"""

from __future__ import annotations

import jax
import numpy as np
from recipe import Args, digits, directory, error, finish, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.data import to_uint8
from gengen.vae import vqvae

NAME = "vqvae_mnist5k"


def main(args: Args) -> None:
    """Train; look at the reconstructions, and at how many atoms are in use."""
    train, test, x = digits()
    cfg = vqvae.Config()
    out = directory(args, NAME)
    variables = fit(vqvae, cfg, train, out, args).variables

    k = in_parts(lambda x: vqvae.codes(cfg, variables, x), x)
    seen = in_parts(lambda k: vqvae.decode_codes(cfg, variables, k), k)
    shares = np.bincount(k.ravel(), minlength=cfg.codebook_size) / k.size
    nats = float(vqvae.elbo(cfg, variables, x, jax.random.key(args.seed + 1)).mean())
    metrics = {
        "perplexity of 64 atoms": {"value": float(vqvae.perplexity(cfg, jax.numpy.asarray(k)))},
        "atoms never used": {"value": float((shares == 0).sum())},
        "ELBO, nats per image": {"value": nats},
        "its term ln p(x|z)": {"value": nats + vqvae.kl(cfg)},
        "its term KL, 49 ln 64": {"value": vqvae.kl(cfg)},
        "MSE of a held-out pixel": error(x, seen),
    }
    for score, found in scores(to_uint8(seen), train, test).items():
        metrics[f"{score} of the reconstructions"] = found

    codes = greys(cfg, k, x)[:16]
    rows_of(out / "reconstructions.png", x[:16], seen[:16], codes, scale=2)
    finish(NAME, out, metrics, args, ("reconstructions",))


def greys(cfg: vqvae.Config, k: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Codes k [N, h, w] as images [N, H, W, 1]: atoms from black to white.

    In the order of the mean of the pixels of x [N, H, W, 1] where they stand.
    """
    side = cfg.shape[0] // k.shape[1]
    under = x.reshape(len(x), k.shape[1], side, k.shape[2], side).mean(axis=(2, 4))
    counts = np.maximum(np.bincount(k.ravel(), minlength=cfg.codebook_size), 1)
    means = np.bincount(k.ravel(), under.ravel(), minlength=cfg.codebook_size) / counts
    levels = 2 * np.argsort(np.argsort(means))[k] / (cfg.codebook_size - 1) - 1
    return np.kron(levels, np.ones((1, side, side)))[..., None].astype(np.float32)


if __name__ == "__main__":
    run(main, Args, __doc__)
