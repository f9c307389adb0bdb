"""What was broken and what came of it: rows of the table in docs/FAULTS.md.

`make faults` runs these tests and writes the table; a test that fails leaves its row out.
"""

import json
import os
import re
from pathlib import Path

import pytest

ROWS = "GENGEN_FAULT_ROWS"  # a folder: one file a row


@pytest.fixture
def outcome(request):
    """Tell the table: outcome(fault, what the user sees, what is lost). The test must pass."""
    rows = []

    def tell(fault: str, seen: str, lost: str) -> None:
        seen = re.sub(r"/\S*/(?=(run|cut|images|checkpoints))", "", " ".join(seen.split()))
        rows.append({"fault": fault, "seen": seen, "lost": lost})

    yield tell
    folder = os.environ.get(ROWS)
    if folder and rows and request.node.stash.get(PASSED, False):
        name = re.sub(r"\W+", "_", request.node.nodeid)[-100:]
        Path(folder, f"{name}.json").write_text(json.dumps(rows))


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def said():
    """The one line that `gengen` says when it gives up."""

    def last(process) -> str:
        text = process if isinstance(process, str) else process.stderr
        lines = [line for line in text.splitlines() if line.startswith("gengen: ")]
        assert len(lines) == 1, text
        assert "Traceback" not in text, text
        return lines[0].removeprefix("gengen: ")

    return last
