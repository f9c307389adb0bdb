"""`gengen sample --text`: captions in turn, completions of a half, and what cannot be asked."""

import numpy as np
import pytest

import gengen
from gengen.cli import main
from gengen.vae import text_to_image

SMALL = {
    "channels": (4, 8), "codebook_size": 4, "code_dim": 2, "hidden_dim": 8, "num_layers": 1,
    "num_heads": 2, "batch_size": 16, "max_shift": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "r"
    return gengen.train("text_to_image", "captions:digits", config=SMALL, steps=2, out=folder)


@pytest.fixture
def asked(monkeypatch):
    """The captions that samples and completions are drawn for."""
    seen = []
    for name in ("sample", "impute"):
        own = getattr(text_to_image, name)

        def call(*args, own=own, condition=None):
            seen.append(None if condition is None else np.asarray(condition))
            return own(*args, condition=condition)

        monkeypatch.setattr(text_to_image, name, call)
    return seen


def tokens(run, *texts):
    return text_to_image.condition_of_text(run.cfg, texts)


def line(run, tmp_path, *words):
    return ["sample", str(run.path), "--out", str(tmp_path / "x.png"), *words]


def test_captions_are_taken_in_turn(run, asked, tmp_path, capsys):
    words = ["--num", "5", "--text", "a thin two", "A big seven"]
    assert main(line(run, tmp_path, *words)) == 0, capsys.readouterr().err
    want = tokens(run, "a thin two", "a big seven")
    np.testing.assert_array_equal(asked[0], want[[0, 1, 0, 1, 0]])


def test_without_text_captions_are_sampled(run, asked, tmp_path):
    assert main(line(run, tmp_path, "--num", "2")) == 0
    assert asked == [None]


def test_a_half_is_completed_for_captions(run, asked, tmp_path, capsys):
    words = ["--num", "3", "--impute", "left", "--data", "digits:test", "--text", "a two"]
    assert main(line(run, tmp_path, *words)) == 0, capsys.readouterr().err
    np.testing.assert_array_equal(asked[0], np.repeat(tokens(run, "a two"), 12, axis=0))
    assert "3 examples of digits:test" in (error := capsys.readouterr().err) and "'a two'" in error
    assert main([*line(run, tmp_path, "--num", "1", "--impute", "left"), "--overwrite"]) == 0
    assert asked[1].shape == (4, 6) and asked[1].max() > 0  # the caption of the example itself


@pytest.mark.parametrize(
    "words, message",
    [
        (["--text", "a thin cat"], "unknown word 'cat'; known words: a, thin, thick, small, big"),
        (["--text", "a two", "--reconstruct"], "--text and --reconstruct"),
        (["--text", "a two", "--classes", "2"], "--text and --classes"),
        (["--impute", "right"], "such as the left half"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run, tmp_path, capsys, words, message):
    assert main(line(run, tmp_path, *words)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_other_models_take_no_text(tmp_path, capsys):
    run = gengen.train("ppca", "digits", config={"latent_dim": 2}, steps=1, out=tmp_path / "ppca")
    assert main(line(run, tmp_path, "--text", "a two")) == 2
    assert "this ppca is not conditioned on text" in capsys.readouterr().err
