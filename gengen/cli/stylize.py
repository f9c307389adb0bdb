"""`gengen stylize`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from gengen.data.options import default
from gengen.errors import InputError


@dataclass(frozen=True)
class Stylize:
    """Paint a picture in the style of another: gengen stylize photo.jpg art.jpg --out x.png."""

    content: Positional[str]
    """The picture whose content is kept: a file; or "china" or "flower", scikit-learn's. "none":
    make a texture of the style from noise."""
    style: Positional[str]
    """The picture whose style is used, as CONTENT."""
    out: Path
    """The picture to write, NAME.png."""
    size: int = 256
    """The longer side of both pictures, in pixels."""
    alpha: float = 1e-3
    """Weight of the content; that of the style is 1."""
    steps: int = 100
    """Steps of the optimiser."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """How the loss is minimised."""
    start: Annotated[Literal["content", "noise"] | None, default("the content")] = None
    """What the picture starts from."""
    seed: int = 0
    """Of the noise and of random filters."""
    overwrite: bool = False
    """Replace --out where it exists."""

    def __call__(self) -> None:
        """Run the command."""
        stylize(self)


def stylize(args: Stylize) -> None:
    """Make and write the picture; the progress goes to stderr.

    Raises:
        InputError: for a picture that cannot be read, or an --out that exists or is no .png.
    """
    if args.out.suffix != ".png":
        raise InputError(f"--out {args.out}: the name must end in .png")
    if args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} exists: choose another, or pass --overwrite")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.absolute().parent} is no directory")
    if args.size < 16:
        raise InputError(f"--size {args.size}: it must be at least 16")
    texture = args.content == "none"
    style = read(args.style, args.size)
    content = None if texture else read(args.content, args.size)

    import jax
    import numpy as np
    from tqdm import tqdm

    from gengen.data import to_uint8
    from gengen.representation import style as model
    from gengen.viz.grid import save_png

    key = jax.random.key(args.seed)
    features = model.features_for(key)
    print(f"gengen: features: {features.name}; {args.steps} steps of {args.optimizer}, the first "
          "one compiles", file=sys.stderr, flush=True)  # fmt: skip
    wanted = model.targets(features, style=style, content=content)
    loss = model.loss_of(features, wanted, args.alpha)
    shape = style.shape if content is None else content.shape
    noise = 0.3 * np.asarray(jax.random.normal(key, shape))
    start = noise if content is None or args.start == "noise" else content
    picture = np.asarray(start)
    made = model.optimise(loss, start, args.steps, args.optimizer)
    with tqdm(total=args.steps, unit="step", file=sys.stderr) as bar:
        for found, value in made:
            picture = found
            bar.set_postfix_str(f"loss {value:.4g}")
            bar.update()
    save_png(args.out, to_uint8(picture))
    print(f"gengen: {args.out}", file=sys.stderr)


def read(name: str, size: int):
    """Return a picture as float32 [H, W, 3] in [-1, 1], its longer side `size` pixels."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = Image.fromarray(load_sample_image(f"{name}.jpg"))
    else:
        try:
            image = Image.open(name).convert("RGB")
        except FileNotFoundError:
            raise InputError(f"{name}: no such file") from None
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{name} is no picture that can be read ({error})") from None
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), np.float32)
    return pixels / 127.5 - 1
