r"""VQ-VAE with its prior: what the codes of images look like, by a PixelCNN.

van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning* (1711.00937).
While the codec is trained (`gengen.vae.vqvae`) the prior over codes is uniform. Afterwards the
codes k [h, w] of all images are taken down, and a PixelCNN, told the class if asked, learns p(k):

    x ~ p(x | z_q = e_k),    k ~ p(k) = Π_i p(k_i | k_<i)

so that a sample is a map of codes, drawn one after the other, decoded at once; and N ln K nats of
an image's bound become -ln p(k), which is less.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import pixelcnn
from gengen.autoregressive.conditionals import check_positive
from gengen.autoregressive.heads import level, value
from gengen.data import AnyData
from gengen.stages import Finished, Stage, coded
from gengen.types import Array, InputError, Key, PyTree
from gengen.vae import vqvae


@dataclass(frozen=True)
class Config(vqvae.Config):
    """That of the codec, and the prior's, named as PixelCNN's."""

    features: int = 32  # of each of the prior's stacks
    layers: int = 5  # gated, of the prior
    first: int = 5  # side of its first window, odd
    hidden: int = 64  # features of its last layer but one
    classes: int = 0  # that it is told, the data's "label"; 0: none
    prior_rate: float = 1e-3  # of its Adam
    prior_share: float = 1.0  # of the steps, where the codec's is 1

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        check_positive(self, "prior_rate", "prior_share")
        if len(self.shape) != 3:
            raise InputError(f"Config.shape = {self.shape}, but maps of codes are of (H, W, C)")
        prior(self)


def prior(cfg: Config) -> pixelcnn.Config:
    """The prior's own Config: maps of codes, one-hot."""
    return pixelcnn.Config(
        shape=(*vqvae.places(cfg), 1), head="categorical", levels=max(cfg.K, 2), one_hot=True,
        features=cfg.features, layers=cfg.layers, first=cfg.first, hidden=cfg.hidden,
        classes=cfg.classes, batch_size=cfg.batch_size, learning_rate=cfg.prior_rate,
    )  # fmt: skip


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """The codec, then the prior on the codes; `tx` in the place of Adam, in both.

    Metrics: `vqvae.method`'s, and the prior's `loss`, -ln p(k) in nats of an example.
    """

    def of_codes(before: Finished, data: AnyData) -> AnyData:
        variables = before["codec"].variables
        maps = jax.jit(lambda x: as_map(cfg, vqvae.codes(cfg, variables, x)))
        return coded(data, maps, f"{data.name}, codes")

    return (
        Stage("codec", vqvae.method(cfg, tx)),
        Stage("prior", pixelcnn.method(prior(cfg), tx), data=of_codes, share=cfg.prior_share),
    )


def as_map(cfg: Config, k: Array) -> Array:
    """Codes k [B, h, w], as `gengen.vae.vqvae` gives them, as the prior's: [B, h, w, 1]."""
    return value(k, prior(cfg).levels)[..., None]


def encode(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The quantised codes z_q of x [B, *shape]: [B, h, w, D]."""
    return vqvae.encode(cfg, variables["codec"], x, key)


def decode(cfg: Config, variables: PyTree, z_q: ArrayLike) -> Array:
    """E[x|z_q] for z_q [B, h, w, D]: [B, *shape]."""
    return vqvae.decode(cfg, variables["codec"], z_q)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The decoded codes of x [B, *shape]: [B, *shape]."""
    return vqvae.reconstruct(cfg, variables["codec"], x, key)


def log_prior(cfg: Config, variables: PyTree, k: Array, y: ArrayLike | None = None) -> Array:
    """Ln p(k|y) for codes k [B, h, w]: [B], in nats."""
    return pixelcnn.log_prob(prior(cfg), variables["prior"], as_map(cfg, k), y=y)


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, y: ArrayLike | None = None
) -> Array:
    """Ln p(x|z_q) + ln p(k|y), a bound of ln p(x|y), for x [B, *shape]: [B], in nats."""
    codec = variables["codec"]
    k = vqvae.codes(cfg, codec, x, key)
    return vqvae.elbo(cfg, codec, x, key) + vqvae.kl(cfg) + log_prior(cfg, variables, k, y)


def sample(cfg: Config, variables: PyTree, key: Key, num: int, y: ArrayLike | None = None) -> Array:
    """Draw maps of codes and decode them: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: of both stages.
        key: of the draw.
        num: of samples.
        y: classes, integers [num]; None: at random, if the prior knows any.
    """
    drawn = pixelcnn.sample(prior(cfg), variables["prior"], key, num, y)
    k = level(drawn[..., 0], prior(cfg).levels)
    return vqvae.decode_codes(cfg, variables["codec"], np.asarray(k))
