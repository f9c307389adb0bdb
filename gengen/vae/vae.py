r"""VAE: the variational autoencoder.

Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (1312.6114); β-VAE: Higgins et al. 2017.

    p(x, z) = p(z) p(x|z),    q(z|x) = N(μ(x), diag σ²(x)), or N(μ(x), L(x) L(x)ᵀ)

The decoder returns the parameters η(z) of a likelihood, the encoder those of q. Training maximises

    ELBO = E_q ln p(x|z) - KL(q(z|x) ‖ p(z)) ≤ ln p(x),    z = μ + σ⊙ε,  ε ~ N(0, I)

(ε is multiplied by the standard deviation σ, not by the variance), with the KL term times `beta`.
For p(z) = N(0, I), KL = ½ Σ (μ² + σ² - 1 - ln σ²); for a mixture it is estimated by
ln q(z|x) - ln p(z) at the sampled z.

With K samples from q and w = p(x, z)/q(z|x), E ln (1/K Σ w_k) is a bound too, and the tighter the
larger K is (Burda et al. 2016, 1509.00519): `log_prob`.

**Binary images.** For the Bernoulli likelihood an image x in [-1, 1] holds probabilities (x+1)/2
that a pixel is 1. "dynamic" samples the pixels each time an example is used, with the key and the
example's position in the batch; "threshold" sets b = 1 where x > 0. Encoder and likelihood get the
binary image as ±1. Results are nats per binary image; the two protocols are not comparable.
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

from gengen import rng
from gengen.contract import Task, adapt, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.optim import OptimizerConfig
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.vae.bounds import (
    as_data,
    check_latents,
    compiled,
    log_prior,
    log_ratio,
    means,
    observed,
    optimizer,
    sample_prior,
    terms,
    weighted,
)
from gengen.vae.imputation import chain, check_mask
from gengen.vae.networks import MAX_LOG_STD, VAE, apply, check_options, likelihood
from gengen.xla import jit

__all__ = [
    "LOG_PROB", "MAX_LOG_STD", "VAE", "Config", "condition_of", "decode", "elbo", "elbo_terms",
    "encode", "impute", "likelihood", "log_prior", "log_prob", "log_weights", "method", "observed",
    "reconstruct", "sample", "sample_prior",
]  # fmt: skip

LOG_PROB = "importance weighted"


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """The paper's algorithm; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    latent_shape: Shape = (16,)  # of z: (D,), or a map (h, w, C), see gengen.nn.codec.code_map

    # "bernoulli" (of binary images), "gaussian", "laplace" or "logistic" (of 8-bit images);
    # "": bernoulli for images, gaussian for vectors
    likelihood: str = ""
    scale_mode: str = "shared"  # its s: "fixed", "shared" (one parameter), "each" (by the decoder)
    initial_scale: float = 0.5  # s, or its initial value, in the data's units
    min_scale: float = 1e-3  # lower bound of a learned s, in the data's units
    binarise: str = "dynamic"  # or "threshold", for the Bernoulli likelihood
    covariance: str = "diagonal"  # of q(z|x), or "full"
    prior: str = "normal"  # p(z), or "petals": a mixture of ten 2-D Gaussians
    beta: float = 1.0  # weight of the KL term
    num_latent_samples: int = 1  # of z for each example and step: the paper's L

    channels: tuple[int, ...] = (16, 32, 64)  # of the levels, for images; (): no convolutions
    strides: tuple[int, ...] = ()  # of each level; (): 2
    kernel_size: int = 0  # side of the levels' windows, in pixels; 0: twice the stride
    level_activation: str = "relu"  # of the levels: see `activation`
    hidden: tuple[int, ...] = (256,)  # layers between the levels, or a vector, and z
    activation: str = "relu"  # of these layers: or "sigmoid", "tanh", "softplus", "linear"
    init_std: float = 0.0  # standard deviation of their initial weights; 0: 1/√inputs

    batch_size: int = 100  # examples per step: the paper's M
    learning_rate: float = 1e-3  # of the optimiser
    weight_decay: float = 0.0  # of the decoder: adds ½ weight_decay ‖θ‖² to an example's nats
    ema_decay: float = 0.999  # of the parameters' average, per step; warmed up

    RENAMED: ClassVar[dict[str, str | None]] = {
        "code": "latent_shape", "scale": "scale_mode", "sigma": "initial_scale",
        "sigma_min": "min_scale", "draws": "num_latent_samples", "widths": "hidden",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the network and training on MNIST (§5 and appendix C), with 20 latents.

        Of the paper's 3 to 200 latents and Adagrad's step sizes 0.01, 0.02 and 0.1, chosen in the
        first iterations, it has one each. The weights' prior is N(0, I) for 60,000 examples.
        """
        return cls(
            shape=(28, 28, 1), latent_shape=(20,), likelihood="bernoulli", channels=(),
            hidden=(500,), activation="tanh", init_std=0.1, batch_size=100, num_latent_samples=1,
            optimizer="adagrad", learning_rate=0.02, weight_decay=1 / 60_000, ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: 8-bit pixels of colour images, small latents."""
        cfg = adapt(cls(), task)
        if len(task.shape) == 3 and task.shape[-1] > 1:
            return dataclasses.replace(cfg, likelihood="logistic")
        if len(task.shape) == 1:
            return dataclasses.replace(cfg, latent_shape=(min(*cfg.latent_shape, *task.shape),))
        return cfg

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        for name in ("shape", "latent_shape"):
            shape, known = getattr(self, name), "(D,) or (H, W, C)"
            if len(shape) not in (1, 3) or min(shape, default=0) < 1:
                raise InputError(f"Config.{name} = {shape}; it must be {known}")
        for name in (
            "initial_scale", "min_scale", "batch_size", "num_latent_samples", "learning_rate",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        for name in ("beta", "init_std", "weight_decay", "kernel_size"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        check_options(self)
        if self.covariance == "full" and len(self.latent_shape) > 1:
            raise InputError(
                f"Config.covariance = 'full' needs latent_shape = (D,), not {self.latent_shape}"
            )
        if self.prior == "petals" and self.latent_shape != (2,):
            raise InputError(
                f"Config.prior = 'petals' needs latent_shape = (2,), not {self.latent_shape}"
            )


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the mean of q(z|x) for x [B, *shape]: [B, *latent_shape].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of dynamic binarisation; None: by threshold.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    refuse_condition(condition)
    x = observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return compiled(net or VAE(cfg), variables, "posterior", x).mean


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return E[x|z] for z [B, *latent_shape]: [B, *shape]; binary images as 2 P(b=1) - 1."""
    refuse_condition(condition)
    return as_data(cfg, compiled(net or VAE(cfg), variables, "eta", check_latents(cfg, z)))


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the decoded mean of q(z|x) for x [B, *shape]: [B, *shape]. See `encode`."""
    z = encode(cfg, variables, x, key, condition=condition, net=net)
    return decode(cfg, variables, z, net=net)


def elbo_terms(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, *, net: nn.Module | None = None
) -> dict[str, Array]:
    """Return the terms of -ELBO, [B] in nats: "reconstruction" -ln p(x|z) and "kl"."""
    return _elbo_terms(cfg, variables, check_shape({"x": x}, cfg.shape), key, net or VAE(cfg))


@jit(0, 4, often=False)
def _elbo_terms(
    cfg: Config, variables: PyTree, x: Array, key: Key, net: nn.Module
) -> dict[str, Array]:
    observation_key, noise_key = jax.random.split(key)
    return terms(cfg, net, variables, observed(cfg, x, observation_key), noise_key)


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the ELBO, a lower bound of ln p(x) for x [B, *shape]: [B], in nats; without β."""
    refuse_condition(condition)
    parts = elbo_terms(cfg, variables, x, key, net=net)
    return -parts["reconstruction"] - parts["kl"]


def log_weights(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, num: int = 64, *,
    net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return `num` samples of ln w = ln p(x, z) - ln q(z|x) for x [B, *shape]: [num, B], nats."""
    require_num(num)
    x = check_shape({"x": x}, cfg.shape)
    return _log_weights(cfg, variables, x, key, num, net or VAE(cfg))


@jit(0, 4, 5, often=False)
def _log_weights(
    cfg: Config, variables: PyTree, x: Array, key: Key, num: int, net: nn.Module
) -> Array:
    observation_key, noise_key = jax.random.split(key)
    x = observed(cfg, x, observation_key)  # one binary image, whose ln p is estimated

    def one(i: Array) -> Array:
        return log_ratio(cfg, net, variables, x, jax.random.fold_in(noise_key, i))

    return jax.lax.map(one, jnp.arange(num))


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None, num: int = 64,
) -> Array:  # fmt: skip
    """Return the importance-weighted bound of ln p(x) for x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of z, and of dynamic binarisation; None: a fixed key.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
        num: number of samples of z: the larger, the tighter the bound.
    """
    refuse_condition(condition)
    key = jax.random.key(0) if key is None else key
    weights = log_weights(cfg, variables, x, key, num, net=net)
    return jax.nn.logsumexp(weights, axis=0) - np.log(num)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: PyTree = None, net: nn.Module | None = None, mean: bool | None = None,
) -> Array:  # fmt: skip
    """Sample z from the prior and decode it: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the samples.
        num: number of samples.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
        mean: whether to return E[x|z], as papers show images, rather than a sample of p(x|z);
            None: the mean for images, a sample for vectors.
    """
    refuse_condition(condition)
    require_num(num)
    mean = len(cfg.shape) == 3 if mean is None else mean
    return _sample(cfg, variables, key, num, mean, net or VAE(cfg))


@jit(0, 3, 4, 5, often=False)
def _sample(
    cfg: Config, variables: PyTree, key: Key, num: int, mean: bool, net: nn.Module
) -> Array:
    z_key, x_key = jax.random.split(key)
    eta = apply(net, variables, "eta", sample_prior(cfg, z_key, num))
    return as_data(cfg, eta, None if mean else x_key)


def impute(
    cfg: Config, variables: PyTree, x: ArrayLike, mask: ArrayLike, key: Key, *,
    condition: PyTree = None, net: nn.Module | None = None, steps: int = 100,
    mean: bool | None = None,
) -> Array:  # fmt: skip
    """Fill in missing parts of x (Rezende et al. 2014, 1401.4082, appendix F): [B, *shape].

    A Markov chain alternates z ~ q(z|x) and the missing part of x ~ p(x|z). Its distribution tends
    to p(missing | known) if q is the exact posterior.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: [B, *shape]; missing values may be any finite number.
        mask: broadcasts to the shape of x; true where x is known. Known values are kept.
        key: of the chain.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
        steps: of the chain.
        mean: whether the last step fills in the mean of p(x|z), as in `sample`.
    """
    refuse_condition(condition)
    x = check_shape({"x": x}, cfg.shape)
    if steps < 1:
        raise InputError(f"steps = {steps}; it must be at least 1")
    mean = len(cfg.shape) == 3 if mean is None else mean
    known = check_mask(mask, x.shape)
    return _impute(cfg, variables, x, known, key, steps, mean, net or VAE(cfg))


@jit(0, 5, 6, 7, often=False)
def _impute(
    cfg: Config, variables: PyTree, x: Array, mask: Array, key: Key, steps: int, mean: bool,
    net: nn.Module,
) -> Array:  # fmt: skip
    observation_key, start_key, z_key, x_key = jax.random.split(key, 4)

    def eta(i: Array | int, x: Array) -> Array:
        eps = rng.normal(jax.random.fold_in(z_key, i), (len(x), *cfg.latent_shape))
        z = apply(net, variables, "posterior", x).sample(eps)
        return apply(net, variables, "eta", z)

    def sample_x(i: Array, eta: Array) -> Array:
        return likelihood(cfg).sample(jax.random.fold_in(x_key, i), eta)

    start = _sample(cfg, variables, start_key, len(x), False, net)
    last = chain(start, observed(cfg, x, observation_key), mask, eta, sample_x, steps)
    return jnp.where(mask, x, as_data(cfg, last, None if mean else x_key))


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Maximise the ELBO, with the KL term times β.

    Metrics, nats per example: `reconstruction` -E ln p(x|z), `kl`, and `loss`, their sum (-ELBO) if
    β is 1.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's.
        net: a Flax module instead of the Config's networks, with methods `posterior(x)`, which
            returns a `gengen.distributions.Normal` of z [B, *latent_shape]; `eta(z)`, which returns
            the likelihood's parameters [B, ..., parts · C]; and `__call__(x)`, which calls both.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from gengen.distributions import Normal
        >>> from gengen.vae import vae
        >>> class Linear(nn.Module):
        ...     def setup(self):
        ...         self.mean, self.out = nn.Dense(2), nn.Dense(3)
        ...     def posterior(self, x):
        ...         return Normal(self.mean(x), jnp.zeros((len(x), 2)))
        ...     def eta(self, z):
        ...         return jnp.concatenate([self.out(z), jnp.zeros((len(z), 3))], axis=1)
        ...     def __call__(self, x):
        ...         return self.eta(self.posterior(x).mean)
        >>> cfg, net = vae.Config(shape=(3,), latent_shape=(2,)), Linear()
        >>> m = vae.method(cfg, net=net)
        >>> state = m.init(jax.random.key(0), {"x": jnp.ones((8, 3))})
        >>> state, metrics = m.train_step(jax.random.key(1), state, {"x": jnp.ones((8, 3))})
        >>> vae.sample(cfg, state.variables, jax.random.key(2), 4, net=net).shape
        (4, 3)
    """
    used = net or VAE(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return used.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        observation_key, noise_key = jax.random.split(key)
        x = observed(cfg, check_shape(batch, cfg.shape), observation_key)
        parts = terms(cfg, used, {"params": params, **mutables}, x, noise_key)
        return weighted(cfg, parts), (means(parts), mutables)

    tx = tx or optimizer(cfg)
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
