r"""VQ-VAE: codes from a codebook.

van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning* (1711.00937).

    z_e = encoder(x): N vectors of D numbers;   k_n = argmin_k ‖z_e,n - e_k‖;   z_q,n = e_{k_n}

    L = -ln p(x|z_q) + ‖sg[z_e] - e‖² + β ‖z_e - sg[e]‖²          (sg: stop-gradient)

The decoder's input is z_e + sg[z_q - z_e], which is z_q, but passes its gradient straight to z_e:
the encoder's gradient is that of the decoder's input, plus 2β(z_e - e) of the commitment term. The
posterior is one code, the prior while training is uniform: KL = N ln K, a constant.

The codebook follows the encodings by moving averages (the paper's appendix A.1),

    N_k ← γ N_k + (1-γ) n_k,   m_k ← γ m_k + (1-γ) Σ_{n: k_n = k} z_e,n,   e_k = m_k / N_k

with n_k and the sums as shares of all codes of the *global* batch. If `codebook_decay` is 0, it
follows the gradient of the second term. A code that is hardly used any more is restarted on an
encoding of the batch, so that the codebook does not collapse (moving averages only). `perplexity`,
e^H of how often the codes are used in a batch, measures how many are in use.

This is the first stage: a prior is trained on `codes` [B, h, w] (`gengen.vae.vqvae_prior`), and
`decode_codes` decodes its samples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, adapt, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.optim import ScheduledConfig, learning_rate
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape
from gengen.vae import bounds, vae
from gengen.vae.codebook import (
    codebook,
    first_codes,
    follow,
    nearest,
    perplexity,
    straight_through,
)
from gengen.vae.networks import VQVAE, apply, likelihood, places

__all__ = [
    "LOG_PROB", "VQVAE", "Config", "codes", "condition_of", "decode", "decode_codes", "elbo",
    "encode", "log_prob", "method", "nearest", "perplexity", "places", "reconstruct",
]  # fmt: skip

LOG_PROB = "lower bound"
SMALL = 16  # images with a smaller side than this have one level by default


@dataclass(frozen=True)
class ImageConfig(ScheduledConfig):
    """What all VQ-VAEs of images have in common; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    codebook_size: int = 64  # number of codes: the paper's K
    code_dim: int = 16  # numbers of a code: the paper's D
    commitment_weight: float = 0.25  # β
    codebook_decay: float = 0.99  # γ, per step; 0: the codebook learns by the gradient
    # A code is restarted if used less often than this fraction of 1 / codebook_size; 0: never.
    restart_threshold: float = 0.1

    likelihood: str = ""  # as in `vae`, with the three fields below
    scale_mode: str = "fixed"  # s of the likelihood: "fixed", "shared" or "each"
    initial_scale: float = 0.1  # s, or its initial value, in the data's units
    min_scale: float = 1e-3  # lower bound of a learned s, in the data's units
    binarise: str = "dynamic"  # or "threshold", for the Bernoulli likelihood

    channels: tuple[int, ...] = (32, 64)  # of the levels, for images
    strides: tuple[int, ...] = ()  # of each level; (): 2. (7, 1) brings 224 × 224 to 32 × 32
    num_blocks: int = 1  # residual blocks at the coarsest resolution
    residual_kernel_size: int = 3  # side of their second convolution's window, in pixels
    transposed: bool = False  # whether the decoder grows by transposed convolutions

    batch_size: int = 128  # examples per step
    learning_rate: float = 1e-3  # of Adam
    ema_decay: float = 0.999  # of the networks' average, per step; warmed up

    RENAMED: ClassVar[dict[str, str | None]] = {
        "K": "codebook_size", "D": "code_dim", "beta": "commitment_weight",
        "decay": "codebook_decay", "dead": "restart_threshold", "scale": "scale_mode",
        "sigma": "initial_scale", "sigma_min": "min_scale", "blocks": "num_blocks",
    }  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: grey values of colour images, codes of small ones."""
        cfg = adapt(cls(), task)
        if len(task.shape) == 3 and task.shape[-1] > 1:
            cfg = dataclasses.replace(cfg, likelihood="gaussian")
        if len(task.shape) == 3 and min(task.shape[:2]) < SMALL:
            cfg = dataclasses.replace(cfg, channels=cfg.channels[-1:])
        return cfg

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        for name in ("codebook_size", "code_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        for name in ("commitment_weight", "restart_threshold"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.codebook_decay < 1:
            raise InputError(f"Config.codebook_decay = {self.codebook_decay}; it must be in [0, 1)")
        if len(self.shape) == 3 and not self.channels:
            raise InputError(
                "Config.channels is empty; images need at least one level of convolutions"
            )
        vae.Config(  # checks the fields that both have
            shape=self.shape, likelihood=self.likelihood, scale_mode=self.scale_mode,
            initial_scale=self.initial_scale, min_scale=self.min_scale, binarise=self.binarise,
            batch_size=self.batch_size, learning_rate=self.learning_rate,
        )  # fmt: skip


@dataclass(frozen=True)
class Config(ImageConfig):
    """A VQ-VAE of images, or of vectors."""

    num_codes: int = 8  # of a vector; an image has as many as its levels leave places
    codes_per_place: int = 1  # codes in each place of an image
    hidden: tuple[int, ...] = (256,)  # hidden layers, for vectors

    RENAMED: ClassVar[dict[str, str | None]] = {"N": "num_codes", "widths": "hidden"}

    @classmethod
    def paper(cls) -> Self:
        """Return the network and training on CIFAR-10 of §4.1: 8 × 8 × 10 codes for an image.

        The paper does not say how many numbers a code has; 64 is from the authors' code (Sonnet).
        """
        return cls(**paper_fields(), codes_per_place=10)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name in ("num_codes", "codes_per_place"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        if len(self.shape) == 1 and self.codes_per_place > 1:
            raise InputError(
                f"Config.codes_per_place = {self.codes_per_place} is of images: use num_codes for "
                "vectors"
            )


def paper_fields(shape: Shape = (32, 32, 3)) -> dict[str, Any]:
    """Return the codec of the paper's §4.1, whose codebook learns by the gradient (eq. 3)."""
    return dict(
        shape=shape, codebook_size=512, code_dim=64, commitment_weight=0.25,
        codebook_decay=0.0, restart_threshold=0.0, likelihood="gaussian", channels=(256, 256),
        num_blocks=2, residual_kernel_size=1, transposed=True, batch_size=128,
        learning_rate=2e-4, ema_decay=0.0,
    )  # fmt: skip


