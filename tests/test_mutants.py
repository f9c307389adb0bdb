"""The lists of small errors are of the code as it is."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("mutants")


def test_each_changes_one_place_and_names_tests_that_exist(script):
    found = script.mutants()
    assert len({(m.file, m.was, m.now) for m in found}) == len(found)
    for m in found:
        text = (ROOT / m.file).read_text(encoding="utf-8")
        changed = script.applied(m, text)
        assert changed != text
        compile(changed, m.file, "exec")
        assert m.tests and all((ROOT / t.split("::")[0]).exists() for t in m.tests.split()), m


def test_an_error_that_no_longer_fits_is_named(script):
    mutant = script.Mutant("gan", "gengen/x.py", "a + b", "a - b", "tests", "a sign")
    with pytest.raises(ValueError, match=r"gengen/x.py holds 'a \+ b' 2 times, not once"):
        script.applied(mutant, "a + b, a + b")


@pytest.fixture
def two(script, monkeypatch, tmp_path):
    """Two mutants, which are all that the lists hold, and a file of results."""
    one = script.Mutant("gan", "gengen/x.py", "a", "b", "tests", "a sign", "it is 0 anyway.")
    other = script.Mutant("vae", "gengen/y.py", "a", "b", "tests", "a mask")
    monkeypatch.setattr(script, "mutants", lambda families=None: [one, other])
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results.json")
    return one, other


def test_the_page_counts_by_family_and_names_survivors(script, two):
    one, other = two
    rows = script.merged([script.Outcome(one, "", 1.0), script.Outcome(other, "tests/t.py", 1.0)])
    page = script.markdown(rows)
    assert "1 of 2 small errors" in page and "(50.0%)" in page
    assert "| gan | 1 | 0 (0%) |" in page and "| vae | 1 | 1 (100%) |" in page
    assert "- gengen/x.py: a sign. it is 0 anyway." in page and "y.py" not in page


def test_results_of_other_families_are_kept_and_of_gone_mutants_dropped(script, two):
    one, other = two
    gone = {"family": "vae", "file": "z", "breaks": "z", "now": "z", "killer": "t", "seconds": 1.0}
    rows = script.merged([script.Outcome(other, "tests/t.py", 1.0)])
    assert [row["family"] for row in rows] == ["vae"]
    assert "Not run yet: 1 of gan." in script.markdown(rows)
    script.RESULTS.write_text(json.dumps([*rows, gone]))
    rows = script.merged([script.Outcome(one, "tests/s.py", 2.0)])
    assert [row["killer"] for row in rows] == ["tests/s.py", "tests/t.py"]
    assert "Not run yet" not in script.markdown(rows)


def test_those_that_are_not_noticed_yet_are_run(script, two, monkeypatch, tmp_path):
    one, other = two
    first = [script.Outcome(one, "tests/t.py", 1.0), script.Outcome(other, "", 1.0)]
    script.RESULTS.write_text(json.dumps(script.merged(first)))
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["mutants.py", "--missing"])
    run = lambda todo, workers: [script.Outcome(m, "tests/s.py", 1.0) for m in todo]  # noqa: E731
    monkeypatch.setattr(script, "run_all", run)
    script.main()
    rows = json.loads(script.RESULTS.read_text())
    assert [row["killer"] for row in rows] == ["tests/t.py", "tests/s.py"]


def test_the_committed_page_is_made_of_the_committed_results(script):
    rows = json.loads(script.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "MUTANTS.md").read_text(encoding="utf-8")
    killed = sum(bool(row["killer"]) for row in rows)
    assert f"{killed} of {len(rows)} small errors" in page
    assert killed >= 0.97 * len(rows)
