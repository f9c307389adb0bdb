"""Options of several commands; and of `gengen sample --given`: image, operator, method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from gengen.data.options import default

Settings = UseAppendAction[
    Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help_behavior_hint="(repeatable)")]
]


@dataclass(frozen=True)
class GivenOptions:
    """A measurement y = Ax + noise, from which x is sampled."""

    given: Path | None = None
    """An image file: a part of an image, or a small, blurred or grey one. Samples --num images that
    fit it; shows them with their mean and each pixel's standard deviation."""
    operator: Literal["inpaint", "superres", "deblur", "motion", "grey"] = "inpaint"
    """How --given was made from the image: masked, small, blurred, motion-blurred, or grey."""
    method: Literal["pigdm", "dps", "replacement", "twisted"] = "pigdm"
    """Sampling method: see gengen.diffusion.inverse."""
    mask: Annotated[Path | None, default("the upper half is known")] = None
    """For inpaint: an image, white where --given is known."""
    factor: int = 2
    """For superres: ratio of the sides."""
    blur: float = 1.0
    """For deblur: standard deviation of the Gaussian, in pixels."""
    length: int = 5
    """For motion: pixels, odd."""
    angle: float = 45.0
    """For motion: degrees, anticlockwise from the right."""
    noise: float = 0.05
    """Standard deviation of the noise on --given, where white is 1 and black -1."""
    degrade: bool = False
    """--given is the original image: apply the operator and the noise to it first."""
    steps: Annotated[int | None, default("250, or T if that is less")] = None
    """Network evaluations."""