# --- the networks --------------------------------------------------------------------------------


def network(cfg: Config, net: nn.Module | None) -> nn.Module:
    """Return the network that is used: the user's or, if None, the Config's.

    Raises:
        InputError: for a user's network where the codebook would be one of its parameters.
    """
    if net is not None and not cfg.codebook_decay:
        raise InputError(
            "Config.codebook_decay = 0, but with a network of your own the codebook is a moving "
            "average: set codebook_decay, such as 0.99"
        )
    return net or VQVAE(cfg)


def _networks(variables: PyTree) -> PyTree:
    return {name: value for name, value in variables.items() if name != "codebook"}


# --- the mathematics -----------------------------------------------------------------------------


def terms(
    cfg: Config, variables: PyTree, x: Array, net: nn.Module | None = None
) -> tuple[dict[str, Array], Array, Array]:
    """Return the loss's terms for observed x, each [B]; z_e [B, *places, D]; codes k [B, *places].

    "reconstruction" -ln p(x|z_q) in nats, "codebook" ‖sg[z_e] - e‖², "commitment" ‖z_e - sg[e]‖².
    """
    used, own = network(cfg, net), _networks(variables)
    e = codebook(cfg, variables)
    z_e = apply(used, own, "z_e", x)
    k = nearest(z_e, e)
    z_q = e[k]
    eta = apply(used, own, "eta", straight_through(z_e, z_q))
    still = jax.lax.stop_gradient
    parts = {
        "reconstruction": -likelihood(cfg).log_prob(x, eta),
        "codebook": _square(still(z_e) - z_q),
        "commitment": _square(z_e - still(z_q)),
    }
    return parts, z_e, k


def _square(x: Array) -> Array:
    return jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the quantised encodings z_q of x [B, *shape]: [B, *places, D].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of dynamic binarisation; None: by threshold.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    refuse_condition(condition)
    return codebook(cfg, variables)[codes(cfg, variables, x, key, net=net)]


