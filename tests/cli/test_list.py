"""`gengen list`, `gengen list MODEL`, and the names of models."""

import importlib
import json

import pytest

import gengen
from gengen.cli import main
from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs.describe import describe
from gengen.vae import vae


def test_list(capsys):
    assert main(["list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert models["ddpm"]["family"] == "diffusion" and models["wgan"]["trained_by"] == "method"
    assert main(["list"]) == 0
    assert "ddpm" in capsys.readouterr().out


def test_list_of_a_model(capsys):
    assert main(["list", "vae"]) == 0
    text = capsys.readouterr().out
    assert "Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (1312.6114); β-VAE" in text
    assert "beta = 1.0" in text and "weight of the KL term" in text
    assert "log_prob" in text and "importance weighted" in text and "condition  none" in text
    assert main(["list", "cvae", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "cvae" and found["is_conditioned"] and "sample" in found["can"]
    fields = {field["name"]: field for field in found["fields"]}
    assert fields["learning_rate"]["default"] == 2e-3
    assert fields["learning_rate"]["comment"] == "of Adam"


def test_every_model_has_a_reference_and_a_comment_for_every_field():
    for model in discover.models():
        found = describe(importlib.import_module(f"gengen.{model.family}.{model.name}"))
        assert found.reference, model.name
        for field in found.fields:
            assert field.comment, f"{model.name}: Config.{field.name}"


def test_a_model_of_ones_own_is_described(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass(frozen=True)\nclass Config:\n"
        "    # how\n    a: int = 1  # many\n\ndef method(cfg):\n    pass\n"
    )
    assert main(["list", str(tmp_path / "mine.py")]) == 0
    assert "a = 1" in (text := capsys.readouterr().out) and "how many" in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gengen {gengen.__version__}\n"


def test_names_in_any_case_and_with_hyphens():
    assert discover.module("VAE") is vae
    assert discover.module("WGAN-GP").__name__ == "gengen.gan.wgan_gp"
    with pytest.raises(InputError, match="did you mean wgan_gp?"):
        discover.module("WGAN-GPP")
