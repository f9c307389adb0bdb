"""`gengen evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengen.compile import use_compilation_cache
from gengen.runs import evaluation, evaluation_file, sampling, scores, trained
from gengen.runs.config import configure
from gengen.training.signals import interruptible

if TYPE_CHECKING:
    from gengen.cli import Evaluate


def evaluate(args: Evaluate) -> None:
    """Score a run, a file or a folder of samples against data, and print the table."""
    use_compilation_cache()
    metrics = None
    if args.metrics is not None:
        metrics = [word for word in args.metrics.split(",") if word]
        evaluation.check_metrics(metrics)
    found, about = interruptible(lambda: _scored(args, metrics))
    if (Path(args.source) / "config.json").exists():
        sampling.to_stderr(f"wrote {evaluation_file.write(Path(args.source), found, about)}")
    if args.json:
        print(json.dumps({**about, "scores": [score._asdict() for score in found]}, indent=2))
        return
    for line in table(found):
        print(line)
    print(explained(about), file=sys.stderr)


def _scored(
    args: Evaluate, metrics: list[str] | None
) -> tuple[list[evaluation.Score], dict[str, Any]]:
    more: Any = {
        "options": args.options, "floor": not args.no_floor, "say": sampling.to_stderr,
    }  # fmt: skip
    if not scores.is_model(args.source):
        return scores.of_source(args.source, args.data, metrics, args.num, args.extractor, **more)
    run = trained.load(args.source, args.model, say=sampling.to_stderr)
    cfg = configure(run.cfg, args.set)
    run = run._replace(cfg=sampling.fast(run.module, cfg) if args.fast else cfg)
    return scores.of_run(run, args.data, metrics, args.num, args.seed, args.extractor, **more)


def explained(about: dict[str, Any]) -> str:
    """Return a line that says what the columns are of."""
    real = f"real: {about['real']}"
    if about["floor"] is None:
        return f"{real}; no floor: it would take real examples that are not in the reference"
    return (
        f"{real}; floor: the same score of real examples in the samples' place "
        f"({about['floor']}), which a perfect model would reach; ±: one standard error"
    )


def table(scores: list[evaluation.Score]) -> list[str]:
    """Return lines of text: a score and its direction, its error, its floor, the sizes, a note."""
    head = ("metric", "", "value", "", "floor", "", "real", "fake", "")
    rows = [head] + [
        (
            s.metric,
            evaluation.ARROWS[s.better],
            _number(s.value),
            _error(s.standard_error),
            _number(s.floor),
            _error(s.floor_standard_error),
            _count(s.n_real),
            _count(s.n_fake),
            s.note,
        )
        for s in scores
    ]
    wide = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left = (0, 1, 3, 5, 8)
    return [
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _error(value: float | None) -> str:
    return "" if value is None else f"± {value:.2g}"


def _count(n: int | None) -> str:
    return f"{n:,}" if n else "-"
