"""Published weights: fetched once, or brought as a file, and kept as safetensors with their hash.

    gengen weights fetch inception                  # where there is a network
    gengen weights import inception FILE.pth        # where FILE.pth was fetched elsewhere

They lie in $GENGEN_WEIGHTS_DIR, else in the user's data folder ($XDG_DATA_HOME or ~/.local/share,
gengen/weights). A file keeps the arrays of the published one as they are, under their names, and in
its metadata the published file's SHA-256, by which scores made with it are called.

A .pth file is read without PyTorch, and may hold nothing but arrays (`gengen.nn.pickled`). Reading
a file of either kind runs no code of it, and takes no more memory than its bytes.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from gengen.nn import inception, pickled, vgg
from gengen.types import InputError, PyTree, Shape

SUFFIX = ".safetensors"
MOST_BYTES = pickled.MOST_BYTES  # of a file that is read
MOST_HEADER = 2**20  # of them, in a safetensors file's header
TIMEOUT = 30  # seconds without an answer
_KEY = "gengen"  # of the facts in the metadata
Say = Callable[[str], None]


class FetchError(RuntimeError):
    """The network did not give the file; the message is one line with the other ways."""


class Published(NamedTuple):
    """A file of weights that others published.

    Attributes:
        url: of it.
        size: bytes.
        sha256: of it (hex).
        shapes: of the arrays in it that are needed, by name.
        from_torch: what makes variables of them.
        instead: what does without it.
    """

    url: str
    size: int
    sha256: str
    shapes: Callable[[], dict[str, Shape]]
    from_torch: Callable[[Mapping[str, Any]], PyTree]
    instead: str


PUBLISHED = {
    "inception": Published(  # Apache-2.0
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        inception.torch_shapes,
        inception.from_torch,
        "the extractors mnist-v1 and fashion-v1 come with gengen (gengen evaluate --extractor)",
    ),
    "vgg19": Published(  # BSD-3-Clause
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        574_673_361,
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        vgg.torch_shapes,
        vgg.from_torch,
        "gengen.nn.vgg.VGG19 can be initialised at random",
    ),
}


def folder() -> Path:
    """Where weights are kept."""
    if named := os.environ.get("GENGEN_WEIGHTS_DIR"):
        return Path(named).expanduser()
    root = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share")
    return Path(root) / "gengen" / "weights"


def path(name: str) -> Path:
    """Where the weights of that name are kept, or would be.

    Raises:
        InputError: for an unknown name.
    """
    _published(name)
    return folder() / f"{name}{SUFFIX}"


def load(name: str) -> tuple[PyTree, str]:
    """Weights that were fetched or imported.

    Args:
        name: "inception" (for `gengen.nn.inception.features`) or "vgg19" (`gengen.nn.vgg`).

    Returns:
        The variables, and the SHA-256 (hex) of the published file that they come from.

    Raises:
        InputError: if there are none yet, naming the ways to get them, or if they are damaged.
    """
    published, file = _published(name), path(name)
    if not file.is_file():
        raise InputError(f"there are no weights of {name} at {file}: {_ways(name)}")
    arrays, facts = _read_safetensors(file)
    if facts.get("content_sha256") != content_sha256(arrays):
        raise InputError(f"{file} is damaged, or not gengen's: remove it, then {_ways(name)}")
    return published.from_torch(arrays), facts["source_sha256"]


def fetch(name: str, into: Path | None = None, say: Say = lambda line: None) -> Path:
    """Download published weights, check them and keep them; nothing is kept if anything fails.

    Args:
        name: as in `load`.
        into: the folder; None: where `load` looks.
        say: called with a line on what was done.

    Returns:
        The file.

    Raises:
        FetchError: if the network does not give the file.
    """
    published, into = _published(name), into or folder()
    file = into / f"{name}{SUFFIX}"
    if file.is_file() and _facts_of(file).get("source_sha256") == published.sha256:
        say(f"{file} is there already")
        return file
    with _beside(file) as scratch:
        source = scratch / "source.pth"
        _download(name, source)
        found = _sha256(source)
        if found != published.sha256:
            raise FetchError(
                f"{published.url} gave another file (SHA-256 {found[:12]}…, not "
                f"{published.sha256[:12]}…), which was not kept: {_elsewhere(name)}"
            )
        _keep(name, pickled.read(source), found, published.url, file, scratch)
    say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return file


def import_file(
    name: str,
    source: Path,
    into: Path | None = None,
    any_hash: bool = False,
    say: Say = lambda line: None,
) -> Path:
    """Keep weights from a file: the published .pth, or a .safetensors of the same arrays.

    Args:
        name: as in `load`.
        source: the file.
        into: the folder; None: where `load` looks.
        any_hash: take a file that is neither the published one nor, as its header says, made of it
            by gengen. Scores will be called by that file's own SHA-256.
        say: called with a line on what was done.

    Returns:
        The file that is kept.

    Raises:
        InputError: if the file is missing, of an unknown hash, damaged, or of another network.
    """
    published, into = _published(name), into or folder()
    source, file = Path(source), into / f"{name}{SUFFIX}"
    _check_source(source)
    sha256, arrays = _sha256(source), None
    if source.suffix == SUFFIX:
        arrays, facts = _read_safetensors(source)
        if facts.get("content_sha256") == content_sha256(arrays):
            sha256 = facts["source_sha256"]
    if sha256 != published.sha256 and not any_hash:
        raise InputError(
            f"{source} has SHA-256 {sha256[:12]}…, not {published.sha256[:12]}… as the "
            f"published {published.url}: pass --any-hash to take it all the same"
        )
    if arrays is None:
        arrays = pickled.read(source)
    with _beside(file) as scratch:
        _keep(name, arrays, sha256, source.name, file, scratch)
    known = "the published weights" if sha256 == published.sha256 else f"SHA-256 {sha256}"
    say(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {known}")
    return file


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of arrays: their names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise InputError(f"weights {name!r}: they are one of {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def _ways(name: str) -> str:
    return f"run `gengen weights fetch {name}`; where there is no network, {_elsewhere(name)}"


def _elsewhere(name: str) -> str:
    return (
        f"fetch {PUBLISHED[name].url} elsewhere and run `gengen weights import {name} FILE`, or do "
        f"without: {PUBLISHED[name].instead}"
    )


# --- files ----------------------------------------------------------------------------------------


def _check_source(source: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    if source.suffix not in (".pth", ".pt", SUFFIX):
        raise InputError(f"{source}: weights are read from .pth, .pt or {SUFFIX} files")
    if source.stat().st_size > MOST_BYTES:
        raise InputError(f"{source} has {source.stat().st_size} bytes: more than weights have")


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A folder beside the file, for what is not finished; removed whatever happens."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=file.parent, prefix=".unfinished-")
    except OSError as error:
        raise InputError(f"cannot write to {file.parent}: {error.strerror or error}") from None
    with scratch as name:
        yield Path(name)


def _keep(
    name: str, arrays: Mapping[str, Any], sha256: str, source: str, file: Path, scratch: Path
) -> None:
    """Write the arrays that are needed, once they are known to make up the network, atomically."""
    published = PUBLISHED[name]
    published.from_torch(arrays)  # raises what is wrong with them
    needed = {k: v for k, v in arrays.items() if k in published.shapes()} or dict(arrays)
    kept = {k: np.ascontiguousarray(v) for k, v in needed.items()}
    facts = {"network": name, "source": source, "source_sha256": sha256}
    facts["content_sha256"] = content_sha256(kept)
    part = scratch / file.name
    save_file(kept, part, metadata={_KEY: json.dumps(facts)})
    os.replace(part, file)


def _read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, and what gengen wrote about them: {} if it did not."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if size > MOST_BYTES or header > min(size - 8, MOST_HEADER):
            raise ValueError(f"a header of {header} in a file of {size} bytes")
        # The library checks that the header's offsets lie in the file and do not overlap.
        with safe_open(file, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return arrays, _facts_of(file)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{file} is not a whole safetensors file of arrays ({line})") from None


def _facts_of(file: Path) -> dict[str, Any]:
    """What gengen wrote into a file's metadata, all of it strings; {} of any other file."""
    try:
        with safe_open(file, framework="numpy") as opened:
            facts = json.loads((opened.metadata() or {})[_KEY])
        wanted = ("network", "source", "source_sha256", "content_sha256")
        return facts if all(isinstance(facts[key], str) for key in wanted) else {}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        return {}


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _download(name: str, file: Path) -> None:
    published = PUBLISHED[name]
    try:
        with (
            urllib.request.urlopen(published.url, timeout=TIMEOUT) as answer,  # an https address
            open(file, "wb") as opened,
            tqdm(total=published.size, unit="B", unit_scale=True, disable=None) as bar,
        ):
            # One byte more than there should be, to tell a longer file; the hash tells the rest.
            while part := answer.read(min(2**20, published.size + 1 - opened.tell())):
                opened.write(part)
                bar.update(len(part))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer with a connection
        line = " ".join(str(getattr(error, "reason", error)).split())[:160]
        raise FetchError(f"cannot fetch {name} ({line}): {_elsewhere(name)}") from None
