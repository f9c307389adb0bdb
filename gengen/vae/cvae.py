r"""CVAE: the conditional VAE.

Sohn, Lee & Yan 2015, *Learning Structured Output Representation using Deep Conditional Generative
Models* (NeurIPS).

    ln p(x|y) ≥ E_{q(z|x,y)} ln p(x|z,y) - KL(q(z|x,y) ‖ p(z))

The condition y is an input of the encoder, beside x, and of the decoder, beside z. It is one of

- a class, or weights of classes: [0, ½, ½, 0, ...] asks for a blend that no example was;
- a part of the image, the rectangle `known_region`: samples for one y are ways to complete it.

The prior of z does not depend on y, so z need not code what y says: one z decoded with every class
is one handwriting of ten digits. Images are binarised as in `vae`. The known region of a binary
image is binarised with the rest of it. Its pixels count in the likelihood too, but cost next to
nothing, as they can be copied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, check_labels, is_label, labels_of, require_num
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.vae import bounds, vae
from gengen.vae.bounds import sample_prior as sample_prior
from gengen.vae.networks import CVAE, apply
from gengen.xla import jit

LOG_PROB = "importance weighted"


@dataclass(frozen=True)
class Config(vae.Config):
    """That of the VAE, and what y is."""

    latent_shape: tuple[int, ...] = (4,)  # of z: (D,); with more, z codes the class as well
    learning_rate: float = 2e-3  # of Adam

    num_classes: int = 10  # of y, if it is a class
    # y is rows a..b-1, columns c..d-1 of the image, as (a, b, c, d); (): y is a class
    known_region: tuple[int, ...] = ()
    condition_dim: int = 64  # numbers that the decoder gets of a known region

    RENAMED: ClassVar[dict[str, str | None]] = {
        "classes": "num_classes", "known": "known_region", "features": "condition_dim",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return sizes of the paper's completion of MNIST digits, given their lower left quarter.

        Differences: two layers of 1000 ReLU units are as in the paper, which has a prior p(z|y)
        with a network of its own, starts from a network that predicts x from y, and predicts the
        unknown pixels only.
        """
        return cls(
            shape=(28, 28, 1), latent_shape=(200,), likelihood="bernoulli", channels=(),
            hidden=(1000, 1000), known_region=(14, 28, 0, 14), condition_dim=1000, batch_size=100,
            learning_rate=1e-3, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: y is the class or, without labels, the upper half.

        Raises:
            InputError: for vectors without labels.
        """
        if task.num_classes:
            return super().for_task(task)
        if len(task.shape) == 1 or task.shape[0] < 2:
            raise InputError(
                "cvae is conditioned on a class or on a part of an image, but these data have no "
                "labels and no upper half: use vae, or labelled data"
            )
        upper = (0, task.shape[0] // 2, 0, task.shape[1])
        cfg = super().for_task(task._replace(num_classes=cls().num_classes))
        return dataclasses.replace(cfg, known_region=upper, latent_shape=(16,))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name in ("num_classes", "condition_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        if len(self.latent_shape) != 1:
            raise InputError(f"Config.latent_shape = {self.latent_shape}; it must be (D,)")
        if self.known_region and not _inside(self.known_region, self.shape):
            raise InputError(
                f"Config.known_region = {self.known_region}; it must be (a, b, c, d), rows a..b-1 "
                f"and columns c..d-1 of an image of shape {self.shape}"
            )


def _inside(region: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(region) != 4 or len(shape) != 3:
        return False
    a, b, c, d = region
    return 0 <= a < b <= shape[0] and 0 <= c < d <= shape[1]


# --- the condition -------------------------------------------------------------------------------


def condition_of(cfg: Config, batch: Batch) -> Array | None:
    """Return the labels of a batch or, for a known region, its images, binary for Bernoulli."""
    if cfg.known_region:
        return bounds.observed(cfg, check_shape(batch, cfg.shape), None)
    return labels_of(cfg, batch)


def network_input(cfg: Config, condition: ArrayLike | None, num: int) -> Array:
    """Return a condition as the networks' input y.

    Args:
        cfg: of the model.
        condition: labels, integers [num]; weights of classes, float [num, num_classes]; or, for a
            known region, images [num, *shape] in [-1, 1], of which only that region counts.
        num: number of examples.

    Returns:
        Weights of classes [num, num_classes], or images that are 0 outside of the known region.

    Raises:
        InputError: if there is no condition, or one of another kind.
    """
    shape, classes = (num, *cfg.shape), cfg.num_classes
    if condition is None:
        kind = f"images {shape}" if cfg.known_region else f"labels [{num}]"
        what = "a known region of an image" if cfg.known_region else "a class"
        raise InputError(f"this model is conditioned on {what}: pass condition={kind}")
    y = jnp.asarray(condition)
    if cfg.known_region:
        if y.shape != shape:
            raise InputError(f"condition has shape {y.shape}; it must be images {shape}")
        return y * known_mask(cfg)
    if y.shape == (num, classes) and jnp.issubdtype(y.dtype, jnp.floating):
        return y
    if not is_label(y):
        raise InputError(
            f"condition is {y.dtype} {list(y.shape)}; it must be labels, integers [{num}], or "
            f"weights of classes, floats [{num}, {classes}]"
        )
    return jax.nn.one_hot(check_labels(y, num, classes), classes)


def known_mask(cfg: Config) -> np.ndarray:
    """Return 1 where a pixel is known, 0 elsewhere: float32 [H, W, 1]."""
    a, b, c, d = cfg.known_region
    mask = np.zeros((*cfg.shape[:2], 1), np.float32)
    mask[a:b, c:d] = 1
    return mask


def _observed(
    cfg: Config, x: ArrayLike, condition: ArrayLike | None, key: Key | None
) -> tuple[Array, Array]:
    """Return observed x and the networks' y. A known region is always that of the observed x."""
    x = bounds.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return x, network_input(cfg, x if cfg.known_region else condition, len(x))


def _with_known(cfg: Config, x: Array, y: Array) -> Array:
    return jnp.where(known_mask(cfg) > 0, y, x) if cfg.known_region else x


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the mean of q(z|x,y) for x [B, *shape]: [B, D].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of dynamic binarisation; None: by threshold.
        condition: labels or weights of classes, see `network_input`. Not used with a known region,
            which is that of x itself.
        net: the network that was trained instead of the Config's.
    """
    x, y = _observed(cfg, x, condition, key)
    return bounds.compiled(net or CVAE(cfg), variables, "posterior", x, y).mean


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return E[x|z,y] for z [B, D]: [B, *shape], a known region as it is in the condition.

    Raises:
        InputError: without a condition, see `network_input`.
    """
    z = bounds.check_latents(cfg, z)
    y = network_input(cfg, condition, len(z))
    eta = bounds.compiled(net or CVAE(cfg), variables, "eta", z, y)
    return _with_known(cfg, bounds.as_data(cfg, eta), y)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the decoded mean of q(z|x,y) for x [B, *shape]: [B, *shape]. See `encode`."""
    x, y = _observed(cfg, x, condition, key)
    z = bounds.compiled(net or CVAE(cfg), variables, "posterior", x, y).mean
    return decode(cfg, variables, z, condition=y, net=net)


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the ELBO, a lower bound of ln p(x|y) for x [B, *shape]: [B], in nats."""
    observation_key, noise_key = jax.random.split(key)
    x, y = _observed(cfg, x, condition, observation_key)
    return _elbo(cfg, variables, x, y, noise_key, net or CVAE(cfg))


@jit(0, 5, often=False)
def _elbo(cfg: Config, variables: PyTree, x: Array, y: Array, key: Key, net: nn.Module) -> Array:
    parts = bounds.terms(cfg, net, variables, x, key, y)
    return -parts["reconstruction"] - parts["kl"]


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None, num: int = 64,
) -> Array:  # fmt: skip
    """Return the importance-weighted bound of ln p(x|y) for x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of z, and of dynamic binarisation; None: a fixed key.
        condition: as in `encode`.
        net: the network that was trained instead of the Config's.
        num: number of samples of z: the larger, the tighter the bound.
    """
    require_num(num)
    observation_key, noise_key = jax.random.split(jax.random.key(0) if key is None else key)
    x, y = _observed(cfg, x, condition, observation_key)
    return _log_prob(cfg, variables, x, y, noise_key, num, net or CVAE(cfg))


