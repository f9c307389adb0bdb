"""A trained model: from a run directory, or from the one file that `gengen export` makes of it.

The file is safetensors: arrays under their path, "params/Dense_0/kernel", and in the header's
metadata the settings of the run. Reading it runs no code, and takes no more memory than the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gengen.data import normalise
from gengen.errors import InputError
from gengen.nn.tensors import flat, nested
from gengen.runs import conditions, discover, sampling
from gengen.runs.config import from_json
from gengen.training import run_dir
from gengen.training.checkpoint import restore_variables, stages_in
from gengen.training.validation import FOLDER as BEST
from gengen.types import PyTree

SUFFIX = ".safetensors"
_KEY = "gengen"  # of the settings in the metadata


class Run(NamedTuple):
    """A trained model, and what it can do.

    Attributes:
        module: of the model.
        cfg: its Config.
        variables: what `module.sample` and its other functions take; of a staged model a dict by
            stage.
        settings: of the run: data, seed, versions, ...
        path: of its directory or file; None if there is none.
        net: the network that was used instead of the Config's; None if none was.

    Example:
        >>> run = gengen.load("runs/ddpm")                # doctest: +SKIP
        >>> images = run.sample(16, seed=0)               # doctest: +SKIP
    """

    module: ModuleType
    cfg: Any
    variables: PyTree
    settings: dict[str, Any]
    path: Path | None = None
    net: Any = None

    def sample(
        self,
        num: int,
        seed: int = 0,
        condition: PyTree = None,
        classes: Any = None,
    ) -> np.ndarray:
        """Return `num` samples: float32 [num, *shape], images in [-1, 1].

        Args:
            num: number of samples.
            seed: of the noise.
            condition: labels [num], integers of any type, or whatever `module.condition_of` gives;
                None: classes as the model chooses them.
            classes: a class, or several in turn, by number or name: 3, ["Trouser", 3]; instead of a
                condition.

        Raises:
            InputError: for a model that does not sample, or that needs a condition and has none.
        """
        if not hasattr(self.module, "sample"):
            raise InputError(f"{self.name} does not sample")
        if classes is not None:
            if condition is not None:
                raise InputError("condition and classes are both given: choose one")
            several = np.atleast_1d(np.array(classes, object)).tolist()
            names = self.settings.get("classes")
            condition = conditions.chosen(self.module, self.cfg, several, num, names)
        if isinstance(condition, list | tuple):
            condition = np.asarray(condition)
        return sampling.draw(self.module, self.cfg, self.variables, num, seed, condition, self.net)

    def log_prob(self, x: Any, seed: int = 0, condition: PyTree = None) -> np.ndarray:
        """Return ln p(x), or a bound of it (`module.LOG_PROB`), in nats: float32 [B].

        Args:
            x: [B, *shape]: float images in [-1, 1], or uint8; or vectors.
            seed: of the noise, where the model needs any.
            condition: as in `sample`.

        Raises:
            InputError: for a model without a density, or x of another shape.
        """
        return self._apply("log_prob", x, jax.random.key(seed), condition=condition)

    def encode(self, x: Any, condition: PyTree = None) -> np.ndarray:
        """Return the latents of x [B, *shape]."""
        return self._apply("encode", x, condition=condition)

    def decode(self, z: Any, condition: PyTree = None) -> np.ndarray:
        """Return the decoded latents z: float32 [B, *shape], images in [-1, 1]."""
        return self._apply("decode", z, condition=condition)

    def reconstruct(self, x: Any, condition: PyTree = None) -> np.ndarray:
        """Return the reconstructions of x [B, *shape]."""
        return self._apply("reconstruct", x, condition=condition)

    def translate(self, x: Any, seed: int = 0, direction: str | None = None) -> np.ndarray:
        """Return the translations of images x [N, H, W, C], in [-1, 1] or uint8.

        Args:
            x: images.
            seed: of noise, where the model uses any.
            direction: "ab" or "ba"; None: as the Config says.

        Raises:
            InputError: for a model that does not translate, a direction in which it was not
                trained, or images of another shape.
        """
        from gengen.runs import translations

        return translations.of_run(self, _as_floats(x), seed, direction)

    def evaluate(
        self,
        data: Any = None,
        metrics: Sequence[str] | None = None,
        num: int | None = None,
        seed: int = 0,
        extractor: str | None = None,
    ) -> list[Any]:
        """Return scores of samples against data: a list of `gengen.runs.evaluation.Score`.

        Args:
            data: the reference, as in `load_data`; None: what the run was trained on.
            metrics: some of `gengen.runs.evaluation.METRICS`; None: those that suit the model and
                the data.
            num: number of samples; None: as many as can be sampled in about two minutes, at most as
                many as are held out.
            seed: of the samples.
            extractor: of features; None: by the data.
        """
        from gengen.runs import scores

        say = sampling.to_stderr
        return scores.of_run(self, data, metrics, num, seed, extractor, say=say)[0]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.settings.get("model", discover.name_of(self.module))

    def _apply(self, function: str, x: Any, *more: Any, condition: PyTree = None) -> np.ndarray:
        if not hasattr(self.module, function):
            raise InputError(f"{self.name} has no {function}")
        array = _as_floats(x)
        given = {} if condition is None else {"condition": condition}
        given |= {} if self.net is None else {"net": self.net}
        variables = jax.tree.map(jnp.asarray, self.variables)
        found = getattr(self.module, function)(self.cfg, variables, array, *more, **given)
        return np.asarray(found)


def _as_floats(x: Any) -> np.ndarray:
    """Return an array, and uint8 images in [-1, 1]."""
    array = np.asarray(x)
    if array.dtype == np.uint8:
        return np.asarray(normalise({"image": array})["image"])
    return array


def load(
    path: str | Path,
    model: Any = None,
    net: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Load a run's newest valid checkpoint, or its best, or an exported file.

    The best, if the run was validated (`gengen.training.validation`).

    Args:
        path: of the run directory or the file.
        model: the model's module, file or Config, as in `train`; needed where the run is of a model
            of your own, since code is never imported because a file names it. None: as stored.
        net: the network that it was trained with, if not the Config's own.
        say: called for each checkpoint that is passed over.

    Raises:
        InputError: if there is neither, no checkpoint yet, or it is of another gengen.
    """
    path = Path(path)
    variables, settings = _contents(path, say)
    module, cfg = _model_of(settings, model, path)
    if settings.get("net") and net is None:
        raise InputError(
            f"{path} was trained with a network of its own, {settings['net']}: pass net="
        )
    return Run(module, cfg, variables, settings, path, net)


