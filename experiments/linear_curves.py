"""How models whose answer is known in advance come to it: the curves of the docs.

Of the 1,797 digits of 8×8 pixels, as vectors of 64 numbers:

    autoencoder     linear, k codes: the largest principal angle between what it spans and the
                    first k principal directions, and its error beyond the sum of the other
                    eigenvalues, against steps
    vae             linear, k codes: its ELBO below PPCA's exact log-likelihood, against steps
    marginalized    the map of the average over m damaged copies against the closed form's

Everything that is compared with is computed in NumPy float64. Expected, as measured:
results/benchmarks/linear_curves.json; the pictures are in docs/images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from gengen.autoencoder import autoencoder, marginalized
from gengen.data import load, to_batch
from gengen.density import ppca
from gengen.training import run_dir
from gengen.types import Method, TrainState
from gengen.vae import vae
from gengen.viz.grid import INK_COLOUR, _quiet
from gengen.viz.latent import COLOURS

ROOT = Path(__file__).parent.parent
IMAGES, RESULT = ROOT / "docs" / "images", ROOT / "results" / "benchmarks" / "linear_curves.json"


@dataclass(frozen=True)
class Args:
    """Settings of the recipe."""

    k: int = 8
    """Codes of the autoencoder and the VAE."""
    steps: int = 20_000
    """Train steps of each, on all examples."""
    rate: float = 1e-2
    """Of Adam; it falls to 0 on a cosine."""
    copies: int = 1000
    """The most damaged copies."""
    seeds: int = 8
    """Of the damage."""
    seed: int = 0
    """Of initial values and draws."""
    write: bool = False
    """Write docs/images/linear_*.png and the figures in results/benchmarks; else print."""


def digits() -> np.ndarray:
    """Digits as vectors in [-1, 1]: float32 [1797, 64]."""
    arrays = load("digits").arrays
    return np.asarray(to_batch(arrays, np.arange(len(arrays["label"])))["image"]).reshape(-1, 64)


def eigenvectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the covariance, largest first, and the vectors [D, D], in float64."""
    centred = np.float64(x) - np.float64(x).mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    return values[::-1], vectors[:, ::-1]


def training(method: Method, x: np.ndarray, args: Args) -> Iterator[tuple[int, TrainState]]:
    """The state after 1, 2, 3, 5, 7, 10, ... steps on all of x."""
    batch = {"x": jax.numpy.asarray(x)}
    key = jax.random.key(args.seed + 1)

    @jax.jit
    def advance(state: TrainState, num: jax.Array) -> TrainState:
        return jax.lax.fori_loop(0, num, lambda _, s: method.train_step(key, s, batch)[0], state)

    state, done = method.init(jax.random.key(args.seed), batch), 0
    for step in np.unique(np.geomspace(1, args.steps, 60).round().astype(int)):
        state = advance(state, step - done)
        done = int(step)
        yield done, state


def falling(args: Args) -> optax.GradientTransformation:
    """Adam, whose rate falls to 0 on a cosine: it ends in the minimum, not around it."""
    return optax.adam(optax.cosine_decay_schedule(args.rate, args.steps))


# --- the three curves ----------------------------------------------------------------------------


