r"""Latent diffusion: a diffusion of the codes of an autoencoder.

Rombach, Blattmann, Lorenz, Esser & Ommer 2022, *High-Resolution Image Synthesis with Latent
Diffusion Models* (2112.10752). Two stages:

    codec   a VAE whose codes are maps, with little weight on its KL term: q(h|x) ≈ E(x), x ≈ D(h)
    prior   the diffusion of h/s, s the standard deviation of the first batch's codes (the paper's
            appendix G); told a class or a small image, which then stands beside the codes

so that the network that is evaluated hundreds of times sees few numbers, and the pixels are left to
one pass of D. Super-resolution is `seen = "small"`, a small image as large as the map of codes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.data import AnyData, Dataset, to_uint8
from gengen.diffusion import conditional, ddpm
from gengen.stages import Finished, Stage, coded, resident
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape, data_of
from gengen.vae import vae
from gengen.xla import jit


@dataclass(frozen=True)
class Config(conditional.Config):
    """The prior's, of `conditional`, but for the shape, which is the image's; and the codec's."""

    code: Shape = (7, 7, 4)  # a map, see gengen.nn.codec.code_map
    codec_channels: tuple[int, ...] = (32, 64)  # of its levels; each halves the resolution
    likelihood: str = "gaussian"  # of its pixels, see `vae.Config`
    beta: float = 0.1  # weight of its KL term
    codec_rate: float = 1e-3  # of its Adam
    prior_share: float = 2.0  # of the steps, where the codec's is 1

    patch: int = 1  # of the prior's network, in places of the map
    channels: tuple[int, ...] = (64,)
    blocks: tuple[int, ...] = (3,)
    classes: int = 0

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        for name in ("codec_rate", "prior_share"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if len(self.shape) != 3 or len(self.code) != 3:
            raise InputError(f"Config.shape = {self.shape}, code = {self.code}: (H, W, C) each")
        if self.seen and tuple(n // self.factor for n in self.shape[:2]) != self.code[:2]:
            raise InputError(
                f"Config.factor = {self.factor} of an image {self.shape} is not as large as the "
                f"map of codes {self.code}, beside which it is to stand"
            )
        codec(self)


def codec(cfg: Config) -> vae.Config:
    """The VAE's own Config."""
    return vae.Config(
        shape=cfg.shape, code=cfg.code, channels=cfg.codec_channels, likelihood=cfg.likelihood,
        beta=cfg.beta, batch_size=cfg.batch_size, learning_rate=cfg.codec_rate,
    )  # fmt: skip


def prior(cfg: Config) -> conditional.Config:
    """The diffusion's own Config: of maps of codes, which no range bounds."""
    names = [f.name for f in dataclasses.fields(conditional.Config)]
    own = {name: getattr(cfg, name) for name in names}
    return conditional.Config(**{**own, "shape": cfg.code, "clip": False, "seen": ""})


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """The codec, then the prior on its codes; `tx` in the place of Adam, in both.

    Metrics: `vae.method`'s, and the prior's `loss`, as in `ddpm`.
    """

    def of_codes(before: Finished, data: AnyData) -> AnyData:
        variables, data = before["codec"].variables, resident(data)
        codes = coded(
            data,
            jax.jit(lambda x: vae.encode(codec(cfg), variables, x)),
            f"{data.name}, codes",
        )
        if not cfg.seen:
            return codes
        small = coded(data, jax.jit(lambda x: conditional.see(cfg, x)), data.name).arrays["x"]
        return Dataset(codes.name, {**codes.arrays, "target": to_uint8(small)}, data.classes)

    return (
        Stage("codec", vae.method(codec(cfg), tx)),
        Stage("prior", of_prior(cfg, tx), data=of_codes, share=cfg.prior_share),
    )


def of_prior(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """The diffusion's method, on codes "x" and, where they are seen, small images "target"."""

    def tell(batch: Batch, mutables: PyTree) -> tuple[Array, Array | None]:
        h = check_shape({"x": data_of(batch)}, cfg.code) / mutables["latent"]["std"]
        return h, jnp.asarray(batch["target"]) if cfg.seen else None

    def scale(batch: Batch) -> PyTree:
        return {"latent": {"std": jnp.std(data_of(batch))}}

    return conditional.told(prior(cfg), tell, scale, tx)


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The codes h of x [B, *shape], in units of their deviation: [B, *code]."""
    h = vae.encode(codec(cfg), variables["codec"], x, key)
    return h / variables["prior"]["latent"]["std"]


def decode(cfg: Config, variables: PyTree, h: ArrayLike) -> Array:
    """D of codes [B, *code], as `encode` gives them: [B, *shape]."""
    h = jnp.asarray(h) * variables["prior"]["latent"]["std"]
    return vae.decode(codec(cfg), variables["codec"], h)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """What the codec makes of x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, key))


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    y: ArrayLike | None = None,
    given: ArrayLike | None = None,
) -> Array:
    """Draw `num` codes and decode them: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of both stages.
        key: of the draw.
        num: of samples.
        y: classes, integers [num]; None: each in turn, if there are any.
        given: small images, as `conditional.see` gives them, one for each sample, where they are
            seen; None: a medium grey.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    conditional.planes_of(cfg, given, num)  # refuses what cannot be
    if cfg.classes and y is None:
        y = np.arange(num) % cfg.classes
    beside = given
    if cfg.seen and given is None:
        beside = jnp.zeros((num, *cfg.code[:2], cfg.shape[-1]))
    return _sample(cfg, variables, key, conditional.condition(cfg, y, num), beside, given)


@jit(0)
def _sample(
    cfg: Config, variables: PyTree, key: Key, y: Array, beside: Array | None, given: Array | None
) -> Array:
    own = prior(cfg)
    eps_fn = conditional.denoiser(own, variables["prior"], y, beside)
    x = decode(cfg, variables, ddpm.draw(own, eps_fn, key, len(y)))
    if cfg.consistent and given is not None:
        return conditional.explained(conditional.operator(cfg), x, given)
    return jnp.clip(x, -1, 1)
