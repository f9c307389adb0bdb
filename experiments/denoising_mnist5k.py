"""A denoising autoencoder against the best linear filter, on held-out digits in Gaussian noise.

The filter is what a linear denoising autoencoder tends to: μ + Σ(Σ + σ²I)⁻¹(x̃ - μ), of the training
digits' mean and covariance.

Expected, as measured (results/denoising_mnist5k.json), seed 0, two CPU cores, 110 s:

    MSE of a held-out pixel, noisy                                       0.4921
    MSE of a held-out pixel, linear filter                               0.0501
    fid[mnist-v1] of what is restored, linear filter                      40.25  (real: 12.59)
    MSE of a held-out pixel, denoising autoencoder                       0.0382
    fid[mnist-v1] of what is restored, denoising autoencoder              14.79  (real: 12.59)
"""

from __future__ import annotations

import jax
import numpy as np
from recipe import Args, digits, directory, error, finish, images, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.autoencoder import denoising
from gengen.data import to_uint8

NAME = "denoising_mnist5k"


def main(args: Args) -> None:
    """Train, restore digits that were not seen, compare with the filter."""
    train, test, x = digits()
    cfg = denoising.Config(noise="gaussian", noise_std=0.7)
    out = directory(args, NAME)
    variables = fit(denoising, cfg, train, out, args).variables
    noisy = np.asarray(denoising.corrupt(cfg, jax.random.key(args.seed + 1), jax.numpy.asarray(x)))
    got = in_parts(lambda x: denoising.reconstruct(cfg, variables, x), noisy)
    linear = wiener(images(train), noisy, cfg.noise_std)
    rows_of(out / "digits.png", x[:16], noisy[:16], linear[:16], got[:16])
    metrics = {"MSE of a held-out pixel, noisy": error(x, noisy)}
    for name, restored in (("linear filter", linear), ("denoising autoencoder", got)):
        metrics[f"MSE of a held-out pixel, {name}"] = error(x, restored)
        for score, found in scores(to_uint8(restored), train, test).items():
            metrics[f"{score} of what is restored, {name}"] = found
    finish(NAME, out, metrics, args, ("digits",))


def wiener(seen: np.ndarray, noisy: np.ndarray, sigma: float) -> np.ndarray:
    """The best linear guess of clean images, from the moments of those seen; within [-1, 1]."""
    flat, mean = seen.reshape(len(seen), -1).astype(np.float64), seen.mean(0).ravel()
    S = np.cov(flat.T, ddof=0)
    W = np.linalg.solve(S + sigma**2 * np.eye(len(S)), S)  # S and the inverse commute
    out = (noisy.reshape(len(noisy), -1) - mean) @ W + mean
    return out.clip(-1, 1).reshape(noisy.shape).astype(np.float32)


if __name__ == "__main__":
    run(main, Args, __doc__)
