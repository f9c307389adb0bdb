"""Validation: the best state is kept, training ends, and a resumed run ends at the same place."""

import json

import chex
import jax
import numpy as np
import pytest

from gengen import loop
from gengen.cli import main
from gengen.data import load
from gengen.flow import realnvp
from gengen.runs import trained
from gengen.runs.validating import nats
from gengen.training.checkpoint import steps_in
from gengen.training.run_dir import read_metrics
from gengen.training.validation import Validation, split
from gengen.types import InputError

CFG = realnvp.Config(shape=(2,), num_couplings=2, hidden=(8,), batch_size=16)
# Looks at steps 5, 10, ...: falls until step 15, then rises, with an equal one that is no better.
LOSSES = {5: 3.0, 10: 2.0, 15: 1.0, 20: 1.0, 25: 2.0, 30: 0.5}


def scripted(patience=None, seen=None):
    """A loss by the number of looks, so that what is best is known."""
    looks = iter(LOSSES)

    def loss(variables, key):
        step = next(looks)
        if seen is not None:
            seen[step] = jax.device_get(variables)
        return LOSSES[step]

    return Validation(loss, 5, patience)


def run(out, validation, steps=30, **options):
    return loop.run(
        realnvp.method(CFG), load("moons"), out=out, steps=steps, batch_size=16,
        settings={"model": "realnvp", "config": {"shape": [2], "num_couplings": 2, "hidden": [8]}},
        validation=validation, save_every=7, **options,
    )  # fmt: skip


def test_patience_ends_it_and_the_best_is_given_back(tmp_path, capsys):
    seen: dict = {}
    state = run(tmp_path / "run", scripted(2, seen))
    assert list(seen) == [5, 10, 15, 20, 25]  # two looks after the best, an equal one is no better
    assert int(state.step) == 15
    chex.assert_trees_all_equal(jax.device_get(state.variables), seen[15])
    chex.assert_trees_all_equal(trained.load(tmp_path / "run").variables, seen[15])
    assert "fell no more" in capsys.readouterr().err
    rows = read_metrics(tmp_path / "run" / "validation.jsonl")
    assert rows == [{"step": step, "loss": LOSSES[step]} for step in (5, 10, 15, 20, 25)]
    assert steps_in(tmp_path / "run" / "checkpoints")[0] == 25
    again = run(tmp_path / "run", scripted(2), resume=True)
    assert int(again.step) == 15 and "nothing to do" in capsys.readouterr().err


def test_without_patience_it_goes_on(tmp_path):
    state = run(tmp_path / "run", scripted())
    assert int(state.step) == 30  # the last look is the best
    assert steps_in(tmp_path / "run" / "best") == [30, 15]


def test_a_new_best_is_a_checkpoint_too(tmp_path):
    """Else a resume from before it would find a best of the future."""
    run(tmp_path / "run", scripted(), steps=15)
    assert 15 in steps_in(tmp_path / "run" / "checkpoints")


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    data = load("moons")
    kept, rest = split(data, 0.01)
    words: dict = {"batch_size": 16, "save_every": 7}
    words["validation"] = Validation(nats(realnvp, CFG, rest), 4, 2)
    method = realnvp.method(CFG)
    whole = loop.run(method, kept, out=tmp_path / "a", steps=40, **words)
    for steps in (6, 13, 40):
        words["resume"] = steps > 6
        broken = loop.run(method, kept, out=tmp_path / "b", steps=steps, **words)
    assert int(whole.step) % 4 == 0 and int(whole.step) > 4
    chex.assert_trees_all_equal(jax.device_get(whole), jax.device_get(broken))
    a, b = (read_metrics(tmp_path / name / "validation.jsonl") for name in "ab")
    assert a == b


def test_the_loss_is_the_mean_of_minus_log_prob():
    data = load("moons")
    _, rest = split(data, 0.02)  # 400: a whole chunk and a part
    variables = realnvp.method(CFG).init(jax.random.key(0), {"x": data.arrays["x"][:16]}).variables
    got = nats(realnvp, CFG, rest)(variables, jax.random.key(0))
    want = -np.asarray(realnvp.log_prob(CFG, variables, rest.arrays["x"]), np.float64).mean()
    assert got == pytest.approx(want, rel=1e-6)


def test_a_split_is_a_partition():
    data = load("digits")
    kept, rest = split(data, 0.25)
    assert len(rest) == round(len(data) / 4) and len(kept) + len(rest) == len(data)
    rows = np.concatenate([kept.arrays["image"], rest.arrays["image"]]).reshape(len(data), -1)
    order = np.lexsort(rows.T), np.lexsort(data.arrays["image"].reshape(len(data), -1).T)
    np.testing.assert_array_equal(
        rows[order[0]], data.arrays["image"].reshape(len(data), -1)[order[1]]
    )
    assert split(data, 0.25)[1].fingerprint == rest.fingerprint


def test_through_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "realnvp", "--data", "moons", "--out", "run", "--set", "num_couplings=2",
             "--hold-out", "0.02", "--validate-every", "2", "--patience", "50"]  # fmt: skip
    assert main([*words, "--steps", "6"]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["validation"] == {
        "hold_out": 0.02, "every": 2, "patience": 50, "num": 1000,
    }  # fmt: skip
    assert settings["data"]["num_examples"] == 19_600
    assert main(["train", "realnvp", "--out", "run", "--resume", "--steps", "8"]) == 0
    assert [r["step"] for r in read_metrics(tmp_path / "run" / "validation.jsonl")] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    "words, message",
    [
        (["realnvp", "--patience", "3"], "need --hold-out"),
        (["realnvp", "--hold-out", "1"], "cannot be held out"),
        (["wgan", "--hold-out", "0.1"], "wgan has no log_prob"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words, "--data", "moons", "--out", "run"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "run").exists()


def test_stages_are_not_validated(tmp_path):
    from gengen.autoencoder import stacked

    cfg = stacked.Config(shape=(8, 8, 1), hidden=(4,))
    with pytest.raises(InputError, match="one stage"):
        loop.run(stacked.stages(cfg), load("digits"), out=tmp_path / "run", steps=9, batch_size=8,
                 validation=scripted())  # fmt: skip
