"""`gengen weights`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gengen.errors import InputError

if TYPE_CHECKING:
    from gengen.cli import Weights


def weights(args: Weights) -> None:
    """Fetch or import published weights."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed here
    from gengen.nn import weights as files

    if args.action == "import" and args.file is None:
        raise InputError(f"gengen weights import {args.name} FILE: name the file")
    if args.action == "fetch" and (args.file is not None or args.any_hash):
        raise InputError("gengen weights fetch takes no file: import does")
    into = args.dir or files.folder()
    if args.file is None:
        files.fetch(args.name, into, _say)
    else:
        files.import_file(args.name, args.file, into, args.any_hash, _say)
    if into.absolute() != files.folder().absolute():
        _say(f"set GENGEN_WEIGHTS_DIR={into.absolute()} where it is to be used")


def _say(line: str) -> None:
    print(f"gengen: {line}", file=sys.stderr)