def of_autoencoder(x: np.ndarray, args: Args, tied: bool) -> dict[str, list[float]]:
    """Angle (radians) and relative residual of a linear autoencoder after so many steps."""
    values, vectors = eigenvectors(x)
    cfg = autoencoder.Config(shape=x.shape[1:], latent_shape=(args.k,), tied=tied)
    curve: dict[str, list[float]] = {"step": [], "angle": [], "residual": []}
    for step, state in training(autoencoder.method(cfg, falling(args)), x, args):
        p = {name: np.asarray(array, np.float64) for name, array in state.params["mlp"].items()}
        back = p["W1"].T if tied else p["V1"]  # its rows are what is spanned
        out = (np.float64(x) @ p["W1"] + p["b1"]) @ back + p["c1"]
        left = np.mean(np.sum((x - out) ** 2, axis=1)) / values[args.k :].sum() - 1
        curve["step"].append(step)
        curve["angle"].append(largest_angle(back.T, vectors[:, : args.k]))
        curve["residual"].append(float(left))
    return curve


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between the spans of the columns of a and of b [D, k], in radians."""
    qa, qb = (np.linalg.qr(m)[0] for m in (a, b))
    # By its sine, as the cosine of a small angle is 1 to the last digit.
    return float(np.arcsin(min(1.0, np.linalg.norm(qb - qa @ (qa.T @ qb), 2))))


def of_vae(x: np.ndarray, args: Args) -> dict[str, Any]:
    """The exact ELBO of a linear VAE after so many steps, and PPCA's log-likelihood, nats."""
    best = ppca.Config(shape=x.shape[1:], latent_dim=args.k)
    values, _ = eigenvectors(x)
    variance = values[args.k :].mean()
    logs = np.log(values[: args.k]).sum() + (x.shape[1] - args.k) * np.log(variance)
    limit = -0.5 * (x.shape[1] * (np.log(2 * np.pi) + 1) + logs)
    cfg = vae.Config(shape=x.shape[1:], latent_shape=(args.k,), hidden=(), ema_decay=0.0)
    curve: dict[str, Any] = {"step": [], "elbo": [], "log_likelihood": float(limit)}
    state = None
    for step, state in training(vae.method(cfg, falling(args)), x, args):
        curve["step"].append(step)
        curve["elbo"].append(expected_elbo(cfg, state.params, np.asarray(x, np.float64)))
    assert state is not None
    means = [
        float(vae.elbo(cfg, state.variables, x, jax.random.key(i)).mean()) for i in range(20)
    ]  # by the model's own draws
    curve["elbo by gengen"] = {"value": np.mean(means), "standard_error": np.std(means) / 19**0.5}
    exact = ppca.log_prob(best, ppca.fit(best, x, jax.random.key(0)), x)
    curve["log_likelihood by gengen"] = float(exact.mean())
    return curve


def expected_elbo(cfg: vae.Config, params: Any, x: np.ndarray) -> float:
    """E_q ln p(x|z) - KL of a linear VAE in closed form, the mean over x, in nats."""
    encoder, decoder = (params[n]["MLP_0"]["Dense_0"] for n in ("encoder", "decoder"))
    h = x @ np.float64(encoder["kernel"]) + np.float64(encoder["bias"])
    m, log_s = np.split(h, 2, axis=1)
    log_s = vae.MAX_LOG_STD * np.tanh(log_s / vae.MAX_LOG_STD)
    W, mu = np.float64(decoder["kernel"]), np.float64(decoder["bias"])
    sigma = cfg.min_scale + np.exp(float(params["head"]["log_scale"]))
    square = np.sum((x - m @ W - mu) ** 2, axis=1) + np.exp(2 * log_s) @ np.sum(W**2, axis=1)
    kl = 0.5 * np.sum(m**2 + np.exp(2 * log_s) - 1 - 2 * log_s, axis=1)
    log_p = -0.5 * square / sigma**2 - x.shape[1] * (np.log(sigma) + 0.5 * np.log(2 * np.pi))
    return float(np.mean(log_p - kl))


def of_marginalized(x: np.ndarray, args: Args) -> dict[str, Any]:
    """‖W_m - W‖ / ‖W‖ for averages over m copies, each by several seeds; and the fitted power."""
    cfg = marginalized.Config()
    W = np.float64(marginalized.fit(cfg, x)["params"]["W"])
    sizes = np.unique(np.geomspace(1, args.copies, 10).round().astype(int)).tolist()

    def error(m: int, seed: int) -> float:
        found = np.float64(marginalized.fit_copies(cfg, x, m, seed)["params"]["W"])
        return float(np.linalg.norm(found - W) / np.linalg.norm(W))

    with threadpool_limits(1):  # of so small matrices threads are slower by much
        errors = [[error(m, args.seed + i) for i in range(args.seeds)] for m in sizes]
    power = np.polyfit(np.log(sizes), np.log(np.mean(errors, axis=1)), 1)[0]
    return {"m": sizes, "error": errors, "power": float(power)}


# --- the pictures --------------------------------------------------------------------------------