def _contents(path: Path, say: Callable[[str], None]) -> tuple[PyTree, dict[str, Any]]:
    """Return the variables and the settings of a run directory or an exported file."""
    if path.suffix == SUFFIX:
        return _read(path)
    settings = run_dir.read(path)
    variables = restore_variables(path / BEST, say)
    if variables is None:
        variables = _from_run(path / "checkpoints", say)
    if variables is None:
        raise InputError(f"{path} has no checkpoint yet: train it further")
    return variables, settings


def _model_of(settings: dict[str, Any], model: Any, path: Path) -> tuple[ModuleType, Any]:
    """Return the module and the Config of a run."""
    if model is not None:
        module = discover.module(model)
        given = model if isinstance(model, module.Config) else None
        stored = settings.get("config")
        cfg = given if given is not None or stored is None else from_json(module.Config, stored)
        if cfg is None:
            raise InputError(
                f"{path} does not say which Config it was trained with: pass one as model"
            )
        return module, cfg
    if "model" not in settings:
        raise InputError(
            f"{path} does not say which model it is of: pass the Config, as in "
            "gengen.load(path, model=ddpm.Config(...))"
        )
    module = discover.of_run(settings["model"])
    return module, from_json(module.Config, settings["config"])


def _from_run(folder: Path, say: Callable[[str], None]) -> PyTree | None:
    stages = stages_in(folder)
    if not stages:
        return restore_variables(folder, say)
    found = {name: restore_variables(folder / name, say) for name in stages}
    return None if any(v is None for v in found.values()) else found


def export(
    run: str | Path, file: str | Path, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Write what a run learnt as one safetensors file.

    Raises:
        InputError: for a name that does not end in .safetensors, or is taken.
    """
    file = Path(file)
    if file.suffix != SUFFIX:
        raise InputError(f"{file}: the name must end in {SUFFIX}")
    if file.exists():
        raise InputError(f"{file} exists: choose another name")
    variables, settings = _contents(Path(run), say)
    if "model" not in settings:
        raise InputError(f"{run} does not say which model it is of: gengen.train writes it down")
    part = file.with_suffix(".part")
    save_file(flat(variables), part, metadata={_KEY: json.dumps(settings)})
    os.replace(part, file)
    return file


def _read(path: Path) -> tuple[PyTree, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        # The library checks every offset of the header against the size of the file.
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a whole safetensors file ({line})") from None
    try:
        settings = run_dir.migrated(json.loads(metadata[_KEY]), path)
        _ = settings["model"], settings["config"]  # it must have both
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} was not made by gengen export: it names no model") from None
    try:
        return nested(arrays), settings
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
