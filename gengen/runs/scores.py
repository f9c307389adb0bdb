"""Scores of a run, a file or a folder of samples against data: what `gengen evaluate` computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gengen
from gengen.data import AnyData, DataOptions, batch_indices, to_uint8
from gengen.errors import InputError
from gengen.metrics import extractors
from gengen.metrics.statistics import Statistics
from gengen.runs import conditions, evaluation, sizes
from gengen.runs.evaluation import DEFAULT, Examples, Score
from gengen.runs.trained import Run
from gengen.types import data_of

MOST = sizes.SIZES[-1]  # samples, where no number is given


def of_run(
    run: Run,
    data: Any = None,
    metrics: Sequence[str] = DEFAULT,
    num: int | None = None,
    seed: int = 0,
    extractor: str | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008  frozen
    floor: bool = True,
    say: Callable[[str], None] | None = None,
) -> tuple[list[Score], dict[str, Any]]:
    """Score samples of a trained model against data.

    A model that is conditioned on a class or an image is conditioned on those of the held-out
    examples, or of the reference where none are held out. For a model that does not sample, its
    reconstructions of these examples are scored.

    Args:
        run: the trained model.
        data: the reference: a spec or an array, as in `load_data`; None: the run's data.
        metrics: some of `evaluation.METRICS`.
        num: number of samples; None: what can be sampled in `sizes.SECONDS`, at most as many as are
            held out.
        seed: of the samples.
        extractor: of features; None: by the data.
        options: how images are read; as in the run if they are the default.
        floor: whether held-out data are scored too.
        say: told how many samples there are and how long they take.

    Returns:
        The scores, and a dict of what they are of.
    """
    spec = data if data is not None else run.settings.get("data", {}).get("name")
    if spec is None:
        raise InputError("--data: name the reference, as in --data mnist5k")
    if options == DataOptions() and spec == run.settings.get("data", {}).get("name"):
        options = DataOptions(**run.settings.get("data_options", {}))

    def fake(real: AnyData | Statistics, held_out: AnyData | Statistics | None, n: int | None):
        source = real if held_out is None else held_out
        most = n or (MOST if isinstance(real, Statistics) else len(real))
        return samples(run, source, num, seed, say, min(most, MOST))

    return _scores(spec, fake, metrics, extractor, options, floor, seed)


def of_source(
    source: str,
    data: str | None,
    metrics: Sequence[str] = DEFAULT,
    num: int | None = None,
    extractor: str | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008  frozen
    floor: bool = True,
) -> tuple[list[Score], dict[str, Any]]:
    """Score a folder of images or an .npz of samples or statistics against data."""
    if data is None:
        raise InputError("--data: name the reference, as in --data mnist5k")

    def fake(real: Any, held_out: Any, n: int | None):
        return evaluation.open_side(source, options), source, num

    return _scores(data, fake, metrics, extractor, options, floor, None)


def _scores(
    spec: Any,
    fake: Callable[..., tuple[Any, str, int | None]],
    metrics: Sequence[str],
    extractor_name: str | None,
    options: DataOptions,
    floor: bool,
    seed: int | None,
) -> tuple[list[Score], dict[str, Any]]:
    evaluation.check_metrics(metrics)
    reference = evaluation.open_side(spec, options)
    name = spec if isinstance(spec, str) else str(getattr(reference, "name", "statistics"))
    needed = any(metric not in evaluation.WITHOUT_EXTRACTOR for metric in metrics)
    extractor = extractors.load(extractor_name or _suited(name, reference, needed))
    few = tuple(metrics) == ("fid",)

    def side(name: str, data: Any, num: int | None = None) -> Examples:
        return evaluation.examples(name, data, extractor, num, statistics=few)

    real, held_out, other = side(name, reference), None, None
    other_spec = conditions.held_out_of(name) if floor else None
    if other_spec is not None:
        other = evaluation.open_side(other_spec, options)
        held_out = side(other_spec, other)
    drawn, of, num = fake(reference, other, None if held_out is None else evaluation.size(held_out))
    if isinstance(drawn, np.ndarray):
        made = evaluation.of_samples(of, drawn, extractor)
    else:
        made = side(of, drawn, num)
    scores = evaluation.evaluate(real, made, extractor, metrics, held_out)
    return scores, {
        "fake": made.name,
        "real": real.name,
        "real_fingerprint": real.fingerprint,
        "floor": held_out.name if held_out else None,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": getattr(extractor, "protocol", None),
        "seed": 0 if seed is None else seed,
        "gengen": gengen.__version__,
    }


def samples(
    run: Run,
    source: AnyData | Statistics,
    num: int | None,
    seed: int,
    say: Callable[[str], None] | None = None,
    most: int = MOST,
) -> tuple[np.ndarray, str, None]:
    """Return samples as they are scored: uint8 images or float vectors, and their name.

    Args:
        run: the trained model.
        source: examples that they are conditioned on, in a seeded order, as often as needed.
        num: number of samples; None: chosen by the time they take.
        seed: of order and noise.
        say: told how many there are and how long they take.
        most: upper bound of the choice.
    """
    module, cfg = run.module, run.cfg
    samples_itself = hasattr(module, "sample")
    condition, batch = None, None
    if not samples_itself or conditions.kind(module, cfg) != "nothing":
        if isinstance(source, Statistics):
            raise InputError(
                f"{run.name} needs examples to be conditioned on, not statistics alone"
            )
        count = num or (max(most, sizes.CHUNK) if samples_itself else most)
        rows = np.resize(batch_indices(len(source), min(count, len(source)), seed, 0), count)
        batch = conditions.examples(source, rows)
        condition = module.condition_of(cfg, batch)
    if samples_itself:
        x = sizes.draw(run, num, most, seed, condition, say)
        name = f"{run.path} ({run.name})"
    elif hasattr(module, "reconstruct"):
        assert batch is not None
        x = run.reconstruct(np.asarray(data_of(batch)), condition)
        name = f"{run.path} ({run.name}, reconstructions)"
    else:
        raise InputError(f"{run.name} neither samples nor reconstructs: there is nothing to score")
    return (to_uint8(x) if x.ndim == 4 else x), name, None


def _suited(spec: str, reference: Any, needed: bool) -> str:
    """Return the name of the extractor that suits the data; a plain one where none is needed."""
    if isinstance(reference, Statistics):
        if reference.extractor is None:
            raise InputError(f"--extractor: {spec} does not say what its features were made with")
        return reference.extractor
    if not needed:
        return "identity" if len(reference.shape) == 1 else "pixels"
    return extractors.suited(spec, reference.shape)


def is_model(source: str | Path) -> bool:
    """Return whether a path is a run directory or an exported file."""
    return str(source).endswith(".safetensors") or (Path(source) / "config.json").exists()