def panels(num: int) -> tuple[Figure, list[Any]]:
    """A figure 7 inches wide of so many panels, and their axes."""
    figure = Figure(figsize=(7, 2.6), dpi=200, layout="constrained")
    axes = [figure.add_subplot(1, num, i + 1) for i in range(num)]
    for ax in axes:
        _quiet(ax)
        ax.tick_params(which="minor", length=0)
        ax.grid(color="#efece5", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def say(ax: Any, title: str, below: str) -> None:
    """Title and axis of a panel."""
    ax.set_title(title, fontsize=9, color=INK_COLOUR, loc="left")
    ax.set_xlabel(below, fontsize=8, color=INK_COLOUR)


def legend(ax: Any) -> None:
    """Of the panel's lines."""
    ax.legend(fontsize=8, frameon=False, labelcolor=INK_COLOUR)


def draw_autoencoder(curves: dict[str, dict[str, list[float]]], args: Args) -> Figure:
    """Angle and residual, each weight matrix on its own and tied."""
    figure, axes = panels(2)
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        for ax, what in zip(axes, ("angle", "residual"), strict=True):
            ax.loglog(curve["step"], curve[what], color=colour, linewidth=1.4, label=name)
    say(axes[0], f"largest of {args.k} principal angles, radians", "steps")
    say(axes[1], "error / (error that PCA leaves) - 1", "steps")
    legend(axes[0])
    return figure


def draw_vae(curve: dict[str, Any]) -> Figure:
    """The bound on its way up, and what it lacks."""
    figure, axes = panels(2)
    elbo, limit = np.array(curve["elbo"]), curve["log_likelihood"]
    axes[0].semilogx(curve["step"], elbo, color=COLOURS[0], linewidth=1.4, label="linear VAE, ELBO")
    axes[0].axhline(limit, color=COLOURS[3], linewidth=1, linestyle="--",
                    label=f"PPCA, ln p(x) = {limit:.2f}")  # fmt: skip
    axes[0].set_ylim(limit - 60, limit + 6)
    axes[1].loglog(curve["step"], limit - elbo, color=COLOURS[0], linewidth=1.4)
    say(axes[0], "nats per example", "steps")
    say(axes[1], "ln p(x) of PPCA - ELBO, nats", "steps")
    legend(axes[0])
    return figure


def draw_marginalized(found: dict[str, Any]) -> Figure:
    """The mean over seeds, each seed, and a line of slope -½."""
    figure, (ax,) = panels(1)
    m, errors = np.array(found["m"]), np.array(found["error"])
    ax.loglog(m, errors, "o", color=COLOURS[0], markersize=2, alpha=0.5, linewidth=0)
    ax.loglog(m, errors.mean(1), color=COLOURS[0], linewidth=1.4,
              label=f"mean of {errors.shape[1]} seeds: m to the {found['power']:.3f}")  # fmt: skip
    ax.loglog(m, errors.mean(1)[-1] * np.sqrt(m[-1] / m), color=COLOURS[3], linewidth=1,
              linestyle="--", label="$m^{-1/2}$")  # fmt: skip
    say(ax, "‖W of m copies - W in closed form‖ / ‖W‖", "m, damaged copies of the data")
    legend(ax)
    return figure


def main(args: Args) -> None:
    x = digits()
    kinds = {"decoder on its own": False, "decoder is the encoder transposed": True}
    of_ae = {name: of_autoencoder(x, args, tied) for name, tied in kinds.items()}
    curve, copies = of_vae(x, args), of_marginalized(x, args)
    for name, one in of_ae.items():
        print(f"{name}: angle {one['angle'][-1]:.1e}, residual {one['residual'][-1]:.1e}")
    drawn = curve["elbo by gengen"]
    print(
        f"VAE: ELBO {curve['elbo'][-1]:.4f}, by its own draws {drawn['value']:.4f} ± "
        f"{drawn['standard_error']:.4f}; PPCA {curve['log_likelihood']:.4f}"
    )
    means = np.mean(copies["error"], axis=1)
    print(f"mDAE: {means[0]:.3f} at m = 1 to {means[-1]:.5f}; power {copies['power']:.4f}")
    figures = {
        "linear_autoencoder": draw_autoencoder(of_ae, args),
        "linear_vae": draw_vae(curve),
        "marginalized": draw_marginalized(copies),
    }
    if args.write:
        for name, figure in figures.items():
            figure.savefig(IMAGES / f"{name}.png")
        found = {"autoencoder": of_ae, "vae": curve, "marginalized": copies}
        about = {"versions": run_dir.versions(), "machine": run_dir.machine(), "args": asdict(args)}
        run_dir.write_json(RESULT, {"experiment": "linear_curves", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
