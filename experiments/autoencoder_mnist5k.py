"""An autoencoder of 16 numbers against PCA with as many, on held-out handwritten digits.

Expected, as measured (results/autoencoder_mnist5k.json), seed 0, two CPU cores, 149 s:

    MSE of a held-out pixel, autoencoder, 16 numbers                     0.0477
    fid[mnist-v1] of the reconstructions, autoencoder                     16.66  (real: 12.59)
    MSE of a held-out pixel, PCA, 16 numbers                             0.1029
    fid[mnist-v1] of the reconstructions, PCA                             152.5  (real: 12.59)
"""

from __future__ import annotations

import numpy as np
from recipe import Args, digits, directory, error, finish, images, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.autoencoder import autoencoder
from gengen.data import to_uint8

NAME = "autoencoder_mnist5k"
CODES = 16


def main(args: Args) -> None:
    """Train, reconstruct what was not seen, compare with PCA."""
    train, test, x = digits()
    cfg = autoencoder.Config(latent_shape=(CODES,), hidden=(256,))
    out = directory(args, NAME)
    variables = fit(autoencoder, cfg, train, out, args).variables
    got = in_parts(lambda x: autoencoder.reconstruct(cfg, variables, x), x)
    linear = pca(images(train), x, CODES)
    rows_of(out / "reconstructions.png", x[:16], got[:16], linear[:16])
    metrics = {}
    for name, restored in (("autoencoder", got), ("PCA", linear)):
        metrics[f"MSE of a held-out pixel, {name}, {CODES} numbers"] = error(x, restored)
        for score, found in scores(to_uint8(restored), train, test).items():
            metrics[f"{score} of the reconstructions, {name}"] = found
    finish(NAME, out, metrics, args)


def pca(seen: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    """Images x through the first k principal components of those seen, within [-1, 1]."""
    flat, mean = seen.reshape(len(seen), -1).astype(np.float64), seen.mean(0).ravel()
    axes = np.linalg.eigh((flat - mean).T @ (flat - mean))[1][:, -k:]
    out = (x.reshape(len(x), -1) - mean) @ axes @ axes.T + mean
    return out.clip(-1, 1).reshape(x.shape).astype(np.float32)


if __name__ == "__main__":
    run(main, Args, __doc__)
