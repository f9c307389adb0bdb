"""`gengen sample --interpolate`, `--traverse`, `--attribute`, `--impute` and their like.

Pictures of codes, of every model whose module has what they need: `encode`, `decode`,
`reconstruct`, `impute` (see `gengen.contract`). Conditioned models get the condition of the
examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen.cli.given import read
from gengen.contract import rows_of
from gengen.data import DataOptions, open_data
from gengen.errors import InputError
from gengen.metrics.attributes import ATTRIBUTES
from gengen.representation import embedding as embeddings
from gengen.runs import conditions
from gengen.runs.trained import Run
from gengen.types import Batch, PyTree, Shape, data_of
from gengen.viz import latent
from gengen.viz.grid import grid, picture

if TYPE_CHECKING:
    from gengen.cli import Sample

CHUNK = 250  # examples or codes at once: bounds the memory
LOOKED_AT = 500  # examples whose codes say how far codes go
PRIOR_DRAWS = 10_000  # whose percentiles lay out a manifold
FAR = 3.0  # standard deviations to each side of a traversal
STRENGTHS = 8  # images of a row of an attribute, from strength 0 to the one asked for
IMPUTATIONS = 4  # of each example
HALVES = ("top", "bottom", "left", "right")


class Picture(NamedTuple):
    """A picture, uint8 [H, W, C], how many pixels wide to draw each of its own, and its caption."""

    array: np.ndarray
    scale: int
    caption: str


def asked(args: Sample) -> str | None:
    """Which picture of codes the options ask for, if any.

    Raises:
        InputError: for two of them, or for `--spherical` without `--interpolate`.
    """
    names = [name for name in PICTURES if getattr(args, name)]
    if args.spherical and not args.interpolate:
        raise InputError("--spherical is of --interpolate: add it")
    if len(names) > 1:
        raise InputError(f"--{names[0]} and --{names[1]}: one picture at a time")
    return names[0] if names else None


def draw(name: str, args: Sample, trained: Run) -> Picture:
    """The picture `name` of `PICTURES`."""
    on_device = trained._replace(variables=jax.tree.map(jnp.asarray, trained.variables))
    return PICTURES[name](args, Codes(name, args, on_device))


@dataclass(frozen=True)
class Codes:
    """A model's codes of real examples.

    Attributes:
        picture: that is drawn, for messages.
        args: of the command.
        trained: the model.
    """

    picture: str
    args: Sample
    trained: Run

    def examples(self, num: int) -> tuple[str, Batch, tuple[str, ...] | None]:
        """`num` examples, held out where there are such: their set, they, and their classes."""
        settings, spec, options = self.trained.settings, self.args.data, self.args.options
        if spec is None:
            data = conditions.held_out(settings, options)
        else:
            if options == DataOptions():
                options = DataOptions(**settings.get("data_options", {}))
            data = open_data(spec, options)
        return data.name, conditions.some(data, num, self.args.seed), data.classes

    def images(self, num: int) -> tuple[str, Batch, tuple[str, ...] | None]:
        """`num` examples, which are images: their set, they, and their classes."""
        name, batch, classes = self.examples(num)
        if "image" not in batch:
            raise InputError(f"--{self.picture} draws images, but {name} are vectors: try --embed")
        return name, batch, classes

    def condition(self, batch: Batch, num: int = 0) -> PyTree:
        """The condition that the model takes from these `num` examples; None if it takes none.

        If captions are asked for, they are taken in turn instead.
        """
        if self.args.text:
            return conditions.of_text(self.trained.module, self.trained.cfg, self.args.text, num)
        return self.trained.module.condition_of(self.trained.cfg, batch)

    def encode(self, batch: Batch) -> np.ndarray:
        """Codes of examples, float32 [N, *code]."""
        return self._in_chunks("encode", data_of(batch), self.condition(batch))

    def decode(self, code: tuple[int, ...], batch: Batch) -> Callable[[np.ndarray], np.ndarray]:
        """The decoder of codes of that shape, given as vectors [N, D].

        Where the model is conditioned, the codes are of N / B rows of one condition each: those of
        the B examples, in order.
        """
        condition = self.condition(batch)

        def decode(z: np.ndarray) -> np.ndarray:
            each = condition
            if condition is not None:
                rows = jax.tree.leaves(condition)[0].shape[0]
                each = conditions.repeated(condition, max(1, len(z) // rows))
            return self.decode_as(z.reshape(-1, *code), each)

        return decode

    def decode_as(self, z: np.ndarray, condition: PyTree) -> np.ndarray:
        """Decoded codes [N, *code], each with its row of the condition: [N, *shape]."""
        return self._in_chunks("decode", z, condition)

    def reconstruct(self, batch: Batch) -> np.ndarray:
        """The reconstructions of examples [N, *shape]."""
        x, condition = data_of(batch), self.condition(batch)
        if hasattr(self.trained.module, "reconstruct"):
            return self._in_chunks("reconstruct", x, condition)
        z = self.encode(batch)
        return self.decode(z.shape[1:], batch)(z)

    def impute(self, x: np.ndarray, mask: np.ndarray, condition: PyTree) -> np.ndarray:
        """Images [N, *shape] with pixels filled in where `mask` [H, W, 1] is false."""
        key = jax.random.key(self.args.seed)
        return self._in_chunks("impute", x, condition, lambda i: (mask, jax.random.fold_in(key, i)))

    def prior(self, num: int) -> np.ndarray | None:
        """Samples of p(z), if the model has one: [num, *code]."""
        sample_prior = getattr(self.trained.module, "sample_prior", None)
        if sample_prior is None:
            return None
        return np.asarray(sample_prior(self.trained.cfg, jax.random.key(self.args.seed), num))

    def _in_chunks(
        self, name: str, x: Any, condition: PyTree, more: Callable[[int], tuple] = lambda i: ()
    ) -> np.ndarray:
        """The module's function `name` of an array, some rows at a time.

        Args:
            name: of the function.
            x: its first array.
            condition: of all rows.
            more: the index of the first of some rows → the arguments that follow them.
        """
        module, cfg, variables, *_ = self.trained
        function = getattr(module, name, None)
        if function is None:
            cure = "gengen.autoencoder and gengen.vae have models with codes"
            if name == "impute":
                cure = "vae, ppca and text_to_image fill in missing pixels"
            raise InputError(f"--{self.picture}: {self.trained.name} has no {name}; {cure}")
        net = {} if self.trained.net is None else {"net": self.trained.net}
        parts = []
        for i in range(0, len(x), CHUNK):
            own = net
            if condition is not None:
                own = net | {"condition": rows_of(condition, slice(i, i + CHUNK))}
            some = jnp.asarray(x[i : i + CHUNK])
            parts.append(np.asarray(function(cfg, variables, some, *more(i), **own)))
        return np.concatenate(parts)


def _first_rows(batch: Batch, num: int) -> Batch:
    return {name: array[:num] for name, array in batch.items()}


def _flat(z: np.ndarray) -> np.ndarray:
    return z.reshape(len(z), -1)


# --- the pictures --------------------------------------------------------------------------------


def interpolations(args: Sample, codes: Codes) -> Picture:
    """A row for each pair of examples, from the one to the other."""
    num = args.num or 8
    name, batch, _ = codes.images(2 * num)
    z = codes.encode(batch)
    num = len(z) // 2
    if not num:
        raise InputError(f"--interpolate goes from example to example, but {name} has one")
    start, end = _flat(z)[:num], _flat(z)[num : 2 * num]
    decode = codes.decode(z.shape[1:], _first_rows(batch, num))
    drawn = latent.interpolations(decode, start, end, spherical=args.spherical)
    along = ", along great circles" if args.spherical else ""
    return Picture(drawn, 2, f"{num} ways between examples of {name}{along}")


def traversals(args: Sample, codes: Codes) -> Picture:
    """An example, one dimension of its code at a time moved: those that vary most in the data."""
    name, batch, _ = codes.images(LOOKED_AT)
    z = codes.encode(batch)
    flat = _flat(z)
    spread = flat.std(0)
    dims = np.argsort(-spread, kind="stable")[: args.num or 8]
    drawn = latent.traversals(
        codes.decode(z.shape[1:], _first_rows(batch, 1)),
        flat[0],
        dims.tolist(),
        far=FAR * spread,
        centre=flat.mean(0),
    )
    listed = ", ".join(map(str, dims))
    return Picture(drawn, 2, f"mean ± {FAR:g} standard deviations, over {name}, of z[{listed}]")


def manifold(args: Sample, codes: Codes) -> Picture:
    """A plane of codes at percentiles of the prior or, without one, of the data's codes."""
    z, name = codes.prior(PRIOR_DRAWS), "the prior"
    source, batch, _ = codes.images(LOOKED_AT)
    if z is None:
        z, name = codes.encode(batch), f"the codes of {source}"
    if z.shape[1:] != (2,):
        raise InputError(
            f"--manifold is of codes in the plane, but these are {z.shape[1:]}: "
            "train with a code of 2, or try --traverse"
        )
    decode = codes.decode((2,), _first_rows(batch, 1))
    if decode(z[:1]).ndim != 4:
        raise InputError("--manifold draws images, but this model's data are vectors: try --embed")
    side = max(1, math.isqrt(args.num or 225))
    drawn = latent.manifold(decode, side, codes=z)
    return Picture(drawn, 2, f"{side} × {side} codes at percentiles of {name}")


