"""`gengen sample --given`: samples of the images that fit a masked, small, blurred or grey one.

For every model with `posterior(cfg, variables, key, num, measurement, method, steps)`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from gengen.cli.options import GivenOptions
from gengen.data import normalise
from gengen.data.images import BadImage, content_of, decode
from gengen.data.options import DataOptions
from gengen.diffusion import operators
from gengen.diffusion.inverse import Measurement
from gengen.diffusion.operators import Operator
from gengen.errors import InputError
from gengen.runs.pictures import enlarged
from gengen.runs.sampling import to_stderr
from gengen.runs.trained import Run
from gengen.types import Shape
from gengen.viz.grid import grid

if TYPE_CHECKING:
    from gengen.cli import Sample

NUM = 8  # samples, by default
STEPS = 250  # network evaluations, by default


def draw(args: Sample, model: Run) -> tuple[np.ndarray, str]:
    """Return a picture, uint8 [H, W, C], and its caption.

    The picture has the measurement, samples, their mean and standard deviation in a row.
    """
    module, cfg, variables, *_ = model
    if not hasattr(module, "posterior") or len(cfg.shape) != 3:
        raise InputError(f"--given is of models of images with a posterior; {model.name} has none")
    options, num, key = args.inverse, args.num or NUM, jax.random.key(args.seed)
    operator = OPERATORS[options.operator](cfg.shape, options)
    like = jax.eval_shape(operator.forward, jax.ShapeDtypeStruct((1, *cfg.shape), "float32")).shape
    assert options.given is not None
    if options.degrade:
        y = np.asarray(operator.forward(jnp.asarray(read(options.given, cfg.shape))[None]))
        noise = np.random.default_rng(args.seed).standard_normal(y.shape)
        y = (y + options.noise * noise).astype(np.float32)
        if options.operator == "inpaint":  # masked pixels stay unknown
            y = np.asarray(operator.forward(jnp.asarray(y)))
    else:
        y = read(options.given, like[1:])[None]
    measurement = Measurement(operator, y, options.noise)
    steps = min(options.steps or STEPS, cfg.T)
    to_stderr(f"sampling {num} images with {steps} network evaluations each ...")
    x = np.asarray(module.posterior(cfg, variables, key, num, measurement, options.method, steps))
    std = 2 * x.std(0, ddof=1) - 1 if num > 1 else -np.ones(cfg.shape, np.float32)
    shown = [enlarged(y[0], cfg.shape), *x, x.mean(0), std]
    picture = grid(np.clip(np.stack(shown), -1, 1), len(shown))
    return (
        picture,
        f"given, {num} samples by {options.method}, mean, standard deviation (1 is white)",
    )


def read(path: Path, shape: Shape) -> np.ndarray:
    """Return an image file in [-1, 1], float32 of `shape`.

    Raises:
        InputError: if it is no image, or has another size.
    """
    try:
        pixels = decode(content_of(path), DataOptions(), grey=shape[-1] == 1)
    except BadImage as error:
        raise InputError(f"{path}: {error}") from None
    if pixels.shape[:2] != tuple(shape[:2]):
        raise InputError(
            f"{path} is {pixels.shape[0]} × {pixels.shape[1]} pixels; it must be "
            f"{shape[0]} × {shape[1]} (pass --degrade if it is the original image)"
        )
    return np.asarray(normalise({"image": pixels})["image"])


def _inpaint(shape: Shape, options: GivenOptions) -> Operator:
    known = np.arange(shape[0])[:, None, None] < shape[0] // 2
    if options.mask is not None:
        known = read(options.mask, (*shape[:2], 1)) > 0
    return operators.inpaint(np.broadcast_to(known, (*shape[:2], 1)))


def _grey(shape: Shape, options: GivenOptions) -> Operator:
    if shape[-1] != 3:
        raise InputError(f"--operator grey: images of shape {shape} have no colours")
    return operators.grey()


OPERATORS: dict[str, Callable[[Shape, GivenOptions], Operator]] = {
    "inpaint": _inpaint,
    "superres": lambda shape, o: operators.box(shape, o.factor),
    "deblur": lambda shape, o: operators.convolve(shape, operators.gaussian(o.blur)),
    "motion": lambda shape, o: operators.convolve(shape, operators.motion(o.length, o.angle)),
    "grey": _grey,
}
