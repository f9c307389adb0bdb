"""`gengen sample --interpolate`, `--traverse`, `--manifold`, `--reconstruct`, `--embed`.

Pictures of codes, of every model whose module has what they need: `encode(cfg, variables, x)`,
`decode(cfg, variables, z)`, `reconstruct(cfg, variables, x)`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen.data import AnyData, Dataset, batch_indices, normalise, open_data
from gengen.data.options import DataOptions
from gengen.errors import InputError
from gengen.runs.evaluation import held_out_of
from gengen.runs.trained import Trained
from gengen.types import Batch, data_of
from gengen.viz import latent
from gengen.viz.grid import picture

if TYPE_CHECKING:
    from gengen.cli import Sample

CHUNK = 250  # examples or codes at once: bounds the memory
LOOKED_AT = 500  # examples whose codes say how far codes go
PRIOR_DRAWS = 10_000  # whose percentiles lay out a manifold
FAR = 3.0  # standard deviations to each side of a traversal
PERPLEXITY = 30.0


class Picture(NamedTuple):
    """A picture, uint8 [H, W, C], how many pixels wide to draw each of its own, and its caption."""

    array: np.ndarray
    scale: int
    caption: str


def asked(args: Sample) -> str | None:
    """Which picture of codes the options ask for, if any.

    Raises:
        InputError: for two of them, or data where there are none.
    """
    names = [name for name in PICTURES if getattr(args, name)]
    if len(names) > 1:
        raise InputError(f"--{names[0]} and --{names[1]}: one picture at a time")
    if not names and (args.data is not None or args.options != DataOptions()):
        flags = ", ".join(f"--{name}" for name in PICTURES)
        raise InputError(f"--data is whose codes are drawn: say how, with one of {flags}")
    return names[0] if names else None


def draw(name: str, args: Sample, trained: Trained) -> Picture:
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
    trained: Trained

    def examples(self, num: int) -> tuple[str, Batch, tuple[str, ...] | None]:
        """`num` examples, held out where there are such: their set, they, and their classes."""
        settings, spec = self.trained.settings, self.args.data
        options = self.args.options
        if options == DataOptions():
            options = DataOptions(**settings.get("data_options", {}))
        if spec is None:
            spec = settings["data"]["name"]
            spec = held_out_of(spec) or spec
        data = open_data(spec, options)
        rows = batch_indices(len(data), min(num, len(data)), self.args.seed, 0)
        return data.name, _read(data, rows), data.classes

    def images(self, num: int) -> tuple[str, Batch]:
        """`num` examples, which are images."""
        name, batch, _ = self.examples(num)
        if "image" not in batch:
            raise InputError(f"--{self.picture} draws images, but {name} are vectors: try --embed")
        return name, batch

    def encode(self, x: Any) -> np.ndarray:
        """Codes of x [N, *shape], float32 [N, *code]."""
        return _in_chunks(self._function("encode"), x)

    def decode(self, code: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        """What codes of that shape stand for, given as vectors [N, D]."""
        function = self._function("decode")
        return lambda z: _in_chunks(function, z.reshape(-1, *code))

    def reconstruct(self, x: Any) -> np.ndarray:
        """What comes back of x [N, *shape]."""
        own = _of_an_array(self.trained, "reconstruct")
        if own is not None:
            return _in_chunks(own, x)
        z = self.encode(x)
        return self.decode(z.shape[1:])(z)

    def prior(self, num: int) -> np.ndarray | None:
        """Draws of p(z), if the model has one: [num, *code]."""
        draw_prior = getattr(self.trained.module, "draw_prior", None)
        if draw_prior is None:
            return None
        return np.asarray(draw_prior(self.trained.cfg, jax.random.key(self.args.seed), num))

    def _function(self, name: str) -> Callable[[Any], Any]:
        function = _of_an_array(self.trained, name)
        if function is None:
            model = self.trained.settings["model"]
            raise InputError(
                f"--{self.picture}: {model} has no {name} of an array alone; "
                "gengen.autoencoder and gengen.vae have models with codes"
            )
        return function


def _of_an_array(trained: Trained, name: str) -> Callable[[Any], Any] | None:
    """The module's function `name`(cfg, variables, array), if it has one that asks no more."""
    function = getattr(trained.module, name, None)
    if function is None:
        return None
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    if len(needed) != 3 or needed[:2] != ["cfg", "variables"]:
        return None
    return partial(function, trained.cfg, trained.variables)