@jit(0, 5, 6, often=False)
def _log_prob(
    cfg: Config, variables: PyTree, x: Array, y: Array, key: Key, num: int, net: nn.Module
) -> Array:
    def one(i: Array) -> Array:
        return bounds.log_ratio(cfg, net, variables, x, jax.random.fold_in(key, i), y)

    return jax.nn.logsumexp(jax.lax.map(one, jnp.arange(num)), axis=0) - np.log(num)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None, mean: bool | None = None,
) -> Array:  # fmt: skip
    """Sample z from the prior and decode it with y: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the samples.
        num: number of samples.
        condition: see `network_input`; None: classes at random, all with the same probability.
        net: the network that was trained instead of the Config's.
        mean: whether to return E[x|z,y] rather than a sample of p(x|z,y); None: the mean for
            images, a sample for vectors.

    Raises:
        InputError: for a known region without a condition.
    """
    require_num(num)
    y_key, key = jax.random.split(key)
    if condition is None and not cfg.known_region:
        condition = jax.random.randint(y_key, (num,), 0, cfg.num_classes)
    y = network_input(cfg, condition, num)
    mean = len(cfg.shape) == 3 if mean is None else mean
    return _sample(cfg, variables, key, y, mean, net or CVAE(cfg))


@jit(0, 4, 5, often=False)
def _sample(
    cfg: Config, variables: PyTree, key: Key, y: Array, mean: bool, net: nn.Module
) -> Array:
    z_key, x_key = jax.random.split(key)
    eta = apply(net, variables, "eta", sample_prior(cfg, z_key, len(y)), y)
    return _with_known(cfg, bounds.as_data(cfg, eta, None if mean else x_key), y)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Maximise the bound of ln p(x|y), for y the batch's "label" or the known region of its images.

    Metrics, nats per example: `reconstruction` -E ln p(x|z,y), `kl`, `loss`.

    Args:
        cfg: of the model.
        tx: an optimiser instead of Adam.
        net: a Flax module instead of the Config's networks, with the methods of `vae.method` and a
            further argument y, as `network_input` returns it: `posterior(x, y)`, `eta(z, y)` and
            `__call__(x, y)`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from gengen.distributions import Normal
        >>> from gengen.vae import cvae
        >>> class Linear(nn.Module):
        ...     def setup(self):
        ...         self.mean, self.out = nn.Dense(2), nn.Dense(3)
        ...     def posterior(self, x, y):
        ...         return Normal(self.mean(jnp.hstack([x, y])), jnp.zeros((len(x), 2)))
        ...     def eta(self, z, y):
        ...         return jnp.hstack([self.out(jnp.hstack([z, y])), jnp.zeros((len(z), 3))])
        ...     def __call__(self, x, y):
        ...         return self.eta(self.posterior(x, y).mean, y)
        >>> cfg, net = cvae.Config(shape=(3,), latent_shape=(2,), num_classes=2), Linear()
        >>> batch = {"x": jnp.ones((8, 3)), "label": jnp.arange(8) % 2}
        >>> m, key = cvae.method(cfg, net=net), jax.random.key(0)
        >>> state, metrics = m.train_step(key, m.init(key, batch), batch)
        >>> y = jnp.array([0, 1, 1])
        >>> cvae.sample(cfg, state.variables, key, 3, condition=y, net=net).shape
        (3, 3)
    """
    used = net or CVAE(cfg)

    def inputs(batch: Batch, key: Key | None) -> tuple[Array, Array]:
        x = check_shape(batch, cfg.shape)
        if not cfg.known_region and "label" not in batch:
            raise InputError(
                'the batch has no "label": use data with classes, or set Config.known_region'
            )
        return _observed(cfg, x, batch.get("label"), key)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x, y = inputs(batch, None)
        return used.init(key, x[:1], y[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        observation_key, noise_key = jax.random.split(key)
        x, y = inputs(batch, observation_key)
        parts = bounds.terms(cfg, used, {"params": params, **mutables}, x, noise_key, y)
        return bounds.weighted(cfg, parts), (bounds.means(parts), mutables)

    tx = tx or bounds.optimizer(cfg)
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
