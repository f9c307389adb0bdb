"""Trackers, and a function of the metrics: what they receive, and what ends a run."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest

import gengen
from gengen.cli import main
from gengen.errors import InputError
from gengen.training.checkpoint import steps_in
from gengen.training.run_dir import read_metrics

SMALL = {"hidden": (8,), "latent_shape": (2,), "channels": (), "batch_size": 16}
VAE = ["train", "vae", "--data", "digits", "--set", "hidden=8", "--set", "latent_shape=2",
       "--set", "channels=", "--set", "batch_size=16", "--log-every", "2"]  # fmt: skip


class FakeService:
    """What the adapters call of wandb and mlflow."""

    def __init__(self):
        self.calls: list[tuple] = []
        self.id = "abc"
        self.info = types.SimpleNamespace(run_id="abc")

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def install(name):
        service = FakeService()
        monkeypatch.setitem(sys.modules, name, service)  # type: ignore[arg-type]
        return service

    return install


def test_wandb_receives_metrics_and_pictures_and_a_resume_goes_on_there(fake):
    service = fake("wandb")
    assert main([*VAE, "--steps", "4", "--out", "run", "--tracker", "wandb"]) == 0
    ((_, first),) = service.of("init")
    assert first["id"] is None and first["config"]["config"]["hidden"] == [8]
    logged = [(kwargs["step"], args[0]) for args, kwargs in service.of("log")]
    rows = read_metrics(Path("run/metrics.jsonl"))
    assert [(s, m["loss"]) for s, m in logged if "loss" in m] == [
        (row["step"], row["loss"]) for row in rows
    ]
    assert any("samples" in metrics for _, metrics in logged)
    ((picture,), _) = service.of("Image")[-1]
    assert picture.dtype == np.uint8 and picture.ndim == 3 and len(service.of("finish")) == 1

    resume = ["train", "vae", "--out", "run", "--resume", "--steps", "6", "--tracker", "wandb"]
    assert main(resume) == 0
    assert service.of("init")[1][1]["id"] == "abc"


def test_a_service_that_refuses_is_one_line(fake, capsys):
    service = fake("wandb")

    def refuse(**kwargs):
        raise ConnectionError("no key\nfor this service")

    service.init = refuse
    assert main([*VAE, "--steps", "2", "--out", "run", "--tracker", "wandb"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "gengen: --tracker wandb cannot be opened: no key for this service"
    assert not Path("run").exists()


def test_mlflow_receives_metrics_parameters_and_pictures(fake):
    service = fake("mlflow")
    assert main([*VAE, "--steps", "4", "--out", "run", "--tracker", "mlflow"]) == 0
    ((parameters,), _) = service.of("log_params")[0]
    assert parameters["config.hidden"] == "[8]" and parameters["seed"] == "0"
    assert [kwargs["step"] for _, kwargs in service.of("log_metrics")] == [2, 4]
    assert service.of("log_image") and len(service.of("end_run")) == 1
    main(["train", "vae", "--out", "run", "--resume", "--steps", "6", "--tracker", "mlflow"])
    assert service.of("start_run")[1][1] == {"run_id": "abc"}
    assert len(service.of("log_params")) == 1


@pytest.mark.parametrize("words", [["--tracker", "tensorboard"], ["--tensorboard"]])
def test_tensorboard_has_two_spellings(words, tmp_path):
    assert main([*VAE, "--steps", "2", "--out", str(tmp_path / "run"), *words]) == 0
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    out = tmp_path / "run"
    assert main([*VAE, "--steps", "2", "--out", str(out), "--tracker", "wandb"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith("needs wandb: pip install 'gengen[wandb]'") and "\n" not in error
    assert not out.exists()
    assert main(["train", "gmm", "--data", "moons", "--out", str(out), "--tensorboard"]) == 2
    assert "gmm is fitted at once: there are no lines" in capsys.readouterr().err
    with pytest.raises(InputError, match="must be one of tensorboard, wandb, mlflow"):
        gengen.train("vae", "digits", config=SMALL, steps=2, out=out, tracker=["board"])


def test_a_tracker_of_ones_own(tmp_path):
    class Mine:
        steps, images, closed = [], [], 0

        def log(self, step, metrics):
            self.steps.append(step)

        def image(self, step, image):
            self.images.append(step)

        def close(self):
            self.closed += 1

    mine = Mine()
    gengen.train("stacked", "digits", config={"hidden": (8, 4)}, steps=6, log_every=2,
                 out=tmp_path / "run", tracker=mine)  # fmt: skip
    assert mine.steps == [2, 4, 6] and mine.images[-1] == 6  # of the run, which has three stages
    assert mine.closed == 1


def test_what_on_metrics_raises_ends_the_run_after_a_checkpoint(tmp_path):
    seen = {}

    class Pruned(Exception):
        pass

    def on_metrics(step, metrics):
        seen[step] = metrics["loss"]
        if step == 4:
            raise Pruned

    given = {"config": SMALL, "out": tmp_path / "run", "log_every": 2, "save_every": 100}
    with pytest.raises(Pruned):
        gengen.train("vae", "digits", steps=8, on_metrics=on_metrics, **given)
    rows = {row["step"]: row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    assert seen == rows and list(seen) == [2, 4]
    assert steps_in(tmp_path / "run" / "checkpoints")[0] == 4
    run = gengen.train("vae", out=tmp_path / "run", resume=True, on_metrics=seen.__setitem__)
    assert run.settings["steps"] == 8 and list(seen) == [2, 4, 6, 8]
