r"""VQ-VAE: codes from a codebook.

van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning* (1711.00937).

    z_e = encoder(x): N vectors of D numbers;   k_n = argmin_k ‖z_e,n - e_k‖;   z_q,n = e_{k_n}

    L = -ln p(x|z_q) + ‖sg[z_e] - e‖² + β ‖z_e - sg[e]‖²          (sg: stop-gradient)

The decoder is given z_e + sg[z_q - z_e], which is z_q, but hands its gradient straight to z_e: the
encoder's gradient is the decoder's input gradient, plus 2β(z_e - e) of the commitment term. The
posterior is one atom, the prior while training is uniform: KL = N ln K, a constant.

The codebook follows the codes by moving averages (the paper's appendix A.1),

    N_k ← γ N_k + (1-γ) n_k,   m_k ← γ m_k + (1-γ) Σ_{n: k_n = k} z_e,n,   e_k = m_k / N_k

with n_k and the sums as shares of all codes of the *global* batch, or, if `decay` is 0, the second
term's gradient. An atom that is hardly chosen any more is restarted on a code of the batch, so that
the codebook does not collapse (moving averages only). `perplexity`, e^H of how often the atoms are
chosen in a batch, tells how many are in use.

This is the first stage: `codes` [B, h, w] is what a prior over codes is trained on, and
`decode_codes` brings its draws back.
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

from gengen import rng
from gengen.nn.codec import Decoder, Encoder, code_map
from gengen.optim import mean_over_replicas
from gengen.rng import AXIS, axis_is_bound
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape
from gengen.vae import vae


@dataclass(frozen=True)
class Config:
    """The paper's algorithm; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    K: int = 64  # atoms
    D: int = 16  # numbers of an atom
    N: int = 8  # codes of a vector; of an image: as many as the levels leave places
    beta: float = 0.25  # weight of the commitment term
    decay: float = 0.99  # γ, a step; 0: the codebook learns by the gradient
    dead: float = 0.1  # an atom is restarted if chosen less often than this share of 1/K; 0: never

    likelihood: str = ""  # as in `vae`, with the scale and sigma below
    scale: str = "fixed"
    sigma: float = 0.1  # s, or where it starts, in the data's units
    sigma_min: float = 1e-3  # what a learned s stays above
    binarise: str = "dynamic"  # or "threshold", for the Bernoulli likelihood

    channels: tuple[int, ...] = (32, 64)  # of the levels, for images
    strides: tuple[int, ...] = ()  # of each level; (): 2. (7, 1) brings 224 × 224 to 32 × 32
    blocks: int = 1  # residual blocks at the coarsest resolution
    widths: tuple[int, ...] = (256,)  # hidden layers, for vectors

    batch_size: int = 128  # examples a step
    learning_rate: float = 1e-3  # of Adam
    ema_decay: float = 0.999  # of the networks, a step; warmed up

    @staticmethod
    def paper() -> Config:
        """The paper's 32 × 32 images: 8 × 8 codes of 512 atoms."""
        return Config(
            shape=(32, 32, 3), K=512, D=64, channels=(256, 256), blocks=2, learning_rate=2e-4
        )

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        for name in ("K", "D", "N"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 1")
        for name in ("beta", "dead"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 0")
        if not 0 <= self.decay < 1:
            raise InputError(f"Config.decay = {self.decay}, but an average forgets at [0, 1)")
        if len(self.shape) == 3 and not self.channels:
            raise InputError("Config.channels is empty, but codes of images are of convolutions")
        _as_vae(self)


def _as_vae(cfg: Config) -> vae.Config:
    """The likelihood's part of a Config, in `vae`'s terms; it is checked there."""
    return vae.Config(
        shape=cfg.shape, code=(1,), likelihood=cfg.likelihood, scale=cfg.scale, sigma=cfg.sigma,
        sigma_min=cfg.sigma_min, binarise=cfg.binarise, batch_size=cfg.batch_size,
        learning_rate=cfg.learning_rate,
    )  # fmt: skip


def places(cfg: Config) -> Shape:
    """Where an example's codes lie: (h, w) of images, (N,) of vectors."""
    if len(cfg.shape) == 1:
        return (cfg.N,)
    return code_map(cfg.shape, cfg.D, len(cfg.channels), cfg.strides)[:2]


# --- the networks --------------------------------------------------------------------------------


class VQVAE(nn.Module):
    """Encoder, x → z_e [B, *places, D]; decoder, z_q → η; the codebook, if it is a parameter."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        code = (*places(cfg), cfg.D) if len(cfg.shape) == 3 else (cfg.N * cfg.D,)
        options: Any = dict(
            channels=cfg.channels, strides=cfg.strides, blocks=cfg.blocks, widths=cfg.widths
        )
        self.encoder = Encoder(cfg.shape, code, **options)
        self.decoder = Decoder(vae.outputs(_as_vae(cfg)), code, **options)
        self.likelihood = vae.Head(_as_vae(cfg))
        if not cfg.decay:
            self.codebook = self.param("codebook", _first_atoms, (cfg.K, cfg.D))

    def z_e(self, x: Array) -> Array:
        return self.encoder(x).reshape(-1, *places(self.cfg), self.cfg.D)

    def eta(self, z_q: Array) -> Array:
        flat = len(self.cfg.shape) == 1
        return self.likelihood(self.decoder(z_q.reshape(len(z_q), -1) if flat else z_q))

    def __call__(self, x: Array) -> Array:
        return self.eta(self.z_e(x))


def _first_atoms(key: Key, shape: Shape, dtype: Any = jnp.float32) -> Array:
    return jax.random.normal(key, shape, dtype)


def _apply(cfg: Config, variables: PyTree, name: str, x: Array) -> Any:
    return VQVAE(cfg).apply(_networks(variables), x, method=name)


_compiled = jax.jit(_apply, static_argnums=(0, 2))  # for calls from outside


def _networks(variables: PyTree) -> PyTree:
    return {"params": variables["params"]}


# --- the mathematics -----------------------------------------------------------------------------


def atoms(cfg: Config, variables: PyTree) -> Array:
    """e_1..e_K: [K, D]."""
    if not cfg.decay:
        return jnp.asarray(variables["params"]["codebook"])
    book = variables["codebook"]
    return jnp.asarray(book["sums"]) / book["shares"][:, None]


def nearest(z_e: Array, e: Array) -> Array:
    """The number of the nearest atom of e [K, D] to each of z_e [..., D]: int32 [...]."""
    # ‖z‖² is the same for all atoms.
    return jnp.argmin(jnp.sum(e**2, axis=1) - 2 * z_e @ e.T, axis=-1).astype(jnp.int32)


def straight_through(z_e: Array, z_q: Array) -> Array:
    """z_q, whose gradient goes to z_e."""
    return z_e + jax.lax.stop_gradient(z_q - z_e)


def terms(cfg: Config, variables: PyTree, x: Array) -> tuple[dict[str, Array], Array, Array]:
    """The loss's terms for observed x, each [B]; z_e [B, *places, D]; codes k [B, *places].

    "reconstruction" -ln p(x|z_q) in nats, "codebook" ‖sg[z_e] - e‖², "commitment" ‖z_e - sg[e]‖².
    """
    e = atoms(cfg, variables)
    z_e = _apply(cfg, variables, "z_e", x)
    k = nearest(z_e, e)
    z_q = e[k]
    eta = _apply(cfg, variables, "eta", straight_through(z_e, z_q))
    still = jax.lax.stop_gradient
    parts = {
        "reconstruction": -vae.likelihood(_as_vae(cfg)).log_prob(x, eta),
        "codebook": _square(still(z_e) - z_q),
        "commitment": _square(z_e - still(z_q)),
    }
    return parts, z_e, k


def _square(x: Array) -> Array:
    return jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)


def follow(cfg: Config, book: PyTree, z_e: Array, k: Array, key: Key) -> PyTree:
    """The codebook's averages after a batch, and what was dead restarted.

    Args:
        cfg: of the model.
        book: "shares" N_k [K] and "sums" m_k [K, D], both of one code.
        z_e: this replica's encodings [B, *places, D].
        k: their codes [B, *places].
        key: of the restarts; the same on every replica.

    Returns:
        The same on every replica: all statistics are of the global batch.
    """
    flat = z_e.reshape(-1, cfg.D)
    chosen = jax.nn.one_hot(k.reshape(-1), cfg.K)  # [B · places, K]
    shares, sums = mean_over_replicas((chosen.mean(0), chosen.T @ flat / len(flat)))
    shares = cfg.decay * book["shares"] + (1 - cfg.decay) * shares
    sums = cfg.decay * book["sums"] + (1 - cfg.decay) * sums
    dead = shares < cfg.dead / cfg.K
    fresh = _some_codes(cfg, z_e, key)
    patience = 2 * cfg.dead / cfg.K  # dead again after ln 2 / ln 1/γ steps without being chosen
    return {
        "shares": jnp.where(dead, patience, shares),
        "sums": jnp.where(dead[:, None], fresh * patience, sums),
    }


def _some_codes(cfg: Config, z_e: Array, key: Key) -> Array:
    """K encodings of the global batch, at random: [K, D], the same on every replica.

    Every encoding draws a number for every atom; the largest wins, wherever it lives.
    """
    num = len(z_e)
    z_e = z_e.reshape(num, -1, cfg.D)
    score_key, place_key = jax.random.split(key)
    scores = rng.uniform(score_key, (num, cfg.K))
    place = jax.random.randint(place_key, (cfg.K,), 0, z_e.shape[1])
    best = jnp.max(scores, axis=0)
    mine = z_e[jnp.argmax(scores, axis=0), place]  # [K, D]
    if not axis_is_bound():
        return mine
    winner = best == jax.lax.pmax(best, AXIS)
    return jax.lax.psum(jnp.where(winner[:, None], mine, 0.0), AXIS)


def perplexity(cfg: Config, k: Array) -> Array:
    """E^H of how often the K atoms are chosen in the global batch: 1..K."""
    shares = mean_over_replicas(jax.nn.one_hot(k.reshape(-1), cfg.K).mean(0))
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(shares, shares)))


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The quantised codes z_q of x [B, *shape]: [B, *places, D]. Binarised as `vae.encode` does."""
    return atoms(cfg, variables)[codes(cfg, variables, x, key)]


def codes(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The numbers of the atoms that stand for x [B, *shape]: int32 [B, *places], in 0..K-1."""
    x = vae.observed(_as_vae(cfg), check_shape({"x": x}, cfg.shape), key)
    return nearest(_compiled(cfg, variables, "z_e", x), atoms(cfg, variables))


def decode(cfg: Config, variables: PyTree, z_q: ArrayLike) -> Array:
    """E[x|z_q] for z_q [B, *places, D]: [B, *shape], images in [-1, 1]."""
    z = jnp.asarray(z_q, jnp.float32)
    if z.shape[1:] != (*places(cfg), cfg.D):
        raise InputError(f"codes have shape {z.shape}: they must be [B, *{places(cfg)}, {cfg.D}]")
    return vae.picture(_as_vae(cfg), _compiled(cfg, variables, "eta", z))


def decode_codes(cfg: Config, variables: PyTree, k: ArrayLike) -> Array:
    """E[x|k] for the atoms' numbers k [B, *places]: [B, *shape]. The way back from `codes`.

    Raises:
        InputError: for another shape, or numbers outside 0..K-1.
    """
    k = np.asarray(k)
    if k.shape[1:] != places(cfg) or k.size == 0 or k.min() < 0 or k.max() >= cfg.K:
        raise InputError(f"codes are [B, *{places(cfg)}] of 0..{cfg.K - 1}; these are {k.shape}")
    return decode(cfg, variables, atoms(cfg, variables)[k])


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The decoded codes of x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, key))


def elbo(cfg: Config, variables: PyTree, x: ArrayLike, key: Key) -> Array:
    """Ln p(x|z_q) - N ln K, under the uniform prior, for x [B, *shape]: [B], in nats."""
    x = vae.observed(_as_vae(cfg), check_shape({"x": x}, cfg.shape), key)
    return -terms(cfg, variables, x)[0]["reconstruction"] - kl(cfg)


def kl(cfg: Config) -> float:
    """N ln K: nats of an example's codes under the uniform prior."""
    return float(np.prod(places(cfg)) * np.log(cfg.K))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Descend L; `tx` in the place of Adam. The codebook's averages are mutables.

    Metrics: `loss`, L; `reconstruction` -ln p(x|z_q), nats; `codebook` (by gradient only) and
    `commitment`, squared distances; `kl`, the constant; `perplexity` of the batch.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        net_key, book_key = jax.random.split(key)
        variables = dict(VQVAE(cfg).init(net_key, check_shape(batch, cfg.shape)[:1]))
        if cfg.decay:
            # On the verge: what the first batch does not choose is restarted on one of its codes.
            share = (cfg.dead or 1.0) / cfg.K
            sums = _first_atoms(book_key, (cfg.K, cfg.D)) * share
            variables["codebook"] = {"shares": jnp.full(cfg.K, share, jnp.float32), "sums": sums}
        return variables

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        see_key, restart_key = jax.random.split(key)
        x = vae.observed(_as_vae(cfg), check_shape(batch, cfg.shape), see_key)
        parts, z_e, k = terms(cfg, {"params": params, **mutables}, x)
        value = parts["reconstruction"] + cfg.beta * parts["commitment"]
        if cfg.decay:
            del parts["codebook"]
            z_e = jax.lax.stop_gradient(z_e)
            mutables = {"codebook": follow(cfg, mutables["codebook"], z_e, k, restart_key)}
        else:
            value = value + parts["codebook"]
        metrics: Metrics = {name: jnp.mean(term) for name, term in parts.items()}
        metrics |= {"kl": jnp.asarray(kl(cfg), jnp.float32), "perplexity": perplexity(cfg, k)}
        return jnp.mean(value), (metrics, mutables)

    tx = tx or optax.adam(cfg.learning_rate)
    return close(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
