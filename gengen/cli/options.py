"""What `gengen sample --given` is told: the image, the operator, its size, the method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gengen.data.options import default


@dataclass(frozen=True)
class GivenOptions:
    """An image that was seen, and how: y = Ax + noise."""

    given: Path | None = None
    """An image of which a part is known, or a smaller, blurred or grey one: draws what it may have
    been, --num times, and beside these their mean and the deviation of each pixel."""
    operator: Literal["inpaint", "superres", "deblur", "motion", "grey"] = "inpaint"
    """How --given came of the image: masked, smaller, blurred, moved, without colour."""
    method: Literal["pigdm", "dps", "replacement", "twisted"] = "pigdm"
    """See gengen.diffusion.inverse."""
    mask: Annotated[Path | None, default("the upper half is known")] = None
    """Of inpaint: an image, white where --given is known."""
    factor: int = 2
    """Of superres: how many times smaller the sides are."""
    blur: float = 1.0
    """Of deblur: the deviation of the Gaussian, in pixels."""
    length: int = 5
    """Of motion: pixels, odd."""
    angle: float = 45.0
    """Of motion: degrees, anticlockwise from the right."""
    noise: float = 0.05
    """Standard deviation of the noise on --given, white being 1 and black -1."""
    degrade: bool = False
    """--given is the image itself: apply the operator and the noise to it first."""
    steps: Annotated[int | None, default("250, or T if that is less")] = None
    """Evaluations of the network."""