def codes(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the indices of the codes of x [B, *shape]: int32 [B, *places]. See `encode`."""
    x = bounds.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    z_e = bounds.compiled(network(cfg, net), _networks(variables), "z_e", x)
    return nearest(z_e, codebook(cfg, variables))


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return E[x|z_q] for z_q [B, *places, D]: [B, *shape], images in [-1, 1].

    Raises:
        InputError: for another shape.
    """
    refuse_condition(condition)
    z_q, wanted = jnp.asarray(z, jnp.float32), (*places(cfg), cfg.code_dim)
    if z_q.shape[1:] != wanted:
        raise InputError(f"encodings have shape {z_q.shape}; they must be [B, *{wanted}]")
    eta = bounds.compiled(network(cfg, net), _networks(variables), "eta", z_q)
    return bounds.as_data(cfg, eta)


def decode_codes(
    cfg: Config, variables: PyTree, k: ArrayLike, *, net: nn.Module | None = None
) -> Array:
    """Return E[x|k] for indices k [B, *places] of codes: [B, *shape]. The inverse of `codes`.

    Raises:
        InputError: for another shape, or indices outside 0..K-1.
    """
    k, num = np.asarray(k), cfg.codebook_size
    if k.shape[1:] != places(cfg) or k.size == 0 or k.min() < 0 or k.max() >= num:
        raise InputError(
            f"indices of codes have shape {k.shape}; they must be [B, *{places(cfg)}], B > 0, in "
            f"0..{num - 1}"
        )
    return decode(cfg, variables, codebook(cfg, variables)[k], net=net)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the decoded codes of x [B, *shape]: [B, *shape]. See `encode`."""
    z_q = encode(cfg, variables, x, key, condition=condition, net=net)
    return decode(cfg, variables, z_q, net=net)


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return ln p(x|z_q) - N ln K, under the uniform prior, for x [B, *shape]: [B], in nats."""
    refuse_condition(condition)
    x = bounds.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return -terms(cfg, variables, x, net)[0]["reconstruction"] - kl(cfg)


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return the ELBO under the uniform prior, for x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of dynamic binarisation; None: a fixed key.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    key = jax.random.key(0) if key is None else key
    return elbo(cfg, variables, x, key, condition=condition, net=net)


def kl(cfg: Config) -> float:
    """Return N ln K: nats of an example's codes under the uniform prior."""
    return float(np.prod(places(cfg)) * np.log(cfg.codebook_size))


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Minimise L. The codebook's averages are mutables.

    Metrics: `loss`, L; `reconstruction` -ln p(x|z_q), nats; `codebook` (by gradient only) and
    `commitment`, squared distances; `kl`, the constant; `perplexity` of the batch.

    Args:
        cfg: of the model; with `net`, codebook_decay must be above 0.
        tx: an optimiser instead of Adam.
        net: a Flax module instead of the Config's networks, with methods `z_e(x)`, which returns
            the encodings [B, *places(cfg), code_dim]; `eta(z_q)`, which returns the likelihood's
            parameters [B, ..., parts · C]; and `__call__(x)`, which calls both.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from gengen.vae import vqvae
        >>> class Linear(nn.Module):
        ...     def setup(self):
        ...         self.inner, self.out = nn.Dense(4), nn.Dense(6)
        ...     def z_e(self, x):
        ...         return self.inner(x).reshape(-1, 2, 2)
        ...     def eta(self, z_q):
        ...         return self.out(z_q.reshape(len(z_q), -1))
        ...     def __call__(self, x):
        ...         return self.eta(self.z_e(x))
        >>> cfg, net = vqvae.Config(shape=(3,), num_codes=2, code_dim=2), Linear()
        >>> batch, key = {"x": jnp.ones((8, 3))}, jax.random.key(0)
        >>> m = vqvae.method(cfg, net=net)
        >>> state, metrics = m.train_step(key, m.init(key, batch), batch)
        >>> vqvae.codes(cfg, state.variables, batch["x"], net=net).shape
        (8, 2)
    """
    used = network(cfg, net)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        net_key, book_key = jax.random.split(key)
        variables = dict(used.init(net_key, check_shape(batch, cfg.shape)[:1]))
        if cfg.codebook_decay:
            # At the threshold: codes that the first batch does not use are restarted on it.
            num = cfg.codebook_size
            share = (cfg.restart_threshold or 1.0) / num
            sums = first_codes(book_key, (num, cfg.code_dim)) * share
            variables["codebook"] = {"shares": jnp.full(num, share, jnp.float32), "sums": sums}
        return variables

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        observation_key, restart_key = jax.random.split(key)
        x = bounds.observed(cfg, check_shape(batch, cfg.shape), observation_key)
        parts, z_e, k = terms(cfg, {"params": params, **mutables}, x, used if net else None)
        value = parts["reconstruction"] + cfg.commitment_weight * parts["commitment"]
        if cfg.codebook_decay:
            del parts["codebook"]
            z_e = jax.lax.stop_gradient(z_e)
            book = follow(cfg, mutables["codebook"], z_e, k, restart_key)
            mutables = {**mutables, "codebook": book}
        else:
            value = value + parts["codebook"]
        metrics: Metrics = {name: jnp.mean(term) for name, term in parts.items()}
        metrics |= {"kl": jnp.asarray(kl(cfg), jnp.float32), "perplexity": perplexity(cfg, k)}
        return jnp.mean(value), (metrics, mutables)

    tx = tx or optax.adam(learning_rate(cfg))
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
