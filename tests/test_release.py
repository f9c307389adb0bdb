"""Contents of a release: one version, the type marker, completion, wheel and source archive."""

import importlib.util
import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import gengen
from gengen.cli import main
from tests.processes import ROOT, as_users

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked(*under: str) -> set[str]:
    words = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", *under]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name}


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {gengen.__version__}\n" in citation
    assert PROJECT["version"] == gengen.__version__
    assert f"version = {{{gengen.__version__}}}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_completion_knows_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", "bash"])
    printed = capsys.readouterr().out
    assert not end.value.code and "complete" in printed
    for word in ("train", "sample", "evaluate", "--steps"):
        assert word in printed


@pytest.mark.slow
def test_wheel_and_source_archive(tmp_path):
    """The wheel is built from the source archive, as `python -m build` does."""
    offline = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    words = [sys.executable, "-m", "build", *offline, "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, env=as_users(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    stem = f"gengen-{gengen.__version__}"
    package = tracked("gengen")
    assert "gengen/py.typed" in package
    with tarfile.open(tmp_path / f"{stem}.tar.gz") as archive:
        names = {name.removeprefix(f"{stem}/") for name in archive.getnames()}
    assert package <= names and {"LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    assert not any(name.startswith(("tests/", "docs/", "results/")) for name in names)
    with zipfile.ZipFile(tmp_path / f"{stem}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"{stem}.dist-info/METADATA").decode()
    info = {name for name in names if name.startswith(f"{stem}.dist-info/")}
    assert names - info == package
    assert f"{stem}.dist-info/licenses/LICENSE" in info
    assert "Requires-Python: >=3.11" in metadata and "# gengen" in metadata

    installed = tmp_path / "installed"
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    words += ["--target", str(installed), str(tmp_path / f"{stem}-py3-none-any.whl")]
    subprocess.run(words, check=True, capture_output=True)
    code = (
        "import json, gengen, gengen.cli; from gengen.metrics import classifier; "
        "print(json.dumps([gengen.__file__, gengen.__version__, classifier.load('mnist-v1').name]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=as_users() | {"PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file, version, name = json.loads(done.stdout)
    assert file.startswith(str(installed))
    assert (version, name) == (gengen.__version__, "mnist-v1")
