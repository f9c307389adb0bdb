r"""AdaGAN: a mixture of GANs, each trained on what those before it leave out.

Tolstikhin, Gelly, Bousquet, Simon-Gabriel & Schölkopf 2017, *AdaGAN: Boosting Generative Models*
(1701.02386). Algorithm 1: with P_t the mixture of the first t generators, and β the weight of the
next,

    P_{t+1} = (1 - β) P_t + β Q,    β = 1/(t+1), so that all weigh the same

the best Q has the density (1/β) (λ* p_d - (1-β) p_t)₊. A discriminator D between data and the
mixture tells h(x) = p_t(x)/p_d(x) = (1 - D)/D, and the N examples, each of weight 1/N, become

    w_i = (1/β) (λ* - (1-β) h_i)₊ / N,    λ* such that Σ w_i = 1

With h sorted, λ* = β/k · N + (1-β) · mean of the k smallest h, k the first number at which this is
at most the (k+1)-th (1-β)h; found exactly (`weights`). The next GAN is trained on the examples
redrawn by w.

Stages: gan1, ratio1, gan2, ratio2, ..., each ratio a classifier of data against the mixture so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gengen.data import AnyData, Dataset, to_batch
from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.stages import Finished, Stage
from gengen.steps import descent
from gengen.steps import method as close
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    PyTree,
    check_shape,
    data_of,
)

CHUNK = 1000  # examples at a time, through networks
MOST = 20.0  # |logit| of D: its h is no smaller or larger than e^∓20


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, several times over."""

    T: int = 5  # generators
    ratio_share: float = 0.2  # steps of each classifier, where those of each GAN are 1
    seed: int = 0  # of the redrawing

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.T < 1:
            raise InputError(f"Config.T = {self.T}, but there is at least 1 generator")
        if not self.ratio_share > 0:
            raise InputError(f"Config.ratio_share = {self.ratio_share}, but it is positive")


# --- the weights ---------------------------------------------------------------------------------


def weights(h: np.ndarray, beta: float) -> np.ndarray:
    """w_i = (λ* - (1-β) h_i)₊ / (βN), which sum to 1: float64 [N].

    Args:
        h: p_t/p_d at each example, at least 0: [N].
        beta: β in (0, 1], the weight of the next generator.

    Raises:
        InputError: for a β outside, or an h that is negative or not finite.
    """
    h = np.asarray(h, np.float64)
    if not 0 < beta <= 1:
        raise InputError(f"beta = {beta}, but the next generator's weight is in (0, 1]")
    if h.ndim != 1 or not len(h) or not np.all(np.isfinite(h) & (h >= 0)):
        raise InputError(f"h {h.shape} is a finite ratio ≥ 0 for each example: [N]")
    cost = np.sort((1 - beta) * h)
    k = np.arange(1, len(h) + 1)
    # λ of each k: the k cheapest share the whole, Σ (λ - cost) = βN.
    level = (beta * len(h) + np.cumsum(cost)) / k
    following = np.append(cost[1:], np.inf)
    found = level[np.argmax(level <= following)]
    w = np.maximum(found - (1 - beta) * h, 0)
    return w / w.sum()


def redraw(w: np.ndarray, seed: int) -> np.ndarray:
    """N rows, row i about N w_i times: systematic, so that each count is N w_i rounded."""
    u = np.random.default_rng(seed).random()
    points = (np.arange(len(w)) + u) / len(w)
    return np.searchsorted(np.cumsum(w) / np.sum(w), points).clip(max=len(w) - 1)


# --- the stages ----------------------------------------------------------------------------------


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """A GAN, then T - 1 times a classifier and a GAN; `tx` in the place of Adam, in all of them.

    Metrics: of each GAN those of `gan`; of a classifier `loss`, its cross-entropy in nats: ln 2
    where the mixture is the data.
    """
    found = []
    for t in range(1, cfg.T + 1):
        if t > 1:
            found.append(
                Stage(
                    f"ratio{t - 1}",
                    ratio_method(cfg, tx),
                    data=lambda before, data, t=t: against_mixture(cfg, before, data, t - 1),
                    share=cfg.ratio_share,
                )
            )
        found.append(
            Stage(
                f"gan{t}",
                gan.method(cfg, tx),
                data=lambda before, data, t=t: reweighted(cfg, before, data, t),
            )
        )
    return tuple(found)


