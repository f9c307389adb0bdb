"""The table of faults and outcomes, docs/FAULTS.md, from a run of the tests that cause them.

make faults
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# What breaks, and what comes of it

Each row is a test that does it to a real training, in processes of their own, and checks what is
left. Written by `make faults` from {count} rows of {tests}.

| fault | what the user sees | what is lost |
|---|---|---|
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pytest", "tests/faults", "-m", "slow", "-q", "-n", "2"]
        env = os.environ | {"GENGEN_FAULT_ROWS": folder}
        done = subprocess.run([*words, "--dist", "loadgroup"], cwd=ROOT, env=env)
        files = sorted(Path(folder).glob("*.json"))
        rows = [row for file in files for row in json.loads(file.read_text())]
    if done.returncode:
        sys.exit("gengen: a test failed: the table is left as it was")
    lines = [
        "| " + " | ".join(row[k].replace("|", "\\|") for k in ("fault", "seen", "lost")) + " |\n"
        for row in rows
    ]
    text = HEAD.format(count=len(rows), tests="`pytest -m slow tests/faults`") + "".join(lines)
    (ROOT / "docs" / "FAULTS.md").write_text(text)


if __name__ == "__main__":
    main()
