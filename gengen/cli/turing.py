"""`gengen report RUN --turing`: a blind test, real or generated, as a page that scores answers."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gengen.errors import InputError

NUM = 24  # images of a test, half of them real
Z = 1.959964  # of a 95 % interval
ANSWERS = ("real", "generated")
WIDTH = 168  # of an image, in CSS pixels


def order(num: int, seed: int) -> np.ndarray:
    """Return which of `num` images are real, half of them, in a seeded order: bool [num].

    Raises:
        InputError: for an odd number, or less than 2.
    """
    if num < 2 or num % 2:
        raise InputError(f"--num {num}: it must be even, at least 2: half of the images are real")
    return np.random.default_rng(seed).permutation(num) < num // 2


def interval(right: int, num: int) -> tuple[float, float]:
    """Return Wilson's 95 % confidence interval of a share `right` / `num`."""
    share, square = right / num, Z**2 / num
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / num + square / (4 * num))
    return centre - half, centre + half


def write(run_dir: Path, out: Path | None, num: int, seed: int) -> Path:
    """Write the page of a blind test: held-out and generated images, unlabelled.

    Args:
        run_dir: run directory of a model of images.
        out: the page; None: `turing.html` in the run directory.
        num: number of images, even.
        seed: of images, samples and order.

    Returns:
        The path of the page.

    Raises:
        InputError: for a model that does not sample images, or too few held-out images.
    """
    from gengen.data import to_uint8
    from gengen.runs import conditions, sampling, scores, trained, translations
    from gengen.training.reporting.page import write_page

    is_real = order(num, seed)
    run = trained.load(run_dir, None, say=sampling.to_stderr)
    if len(run.cfg.shape) != 3 or translations.translates(run.module):
        raise InputError(f"--turing is for models that sample images; {run.name} does not")
    data = conditions.held_out(run.settings)
    if len(data) < num // 2:
        raise InputError(
            f"--num {num} takes {num // 2} held-out images; {data.name} has {len(data)}"
        )
    batch = conditions.some(data, num // 2, seed)
    if "image" not in batch:
        raise InputError(f"--turing shows images; {data.name} has none")
    fake = scores.samples(run, data, num // 2, seed + 1, sampling.to_stderr)[0]
    images = np.empty((num, *fake.shape[1:]), np.uint8)
    images[is_real], images[~is_real] = to_uint8(np.asarray(batch["image"])), fake
    context = {
        "model": run.name, "data": data.name, "seed": seed, "num": num, "z": Z, "width": WIDTH,
        "pictures": [_png(images[i]) for i in range(num)], "key": hidden(is_real, seed),
    }  # fmt: skip
    return write_page(out or Path(run_dir) / "turing.html", "turing.html.j2", context)


def hidden(is_real: np.ndarray, seed: int) -> str:
    """Return the key as text that does not show it: base64 of a random mask, and the key under it.

    It keeps an honest reader from seeing the answers by chance; it is no encryption.
    """
    mask = np.random.default_rng(seed + 2**32).integers(256, size=len(is_real), dtype=np.uint8)
    noise = np.random.default_rng(seed + 2**33).integers(128, size=len(is_real), dtype=np.uint8)
    under = mask ^ (2 * noise + is_real).astype(np.uint8)
    return base64.b64encode(np.concatenate([mask, under]).tobytes()).decode()


def _png(image: np.ndarray) -> str:
    """Return an image, uint8 [H, W, C], as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def scored(path: Path) -> str:
    """Return the score, in a sentence, of a file of answers that the page saved.

    Raises:
        InputError: if it is no such file.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        answers, seed = list(found["answers"]), int(found["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--answers {path}: no file of answers ({error})") from None
    if not answers or not set(answers) <= set(ANSWERS):
        raise InputError(f"--answers {path}: answers must be {' or '.join(ANSWERS)}")
    is_real = order(len(answers), seed)
    right = int(sum((a == "real") == real for a, real in zip(answers, is_real, strict=True)))
    low, high = interval(right, len(answers))
    chance = "chance, 50 %, lies within it" if low <= 0.5 <= high else "chance, 50 %, lies outside"
    return (
        f"{right} of {len(answers)} right: {100 * right / len(answers):.0f} %, 95 % interval "
        f"{100 * low:.0f} to {100 * high:.0f} %; {chance}"
    )
