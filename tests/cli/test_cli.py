"""The command as a user types it: words, exit codes, streams."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from gengen.cli import main
from gengen.data import load as load_data
from gengen.diffusion import ddpm
from gengen.runs.config import configure, from_json
from gengen.runs.trained import load
from gengen.training.checkpoint import steps_in
from tests.processes import (
    SMALL_DDPM,
    SMALL_WGAN,
    VECTOR_DDPM,
    assert_same_checkpoint,
    checkpoints_in,
    gengen,
    logged,
    settings,
    start,
    wait_for,
)


def test_help_does_not_import_jax():
    code = "import sys; from gengen.cli import main; main(['list']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_train_resume_sample(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ["train", "wgan", "--data", "grid25", "--out", "run", *settings(SMALL_WGAN)]
    assert main([*train, "--steps", "4"]) == 0
    assert "report: run/report.html" in capsys.readouterr().err
    # What is not given is as it was: data, seed, settings.
    assert main(["train", "wgan", "--out", "run", "--steps", "6", "--resume"]) == 0
    assert "resuming run at step 4" in capsys.readouterr().err
    assert main(["sample", "run", "--num", "300", "--seed", "1", "--out", "x.npz"]) == 0
    assert main(["sample", "run", "--num", "300", "--seed", "1", "--out", "again.npz"]) == 0
    with np.load("x.npz") as x, np.load("again.npz") as again:
        assert x["arr_0"].shape == (300, 2) and x["arr_0"].dtype == np.float32
        np.testing.assert_array_equal(x["arr_0"], again["arr_0"])
    assert main(["sample", "run", "--out", "x.png"]) == 0
    with Image.open("x.png") as picture:
        assert picture.size[0] > 100
    captured = capsys.readouterr()
    assert captured.out == ""  # all of it was progress, on stderr


@pytest.mark.parametrize("model", ["wgan", "ddpm"])
def test_an_exported_file_samples_as_its_run(model, tmp_path, monkeypatch, capsys):
    """Bit for bit, with the Config inside; the file is not made twice, nor of anything else."""
    monkeypatch.chdir(tmp_path)
    small = SMALL_WGAN if model == "wgan" else VECTOR_DDPM
    train = ["train", model, "--data", "grid25", "--out", "run", "--steps", "3"]
    assert main([*train, *settings(small)]) == 0
    assert main(["export", "run", "run.safetensors"]) == 0
    for source, out in (("run", "a.npz"), ("run.safetensors", "b.npz")):
        assert main(["sample", source, "--num", "7", "--out", out]) == 0
    with np.load("a.npz") as a, np.load("b.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    run, file = load("run"), load("run.safetensors")
    chex.assert_trees_all_equal(run.variables, file.variables)
    assert run.cfg == file.cfg and run.settings["data"] == file.settings["data"]
    before = Path("run.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["export", "run", "run.safetensors"]) == 2
    assert "exists: choose another name" in capsys.readouterr().err
    assert Path("run.safetensors").read_bytes() == before
    assert main(["export", "run", "run.bin"]) == 2
    assert main(["export", "nothing", "x.safetensors"]) == 2


def hostile_files():
    """Safetensors files that lie, by what is wrong with them."""
    header = lambda body: len(body).to_bytes(8, "little") + body  # noqa: E731
    far = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    inside = {"a": np.zeros(1), "a/b": np.zeros(1)}
    meta = {"gengen": json.dumps({"schema": 2, "model": "wgan", "config": {}})}
    return {
        "nothing": b"",
        "not one": b"PK\x03\x04" + bytes(100),
        "a header of 2^63 bytes": (2**63).to_bytes(8, "little") + b"{}",
        "an array of 4 TB": header(far),
        "json that ends early": header(b'{"a":{"dtype":"F32"'),
        "no settings": save({"a": np.zeros(1)}),
        "settings that are no JSON": save({"a": np.zeros(1)}, {"gengen": "{"}),
        "settings of a later schema": save({"a": np.zeros(1)}, {"gengen": '{"schema": 99}'}),
        "settings without a model": save({"a": np.zeros(1)}, {"gengen": '{"schema": 2}'}),
        "a Config with unknown fields": save(
            {"a": np.zeros(1)},
            {"gengen": '{"schema": 2, "model": "wgan", "config": {"rm": "-rf"}}'},
        ),
        "an array inside an array": save(inside, meta),
    }


@pytest.mark.parametrize("kind, content", hostile_files().items(), ids=[*hostile_files()])
def test_a_hostile_file_is_refused_in_one_line(kind, content, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(content)
    words = ["sample", str(tmp_path / "x.safetensors"), "--out", str(tmp_path / "x.png")]
    assert main(words) == 2, kind
    error = capsys.readouterr().err.strip()
    assert "x.safetensors" in error or "Config" in error
    assert "\n" not in error


def test_images_are_sampled_as_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ["train", "ddpm", "--data", "digits", "--steps", "2", "--out", "run"]
    assert main([*train, *settings(SMALL_DDPM)]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["shape"] == [8, 8, 1]
    words = ["sample", "run", "--num", "5", "--out", "x.npz"]
    assert main([*words, "--set", "sampler=ddim", "--set", "sample_steps=3"]) == 0
    with np.load("x.npz") as x:
        assert x["arr_0"].shape == (5, 8, 8, 1) and x["arr_0"].dtype == np.uint8


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train = ["train", "wgan", "--data", "ring8", "--steps", "2", "--out", str(out)]
    assert main([*train, *settings(SMALL_WGAN)]) == 0
    return out


@pytest.mark.parametrize(
    "words, message",
    [
        ("train dpm", "no model 'dpm': did you mean ddpm?"),
        ("train ddpm --data minst5k", "did you mean 'mnist5k'?"),
        ("train ddpm --data digits --set chanels=8", "did you mean channels?"),
        ("train ddpm --data digits --set T=ten", "T = 'ten' cannot be read as int"),
        ("train ddpm --data digits --set T", "FIELD=VALUE"),
        ("train ddpm --data digits --steps -1", "steps = -1"),
        ("train ddpm --data digits --out {run}", "pass --resume"),
        (
            "train wgan --out {run} --steps 3 --resume --set weight_clip=0.5",
            "weight_clip was 0.01, now 0.5",
        ),
        ("train wgan --out {run} --steps 3 --resume --seed 4", "seed was 0, now 4"),
        ("train wgan --out {run} --resume --data grid25", "data.name"),
        ("train ddpm --out {run} --resume", "the run is of wgan, not of ddpm"),
        ("train ddpm --data {tmp}/nothing.npz", "nothing.npz"),
        ("train ddpm --data {tmp}/nan.npz", "NaN"),
        ("train ddpm --data {tmp}/rank.npz", "rank.npz"),
        ("train ddpm --data {tmp}/empty.npz", "empty.npz"),
        ("train ddpm --data digits --out {tmp}/nan.npz/run", "cannot write"),
        ("sample {tmp}", "holds no run"),
        ("sample {run} --num 0", "--num 0"),
        ("sample {run} --out {tmp}/x.gif", ".png or .npz"),
        ("sample {run} --out {tmp}/nan.npz", "--overwrite"),
        ("sample {run} --out {tmp}/no/where.png", "no directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, message, a_run, tmp_path, capsys):
    np.savez(tmp_path / "nan.npz", x=np.array([[0.0, np.nan]], np.float32))
    np.savez(tmp_path / "rank.npz", x=np.zeros((2, 2, 2, 2, 2), np.float32))
    np.savez(tmp_path / "empty.npz")
    before = {p: p.read_bytes() for p in a_run.rglob("*") if p.is_file()}
    line = words.format(run=a_run, tmp=tmp_path).split()
    if line[0] == "train" and "--out" not in line:
        line += ["--out", str(tmp_path / "new")]
    assert main(line) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("gengen: ") and message in error and "\n" not in error, error
    assert before == {p: p.read_bytes() for p in a_run.rglob("*") if p.is_file()}
    assert not (tmp_path / "new").exists()


def test_a_missing_idx_file_is_named(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "fashion"
    folder.mkdir()
    (folder / "train-labels-idx1-ubyte").write_bytes(b"")
    monkeypatch.setenv("GENGEN_DATA_DIR", str(tmp_path))
    assert main(["train", "ddpm", "--data", "fashion", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip()
    assert "idx" in error and "\n" not in error
    assert not (tmp_path / "new").exists()


def test_unknown_words_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "ddpm", "--stepz", "3"])
    assert exit.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_config_round_trips_through_json():
    cfg = configure(ddpm.Config(), ("channels=8,16", "sample_steps=5", "clip_denoised=False"))
    assert cfg.channels == (8, 16) and cfg.sample_steps == 5 and cfg.clip_denoised is False
    values = json.loads(json.dumps(cfg.__dict__))
    assert from_json(ddpm.Config, values) == cfg
    with pytest.raises(ValueError, match="heads_and_tails"):
        from_json(ddpm.Config, values | {"heads_and_tails": 1})


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    words = ["train", "wgan", "--data", "grid25", "--steps", "1000000", "--out", "run"]
    words += [*settings(SMALL_WGAN), "--log-every", "50", "--preview-every", "1000000"]
    process = start(*words, cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and out == ""
    assert "gengen train wgan --steps 1000000 --out run --resume" in err
    (step,) = steps_in(tmp_path / "run" / "checkpoints")
    assert f"stopped at step {step} of 1000000" in err
    resumed = gengen("train", "wgan", "--steps", step + 5, "--out", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "\r" not in resumed.stderr  # no progress line where stderr is no terminal


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, data, words",
    [
        ("ddpm", "digits", settings(SMALL_DDPM)),
        ("wgan", "grid25", settings(SMALL_WGAN)),
        ("ddpm", "folder:images", [*settings(SMALL_DDPM), "--stream", "True", "--workers", "1"]),
        ("stacked", "digits", settings(("hidden=16,8", "batch_size=16"))),
    ],
    ids=["ddpm", "wgan", "streamed", "staged"],
)
def test_killed_and_resumed_is_the_unbroken_run_bit_for_bit(tmp_path, model, data, words):
    """SIGKILL at some moment after a checkpoint; then --resume: every array is the same."""
    if data == "folder:images":
        (tmp_path / "images").mkdir()
        for i, pixels in enumerate(load_data("digits").arrays["image"][:90]):
            Image.fromarray(pixels[..., 0]).save(tmp_path / "images" / f"{i:03}.png")
    steps = 400
    base = ["train", model, "--data", data, *words, "--steps", steps, "--seed", 3]
    base += ["--save-every", 50, "--log-every", 10, "--preview-every", 100]
    whole = gengen(*base, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = start(*base, "--out", "cut", cwd=tmp_path)
    cut = tmp_path / "cut" / "checkpoints"
    ready = 3 if model == "stacked" else 1  # of the staged one: in its second stage
    wait_for(lambda: len(checkpoints_in(cut)) >= ready, process)
    process.kill()
    process.communicate()
    before = {path.relative_to(cut) for path in checkpoints_in(cut)}
    resumed = gengen("train", model, "--steps", steps, "--out", "cut", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming cut" in resumed.stderr
    runs = [tmp_path / name / "checkpoints" for name in ("whole", "cut")]
    ends = [{path.relative_to(run) for path in checkpoints_in(run)} for run in runs]
    assert ends[0] == ends[1] != before
    for end in ends[0]:
        assert_same_checkpoint(*(run / end for run in runs))
    assert logged(tmp_path / "whole") == logged(tmp_path / "cut")
