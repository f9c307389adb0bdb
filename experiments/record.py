"""Results of the recipes: one JSON file each, and `docs/RESULTS.md`, which this script writes."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gengen.training import run_dir

ROOT = Path(__file__).resolve().parents[1]
FACTS = ("model", "data", "seed", "steps", "parameters", "machine", "versions", "config")


def record(name: str, run: Path, metrics: dict[str, Any], seconds: float) -> Path:
    """Write `results/NAME.json` from a run directory and what was measured of it.

    Args:
        name: of the recipe.
        run: its run directory; model, data, seed, parameters and machine are read from it.
        metrics: numbers by name, with their floor, the same of real data, where there is one.
        seconds: the recipe took, all included.
    """
    return write(name, run_dir.read(run), metrics, seconds)


def write(
    name: str, settings: Mapping[str, Any], metrics: dict[str, Any], seconds: float, **own: Any
) -> Path:
    """Write `results/NAME.json` of what has no single run directory.

    Args:
        name: of the recipe.
        settings: what was run, as far as it applies: see `FACTS`.
        metrics: as of `record`.
        seconds: the recipe took.
        own: what else the recipe keeps there.
    """
    result = {
        "recipe": name,
        "commit": _commit(),
        "seconds": round(seconds, 1),
        "metrics": metrics,
        **{key: settings[key] for key in FACTS if key in settings},
        **own,
    }
    path = ROOT / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    run_dir.write_json(path, result)
    return path


def _commit() -> str:
    """The commit of the code, `+` if it was changed since; `unknown` outside a checkout."""
    try:
        text = subprocess.run(
            # The folder may belong to another user: git refuses such without safe.directory.
            ["git", "-c", f"safe.directory={ROOT}", "describe", "--always", "--dirty=+",
             "--exclude=*", "--abbrev=12"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return text or "unknown"


def table(folder: Path) -> str:
    """Return `docs/RESULTS.md`: every result in `folder`, with the pictures of its recipe."""
    lines = [
        "# Results",
        "",
        "Made by `make results` from `results/*.json`, which recipes write with `--results`.",
        "",
    ]
    paths = sorted(Path(folder).glob("*.json"))
    shown = pictures([path.stem for path in paths], Path(folder).parent / "docs" / "images")
    for path in paths:
        lines += _section(json.loads(path.read_text()))
        for name in shown[path.stem]:
            about = name.removeprefix(path.stem).strip("_").replace("_", " ") or "picture"
            lines += [f"![{path.stem}: {about}](images/{name}.png)", ""]
    return "\n".join(lines)


def pictures(recipes: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Return the pictures of each recipe: those whose name begins with the recipe's.

    A picture belongs to the recipe with the longest such name.

    Args:
        recipes: names.
        folder: of the pictures, `RECIPE.png` or `RECIPE_WHAT.png`.
    """
    found: dict[str, list[str]] = {recipe: [] for recipe in recipes}
    for path in sorted(folder.glob("*.png")):
        owners = [r for r in recipes if path.stem == r or path.stem.startswith(f"{r}_")]
        if owners:
            found[max(owners, key=len)].append(path.stem)
    return found


def _section(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    facts = [
        f"{result['model']} on {result['data']['name']}",
        *(f"{result[fact]:,} {fact}" for fact in ("parameters", "steps") if fact in result),
        f"seed {result['seed']}",
        f"{result['seconds']:,.0f} s in all",
        f"{machine['device']}, {machine['cores']} cores"
        if machine["platform"] == "cpu"
        else f"{machine['num_devices']} × {machine['device']}",
        f"commit `{result['commit']}`",
    ]
    rows = [
        f"| {_cell(name)} | {_number(value.get('value'))} | {_number(value.get('floor'))} |"
        for name, value in result["metrics"].items()
    ]
    return [
        f"## {result['recipe']}", "", ", ".join(facts) + ".", "",
        "| metric | samples | real held-out data |", "|---|---:|---:|", *rows, "",
    ]  # fmt: skip


def _cell(name: str) -> str:
    return name.replace("|", "\\|")  # ln p(x|y) is no end of a cell


def _number(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}"


if __name__ == "__main__":
    path = ROOT / "docs" / "RESULTS.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table(ROOT / "results"))
    print(path)