def ratio_method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train a classifier of data (label 1) against the mixture (label 0)."""
    net = players.players(cfg)[1]

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        logits = jnp.asarray(net.apply({"params": params}, check_shape(batch, cfg.shape)))
        signs = 2 * jnp.asarray(batch["label"]) - 1
        return jax.nn.softplus(-signs * logits).mean(), ({}, mutables)

    return close(init_variables, descent(loss, tx or players.adam(cfg)[0]))


def _resident(data: AnyData) -> Dataset:
    if not isinstance(data, Dataset):
        raise InputError(f"{data.name} is streamed, but AdaGAN weighs examples kept in memory")
    return data


def against_mixture(cfg: Config, before: Finished, data: AnyData, t: int) -> Dataset:
    """The data, label 1, and as many samples of the first t generators, label 0."""
    data = _resident(data)
    variables = {name: state.variables for name, state in before.items()}
    key = jax.random.fold_in(jax.random.key(cfg.seed), t)
    parts = []
    for start in range(0, len(data), CHUNK):
        num = min(CHUNK, len(data) - start)
        parts.append(
            np.asarray(mixture(cfg, variables, t, jax.random.fold_in(key, start), num), np.float32)
        )
    name = "image" if len(cfg.shape) == 3 else "x"
    fake = np.concatenate(parts)
    if name == "image":  # a data set's images are uint8
        fake = np.rint((fake + 1) * 127.5).clip(0, 255).astype(np.uint8)
    both = np.concatenate([np.asarray(data.arrays[name]), fake])
    labels = np.repeat(np.array([1, 0], np.int32), [len(data), len(fake)])
    return Dataset(f"{data.name} against {t} generators", {name: both, "label": labels})


def reweighted(cfg: Config, before: Finished, data: AnyData, t: int) -> AnyData:
    """The data, or for t > 1 the data redrawn by the weights that the last classifier gives."""
    if t == 1:
        return data
    data = _resident(data)
    w = weights(ratios(cfg, before[f"ratio{t - 1}"].variables, data), 1 / t)
    rows = redraw(w, cfg.seed + t)
    arrays = {name: np.asarray(array)[rows] for name, array in data.arrays.items()}
    return Dataset(f"{data.name}, for generator {t}", arrays, data.classes)


def ratios(cfg: Config, variables: PyTree, data: Dataset) -> np.ndarray:
    """(1 - D)/D at each example, which is h, by a classifier: float64 [N]."""
    net = players.players(cfg)[1]
    logit = jax.jit(lambda x: net.apply(variables, x))
    parts = []
    for start in range(0, len(data), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(data)), dtype=np.int32)
        parts.append(np.asarray(logit(data_of(to_batch(data.arrays, rows))), np.float64))
    return np.exp(-np.clip(np.concatenate(parts), -MOST, MOST))


# --- what the model can do -----------------------------------------------------------------------


def mixture(cfg: Config, variables: PyTree, t: int, key: Key, num: int) -> Array:
    """Draw `num` samples of the first t generators, each in its turn: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: {stage: variables}.
        t: how many generators.
        key: of the samples.
        num: of them.
    """
    each = -(-num // t)
    drawn = [
        games.sample(gan.game(cfg), variables[f"gan{i + 1}"], jax.random.fold_in(key, i), each)
        for i in range(t)
    ]
    return jnp.stack(drawn, axis=1).reshape(-1, *cfg.shape)[:num]


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples of all generators: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of all stages, {stage: variables}.
        key: of the samples.
        num: of them.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return mixture(cfg, variables, cfg.T, key, num)
