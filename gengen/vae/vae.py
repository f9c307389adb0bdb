r"""VAE: the variational autoencoder.

Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (1312.6114); β-VAE: Higgins et al. 2017.

    p(x, z) = p(z) p(x|z),    q(z|x) = N(μ(x), diag σ²(x)), or N(μ(x), L(x) L(x)ᵀ)

The decoder gives the parameters η(z) of a likelihood, the encoder those of q. Training climbs

    ELBO = E_q ln p(x|z) - KL(q(z|x) ‖ p(z)) ≤ ln p(x),    z = μ + σ⊙ε,  ε ~ N(0, I)

(the slide that prints z = μ + εσ² errs: ε is multiplied by the standard deviation), with β times
the KL term if `beta` is not 1. With p(z) = N(0, I), KL = ½ Σ (μ² + σ² - 1 - ln σ²); with a mixture
it is estimated by ln q(z|x) - ln p(z) at the drawn z.

Of K draws from q, with w = p(x, z)/q(z|x), E ln (1/K Σ w_k) is a bound too, the tighter the larger
K (Burda et al. 2016, 1509.00519): `log_prob`.

**Binary images.** With the Bernoulli likelihood an image x in [-1, 1] is the probability (x+1)/2 of
each pixel's being 1. "dynamic": the pixels are drawn anew every time an example is seen, from the
key and the example's position in the batch; "threshold": b = 1 where x > 0. Encoder and likelihood
see the binary image as ±1; figures are nats per binary image, and are not comparable between the
two protocols.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.nn.codec import Decoder, Encoder
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """The paper's algorithm; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    code: Shape = (16,)  # of z: (D,), or a map (h, w, C), see gengen.nn.codec.code_map

    likelihood: str = ""  # "bernoulli", "gaussian", "laplace", "logistic"; "": the first for images
    scale: str = "shared"  # its s: "fixed", "shared" (one number, learned), "each" (by the decoder)
    sigma: float = 0.5  # s, or where it starts, in the data's units
    sigma_min: float = 1e-3  # what a learned s stays above
    binarise: str = "dynamic"  # or "threshold", for the Bernoulli likelihood
    covariance: str = "diagonal"  # of q(z|x), or "full"
    prior: str = "normal"  # p(z), or "petals": a mixture of ten 2-D Gaussians
    beta: float = 1.0  # weight of the KL term
    draws: int = 1  # of z for an example at each step: the paper's L

    channels: tuple[int, ...] = (32, 64, 128)  # of the levels, for images; (): no convolutions
    strides: tuple[int, ...] = ()  # of each level; (): 2
    widths: tuple[int, ...] = (256,)  # hidden layers between the levels, or a vector, and z

    batch_size: int = 100  # examples a step: the paper's M
    learning_rate: float = 1e-3  # of Adam
    ema_decay: float = 0.999  # a step; warmed up

    @staticmethod
    def paper() -> Config:
        """The paper's network for MNIST: one hidden layer of 500, 20 codes."""
        return Config(channels=(), widths=(500,), code=(20,))

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if len(self.code) not in (1, 3) or min(self.code, default=0) < 1:
            raise InputError(f"Config.code = {self.code}, but it is (D,) or (h, w, C)")
        for name in ("sigma", "sigma_min", "batch_size", "draws", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if not self.beta >= 0:
            raise InputError(f"Config.beta = {self.beta}, but it is at least 0")
        for name, values in OPTIONS.items():
            if getattr(self, name) not in values:
                raise InputError(f"Config.{name} = {getattr(self, name)!r}, not one of {values}")
        if self.covariance == "full" and len(self.code) > 1:
            raise InputError(f"Config.covariance = 'full' needs a code (D,), not {self.code}")
        if self.prior == "petals" and self.code != (2,):
            raise InputError(
                f"Config.prior = 'petals' is in the plane: code = (2,), not {self.code}"
            )


OPTIONS = {
    "likelihood": ("", *dist.LIKELIHOODS),
    "scale": ("fixed", "shared", "each"),
    "binarise": dist.BINARISATIONS,
    "covariance": ("diagonal", "full"),
    "prior": ("normal", "petals"),
}

MAX_LOG_STD = 7.0  # |ln σ| of q(z|x) is less


def likelihood(cfg: Config) -> dist.Likelihood:
    """The p(x|η) that a Config names."""
    return dist.likelihood(cfg.likelihood or ("bernoulli" if len(cfg.shape) == 3 else "gaussian"))


# --- the networks --------------------------------------------------------------------------------


class Head(nn.Module):
    """What the decoder gives, with the ln s that it does not give beside it: η."""

    cfg: Config

    @nn.compact
    def __call__(self, out: Array) -> Array:
        cfg = self.cfg
        if likelihood(cfg).parts == 1:
            return out
        start = float(np.log(cfg.sigma))
        if cfg.scale == "fixed":
            return jnp.concatenate([out, jnp.full_like(out, start)], axis=-1)
        if cfg.scale == "shared":
            raw = self.param("log_scale", nn.initializers.constant(start), ())
            mean, raw = out, jnp.broadcast_to(raw, out.shape)
        else:
            mean, raw = jnp.split(out, 2, axis=-1)
            raw = raw + start
        # s = sigma_min + exp(raw): a pixel that is always black would have a density without bound.
        return jnp.concatenate([mean, jnp.logaddexp(raw, float(np.log(cfg.sigma_min)))], axis=-1)


def outputs(cfg: Config) -> Shape:
    """Shape of what the decoder gives for an example, before `Head`."""
    *space, last = cfg.shape
    return (*space, last * (likelihood(cfg).parts if cfg.scale == "each" else 1))


class VAE(nn.Module):
    """The encoder, x [B, *shape] → q(z|x), and the decoder, z [B, *code] → η."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        levels: Any = dict(channels=cfg.channels, strides=cfg.strides, widths=cfg.widths)
        self.encoder = Encoder(cfg.shape, numbers_of_q(cfg), **levels)
        self.decoder = Decoder(outputs(cfg), cfg.code, **levels)
        self.head = Head(cfg)

    def posterior(self, x: Array) -> dist.Normal:
        return normal_of(self.cfg, self.encoder(x))

    def eta(self, z: Array) -> Array:
        return self.head(self.decoder(z))

    def __call__(self, x: Array) -> Array:
        return self.eta(self.posterior(x).mean)


def numbers_of_q(cfg: Config) -> Shape:
    """Shape of what the encoder gives: μ and ln σ, and what L has below its diagonal."""
    *space, last = cfg.code
    more = last * (last - 1) // 2 if cfg.covariance == "full" else 0
    return (*space, 2 * last + more)


def normal_of(cfg: Config, h: Array) -> dist.Normal:
    """q(z|x) from what the encoder gives, [B, *numbers_of_q(cfg)]."""
    last = cfg.code[-1]
    mean, log_std, rest = jnp.split(h, (last, 2 * last), axis=-1)
    # Within ±7, smoothly: σ = exp of what an untrained layer says of an outlier would overflow.
    log_std = MAX_LOG_STD * jnp.tanh(log_std / MAX_LOG_STD)
    if cfg.covariance == "diagonal":
        return dist.Normal(mean, log_std)
    rows, columns = np.tril_indices(last, -1)
    lower = jnp.zeros((h.shape[0], last, last)).at[:, rows, columns].set(rest)
    return dist.Normal(mean, log_std, lower)


# --- the mathematics -----------------------------------------------------------------------------


def observed(cfg: Config, x: Array, key: Key | None) -> Array:
    """What the likelihood is of: x, or a binary image ±1; by threshold if there is no key."""
    if likelihood(cfg).parts == 2:
        return x
    return dist.binarise(x, key, cfg.binarise)


def log_prior(cfg: Config, z: Array) -> Array:
    """Ln p(z) for z [B, *code]: [B], in nats."""
    return dist.standard_normal(z) if cfg.prior == "normal" else dist.petals().log_prob(z)


def draw_prior(cfg: Config, key: Key, num: int) -> Array:
    """Z ~ p(z): [num, *code]."""
    if cfg.prior == "normal":
        return rng.normal(key, (num, *cfg.code))
    return dist.petals().draw(key, num)


def terms(
    cfg: Config, net: nn.Module, variables: PyTree, x: Array, key: Key, *given: Array
) -> dict[str, Array]:
    """The two terms of -ELBO for observed x, each [B], in nats: "reconstruction" and "kl".

    `given` are further arguments, [B, ...], of the network's `posterior` and `eta`.
    """
    q: dist.Normal = _apply(net, variables, "posterior", x, *given)
    eps = rng.normal(key, (x.shape[0], cfg.draws, *cfg.code))
    reconstruction, kl = jnp.zeros(x.shape[0]), jnp.zeros(x.shape[0])
    for i in range(cfg.draws):
        z = q.draw(eps[:, i])
        eta = _apply(net, variables, "eta", z, *given)
        reconstruction += -likelihood(cfg).log_prob(x, eta) / cfg.draws
        kl += (q.log_prob(z) - log_prior(cfg, z)) / cfg.draws
    if cfg.prior == "normal":
        kl = q.kl_from_standard()
    return {"reconstruction": reconstruction, "kl": kl}


def log_ratio(
    cfg: Config, net: nn.Module, variables: PyTree, x: Array, key: Key, *given: Array
) -> Array:
    """Ln w = ln p(x|z) + ln p(z) - ln q(z|x) of observed x and one z ~ q(z|x): [B], in nats."""
    q: dist.Normal = _apply(net, variables, "posterior", x, *given)
    z = q.draw(rng.normal(key, (x.shape[0], *cfg.code)))
    eta = _apply(net, variables, "eta", z, *given)
    return likelihood(cfg).log_prob(x, eta) + log_prior(cfg, z) - q.log_prob(z)


def _apply(net: nn.Module, variables: PyTree, name: str, *args: Array) -> Any:
    return net.apply(variables, *args, method=name)


# For calls from outside; what a train step makes of it depends on the context it is traced in.
_compiled = jax.jit(_apply, static_argnums=(0, 2))


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The mean of q(z|x) for x [B, *shape]: [B, *code]. Without a key binarised by threshold."""
    x = observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return _compiled(VAE(cfg), variables, "posterior", x).mean


def decode(cfg: Config, variables: PyTree, z: ArrayLike) -> Array:
    """E[x|z] for z [B, *code]: [B, *shape]; images in [-1, 1], of binary ones 2 P(b=1) - 1."""
    return picture(cfg, _compiled(VAE(cfg), variables, "eta", check_code(cfg, z)))


def check_code(cfg: Config, z: ArrayLike) -> Array:
    """Z as [B, *code].

    Raises:
        InputError: for another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != tuple(cfg.code):
        raise InputError(f"codes have shape {z.shape}, but Config.code is {cfg.code}: [B, *code]")
    return z


def picture(cfg: Config, eta: Array, key: Key | None = None) -> Array:
    """The mean of p(x|η), or a draw from it; images clipped to [-1, 1]."""
    x = likelihood(cfg).mean(eta) if key is None else likelihood(cfg).draw(key, eta)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The decoded mean code of x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, key))


def elbo_terms(cfg: Config, variables: PyTree, x: ArrayLike, key: Key) -> dict[str, Array]:
    """The two terms of -ELBO, each [B], in nats: "reconstruction" -ln p(x|z) and "kl"."""
    return _elbo_terms(cfg, variables, check_shape({"x": x}, cfg.shape), key)


@jax.jit(static_argnums=0)
def _elbo_terms(cfg: Config, variables: PyTree, x: Array, key: Key) -> dict[str, Array]:
    see_key, noise_key = jax.random.split(key)
    return terms(cfg, VAE(cfg), variables, observed(cfg, x, see_key), noise_key)


def elbo(cfg: Config, variables: PyTree, x: ArrayLike, key: Key) -> Array:
    """A bound of ln p(x) for x [B, *shape]: [B], in nats. β has no part in it."""
    parts = elbo_terms(cfg, variables, x, key)
    return -parts["reconstruction"] - parts["kl"]


def log_weights(cfg: Config, variables: PyTree, x: ArrayLike, key: Key, num: int = 64) -> Array:
    """`num` draws of ln w = ln p(x, z) - ln q(z|x) for x [B, *shape]: [num, B], in nats."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 code is drawn")
    return _log_weights(cfg, variables, check_shape({"x": x}, cfg.shape), key, num)


