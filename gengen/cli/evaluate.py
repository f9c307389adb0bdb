"""`gengen evaluate`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from gengen.compile import use_compilation_cache
from gengen.runs import evaluation, sampling, scores, trained
from gengen.runs.config import configure

if TYPE_CHECKING:
    from gengen.cli import Evaluate


def evaluate(args: Evaluate) -> None:
    """Score a run, a file or a folder of samples against data, and print the table."""
    use_compilation_cache()
    metrics = [word for word in args.metrics.split(",") if word]
    evaluation.check_metrics(metrics)
    more = {"options": args.options, "floor": not args.no_floor}
    if scores.is_model(args.source):
        run = trained.load(args.source, args.model, say=sampling.to_stderr)
        cfg = configure(run.cfg, args.set)
        run = run._replace(cfg=sampling.fast(run.module, cfg) if args.fast else cfg)
        found, about = scores.of_run(
            run, args.data, metrics, args.num, args.seed, args.extractor,
            say=sampling.to_stderr, **more,
        )  # fmt: skip
    else:
        found, about = scores.of_source(
            args.source, args.data, metrics, args.num, args.extractor, **more
        )
    if args.json:
        print(json.dumps({**about, "scores": [score._asdict() for score in found]}, indent=2))
        return
    for line in table(found):
        print(line)
    held_out = about["floor"]
    floor = f"; floor: {held_out}" if held_out else "; no floor: no held-out part is known"
    print(f"real: {about['real']}{floor}; features: {about['extractor']}", file=sys.stderr)


def table(scores: list[evaluation.Score]) -> list[str]:
    """Return lines of text: a score, its standard error, the sizes, its floor."""
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