def reconstructions(args: Sample, codes: Codes) -> Picture:
    """Examples over what comes back of them; points or rows of vectors over the real ones."""
    if args.classes:
        return changed_classes(args, codes)
    name, batch, _ = codes.examples(args.num or 50)
    x = np.asarray(data_of(batch))
    out = codes.reconstruct(batch)
    caption = f"{len(x)} examples of {name}, and what came back"
    if x.ndim == 2:
        return Picture(picture(out, x), 1, caption)
    return Picture(latent.reconstructions(x, out), 2, caption)


def changed_classes(args: Sample, codes: Codes) -> Picture:
    """A row for each example, then what its code is decoded to with each class that is asked."""
    name, batch, _ = codes.images(args.num or 8)
    run, times = codes.trained, len(args.classes)
    y = conditions.chosen(run.module, run.cfg, args.classes, times, run.settings.get("classes"))
    x, z = np.asarray(data_of(batch)), codes.encode(batch)
    two = codes.decode_as(z[[0, 0]], jnp.array([0, run.cfg.num_classes - 1]))
    if np.array_equal(*two):
        raise InputError(f"--classes: {run.name} decodes a code alike for every class")
    out = codes.decode_as(np.repeat(z, times, axis=0), jnp.tile(y, len(z)))
    out = np.clip(out, -1, 1).reshape(len(x), times, *x.shape[1:])
    drawn = grid(np.concatenate([x[:, None], out], axis=1).reshape(-1, *x.shape[1:]), times + 1)
    asked = ", ".join(args.classes)
    return Picture(drawn, 2, f"{len(x)} examples of {name}, and as {asked}")


