r"""VQ-VAE with its prior: a PixelCNN of the codes of images.

van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning* (1711.00937).
While the codec is trained (`gengen.vae.vqvae`) the prior over codes is uniform. Afterwards the
codes k [h, w] of all images are computed, and a PixelCNN, conditioned on the class if asked, learns
p(k):

    x ~ p(x | z_q = e_k),    k ~ p(k) = Π_i p(k_i | k_<i)

A sample is a map of codes, sampled one after the other and decoded at once. In the bound of ln p(x)
the N ln K nats of an image's codes become -ln p(k), which is less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import pixelcnn
from gengen.autoregressive.heads import level, value
from gengen.contract import Task, check_labels, labels_of, refuse_condition, require_num
from gengen.data import AnyData
from gengen.stages import Finished, Stage, coded
from gengen.types import Array, Batch, InputError, Key, PyTree, Shape
from gengen.vae import vqvae
from gengen.xla import jit

LOG_PROB = "lower bound"


@dataclass(frozen=True)
class Config(vqvae.ImageConfig):
    """That of the codec, and of the prior, a PixelCNN."""

    hidden_channels: int = 32  # of each of the prior's stacks
    num_layers: int = 5  # gated, of the prior
    first_kernel_size: int = 5  # of the prior's first convolution, odd
    head_channels: int = 64  # of the prior's last layer but one
    num_classes: int = 0  # of the labels that the prior is conditioned on; 0: unconditional
    prior_learning_rate: float = 1e-3  # of the prior's Adam
    prior_share: float = 1.0  # of the steps, relative to the codec's

    RENAMED: ClassVar[dict[str, str | None]] = {
        "features": "hidden_channels", "layers": "num_layers", "first": "first_kernel_size",
        "hidden": "head_channels", "classes": "num_classes", "prior_rate": "prior_learning_rate",
        "N": None, "widths": None,
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the codec and the prior on ImageNet of §4.2: 128 × 128 pixels, 32 × 32 codes.

        The paper does not give its PixelCNN's size: 20 layers are those of van den Oord et al. 2016
        (1606.05328), of a third of the width.
        """
        return cls(
            **vqvae.paper_fields((128, 128, 3)), hidden_channels=128, num_layers=20,
            first_kernel_size=7, head_channels=512, prior_learning_rate=2e-4,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given images, see `vqvae.ImageConfig.for_task`.

        Raises:
            InputError: for vectors.
        """
        require_image(task.shape)
        return super().for_task(task)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name in ("prior_learning_rate", "prior_share"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if len(self.shape) != 3:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C)")
        prior(self)


def require_image(shape: Shape) -> None:
    """Check that the codes of examples are maps.

    Raises:
        InputError: for vectors.
    """
    if len(shape) != 3:
        raise InputError(
            f"the codes of vectors (shape {shape}) are no maps, which the prior needs: "
            "use vae, or images (H, W, C)"
        )


def codec(cfg: vqvae.ImageConfig) -> vqvae.Config:
    """Return the Config of the VQ-VAE."""
    names = [field.name for field in dataclasses.fields(vqvae.ImageConfig)]
    return vqvae.Config(**{name: getattr(cfg, name) for name in names})


def prior(cfg: Config) -> pixelcnn.Config:
    """Return the Config of the PixelCNN: maps of codes, one-hot."""
    return pixelcnn.Config(
        shape=(*vqvae.places(codec(cfg)), 1), head="categorical",
        intensity_levels=max(cfg.codebook_size, 2), one_hot=True,
        hidden_channels=cfg.hidden_channels, num_layers=cfg.num_layers,
        first_kernel_size=cfg.first_kernel_size, head_channels=cfg.head_channels,
        num_classes=cfg.num_classes, batch_size=cfg.batch_size,
        learning_rate=cfg.prior_learning_rate, lr_schedule=cfg.lr_schedule,
        warmup_steps=cfg.warmup_steps, decay_steps=cfg.decay_steps, decay_floor=cfg.decay_floor,
    )  # fmt: skip


def stages(cfg: Config, tx: optax.GradientTransformation | None = None) -> tuple[Stage, ...]:
    """Return two stages: the codec, then the prior on its codes; `tx` instead of Adam, in both.

    Metrics: those of `vqvae.method`, and the prior's `loss`, -ln p(k) in nats per example.
    """

    def of_codes(before: Finished, data: AnyData) -> AnyData:
        own, variables = codec(cfg), before["codec"].variables
        maps = jit(often=False)(lambda x: as_map(cfg, vqvae.codes(own, variables, x)))
        return coded(data, maps, f"{data.name}, codes")

    return (
        Stage("codec", vqvae.method(codec(cfg), tx)),
        Stage("prior", pixelcnn.method(prior(cfg), tx), data=of_codes, share=cfg.prior_share),
    )


def condition_of(cfg: Config, batch: Batch) -> Array | None:
    """Return the labels [B] of a batch if `cfg.num_classes` is above 0, else None."""
    return labels_of(cfg, batch)


def as_map(cfg: Config, k: Array) -> Array:
    """Return indices of codes k [B, h, w] as the prior's data: [B, h, w, 1]."""
    return value(k, prior(cfg).intensity_levels)[..., None]


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return the quantised encodings z_q of x [B, *shape]: [B, h, w, D].

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1].
        key: of dynamic binarisation; None: by threshold.
        condition: labels [B], which only the prior depends on; checked, and not used here.
    """
    z = vqvae.encode(codec(cfg), variables["codec"], x, key)
    _labels(cfg, condition, len(z))
    return z


def decode(
    cfg: Config, variables: PyTree, z: ArrayLike, *, condition: ArrayLike | None = None
) -> Array:
    """Return E[x|z_q] for z_q [B, h, w, D]: [B, *shape]. For `condition`, see `encode`."""
    x = vqvae.decode(codec(cfg), variables["codec"], z)
    _labels(cfg, condition, len(x))
    return x


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return the decoded codes of x [B, *shape]: [B, *shape]. See `encode`."""
    return decode(cfg, variables, encode(cfg, variables, x, key), condition=condition)


