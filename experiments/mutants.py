"""Mutation testing: count the small errors that the fast tests notice, for docs/MUTANTS.md.

make mutants                                     all of them: an hour on two cores
python experiments/mutants.py diffusion gan      those of some families, beside the others' results
python experiments/mutants.py --missing          those that were not run yet, or not noticed

A mutant is a change of a line that alters what the code computes: a sign, a mask, an ignored input.
tests/mutants/FAMILY.toml lists them. Each is applied to a copy of the project, and the fast tests
that should notice are run until one fails: the mutant is killed. One that all tests pass survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
LISTS = ROOT / "tests" / "mutants"
COPIED = ("gengen", "tests", "experiments", "docs", "README.md", "Makefile", "pyproject.toml",
          "results", "notebooks", "benchmarks", "CONTRIBUTING.md")  # fmt: skip
RESULTS = LISTS / "results.json"
KEY = ("family", "file", "breaks", "now")  # of a mutant
LIMIT = 900.0  # seconds of the tests of one mutant
HEAD = """# What the fast tests notice

{killed} of {count} small errors, put into the code one at a time, turn a fast test red
({share:.1%}). Written by `make mutants`; tests/mutants/ lists the errors.

| family | errors | noticed |
|---|---|---|
{families}
{survivors}"""


@dataclass(frozen=True)
class Mutant:
    """A small error.

    Attributes:
        family: the list that it is in.
        file: the file it is put into.
        was: text that occurs once in it.
        now: what takes its place.
        tests: pytest's arguments, those that should notice first.
        breaks: what it breaks, in words.
        survives: why no fast test can notice it; "" if one should.
    """

    family: str
    file: str
    was: str
    now: str
    tests: str
    breaks: str
    survives: str = ""


@dataclass(frozen=True)
class Outcome:
    """Result of a mutant: the test that failed, or "" if all passed."""

    mutant: Mutant
    killer: str
    seconds: float


def mutants(families: list[str] | None = None) -> list[Mutant]:
    """Return the mutants of some families, or of all."""
    files = sorted(LISTS.glob("*.toml"))
    chosen = [file for file in files if not families or file.stem in families]
    return [
        Mutant(file.stem, **row)
        for file in chosen
        for row in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]
    ]


def applied(mutant: Mutant, text: str) -> str:
    """Return a file's text with the error in it.

    Raises:
        ValueError: if what it replaces does not occur exactly once.
    """
    if text.count(mutant.was) != 1:
        raise ValueError(
            f"{mutant.file} holds {mutant.was!r} {text.count(mutant.was)} times, not once"
        )
    return text.replace(mutant.was, mutant.now)


def run(mutant: Mutant, tree: Path, programs: Path) -> Outcome:
    """Put the error into a copy of the project, run its tests until one fails, and mend it."""
    file, since = tree / mutant.file, time.monotonic()
    whole = file.read_text(encoding="utf-8")
    file.write_text(applied(mutant, whole), encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    env = os.environ | {"GENGEN_TESTS_PROGRAMS": str(programs), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*words, *mutant.tests.split()], cwd=tree, env=env, capture_output=True, text=True,
            timeout=LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome(mutant, "no end", time.monotonic() - since)
    finally:
        file.write_text(whole, encoding="utf-8")
    killer = _first(done.stdout, "FAILED ", "ERROR ")
    if done.returncode and not killer:
        sys.exit(f"{mutant.file}: {mutant.breaks}: no test ran: {done.stdout}{done.stderr}")
    return Outcome(mutant, killer, time.monotonic() - since)


def _first(text: str, *beginnings: str) -> str:
    """Return the name of the first test that a line of pytest's summary names; "" if none."""
    lines = (line for line in text.splitlines() if line.startswith(beginnings))
    return next((line.split(" ", 1)[1].split(" - ")[0] for line in lines), "")


def run_all(todo: list[Mutant], workers: int) -> list[Outcome]:
    """Run mutants side by side, each worker in a copy of the project of its own."""
    with tempfile.TemporaryDirectory(prefix="gengen-mutants-") as folder:
        trees: Queue[Path] = Queue()
        for number in range(workers):
            trees.put(_copied(Path(folder) / str(number)))
        programs = Path(folder) / "programs"

        def one(mutant: Mutant) -> Outcome:
            tree = trees.get()
            try:
                return run(mutant, tree, programs)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(workers) as pool:
            found = []
            for outcome in tqdm(pool.map(one, todo), total=len(todo), unit="mutant"):
                if not outcome.killer:
                    m = outcome.mutant
                    tqdm.write(f"survives: {m.file}: {m.breaks}: {m.was!r} -> {m.now!r}")
                found.append(outcome)
            return found


def _copied(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tree / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, tree / name)
    return tree


def merged(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return the rows of tests/mutants/results.json: new ones, and recorded ones of other mutants.

    Recorded mutants that the lists no longer have are left out.
    """
    found = {_key(o.mutant): {"killer": o.killer, "seconds": round(o.seconds, 1)} for o in outcomes}
    before, rows = recorded(), []
    for mutant in mutants():
        key = _key(mutant)
        if key in found or key in before:
            own = found.get(key) or {name: before[key][name] for name in ("killer", "seconds")}
            rows.append(dict(zip(KEY, key, strict=True)) | own)
    return rows


def recorded() -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the rows of tests/mutants/results.json, by what identifies a mutant."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return {tuple(row[name] for name in KEY): row for row in rows}


def _key(mutant: Mutant) -> tuple[str, ...]:
    return tuple(getattr(mutant, name) for name in KEY)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return docs/MUTANTS.md, of the rows of tests/mutants/results.json."""
    count = Counter(row["family"] for row in rows)
    killed = Counter(row["family"] for row in rows if row["killer"])
    reasons = {_key(mutant): mutant.survives for mutant in mutants()}
    families = [f"| {f} | {count[f]} | {killed[f]} ({killed[f] / count[f]:.0%}) |\n" for f in count]
    alive = [row for row in rows if not row["killer"]]
    missing = Counter(m.family for m in mutants()) - count
    survivors = "\nNot run yet: " + ", ".join(f"{n} of {f}" for f, n in missing.items()) + ".\n"
    survivors = survivors if missing else ""
    survivors += "\nNot noticed:\n\n" if alive else ""
    for row in alive:
        reason = reasons[tuple(row[name] for name in KEY)]
        survivors += f"- {row['file']}: {row['breaks']}. {reason}".rstrip() + "\n"
    return HEAD.format(
        killed=sum(killed.values()), count=len(rows), share=sum(killed.values()) / len(rows),
        families="".join(families), survivors=survivors,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("families", nargs="*", help="lists to run; all if none is named")
    parser.add_argument("--missing", action="store_true", help="only those not yet noticed")
    parser.add_argument("--workers", type=int, default=2, help="mutants at once")
    args = parser.parse_args()
    noticed = {key for key, row in recorded().items() if row["killer"] and args.missing}
    todo = [mutant for mutant in mutants(args.families) if _key(mutant) not in noticed]
    rows = merged(run_all(todo, args.workers))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = markdown(rows)
    print(text)
    (ROOT / "docs" / "MUTANTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
