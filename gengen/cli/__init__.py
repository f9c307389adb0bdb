"""The `gengen` command: it parses, calls and prints; what it calls is for scripts too."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from gengen import __version__
from gengen.cli.list import List
from gengen.cli.options import GivenOptions, Settings
from gengen.cli.report import Report
from gengen.cli.stylize import Stylize
from gengen.cli.train import Train
from gengen.data.options import DataOptions, default
from gengen.errors import InputError
from gengen.training import provenance, signals

DONE, FAILED, WRONG_USAGE = 0, 1, 2


@dataclass(frozen=True)
class Data:
    """Print what a data set is, and draw some of it: gengen data inspect folder:faces --size 64."""

    action: Positional[Literal["inspect"]]
    """What to do."""
    data: Positional[str]
    """As in `gengen train --data`."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = DataOptions()
    out: Path | None = None
    """Write a picture of examples, NAME.png."""
    overwrite: bool = False
    """Replace --out where it exists."""
    json: bool = False
    """As JSON, on stdout."""

    def __call__(self) -> None:
        """Run the command."""
        from gengen.cli.data import inspect

        inspect(self)


@dataclass(frozen=True)
class Evaluate:
    """Score samples against data: gengen evaluate runs/ddpm --metrics fid,kid,prdc."""

    source: Positional[str]
    """A run, an exported file, a folder of images, an .npz of samples or of statistics."""
    data: Annotated[str | None, default("what the run was trained on")] = None
    """The reference: as in `gengen train --data`, or an .npz of statistics as pytorch-fid's."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = DataOptions()
    metrics: Annotated[str | None, default("by the model and the data")] = None
    """Some of fid, fid_infinity, kid, prdc, sw, c2st, is, modes, nearest, class, nats, bits, psnr,
    ssim, ms_ssim, l1, cycle_l1, with commas between."""
    num: Annotated[int | None, default("what takes about 2 minutes")] = None
    """Samples of a run to score: by default 100 to 10,000, at most as many as are held out."""
    seed: int = 0
    """Of the samples."""
    set: Settings = field(default=())
    """A field of the model's Config, of those that matter to sampling."""
    fast: bool = False
    """Sample in at most 25 network evaluations."""
    model: str | None = None
    """The file or dotted name of a model of your own."""
    extractor: Annotated[str | None, default("by the data")] = None
    """mnist-v1, fashion-v1, inception, inception-pytorch-fid, inception-clean-fid, identity,
    pixels, random-v1, or a classifier's .safetensors."""
    no_floor: bool = False
    """Leave out the scores of real data in the samples' place."""
    json: bool = False
    """As JSON, on stdout."""

    def __call__(self) -> None:
        """Run the command."""
        from gengen.cli.evaluate import evaluate

        evaluate(self)