def embedding(args: Sample, codes: Codes) -> Picture:
    """Codes as points in the plane, a colour a class."""
    name, batch, classes = codes.examples(args.num or LOOKED_AT)
    z = _flat(codes.encode(batch))
    labels = np.asarray(batch["label"]) if "label" in batch else None
    view = str(args.embed)
    # As t-SNE's authors bound it.
    perplexity = min(embeddings.PERPLEXITY, max(1.0, (len(z) - 1) / 3))
    drawn = embeddings.scatter(z, labels, classes, view, perplexity, args.seed)
    return Picture(drawn, 1, f"the codes of {len(z)} examples of {name}")


def edits(args: Sample, codes: Codes) -> Picture:
    """A row for each example: the attribute's vector is added to its code, more in each column."""
    wanted, strength = _strength(str(args.attribute))
    name, batch, classes = codes.images(LOOKED_AT)
    has = _has(wanted, batch, classes)
    z = codes.encode(batch)
    vector = latent.attribute(_flat(z), has)
    num = min(args.num or 8, len(z))
    drawn = latent.arithmetic(
        codes.decode(z.shape[1:], _first_rows(batch, num)),
        _flat(z)[:num],
        vector,
        np.linspace(0, strength, STRENGTHS).tolist(),
    )
    return Picture(drawn, 2, f"{num} examples of {name}, with 0 to {strength:g} of {wanted} added")


def _strength(text: str) -> tuple[str, float]:
    """The attribute and the strength of NAME=STRENGTH."""
    name, _, number = text.rpartition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not name or not math.isfinite(strength):
        raise InputError(f"--attribute {text}: write NAME=STRENGTH, such as slant=1.5 or slant=-1")
    return name, strength


def _has(name: str, batch: Batch, classes: tuple[str, ...] | None) -> np.ndarray:
    """Which examples have the attribute: more of it than the median has, or the class: [N]."""
    if name in ATTRIBUTES:
        values = ATTRIBUTES[name](np.asarray(batch["image"]))
        return values > np.median(values)
    named = list(classes or ()) if "label" in batch else []
    if name not in named:
        raise InputError(
            f"--attribute {name}: no such attribute; known: {', '.join([*ATTRIBUTES, *named])}"
        )
    return np.asarray(batch["label"]) == named.index(name)


def imputations(args: Sample, codes: Codes) -> Picture:
    """A row for each example: what is known of it, ways to fill in the rest, and the example."""
    name, batch, _ = codes.images(args.num or 8)
    x = np.asarray(data_of(batch))
    mask = _known(str(args.impute), x.shape[1:])
    given, times = np.where(mask, x, 0), IMPUTATIONS
    condition = conditions.repeated(codes.condition(batch, len(x)), times)
    filled = codes.impute(np.repeat(given, times, axis=0), mask, condition)
    filled = filled.reshape(len(x), times, *x.shape[1:])
    rows = np.concatenate([given[:, None], filled, x[:, None]], axis=1)
    drawn = grid(np.clip(rows, -1, 1).reshape(-1, *x.shape[1:]), times + 2)
    asked = f" for {', '.join(map(repr, args.text))}" if args.text else ""
    caption = f"{len(x)} examples of {name}: what is known, {times} imputations{asked}, the example"
    return Picture(drawn, 2, caption)


def _known(where: str, shape: Shape) -> np.ndarray:
    """Which pixels are known, [H, W, 1]: a half, or where the image file of that name is white."""
    height, width, _ = shape
    if where not in HALVES:
        if not Path(where).is_file():
            raise InputError(f"--impute {where}: neither {', '.join(HALVES)} nor an image file")
        return read(Path(where), (height, width, 1)) > 0
    down, right = np.mgrid[:height, :width]
    halves = {
        "top": down < height // 2,
        "bottom": down >= height // 2,
        "left": right < width // 2,
        "right": right >= width // 2,
    }
    return halves[where][..., None]


PICTURES: dict[str, Callable[[Sample, Codes], Picture]] = {
    "interpolate": interpolations,
    "traverse": traversals,
    "manifold": manifold,
    "reconstruct": reconstructions,
    "embed": embedding,
    "attribute": edits,
    "impute": imputations,
}