def _labels(cfg: Config, condition: ArrayLike | None, num: int) -> Array | None:
    """Return a condition as labels [num], or None."""
    if not cfg.num_classes:
        refuse_condition(condition)
    return None if condition is None else check_labels(condition, num, cfg.num_classes)


def log_prior(
    cfg: Config, variables: PyTree, k: Array, condition: ArrayLike | None = None
) -> Array:
    """Return ln p(k|y) for indices of codes k [B, h, w] and labels y [B]: [B], in nats."""
    y = _labels(cfg, condition, len(k))
    return pixelcnn.log_prob(prior(cfg), variables["prior"], as_map(cfg, k), condition=y)


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return ln p(x|z_q) + ln p(k|y), a lower bound of ln p(x|y), for x [B, *shape]: [B], nats."""
    prior_of = lambda k: log_prior(cfg, variables, k, condition)  # noqa: E731
    return bound(codec(cfg), variables["codec"], x, key, prior_of)


def bound(
    own: vqvae.Config, variables_of_codec: PyTree, x: ArrayLike, key: Key | None,
    log_prior: Callable[[Array], Array],
) -> Array:  # fmt: skip
    """Return ln p(x|z_q) + ln p(k) for a prior log_prior(k [B, h, w]) → [B]: [B], in nats."""
    k = vqvae.codes(own, variables_of_codec, x, key)
    uniform = vqvae.elbo(own, variables_of_codec, x, key) + vqvae.kl(own)
    return uniform + log_prior(k)


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """Return the ELBO with the learned prior, for x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        variables: of both stages.
        x: images in [-1, 1].
        key: of dynamic binarisation; None: a fixed key.
        condition: labels [B], if Config.num_classes is above 0.
    """
    key = jax.random.key(0) if key is None else key
    return elbo(cfg, variables, x, key, condition=condition)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: ArrayLike | None = None
) -> Array:
    """Sample maps of codes and decode them: float32 [num, *shape].

    Args:
        cfg: of the model.
        variables: of both stages.
        key: of the samples.
        num: number of samples.
        condition: labels [num]; None: at random, if there are classes.
    """
    require_num(num)
    y = _labels(cfg, condition, num)
    maps = pixelcnn.sample(prior(cfg), variables["prior"], key, num, condition=y)
    k = level(maps[..., 0], prior(cfg).intensity_levels)
    return vqvae.decode_codes(codec(cfg), variables["codec"], np.asarray(k))