@dataclass(frozen=True)
class Export:
    """Write what a run learnt as one file: gengen export runs/ddpm ddpm.safetensors."""

    run: Positional[Path]
    """Run directory."""
    file: Positional[Path]
    """New file, NAME.safetensors; `gengen sample` takes it in the place of a run."""

    def __call__(self) -> None:
        """Run the command."""
        from gengen.runs.trained import export

        path = export(self.run, self.file, lambda line: print(f"gengen: {line}", file=sys.stderr))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run, or pictures of its codes: gengen sample runs/ddpm --out x.png."""

    run: Positional[Path]
    """Run directory, or a file made by `gengen export`."""
    num: Annotated[int | None, default("64, and what suits each picture of codes")] = None
    """How many samples; ways, dimensions, codes or examples."""
    seed: int = 0
    """Of the noise, and of which examples are taken."""
    out: Annotated[str, arg(metavar="PATH")] = "samples.png"
    """NAME.png: one picture. FOLDER/: a file for each image, 000000.png and so on. NAME.npz: arr_0,
    uint8 [N, H, W, C], or float32 [N, D] of vectors."""
    overwrite: bool = False
    """Replace --out where it exists; in a folder, the images that were sampled before."""
    set: Settings = field(default=())
    """A field of the model's Config, of those that matter to sampling."""
    fast: bool = False
    """Sample in at most 25 network evaluations."""
    model: str | None = None
    """The file or dotted name of a model of your own."""
    classes: tuple[str, ...] = ()
    """Classes to sample, in turn, from models that are conditioned on one: --classes Trouser 3.
    With --reconstruct: the classes that real examples are changed to, a column each."""
    text: Annotated[
        tuple[str, ...],
        arg(metavar="CAPTION", help_behavior_hint="(default: sampled, or the data's)"),
    ] = ()
    """Captions to sample for, in turn, from models that are conditioned on text: "a thin two". With
    --impute: to fill in for."""
    interpolate: bool = False
    """Draw decoded codes on straight ways between those of real examples, a row a pair."""
    spherical: bool = False
    """Of --interpolate: along great circles, not straight."""
    traverse: bool = False
    """Draw an example, one dimension of its code at a time moved: those that vary most."""
    manifold: bool = False
    """Draw a plane of codes, for models whose code has 2 numbers."""
    reconstruct: bool = False
    """Draw real examples, and under them what comes back of their codes."""
    embed: Literal["pca", "mds", "tsne"] | None = None
    """Draw codes of real examples as points, a colour a class."""
    attribute: Annotated[str | None, arg(metavar="NAME=STRENGTH")] = None
    """Draw real examples with ever more of an attribute: slant, thickness, or a class of the data.
    STRENGTH times its vector is added to the code, subtracted if below 0."""
    impute: Annotated[str | None, arg(metavar="KNOWN")] = None
    """Draw real examples of which a part is known and the rest is filled in. KNOWN: top, bottom,
    left, right, or an image file, white where pixels are known."""
    data: Annotated[str | None, default("the run's, held out if there is such a part")] = None
    """The real examples, for pictures of codes and for models that are conditioned on an image: as
    in `gengen train --data`."""
    input: Annotated[str | None, default("held-out images of the run's data")] = None
    """Images to translate, for models that do: an image file, a folder, or as in --data."""
    direction: Annotated[Literal["ab", "ba"] | None, default("ab")] = None
    """Of a translation: ab, from the first kind of images to the second, or ba."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = DataOptions()
    inverse: tyro.conf.OmitArgPrefixes[GivenOptions] = GivenOptions()

    def __call__(self) -> None:
        """Run the command."""
        from gengen.cli.sample import sample

        sample(self)


@dataclass(frozen=True)
class Weights:
    """Get the published weights of Inception or VGG-19: gengen weights fetch inception."""

    action: Positional[Literal["fetch", "import"]]
    """fetch: from the network; import: from a file that was fetched elsewhere."""
    name: Positional[Literal["inception", "vgg19"]]
    """Whose."""
    file: Positional[Path | None] = None
    """To import: the published .pth, or a .safetensors of its arrays."""
    dir: Annotated[Path | None, default("$GENGEN_WEIGHTS_DIR, or the user's data folder")] = None
    """Folder to keep them in."""
    any_hash: bool = False
    """Import a file that is not the published one."""

    def __call__(self) -> None:
        """Run the command."""
        from gengen.cli.weights import weights

        weights(self)


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Stylize, tyro.conf.subcommand("stylize")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
)


def main(argv: list[str] | None = None) -> int:
    """Run `gengen`; returns 0 when done, 1 if it failed while running, 2 for wrong usage.

    Args:
        argv: the arguments; None: those of this process, which then ends with the command even if
            an interrupted computation goes on in the background.
    """
    words = sys.argv[1:] if argv is None else argv
    before = provenance.COMMAND.set(shlex.join(["gengen", *words]))
    try:
        code = _run(argv)
    finally:
        provenance.COMMAND.reset(before)
    if argv is None:
        signals.leave(code)
    return code


def _run(argv: list[str] | None) -> int:
    if (sys.argv[1:] if argv is None else argv) == ["--version"]:
        print(f"gengen {__version__}")
        return DONE
    try:
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="gengen",
            description="Deep generative models: train them, sample from them. `gengen --version` "
            "prints the version.",
            args=argv,
        )
        command()
        sys.stdout.flush()
        return DONE
    except InputError as error:
        return _fail(error, WRONG_USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(_with_cure(error), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    except RuntimeError as error:
        if type(error).__module__.startswith("gengen."):
            return _fail(error, FAILED)
        raise


def _with_cure(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    where = f"{error.filename}: " if error.filename else ""
    cure = ": free some, then go on with --resume" if full else ""
    return f"{where}{error.strerror or error}{cure}"


def _fail(error: object, code: Literal[1, 2]) -> int:
    print(f"gengen: {error}", file=sys.stderr)
    return code
