"""Text to image: digits of mnist5k that are asked for in words.

Captions are computed from measured attributes (gengen.data.captions): the digit, and thickness,
size and slant relative to training digits of the same class. One combination of thickness and slant
of each digit is left out of training. 1,000 captions ask for these combinations, 50 for each digit
and size, and 1,000 for combinations that were seen. The class in a sample is that of the classifier
mnist-v1; its attributes are measured as they were for the captions, by the same thresholds.

The ceiling is the same measurement of reconstructions of the 500 test digits, of which the true
class and attributes are asked. Chance: of a sample that does not depend on the caption. A loss in
nats, ln p(codes|caption), shows whether the transformer overfits.

The picture of edits has the left half of a test digit, and its completions for five captions.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from recipe import Args, again, directory, draw, finish, images, in_parts, run, titled
from recipe import train as fit

from gengen.data import captions, load, normalise, to_uint8
from gengen.data.captions import HELD_OUT, SLANT, phrase
from gengen.metrics import classifier
from gengen.vae import text_to_image, vqvae, vqvae_prior

NAME = "text_to_image"
PER_CAPTION = 50  # samples of each of 20 captions
COLUMNS = 10  # samples in a row of a picture
SHOWN = (
    "a thin two", "a thick two", "a thick seven leaning right", "a thin seven leaning left",
    "a small three", "a big three", "a thin small zero upright", "a thick big nine leaning left",
)  # fmt: skip
EDITS = ("a zero", "a two", "a three", "a six", "a thick eight")


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 2000
    """Train steps: mean of both stages, 2 of the codec for 3 of the transformer."""
    guidance: float = 3.0
    """w of classifier-free guidance, for samples."""
    again: Path | None = None
    """A run of this recipe: measure it, do not train."""


def main(args: Settings) -> None:
    """Train both stages; sample captions never seen in this combination; measure; draw."""
    train, test = load("captions:mnist5k"), load("captions:mnist5k:test")
    cfg, out = config(args), directory(args, NAME)
    if args.again is None:
        variables = fit(text_to_image, cfg, train, out, args).variables
    else:
        variables = again(args.again, text_to_image, "captions:mnist5k")[1]
        out = args.again
    measure = Measure()

    def sampled(asked: np.ndarray) -> np.ndarray:
        tokens = text_to_image.condition_of_text(cfg, [phrase(*row) for row in asked.tolist()])
        parts = iter(np.split(tokens, range(250, len(tokens), 250)))
        some = lambda key, num: text_to_image.sample(  # noqa: E731
            cfg, variables, key, num, condition=np.resize(next(parts), (num, tokens.shape[1]))
        )
        return draw(len(tokens), some, args.seed)

    never = [(d, t, size, s) for d, t, s in HELD_OUT for size in (0, 1)]
    seen = [(d, 1 - t, size, (s + 1) % len(SLANT)) for d, t, s in HELD_OUT for size in (0, 1)]
    rows = {}
    for kind, asked in (("never seen together", never), ("seen", seen)):
        each = np.repeat(np.array(asked), PER_CAPTION, axis=0)
        rows[f"captions {kind}"] = measure(sampled(each), each)
    back = in_parts(lambda x: text_to_image.reconstruct(cfg, variables, x), images(test))
    truth = measure.attributes(images(test), test.arrays["label"])
    truth = np.stack([test.arrays["label"], *truth.values()], axis=1)
    rows["reconstructions"] = measure(to_uint8(back), truth)
    rows["chance"] = {"class": 0.1, "thickness": 0.5, "size": 0.5, "slant": slant_by_chance(never)}
    metrics = {
        f"{name} asked = {'seen' if name == 'class' else 'measured'}, {kind}": {"value": value}
        for kind, row in rows.items()
        for name, value in row.items()
    }
    for part, data in (("training", train), ("test", test)):
        nats = -loss(cfg, variables, images(data, 500), data.arrays["caption"][:500])
        metrics[f"-ln p(codes|caption), {part} images"] = {"value": nats}
    pictures(cfg, variables, images(test), test.arrays["label"], out, args.seed)
    finish(NAME, out, metrics, args, ("samples", "edits"))


def config(args: Settings) -> text_to_image.Config:
    """The Config: small, as 4,000 digits are few, with a rate that decays in each stage."""
    return text_to_image.Config(
        hidden_dim=96, num_layers=3, batch_size=64, guidance=args.guidance, prior_share=1.5,
        prior_learning_rate=2e-3, warmup_steps=min(50, args.steps // 2),
        decay_steps=max(2, args.steps * 6 // 5), decay_floor=0.1, ema_decay=0.995,
    )  # fmt: skip


class Measure:
    """Shares of images that are as asked: of the class, and of each attribute."""

    def __init__(self) -> None:
        """Find the thresholds of all training digits; load the classifier."""
        whole = load("mnist5k")
        self.limits = captions.thresholds(images(whole), whole.arrays["label"])
        self.judge = classifier.load("mnist-v1")

    def attributes(self, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Categories of images in [-1, 1], as digits of the classes `labels`."""
        return captions.categories(x, labels, self.limits)

    def __call__(self, x: np.ndarray, asked: np.ndarray) -> dict[str, float]:
        """Score uint8 images x against asked [N, 4]: class, thickness, size, slant."""
        found = self.attributes(np.asarray(normalise({"image": x})["image"]), asked[:, 0])
        found = {"class": self.judge.probabilities(x).argmax(1), **found}
        return {name: float((f == asked[:, i]).mean()) for i, (name, f) in enumerate(found.items())}


def slant_by_chance(asked: list[tuple[int, ...]]) -> float:
    """The share of samples whose slant is as asked if it is that of any training digit."""
    return float(np.mean([(0.3, 0.4, 0.3)[row[3]] for row in asked]))


def loss(cfg: Any, variables: Any, x: np.ndarray, caption: np.ndarray) -> float:
    """Mean ln p(codes|caption) of images, in nats."""
    own = vqvae_prior.codec(cfg)
    k = in_parts(lambda x: vqvae.codes(own, variables["codec"], x), x)
    log_prior = lambda k, c: text_to_image.log_prior(cfg, variables, k, c)  # noqa: E731
    return float(in_parts(log_prior, k, caption).mean())


def pictures(
    cfg: Any, variables: Any, x: np.ndarray, labels: np.ndarray, out: Path, seed: int
) -> None:
    """Captions × samples; and a left half, completed for captions."""
    import jax

    key = jax.random.key(seed + 2)
    tokens = np.repeat(text_to_image.condition_of_text(cfg, SHOWN), COLUMNS, axis=0)
    drawn = text_to_image.sample(cfg, variables, key, len(tokens), condition=tokens)
    titled(
        out / "samples.png", list(zip(SHOWN, np.split(np.asarray(drawn), len(SHOWN)), strict=True))
    )
    x = x[[int(np.flatnonzero(labels == digit)[0]) for digit in range(COLUMNS)]]
    mask = np.arange(x.shape[2])[None, :, None] < x.shape[2] // 2
    rows = [("a test digit", x), ("its left half", np.where(mask, x, -1))]
    for text in EDITS:
        c = np.repeat(text_to_image.condition_of_text(cfg, [text]), len(x), axis=0)
        edited = text_to_image.impute(cfg, variables, x, mask, key, condition=c)
        rows.append((text, np.asarray(edited)))
    titled(out / "edits.png", rows)


if __name__ == "__main__":
    run(main, Settings, __doc__)