@jax.jit(static_argnums=(0, 4))
def _log_weights(cfg: Config, variables: PyTree, x: Array, key: Key, num: int) -> Array:
    see_key, noise_key = jax.random.split(key)
    x = observed(cfg, x, see_key)  # one binary image, whose ln p is estimated

    def one(i: Array) -> Array:
        return log_ratio(cfg, VAE(cfg), variables, x, jax.random.fold_in(noise_key, i))

    return jax.lax.map(one, jnp.arange(num))


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, num: int = 64
) -> Array:
    """The importance-weighted bound of ln p(x) by `num` codes, for x [B, *shape]: [B], in nats."""
    weights = log_weights(cfg, variables, x, jax.random.key(0) if key is None else key, num)
    return jax.nn.logsumexp(weights, axis=0) - np.log(num)


def sample(cfg: Config, variables: PyTree, key: Key, num: int, mean: bool | None = None) -> Array:
    """Draw `num` codes and decode them: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        mean: E[x|z], as papers show images, or a draw from p(x|z); None: the mean of images, a draw
            of vectors.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return _sample(cfg, variables, key, num, len(cfg.shape) == 3 if mean is None else mean)


@jax.jit(static_argnums=(0, 3, 4))
def _sample(cfg: Config, variables: PyTree, key: Key, num: int, mean: bool) -> Array:
    z_key, x_key = jax.random.split(key)
    eta = _apply(VAE(cfg), variables, "eta", draw_prior(cfg, z_key, num))
    return picture(cfg, eta, None if mean else x_key)


def impute(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    mask: ArrayLike,
    key: Key,
    steps: int = 100,
    mean: bool | None = None,
) -> Array:
    """Fill in what is missing (Rezende et al. 2014, 1401.4082, appendix F).

    A Markov chain, z ~ q(z|x) and then the missing part of x ~ p(x|z), whose law tends to
    p(missing | known) where q is the exact posterior.

    Args:
        cfg: of the model.
        variables: trained.
        x: [B, *shape]; what it holds where it is missing does not matter, if it is finite.
        mask: of a shape that broadcasts to that of x; true where x is known.
        key: of all draws.
        steps: of the chain.
        mean: what is filled in at the last step, as in `sample`.

    Returns:
        [B, *shape]: x where it is known.
    """
    x, mask = check_shape({"x": x}, cfg.shape), jnp.asarray(mask, bool)
    sides = zip(mask.shape[::-1], x.shape[::-1], strict=False)
    if mask.ndim > x.ndim or any(m not in (1, n) for m, n in sides):
        raise InputError(f"mask is {mask.shape}: it must broadcast to x, {x.shape}")
    if steps < 1:
        raise InputError(f"steps = {steps}, but the chain takes at least 1")
    mean = len(cfg.shape) == 3 if mean is None else mean
    return _impute(cfg, variables, x, mask, key, steps, mean)


@jax.jit(static_argnums=(0, 5, 6))
def _impute(
    cfg: Config, variables: PyTree, x: Array, mask: Array, key: Key, steps: int, mean: bool
) -> Array:
    see_key, start_key, z_key, x_key = jax.random.split(key, 4)
    seen = observed(cfg, x, see_key)

    def eta(i: Array | int, now: Array) -> Array:
        eps = rng.normal(jax.random.fold_in(z_key, i), (len(x), *cfg.code))
        z = _apply(VAE(cfg), variables, "posterior", now).draw(eps)
        return _apply(VAE(cfg), variables, "eta", z)

    def step(i: Array, now: Array) -> Array:
        draw = likelihood(cfg).draw(jax.random.fold_in(x_key, i), eta(i, now))
        return jnp.where(mask, seen, draw)

    start = jnp.where(mask, seen, _sample(cfg, variables, start_key, len(x), False))
    now = jax.lax.fori_loop(1, steps, step, start)
    return jnp.where(mask, x, picture(cfg, eta(0, now), None if mean else x_key))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb the ELBO, with the KL term times β; `tx` in the place of Adam.

    Metrics, nats per example: `reconstruction` -E ln p(x|z), `kl`, and `loss`, their sum (-ELBO) if
    β is 1.
    """
    net = VAE(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        see_key, noise_key = jax.random.split(key)
        x = observed(cfg, check_shape(batch, cfg.shape), see_key)
        parts = terms(cfg, net, {"params": params, **mutables}, x, noise_key)
        return weigh(cfg, parts), (means(parts), mutables)

    tx = tx or optax.adam(cfg.learning_rate)
    return close(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))


def weigh(cfg: Config, parts: dict[str, Array]) -> Array:
    """The loss: reconstruction + β kl, the mean over examples."""
    return jnp.mean(parts["reconstruction"] + cfg.beta * parts["kl"])


def means(parts: dict[str, Array]) -> Metrics:
    """Each term's mean over examples."""
    return {name: jnp.mean(term) for name, term in parts.items()}
