r"""AdaGAN: a mixture of GANs, each trained on the data that the ones before it miss.

Tolstikhin, Gelly, Bousquet, Simon-Gabriel & Schölkopf 2017, *AdaGAN: Boosting Generative Models*
(1701.02386). Algorithm 1: with P_t the mixture of the first t generators, and β the weight of the
next,

    P_{t+1} = (1 - β) P_t + β Q,    β = 1/(t+1), so that all have the same weight

the best Q has the density (1/β) (λ* p_d - (1-β) p_t)₊. A discriminator D between data and the
mixture estimates h(x) = p_t(x)/p_d(x) = (1 - D)/D, and the N examples, each of weight 1/N, become

    w_i = (1/β) (λ* - (1-β) h_i)₊ / N,    λ* such that Σ w_i = 1

With h sorted, λ* = β/k · N + (1-β) · mean of the k smallest h, with k the first number for which
this is at most the (k+1)-th (1-β)h; it is found exactly (`weights`). The next GAN is trained on
examples resampled with the weights w.

Stages: gan1, ratio1, gan2, ratio2, ..., each ratio a classifier of data against the mixture so far.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.data import AnyData, Dataset, to_batch
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.stages import Finished, Stage, resident
from gengen.steps import descent
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape, data_of
from gengen.xla import jit

__all__ = [
    "Config", "against_mixture", "condition_of", "mixture", "ratio_method", "ratios", "resample",
    "reweighted", "sample", "stages", "weights",
]  # fmt: skip

CHUNK = 1000  # examples at a time, through networks; samples have a key per chunk
MAX_LOGIT = 20.0  # |logit| of D: h is at least e^-20 and at most e^20


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, for each of several generators."""

    num_generators: int = 5  # T; all have the same weight
    ratio_share: float = 0.2  # train steps of each classifier, as a fraction of those of each GAN
    seed: int = 0  # of resampling

    RENAMED: ClassVar[dict[str, str | None]] = {"T": "num_generators"}

    @classmethod
    def paper(cls) -> Self:
        """Return five small GANs on MNIST, as in the paper's experiments.

        Boosting has no network of its own. The paper's networks have transposed convolutions and
        batch norm, and z is uniform; these are the family's small ones.
        """
        return cls(
            shape=(28, 28, 1), latent_dim=5, channels=(32, 64), batch_size=128, learning_rate=1e-3,
            discriminator_learning_rate=5e-4, b1=0.5, b2=0.999, decay_steps=0, ema_decay=0.0,
            loss="nonsaturating", num_generators=5, ratio_share=0.2,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        num = 5 if len(task.shape) == 1 else 3
        # Each stage has its part of the run's steps.
        steps = round(task.steps / (num + (num - 1) * cls.ratio_share))
        fields = networks.task_fields(task._replace(steps=max(steps, 1)))
        return dataclasses.replace(cls(), **fields, num_generators=num)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if self.num_generators < 1:
            raise InputError(
                f"Config.num_generators = {self.num_generators}; it must be at least 1"
            )
        if not self.ratio_share > 0:
            raise InputError(f"Config.ratio_share = {self.ratio_share}; it must be positive")


# --- the weights ---------------------------------------------------------------------------------


def weights(h: np.ndarray, beta: float) -> np.ndarray:
    """Return w_i = (λ* - (1-β) h_i)₊ / (βN), which sum to 1: float64 [N].

    Args:
        h: p_t/p_d at each example, at least 0: [N].
        beta: β in (0, 1], the weight of the next generator.

    Raises:
        InputError: for a β outside, or an h that is negative or not finite.
    """
    h = np.asarray(h, np.float64)
    if not 0 < beta <= 1:
        raise InputError(f"beta = {beta}; the next generator's weight must be in (0, 1]")
    if h.ndim != 1 or not len(h) or not np.all(np.isfinite(h) & (h >= 0)):
        raise InputError(f"h {h.shape} must be a finite ratio ≥ 0 for each example: [N]")
    cost = np.sort((1 - beta) * h)
    k = np.arange(1, len(h) + 1)
    # λ for each k: only the k lowest costs have a weight, Σ (λ - cost) = βN.
    level = (beta * len(h) + np.cumsum(cost)) / k
    following = np.append(cost[1:], np.inf)
    found = level[np.argmax(level <= following)]
    w = np.maximum(found - (1 - beta) * h, 0)
    return w / w.sum()


def resample(w: np.ndarray, seed: int) -> np.ndarray:
    """Return N row numbers, each i about N w_i times, by systematic resampling.

    Each count is N w_i, rounded up or down.
    """
    u = np.random.default_rng(seed).random()
    points = (np.arange(len(w)) + u) / len(w)
    return np.searchsorted(np.cumsum(w) / np.sum(w), points).clip(max=len(w) - 1)


# --- the stages ----------------------------------------------------------------------------------


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """Return a GAN, then T - 1 times a classifier and a GAN.

    Metrics: of each GAN those of `gan`; of a classifier `loss`, its cross-entropy in nats: ln 2
    where the mixture equals the data.

    Args:
        cfg: of the model.
        tx: to use instead of Adam, in all stages.
    """
    found = []
    for t in range(1, cfg.num_generators + 1):
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
    """Return the method of a classifier of data (label 1) against the mixture (label 0)."""
    net = networks.networks(cfg)[1]

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        logits = jnp.asarray(net.apply({"params": params}, check_shape(batch, cfg.shape)))
        signs = 2 * jnp.asarray(batch["label"]) - 1
        return jax.nn.softplus(-signs * logits).mean(), ({}, mutables)

    return build(init_variables, descent(loss, tx or networks.adam(cfg)[0]))


def against_mixture(cfg: Config, before: Finished, data: AnyData, t: int) -> Dataset:
    """Return the data, label 1, and as many samples of the first t generators, label 0."""
    data = resident(data)
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
    """Return the data; for t > 1 resampled with the weights from the last classifier."""
    if t == 1:
        return data
    data = resident(data)
    w = weights(ratios(cfg, before[f"ratio{t - 1}"].variables, data), 1 / t)
    rows = resample(w, cfg.seed + t)
    arrays = {name: np.asarray(array)[rows] for name, array in data.arrays.items()}
    return Dataset(f"{data.name}, for generator {t}", arrays, data.classes)


def ratios(cfg: Config, variables: PyTree, data: Dataset) -> np.ndarray:
    """Return h = (1 - D)/D at each example, by a classifier: float64 [N]."""
    net = networks.networks(cfg)[1]
    logit = jit(often=False)(lambda x: net.apply(variables, x))
    parts = []
    for start in range(0, len(data), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(data)), dtype=np.int32)
        parts.append(np.asarray(logit(data_of(to_batch(data.arrays, rows))), np.float64))
    return np.exp(-np.clip(np.concatenate(parts), -MAX_LOGIT, MAX_LOGIT))


# --- what the model can do -----------------------------------------------------------------------


def mixture(cfg: Config, variables: PyTree, t: int, key: Key, num: int) -> Array:
    """Sample from the first t generators, each in turn: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: {stage: variables}.
        t: number of generators.
        key: of the samples.
        num: number of samples.
    """
    each = -(-num // t)
    samples = [
        games.sample(gan.game(cfg), variables[f"gan{i + 1}"], jax.random.fold_in(key, i), each)
        for i in range(t)
    ]
    return jnp.stack(samples, axis=1).reshape(-1, *cfg.shape)[:num]


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: ArrayLike | None = None
) -> Array:
    """Sample from all generators: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of all stages, {stage: variables}.
        key: of the samples.
        num: number of samples.
        condition: None; the model is unconditional.
    """
    require_num(num)
    refuse_condition(condition)
    return mixture(cfg, variables, cfg.num_generators, key, num)
