"""The lists of small errors are of the code as it is."""

import importlib
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


def test_the_page_counts_by_family_and_names_survivors(script):
    one = script.Mutant("gan", "gengen/x.py", "a", "b", "tests", "a sign", "it is 0 anyway.")
    two = script.Mutant("vae", "gengen/y.py", "a", "b", "tests", "a mask")
    page = script.markdown([script.Outcome(one, "", 1.0), script.Outcome(two, "tests/t.py", 1.0)])
    assert "1 of 2 small errors" in page and "(50.0%)" in page
    assert "| gan | 1 | 0 (0%) |" in page and "| vae | 1 | 1 (100%) |" in page
    assert "- gengen/x.py: a sign. it is 0 anyway." in page and "y.py" not in page
