"""Why GANs fail: a discriminator that is sure teaches nothing, and a divergence has its own errors.

Arjovsky & Bottou 2017, *Towards Principled Methods for Training GANs* (1701.04862), figures 2-4.

Lines: the data are (0, u), the samples (θ, u), u ~ N(0, 1), θ = 1: two distributions on separate
lines, as images lie on thin sets of pixel space. JS, TV and KL do not depend on θ ≠ 0, W₁ does. 32
discriminators are trained, the samples held still; after each hundred steps: the share of examples
that D is right about, and dL/dθ by each loss of the generator, its size and how far it differs from
one discriminator to another. Beside it, instance noise: both lines blurred, they overlap.

Fits: one Gaussian q to a mixture p of two. Forward KL(p ‖ q), maximum likelihood, puts q where p is
not; reverse KL(q ‖ p) drops a mode, and so does the game whose loss -ln(D/(1-D)) descends it.
Implausible is q's mass where p is below 1 % of its maximum. docs/GAN.md has tables of these:

Expected, as measured (results/why_gans_fail.json), seed 0, two CPU cores, 90 s:

    D is right, as it is                                                      1
    size of dL/dθ, minimax, as it is                                     0.0003
    deviation of dL/dθ, minimax, as it is                                0.0005
    size of dL/dθ, nonsaturating, as it is                                12.51
    deviation of dL/dθ, nonsaturating, as it is                           1.453
    size of dL/dθ, kl, as it is                                           12.51
    deviation of dL/dθ, kl, as it is                                      1.453
    D is right, instance noise                                            0.844
    size of dL/dθ, minimax, instance noise                               0.8888
    deviation of dL/dθ, minimax, instance noise                          0.0351
    size of dL/dθ, nonsaturating, instance noise                          3.043
    deviation of dL/dθ, nonsaturating, instance noise                    0.0999
    size of dL/dθ, kl, instance noise                                     3.932
    deviation of dL/dθ, kl, instance noise                               0.0967
    m, forward KL                                                          -0.4
    s, forward KL                                                         2.061
    KL(p ‖ q), forward KL                                                 0.558
    KL(q ‖ p), forward KL                                                 1.371
    mass at the right mode, forward KL                                   0.4226
    implausible, forward KL                                              0.0976
    m, reverse KL, from the left                                         -1.997
    s, reverse KL, from the left                                         0.5053
    KL(p ‖ q), reverse KL, from the left                                  11.96
    KL(q ‖ p), reverse KL, from the left                                 0.5088
    mass at the right mode, reverse KL, from the left                         0
    implausible, reverse KL, from the left                               0.0016
    m, reverse KL, from the right                                         1.984
    s, reverse KL, from the right                                        0.8247
    KL(p ‖ q), reverse KL, from the right                                 6.442
    KL(q ‖ p), reverse KL, from the right                                0.9111
    mass at the right mode, reverse KL, from the right                   0.9919
    implausible, reverse KL, from the right                              0.0048
    m, the game, -ln(D/(1-D))                                            -2.003
    s, the game, -ln(D/(1-D))                                            0.5085
    KL(p ‖ q), the game, -ln(D/(1-D))                                     11.84
    KL(q ‖ p), the game, -ln(D/(1-D))                                     0.509
    mass at the right mode, the game, -ln(D/(1-D))                            0
    implausible, the game, -ln(D/(1-D))                                  0.0018
    W₁ of lines 0.5 apart                                                   0.5
    JS of lines 0.5 apart                                                0.6931
    TV of lines 0.5 apart                                                     1
    W₁ of lines 1 apart                                                       1
    JS of lines 1 apart                                                  0.6931
    TV of lines 1 apart                                                       1
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from recipe import Args, directory, finish, run, table
from scipy.stats import norm

from gengen import divergences, loop
from gengen.data import Dataset
from gengen.gan import gan, networks
from gengen.gan.game import (
    Game,
    discriminate,
    generator_loss,
    init_variables,
    play,
    player_losses,
    transform_inputs,
)
from gengen.gan.regularization import instance_noise
from gengen.runs.config import describe as settings
from gengen.steps import method as build
from gengen.steps import player
from gengen.types import Array, Method

NAME = "why_gans_fail"
THETA, SIGMA = 1.0, 0.5  # the lines' distance; the deviation of instance noise
BATCH, SEEDS = 256, 32  # examples a step; discriminators
LOSSES = ("minimax", "nonsaturating", "kl")  # of the generator
SLOPE = "size of dL/dθ", "deviation of dL/dθ"
HIDDEN = (64, 64)  # of each discriminator
WEIGHTS, MEANS, DEVIATIONS = (np.array(v) for v in ([0.6, 0.4], [-2.0, 2.0], [0.5, 0.8]))
GRID = np.linspace(-10, 10, 4001)
DX = GRID[1] - GRID[0]
LEFT, RIGHT = -3.0, 3.0  # means that descents begin with, deviation 1


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 2000
    """Train steps of each discriminator; of the game three times as many."""


class Line(nn.Module):
    """z ↦ (θ, z)."""

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        theta = self.param("theta", nn.initializers.constant(THETA), ())
        return jnp.concatenate([jnp.full_like(z, theta), z], axis=-1)


class Affine(nn.Module):
    """z ↦ m + s z: N(m, s²), from the left."""

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        m = self.param("m", nn.initializers.constant(LEFT), ())
        log_s = self.param("log_s", nn.initializers.zeros, ())
        return m + jnp.exp(log_s) * z


def main(args: Settings) -> None:
    """Lines, then fits; a picture of both."""
    out = directory(args, NAME)
    lines = {"as it is": lines_apart(), "instance noise": lines_apart(SIGMA)}
    curves = {title: watch(game, args) for title, game in lines.items()}
    fits = {**fits_by_descent(), "the game, -ln(D/(1-D))": fit_by_game(args, out)}
    draw(out / "failing.png", curves, fits)
    metrics: dict[str, Any] = {}
    for title, curve in curves.items():
        for what, values in curve.items():
            if what != "step":
                metrics[f"{what}, {title}"] = {"value": values[-1]}
    for title, fit in fits.items():
        metrics |= {f"{what}, {title}": {"value": v} for what, v in judged(*fit).items()}
    for distance in (0.5, 1.0):
        metrics |= {f"{k} of lines {distance:g} apart": {"value": v}
                    for k, v in distances(distance).items()}  # fmt: skip
    finish(NAME, out, metrics, args, ["failing"])


# --- lines apart ---------------------------------------------------------------------------------


def lines_apart(sigma: float = 0.0) -> Game:
    """Data (0, u), samples (θ, u); with instance noise of deviation sigma, if any."""
    discriminator = networks.Discriminator(hidden=HIDDEN)
    transforms = (instance_noise(sigma),) if sigma else ()
    return Game(Line(), discriminator, (2,), 1, gan.LOSSES["minimax"], transforms=transforms)


def still(game: Game) -> Method:
    """The discriminator alone moves."""
    mine = player("discriminator", player_losses(game)["discriminator"], optax.adam(1e-3))
    return build(init_variables(game), mine)


def line(key: jax.Array, num: int) -> dict[str, Array]:
    """`num` examples of the data."""
    u = jax.random.normal(key, (num, 1))
    return {"x": jnp.concatenate([jnp.zeros_like(u), u], axis=-1)}


def watch(game: Game, args: Settings) -> dict[str, list[float]]:
    """What many discriminators know, and what each would teach, as they are trained."""
    method = still(game)
    every = max(1, args.steps // 20)

    def one(key: jax.Array, state: Any) -> dict[str, Array]:
        def step(state: Any, i: Array) -> tuple[Any, None]:
            batch = line(jax.random.fold_in(key, i), BATCH)
            return method.train_step(key, state, batch)[0], None

        def part(state: Any, i: Array) -> tuple[Any, dict[str, Array]]:
            found = measured(game, state, jax.random.fold_in(key, 10**6 + i))
            return jax.lax.scan(step, state, i * every + jnp.arange(every))[0], found

        return jax.lax.scan(part, state, jnp.arange(args.steps // every + 1))[1]

    keys = jax.random.split(jax.random.key(args.seed), SEEDS)
    states = [method.init(key, line(key, BATCH)) for key in keys]
    found = jax.jit(jax.vmap(one))(keys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    found = {what: np.asarray(v, np.float64) for what, v in found.items()}  # [SEEDS, times]
    steps = every * np.arange(args.steps // every + 1)
    curves = {"step": steps, "D is right": found["right"].mean(0)}
    for loss in LOSSES:
        sizes = np.abs(found[loss])
        for what, value in zip(SLOPE, (sizes.mean(0), found[loss].std(0)), strict=True):
            curves[f"{what}, {loss}"] = value
    return {what: [float(v) for v in values] for what, values in curves.items()}


def measured(game: Game, state: Any, key: jax.Array) -> dict[str, Array]:
    """Of one discriminator: the share it is right about; dL/dθ by each loss."""
    batch, found = line(key, 4 * BATCH), {}
    for name, losses in gan.LOSSES.items():
        loss = generator_loss(dataclasses.replace(game, losses=losses))
        slopes = jax.grad(lambda p, f=loss: f(p, state.mutables, key, batch)[0])(state.params)
        found[name] = slopes["generator"]["theta"]
    noise_key, key = jax.random.split(key)
    generated = batch["x"].at[:, 0].set(state.params["generator"]["theta"])
    real, fake, _ = transform_inputs(game, state.variables, noise_key, batch["x"], generated)
    sure = discriminate(game, state.variables, real), -discriminate(game, state.variables, fake)
    return found | {"right": (jnp.concatenate(sure) > 0).mean()}


def distances(theta: float, num: int = 64) -> dict[str, float]:
    """Of two lines of `num` points each, `theta` apart, u the same."""
    u = np.linspace(-2, 2, num)
    ours, theirs = (np.stack([np.full(num, x), u], axis=-1) for x in (0.0, theta))
    cost = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    half = np.full(num, 1 / num)
    p, q = np.concatenate([half, 0 * half]), np.concatenate([0 * half, half])
    return {
        "W₁": divergences.transport(half, half, cost)[0],
        "JS": divergences.js(p, q),
        "TV": divergences.total_variation(p, q),
    }


# --- fits ----------------------------------------------------------------------------------------


def density(x: np.ndarray) -> np.ndarray:
    """Of the mixture, at x."""
    return norm.pdf(x[:, None], MEANS, DEVIATIONS) @ WEIGHTS


def fits_by_descent() -> dict[str, tuple[float, float]]:
    """(m, s) nearest to p: by forward KL in closed form, by reverse KL from both sides."""
    mean = WEIGHTS @ MEANS
    variance = WEIGHTS @ (DEVIATIONS**2 + MEANS**2) - mean**2
    fits = {"forward KL": (float(mean), float(np.sqrt(variance)))}
    log_p = jnp.log(jnp.float32(density(GRID)))
    z = jnp.float32(np.linspace(-4, 4, 801))  # of q, by quadrature
    weights = jnp.float32(norm.pdf(z)) * (z[1] - z[0])

    def reverse(params: Array) -> Array:
        m, log_s = params
        x = m + jnp.exp(log_s) * z
        return -log_s - weights @ jnp.interp(x, jnp.float32(GRID), log_p)  # -H(q), less a constant

    tx = optax.adam(optax.cosine_decay_schedule(0.05, 2000))
    for title, start in (("from the left", LEFT), ("from the right", RIGHT)):

        def move(_: int, carry: Any) -> Any:
            updates, state = tx.update(jax.grad(reverse)(carry[0]), carry[1])
            return optax.apply_updates(carry[0], updates), state

        params = jnp.array([start, 0.0])
        m, log_s = jax.lax.fori_loop(0, 2000, move, (params, tx.init(params)))[0]
        fits[f"reverse KL, {title}"] = (float(m), float(jnp.exp(log_s)))
    return fits


def fit_by_game(args: Settings, out: Path) -> tuple[float, float]:
    """(m, s) that the game finds whose generator descends -ln(D/(1-D)): KL(q ‖ p) at D*."""
    played = Game(Affine(), networks.Discriminator(hidden=HIDDEN), (1,), 1, gan.LOSSES["kl"])
    steps = 3 * args.steps
    judge, mover = (
        optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.5) for rate in (5e-3, 5e-4)
    )
    method = play(played, judge, mover, ema_decay=0.99)
    draw = np.random.default_rng(args.seed)
    parts = draw.choice(2, 50_000, p=WEIGHTS)
    x = MEANS[parts] + DEVIATIONS[parts] * draw.normal(size=len(parts))
    data = Dataset("two Gaussians", {"x": x[:, None].astype(np.float32)})
    cfg = gan.Config(shape=(1,), latent_dim=1, hidden=HIDDEN, loss="kl", batch_size=BATCH)
    state = loop.run(
        method, data, out=out, steps=steps, batch_size=BATCH, seed=args.seed,
        settings=settings(gan, cfg),
    )  # fmt: skip
    found = state.variables["params"]["generator"]
    return float(found["m"]), float(np.exp(found["log_s"]))


def judged(m: float, s: float) -> dict[str, float]:
    """What N(m, s²) gets wrong about p."""
    p, q = density(GRID), norm.pdf(GRID, m, s)
    return {
        "m": m,
        "s": s,
        "KL(p ‖ q)": divergences.kl(p, q, DX),
        "KL(q ‖ p)": divergences.kl(q, p, DX),
        "mass at the right mode": float(q[GRID > 0].sum() * DX),
        "implausible": float(q[p < 0.01 * p.max()].sum() * DX),
    }


# --- what is shown -------------------------------------------------------------------------------


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/GAN.md of lines apart.

    Args:
        results: the content of results/why_gans_fail.json, by that name.
    """
    found = {k: row["value"] for k, row in results[NAME]["metrics"].items()}
    lines = []
    for title in ("as it is", "instance noise"):
        shown = [f"{100 * found[f'D is right, {title}']:.1f} %"]
        for loss in LOSSES:
            size, off = (found[f"{k}, {loss}, {title}"] for k in SLOPE)
            shown.append(f"{size:.2g} ± {off:.2g}")
        lines.append([title, *shown])
    return table(["lines apart", "D is right", "minimax", "-ln D", "-ln(D/(1-D))"], lines)