def _in_chunks(function: Callable[[Any], Any], x: Any) -> np.ndarray:
    parts = [function(jnp.asarray(x[i : i + CHUNK])) for i in range(0, len(x), CHUNK)]
    return np.concatenate([np.asarray(part) for part in parts])


def _read(data: AnyData, rows: np.ndarray) -> Batch:
    if isinstance(data, Dataset):
        first = {k: a for k, a in data.arrays.items() if not k.startswith("other")}
        return normalise({k: jnp.asarray(a[rows]) for k, a in first.items()})
    return normalise({k: jnp.asarray(a) for k, a in data.read(rows).items()})


def _flat(z: np.ndarray) -> np.ndarray:
    return z.reshape(len(z), -1)


# --- the pictures --------------------------------------------------------------------------------


def interpolations(args: Sample, codes: Codes) -> Picture:
    """A row for each pair of examples, from the one to the other."""
    num = args.num or 8
    name, batch = codes.images(2 * num)
    z = codes.encode(batch["image"])
    num = len(z) // 2
    if not num:
        raise InputError(f"--interpolate goes from example to example, but {name} has one")
    start, end = _flat(z)[:num], _flat(z)[num : 2 * num]
    drawn = latent.interpolations(codes.decode(z.shape[1:]), start, end)
    return Picture(drawn, 2, f"{num} ways between examples of {name}")


def traversals(args: Sample, codes: Codes) -> Picture:
    """An example, one dimension of its code at a time moved: those that vary most in the data."""
    name, batch = codes.images(LOOKED_AT)
    z = codes.encode(batch["image"])
    flat = _flat(z)
    spread = flat.std(0)
    dims = np.argsort(-spread, kind="stable")[: args.num or 8]
    drawn = latent.traversals(
        codes.decode(z.shape[1:]), flat[0], dims.tolist(), far=FAR * spread, centre=flat.mean(0)
    )
    listed = ", ".join(map(str, dims))
    return Picture(drawn, 2, f"mean ± {FAR:g} standard deviations, over {name}, of z[{listed}]")


def manifold(args: Sample, codes: Codes) -> Picture:
    """A plane of codes at percentiles of the prior or, without one, of the data's codes."""
    z, name = codes.prior(PRIOR_DRAWS), "the prior"
    if z is None:
        name, batch = codes.images(LOOKED_AT)
        z, name = codes.encode(batch["image"]), f"the codes of {name}"
    if z.shape[1:] != (2,):
        raise InputError(
            f"--manifold is of codes in the plane, but these are {z.shape[1:]}: "
            "train with a code of 2, or try --traverse"
        )
    decode = codes.decode((2,))
    if decode(z[:1]).ndim != 4:
        raise InputError("--manifold draws images, but this model's data are vectors: try --embed")
    side = max(1, math.isqrt(args.num or 225))
    drawn = latent.manifold(decode, side, codes=z)
    return Picture(drawn, 2, f"{side} × {side} codes at percentiles of {name}")


def reconstructions(args: Sample, codes: Codes) -> Picture:
    """Examples over what comes back of them; points or rows of vectors over the real ones."""
    name, batch, _ = codes.examples(args.num or 50)
    x = np.asarray(data_of(batch))
    out = codes.reconstruct(x)
    caption = f"{len(x)} examples of {name}, and what came back"
    if x.ndim == 2:
        return Picture(picture(out, x), 1, caption)
    return Picture(latent.reconstructions(x, out), 2, caption)


def embedding(args: Sample, codes: Codes) -> Picture:
    """Codes as points in the plane, a colour a class."""
    name, batch, classes = codes.examples(args.num or LOOKED_AT)
    z = _flat(codes.encode(data_of(batch)))
    labels = np.asarray(batch["label"]) if "label" in batch else None
    view = str(args.embed)
    perplexity = min(PERPLEXITY, max(1.0, (len(z) - 1) / 3))  # as t-SNE's authors bound it
    drawn = latent.scatter(z, labels, classes, view, perplexity, args.seed)
    return Picture(drawn, 1, f"the codes of {len(z)} examples of {name}")


PICTURES: dict[str, Callable[[Sample, Codes], Picture]] = {
    "interpolate": interpolations,
    "traverse": traversals,
    "manifold": manifold,
    "reconstruct": reconstructions,
    "embed": embedding,
}
