r"""AAE: the adversarial autoencoder.

Makhzani, Shlens, Jaitly, Goodfellow & Frey 2016, *Adversarial Autoencoders* (1511.05644). An
autoencoder whose codes, over the data, are to have the law p(z): the aggregated posterior
q(z) = E_x q(z|x) is matched to p(z) by a discriminator D on codes. Each step, on one batch:

    reconstruction    e and d descend    E ‖x - d(e(x))‖²
    regularisation    D climbs           E_p(z) ln D(z) + E_x ln (1 - D(e(x)))
                      e climbs           E_x ln D(e(x))

each with an optimiser of its own. No density of p(z) is needed, only draws: a Gaussian, a mixture
of ten 2-D Gaussians like petals, a Swiss roll. Given labels (§2.3), D sees the class beside the
code, and the draw of that class from its own part of p(z), so that each petal, or each stretch of
the roll, holds one class; where a label is negative, unknown, D sees an eleventh class and the draw
is from all of p(z).

Samples are d(z), z ~ p(z).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.nn.codec import Decoder, Encoder
from gengen.nn.mlp import MLP
from gengen.steps import Loss, Step, player, sequence
from gengen.steps import method as close
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    PyTree,
    Shape,
    TrainState,
    check_shape,
)

PRIORS = ("normal", "petals", "swiss_roll")
PETALS = 10  # parts of the mixture
TURNS = 1.5  # of the Swiss roll, from three quarters of a turn on; its outer radius is 3
THICKNESS = 0.1  # standard deviation of the roll


@dataclass(frozen=True)
class Config:
    """The paper's algorithm; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    code: int = 2  # dimensions of z
    prior: str = "normal"  # p(z): N(0, I), or in the plane "petals", "swiss_roll"
    scale: float = 1.0  # by which p(z) is stretched
    classes: int = 0  # labels are told to the discriminator; 0: they are not used

    channels: tuple[int, ...] = ()  # of the levels of e and d, for images; (): vectors of pixels
    widths: tuple[int, ...] = (512, 512)  # hidden layers of e, and reversed of d
    critic: tuple[int, ...] = (512, 512)  # hidden layers of D

    batch_size: int = 100  # examples a step
    learning_rate: float = 3e-4  # of Adam, of the reconstruction and of D
    # As fast as D, e runs ahead of it, and of the reconstruction: all codes are one spot. Not where
    # D is told the classes: there 3e-4 is well, and sooner done.
    encoder_rate: float = 1e-4  # of e's Adam in the game
    b1: float = 0.5  # of Adam in the game: memory of the gradient, a step

    @staticmethod
    def paper() -> Config:
        """The paper's networks, two layers of 1000 units each, for MNIST."""
        return Config(widths=(1000, 1000), critic=(1000, 1000))

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        for name in ("code", "scale", "batch_size", "learning_rate", "encoder_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if self.prior not in PRIORS:
            raise InputError(f"Config.prior = {self.prior!r}, not one of {PRIORS}")
        if self.prior != "normal" and self.code != 2:
            raise InputError(
                f"Config.prior = {self.prior!r} is in the plane: code = 2, not {self.code}"
            )
        if self.classes < 0 or (self.classes and self.prior == "normal"):
            raise InputError(
                f"Config.classes = {self.classes}, but only petals and swiss_roll have a part for "
                "each class: set one of these priors, or classes=0"
            )
        if self.prior == "petals" and self.classes > PETALS:
            raise InputError(f"Config.classes = {self.classes}, but there are {PETALS} petals")


# --- the networks --------------------------------------------------------------------------------


def encoder(cfg: Config) -> Encoder:
    """E: x [B, *shape] → z [B, code]; deterministic, the simplest of the paper's three."""
    return Encoder(cfg.shape, (cfg.code,), cfg.channels, widths=cfg.widths)


def decoder(cfg: Config) -> Decoder:
    """D: z [B, code] → x̂ [B, *shape]."""
    return Decoder(cfg.shape, (cfg.code,), cfg.channels, widths=cfg.widths)


def discriminator(cfg: Config) -> MLP:
    """The logit of D, of z and, given labels, the class: [B, code (+ classes + 1)] → [B, 1]."""
    return MLP((*cfg.critic, 1))


def discriminate(cfg: Config, params: PyTree, z: Array, label: Array | None) -> Array:
    """The logit of D(z) [B]: above 0 where z seems drawn from p(z)."""
    if label is not None:
        known = jnp.where(label < 0, cfg.classes, label)
        z = jnp.concatenate([z, jax.nn.one_hot(known, cfg.classes + 1)], axis=1)
    return jnp.asarray(discriminator(cfg).apply({"params": params["discriminator"]}, z))[:, 0]


# --- p(z) ----------------------------------------------------------------------------------------


def draw_prior(cfg: Config, key: Key, num: int, label: Array | None = None) -> Array:
    """Z ~ p(z) [num, code]; of p(z | label) where a label [num] is given and not negative."""
    which_key, noise_key = jax.random.split(key)
    eps = rng.normal(noise_key, (num, cfg.code))
    if cfg.prior == "normal":
        return cfg.scale * eps
    parts = cfg.classes or PETALS
    u = parts * rng.uniform(which_key, (num,))
    part = jnp.minimum(jnp.floor(u), parts - 1)
    within = u - part
    if label is not None:
        part = jnp.where(label < 0, part, label)
    if cfg.prior == "swiss_roll":
        return cfg.scale * (swiss_roll((part + within) / parts) + THICKNESS * eps)
    mixture, k = dist.petals(PETALS), part.astype(jnp.int32)
    return cfg.scale * (mixture.means[k] + jnp.einsum("bij,bj->bi", mixture.factors[k], eps))


def swiss_roll(u: Array) -> Array:
    """The points of the spiral, from the inner end, u = 0, to the outer, u = 1: [B] → [B, 2]."""
    angle = 2 * np.pi * (0.75 + TURNS * u)
    radius = 3 * angle / (2 * np.pi * (0.75 + TURNS))
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """The codes of x [B, *shape]: [B, code]."""
    return _encode(cfg, variables["params"], check_shape({"x": x}, cfg.shape))


def decode(cfg: Config, variables: PyTree, z: ArrayLike) -> Array:
    """What codes z [B, code] stand for: [B, *shape], images in [-1, 1].

    Raises:
        InputError: for codes of another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != (cfg.code,):
        raise InputError(f"codes have shape {z.shape}, but Config.code is {cfg.code}: [B, code]")
    x = _decode(cfg, variables["params"], z)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """d(e(x)) for x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x))


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples d(z), z ~ p(z): float32 [num, *shape], images in [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return decode(cfg, variables, draw_prior(cfg, key, num))


@jax.jit(static_argnums=0)
def _encode(cfg: Config, params: PyTree, x: Array) -> Array:
    return jnp.asarray(encoder(cfg).apply({"params": params["encoder"]}, x))


@jax.jit(static_argnums=0)
def _decode(cfg: Config, params: PyTree, z: Array) -> Array:
    return jnp.asarray(decoder(cfg).apply({"params": params["decoder"]}, z))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Reconstruction, then D, then e against D; `tx` in the place of Adam, for all three.

    Metrics: `reconstruction_loss`, the squared error of an example; `discriminator_loss` and
    `encoder_loss`, in nats: ln 4 and ln 2 where D cannot tell codes from draws.
    """
    rates = (cfg.learning_rate, cfg.encoder_rate)
    for_d, for_e = (tx or optax.adam(rate, b1=cfg.b1) for rate in rates)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)[:1]
        keys, z = jax.random.split(key, 3), jnp.zeros((1, cfg.code))
        seen = jnp.zeros((1, cfg.code + (cfg.classes + 1 if cfg.classes else 0)))
        params = {
            "encoder": encoder(cfg).init(keys[0], x)["params"],
            "decoder": decoder(cfg).init(keys[1], z)["params"],
            "discriminator": discriminator(cfg).init(keys[2], seen)["params"],
        }
        return {"params": params}

    def reconstruction(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        out = _decode(cfg, params, _encode(cfg, params, x))
        return dist.total((x - out) ** 2).mean(), ({}, mutables)

    def discrimination(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, label = check_shape(batch, cfg.shape), _labels(cfg, batch)
        z = draw_prior(cfg, key, x.shape[0], label)
        on_prior = discriminate(cfg, params, z, label)
        on_codes = discriminate(cfg, params, _encode(cfg, params, x), label)
        value = jax.nn.softplus(-on_prior).mean() + jax.nn.softplus(on_codes).mean()
        return value, ({}, mutables)

    def deception(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        on_codes = discriminate(cfg, params, _encode(cfg, params, x), _labels(cfg, batch))
        return jax.nn.softplus(-on_codes).mean(), ({}, mutables)

    return close(
        init_variables,
        sequence(
            team("reconstruction", ("encoder", "decoder"), reconstruction,
                 tx or optax.adam(cfg.learning_rate)),
            player("discriminator", discrimination, for_d),
            player("encoder", deception, for_e),
        ),
    )  # fmt: skip


def _labels(cfg: Config, batch: Batch) -> Array | None:
    if not cfg.classes:
        return None
    if "label" not in batch:
        raise InputError(
            f'Config.classes > 0, but a batch has {sorted(batch)} and no "label": set classes=0'
        )
    return jnp.asarray(batch["label"])


def team(name: str, members: tuple[str, ...], loss: Loss, tx: optax.GradientTransformation) -> Step:
    """One move of several players who share an optimiser; the metrics are those of `player`."""

    def together(params: PyTree) -> PyTree:
        others = {k: v for k, v in params.items() if k not in members}
        return {**others, name: {k: params[k] for k in members}}

    def apart(params: PyTree) -> PyTree:
        return {**{k: v for k, v in params.items() if k != name}, **params[name]}

    def team_loss(params: PyTree, *rest):
        return loss(apart(params), *rest)

    step = player(name, team_loss, tx)

    def init(state: TrainState) -> TrainState:
        state = step.init(state.replace(params=together(state.params)))
        return state.replace(params=apart(state.params))

    def update(key: Key, state: TrainState, batch: Batch):
        state, metrics = step.update(key, state.replace(params=together(state.params)), batch)
        return state.replace(params=apart(state.params)), metrics

    return Step(init, update)
