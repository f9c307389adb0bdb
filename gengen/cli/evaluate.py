"""`gengen evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gengen
from gengen.compile import use_compilation_cache
from gengen.data.options import DataOptions
from gengen.errors import InputError
from gengen.metrics import extractors
from gengen.metrics.statistics import Statistics
from gengen.runs import evaluation, trained
from gengen.training import run_dir

if TYPE_CHECKING:
    from gengen.cli import Evaluate

MOST = 10_000  # samples drawn where neither --num nor a held-out part says how many


def evaluate(args: Evaluate) -> None:
    """Score a run, a file or a folder of samples against data, and print the table."""
    use_compilation_cache()
    is_model = _is_model(args.source)
    settings = _settings(args.source) if is_model else {}
    spec = args.data or settings.get("data", {}).get("name")
    if spec is None:
        raise InputError("--data: name the reference, as in --data mnist5k")
    options = args.options
    if options == DataOptions() and spec == settings.get("data", {}).get("name"):
        options = DataOptions(**settings.get("data_options", {}))
    metrics = [word for word in args.metrics.split(",") if word]
    evaluation.check_metrics(metrics)
    reference = evaluation.open_side(spec, options)
    extractor = extractors.load(args.extractor or _suited(spec, reference))
    floor_spec = None if args.no_floor else evaluation.held_out_of(spec)

    def side(name: str, data: Any, num: int | None = None) -> evaluation.Examples:
        return evaluation.examples(name, data, extractor, num, statistics=metrics == ["fid"])

    real, held_out = side(spec, reference), None
    if floor_spec is not None:
        held_out = side(floor_spec, evaluation.open_side(floor_spec, options))
    if is_model:
        num = args.num or (MOST if held_out is None else evaluation.size(held_out))
        drawn = evaluation.samples_of(args.source, num, args.seed)
        fake = evaluation.of_samples(*drawn, extractor)
    else:
        fake = side(args.source, evaluation.open_side(args.source, options), args.num)
    scores = evaluation.evaluate(real, fake, extractor, metrics, held_out)
    about = {
        "fake": fake.name,
        "real": real.name,
        "real_fingerprint": real.fingerprint,
        "floor": held_out.name if held_out else None,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": getattr(extractor, "protocol", None),
        "seed": args.seed,
        "gengen": gengen.__version__,
    }
    if args.json:
        print(json.dumps({**about, "scores": [score._asdict() for score in scores]}, indent=2))
        return
    for line in table(scores):
        print(line)
    floor = f"; floor: {held_out.name}" if held_out else "; no floor: no held-out part is known"
    print(f"real: {real.name}{floor}; features: {extractor.name}", file=sys.stderr)


def _suited(spec: str, reference: Any) -> str:
    if isinstance(reference, Statistics):
        if reference.extractor is None:
            raise InputError(f"--extractor: {spec} does not say what its features were made with")
        return reference.extractor
    return extractors.suited(spec, reference.shape)


def table(scores: list[evaluation.Score]) -> list[str]:
    """Lines of text: a score, its error, the sizes, its floor."""
    head = ("metric", "value", "± s.e.", "real", "fake", "floor", "± s.e.")
    rows = [head] + [
        (
            s.metric,
            _number(s.value),
            _number(s.standard_error),
            str(s.n_real or "?"),
            str(s.n_fake),
            _number(s.floor),
            _number(s.floor_standard_error),
        )
        for s in scores
    ]
    wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True))]
        )
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _is_model(source: str) -> bool:
    return source.endswith(trained.SUFFIX) or (Path(source) / "config.json").exists()


def _settings(source: str) -> dict[str, Any]:
    if source.endswith(trained.SUFFIX):
        return trained.load(source).settings
    return run_dir.read(Path(source))