def fits_markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """Its table of fits; `results` as above."""
    found = {k: row["value"] for k, row in results[NAME]["metrics"].items()}
    fits = []
    for title in [k.removeprefix("m, ") for k in found if k.startswith("m, ")]:
        values = [found[f"{what}, {title}"] for what in judged(0.0, 1.0)]
        shown = [f"{v:.2f}" for v in values[:4]] + [f"{100 * v:.1f} %" for v in values[4:]]
        fits.append([title, *shown])
    head = ["fit", "m", "s", "KL(p ‖ q)", "KL(q ‖ p)", "right mode", "implausible"]
    return table(head, fits)


def draw(path: Path, curves: dict[str, Any], fits: dict[str, tuple[float, float]]) -> None:
    """D's knowledge, what it teaches, and the fits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), dpi=90, layout="constrained")
    known, taught, fitted = figure.subplots(1, 3)
    colours = {"minimax": "#26547c", "nonsaturating": "#c1666b", "kl": "#6a994e"}
    names = {"minimax": "ln(1-D)", "nonsaturating": "-ln D", "kl": "-ln(D/(1-D))"}
    for (title, curve), style in zip(curves.items(), ("-", "--"), strict=True):
        steps = np.array(curve["step"])
        known.plot(steps, curve["D is right"], style, color="#333333", label=title)
        for loss, colour in colours.items():
            size, off = (np.array(curve[f"{k}, {loss}"]) for k in SLOPE)
            label = names[loss] + ("" if style == "-" else ", with noise")
            taught.plot(steps, size, style, color=colour, label=label, lw=1.2)
            if style == "-":
                low, high = np.maximum(size - off, 1e-5), size + off
                taught.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    known.set(title="share that D is right about", xlabel="steps of D", ylim=(0.45, 1.02))
    known.legend()
    taught.set(
        title="|dL/dθ|, mean and deviation of 32 D",
        xlabel="steps of D",
        yscale="log",
        ylim=(3e-5, 30),
    )
    taught.legend(fontsize=7)
    fitted.fill_between(GRID, density(GRID), color="#cccccc", label="p", lw=0)
    for (title, fit), colour in zip(
        fits.items(), ("#26547c", "#c1666b", "#e0a458", "#6a994e"), strict=True
    ):
        fitted.plot(GRID, norm.pdf(GRID, *fit), color=colour, label=title, lw=1.2)
    fitted.set(title="one Gaussian for two", xlim=(-6, 6))
    fitted.legend(fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
