"""Output of `gengen sample`: one picture, an .npz, or a folder with a file for each image."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gengen.data import to_uint8
from gengen.errors import InputError
from gengen.viz.grid import picture, save_png

PICTURE, ARRAYS, FOLDER = ".png", ".npz", "folder"
_OURS = re.compile(r"\d{6,}\.png")  # 000000.png, 000001.png, ...


@dataclass(frozen=True)
class Output:
    """A file or folder to write samples to.

    Attributes:
        path: of the file or folder.
        kind: `PICTURE`, `ARRAYS` or `FOLDER`.
        option: as it was given, for messages.
    """

    path: Path
    kind: str
    option: str

    def __str__(self) -> str:
        """Return the path, that of a folder with a slash at its end."""
        return f"{self.path}/" if self.kind == FOLDER else str(self.path)

    def save(self, x: np.ndarray, drawn: np.ndarray | None = None) -> None:
        """Write samples.

        Args:
            x: float images [N, H, W, C] in [-1, 1], or vectors [N, D].
            drawn: the picture of them, uint8 [H, W, C]; None: the one that suits their shape.

        Raises:
            InputError: for vectors, where the output is a folder of images.
        """
        if self.kind == PICTURE:
            shown = picture(x) if drawn is None else drawn
            save_png(self.path, shown, scale=2 if x.ndim == 4 else 1)
        elif self.kind == ARRAYS:
            _save_npz(self.path, x)
        else:
            self.check_images(x.shape[1:])
            _save_folder(self.path, x)

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Check that samples of a shape can be written.

        Raises:
            InputError: for vectors, where the output is a folder of images.
        """
        if self.kind == FOLDER and len(shape) != 3:
            raise InputError(
                f"{self.option}: a folder is for images, and these samples are vectors: "
                f"--out {self.path}.npz keeps them"
            )


def output(out: str, overwrite: bool, kinds: tuple[str, ...] = (PICTURE, ARRAYS, FOLDER)) -> Output:
    """Return what `--out` stands for: NAME.png, NAME.npz, or any other name a folder.

    A folder is a path that ends in a slash, that exists as one, or that has no suffix.

    Raises:
        InputError: for another suffix or kind than `kinds`, or something that exists already and is
            not to be overwritten.
    """
    path, option = Path(out), f"--out {out}"
    is_folder = out.endswith(("/", os.sep)) or path.is_dir() or not path.suffix
    kind = FOLDER if is_folder else path.suffix
    if kind not in kinds:
        files = " or ".join(kind for kind in kinds if kind != FOLDER)
        folder = ", or be a folder, such as samples/" if FOLDER in kinds else ""
        raise InputError(f"{option}: the name must end in {files}{folder}")
    if kind == FOLDER and path.exists() and not path.is_dir():
        raise InputError(f"{option} is a file: choose another name")
    if kind == FOLDER and not overwrite and path.is_dir() and any(path.iterdir()):
        raise InputError(f"{option} is not empty: choose another folder, or pass --overwrite")
    if kind != FOLDER and path.exists() and not overwrite:
        raise InputError(f"{option} exists: choose another, or pass --overwrite")
    if kind != FOLDER and not path.absolute().parent.is_dir():
        raise InputError(f"{option}: {path.absolute().parent} is no directory")
    return Output(path, kind, option)


def _save_npz(path: Path, x: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, arr_0=to_uint8(x) if x.ndim == 4 else x)
    os.replace(part, path)


def _save_folder(folder: Path, x: np.ndarray) -> None:
    """Write 000000.png, 000001.png, ...; those of an earlier time are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _OURS.fullmatch(old.name):
            old.unlink()
    width = max(6, len(str(len(x) - 1)))
    for i, image in enumerate(to_uint8(x)):
        save_png(folder / f"{i:0{width}}.png", image)
