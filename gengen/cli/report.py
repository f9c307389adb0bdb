"""`gengen report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from gengen.data.options import default
from gengen.errors import InputError


@dataclass(frozen=True)
class Report:
    """Write the page of a run, or one that compares several: gengen report runs/a runs/b."""

    runs: Positional[tuple[Path, ...]]
    """Run directories: one, finished or not; or two to eight to compare."""
    out: Annotated[
        Path | None,
        default("RUN/report.html; of several comparison.html; of --turing RUN/turing.html"),
    ] = None
    """The page, NAME.html."""
    overwrite: bool = False
    """Replace --out where it exists."""
    turing: bool = False
    """Write a blind test instead: held-out and generated images, and buttons to tell which is
    which."""
    num: int = 24
    """Number of images on the page of --turing, half of them real."""
    seed: int = 0
    """Random seed of the images on the page of --turing, and of their order."""
    answers: Path | None = None
    """Score the answers that a page of --turing saved, and write nothing."""

    def __call__(self) -> None:
        """Run the command."""
        if self.answers is not None:
            from gengen.cli.turing import scored

            print(scored(self.answers))
            return
        print(f"report: {report(self)}", file=sys.stderr)


def report(args: Report) -> Path:
    """Write the page that `args` asks for, and return its path.

    Raises:
        InputError: for no run, or for an --out that exists or is no .html.
    """
    from gengen.training.comparison import write_comparison
    from gengen.training.report import write_report

    if not args.runs:
        raise InputError("no run is given: gengen report runs/ddpm")
    out = args.out
    if out is None and len(args.runs) > 1 and not args.turing:
        out = Path("comparison.html")
    if out is not None:
        _check(out, args.overwrite)
    if args.turing:
        from gengen.cli import turing

        if len(args.runs) != 1:
            raise InputError("--turing is of one run: give one")
        return turing.write(args.runs[0], out, args.num, args.seed)
    if len(args.runs) == 1:
        return write_report(args.runs[0], out)
    assert out is not None
    return write_comparison(args.runs, out)


def _check(out: Path, overwrite: bool) -> None:
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out}: the name must end in .html")
    if out.exists() and not overwrite:
        raise InputError(f"--out {out} exists: choose another, or pass --overwrite")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: {out.absolute().parent} is no directory")
