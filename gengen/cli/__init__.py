"""The `gengen` command: it parses, calls and prints; what it calls is for scripts too."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from gengen.cli.options import GivenOptions
from gengen.data.options import DataOptions, default
from gengen.errors import InputError
from gengen.runs import discover
from gengen.training import signals

DONE, FAILED, WRONG_USAGE = 0, 1, 2

Settings = UseAppendAction[
    Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help_behavior_hint="(repeatable)")]
]


@dataclass(frozen=True)
class List:
    """Print the models."""

    json: bool = False
    """As JSON, on stdout."""

    def __call__(self) -> None:
        """Run the command."""
        models = discover.models()
        if self.json:
            print(json.dumps([model._asdict() for model in models], indent=2))
            return
        for family in dict.fromkeys(model.family for model in models):
            print(family)
            for model in models:
                if model.family == family:
                    print(f"  {model.name:16} {model.title}")


@dataclass(frozen=True)
class Train:
    """Train a model: gengen train ddpm --data mnist5k --steps 1000 --out runs/ddpm."""

    model: Positional[str]
    """One of `gengen list`; or a model of your own: ./my_model.py, or package.module."""
    data: Annotated[str | None, default("mnist5k")] = None
    """digits, mnist5k, fashion, ring8, ..., with :test for the test split; a path to an .npz or
    .npy; folder:PATH of images; pairs:A,B; halves:PATH; unpaired:A,B; tfds:NAME."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = DataOptions()
    steps: Annotated[int | None, default("1000")] = None
    """Train steps in all."""
    seed: Annotated[int | None, default("0")] = None
    """Of data order, initial parameters and noise."""
    out: Annotated[Path | None, default("runs/MODEL-DATA")] = None
    """Run directory, new."""
    resume: bool = False
    """Go on with the run in --out: what is not given is as it was."""
    set: Settings = field(default=())
    """A field of the model's Config; tuples as 32,64."""
    preset: Annotated[Literal["quick", "paper"] | None, default("by the device")] = None
    """What the Config starts from: quick, sizes for a CPU; paper, the network and the training of
    the paper."""
    paper: bool = False
    """The same as --preset paper."""
    devices: Annotated[int | None, default("one; with --distributed all")] = None
    """Split each batch over that many devices."""
    mode: Annotated[Literal["jit", "pmap"] | None, default("jit")] = None
    """How many devices share a step: one program that XLA splits, or pmap."""
    accumulate: Annotated[int | None, default("1")] = None
    """Take each gradient in that many parts of the batch, to save memory."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, default("float32")] = None
    """What networks compute in; parameters stay float32."""
    on_nan: Annotated[Literal["stop", "skip"] | None, default("stop")] = None
    """At a NaN or infinite loss stop, or leave the step out."""
    workers: int = 0
    """Processes that read streamed data ahead; 0: threads do."""
    tensorboard: bool = False
    """Write TensorBoard event files beside metrics.jsonl."""
    profile: int = 0
    """Trace that many steps for a profiler, once compiled, into OUT/profile."""
    distributed: bool = False
    """One of several processes, each started with the same command. TPU pods, SLURM and Kubernetes
    say the next three by themselves."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which this is, from 0."""
    hold_out: Annotated[float | None, default("none")] = None
    """A share of the data, such as 0.1, that is not trained on: -log_prob of it is looked at, and
    the state where it is lowest is what the run gives."""
    patience: int | None = None
    """End after so many looks at it without a lower value."""
    validate_every: Annotated[int | None, default("steps / 50")] = None
    """Steps from one look to the next."""
    log_every: Annotated[int | None, default("steps / 200, or as before a resume")] = None
    """Steps between lines of metrics.jsonl."""
    save_every: Annotated[int | None, default("steps / 10")] = None
    """Steps between checkpoints."""
    preview_every: Annotated[int | None, default("steps / 8")] = None
    """Steps between pictures in samples/."""

    def __call__(self) -> None:
        """Run the command."""
        from gengen.cli.train import train

        train(self)


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
    metrics: str = "fid,kid,prdc"
    """Some of fid, fid_infinity, kid, prdc, sw, c2st, is, modes, nearest."""
    num: Annotated[int | None, default("as many as are held out")] = None
    """Samples drawn from a run."""
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
    pixels, or a classifier's .safetensors."""
    no_floor: bool = False
    """Leave out the scores of held-out data."""
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
    out: Path = Path("samples.png")
    """.png: one picture. .npz: arr_0, uint8 [N, H, W, C], or float32 [N, D] of vectors."""
    overwrite: bool = False
    """Replace --out where it exists."""
    set: Settings = field(default=())
    """A field of the model's Config, of those that matter to sampling."""
    fast: bool = False
    """Sample in at most 25 network evaluations."""
    model: str | None = None
    """The file or dotted name of a model of your own."""
    classes: tuple[int, ...] = ()
    """Classes to sample, in turn, from models that are conditioned on one: --classes 3 8."""
    interpolate: bool = False
    """Draw decoded codes on straight ways between those of real examples, a row a pair."""
    traverse: bool = False
    """Draw an example, one dimension of its code at a time moved: those that vary most."""
    manifold: bool = False
    """Draw a plane of codes, for models whose code has 2 numbers."""
    reconstruct: bool = False
    """Draw real examples, and under them what comes back of their codes."""
    embed: Literal["pca", "mds", "tsne"] | None = None
    """Draw codes of real examples as points, a colour a class."""
    data: Annotated[str | None, default("the run's, held out if there is such a part")] = None
    """The real examples, for pictures of codes and for models that are conditioned on an image: as
    in `gengen train --data`."""
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
    """To import: the published .pth, which PyTorch reads, or a .safetensors of its arrays."""
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
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
)


def main(argv: list[str] | None = None) -> int:
    """Run `gengen`; returns 0 when done, 1 if it failed while running, 2 for wrong usage.

    Args:
        argv: the arguments; None: those of this process, which then ends with the command even if
            an interrupted computation goes on in the background.
    """
    code = _run(argv)
    if argv is None:
        signals.leave(code)
    return code


def _run(argv: list[str] | None) -> int:
    try:
        command = tyro.cli(
            Command,  # type: ignore[arg-type]
            prog="gengen",
            description="Deep generative models: train them, sample from them.",
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
