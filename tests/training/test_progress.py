"""What a training prints: lines for a log file, one row on a terminal."""

import re

from gengen.cli import main
from gengen.training import progress
from gengen.training.ordering import main_metrics, ordered
from gengen.training.progress import Progress
from tests.processes import settings
from tests.test_loop import train

WORDS = [
    *("train", "vae", "--data", "digits", "--steps", "6", "--log-every", "2"),
    *settings(["hidden=8", "latent_shape=2", "batch_size=8"]),
]


def test_a_job_log_tells_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    for part in (
        r"training vae \([\d,]+ parameters\) on digits:train \(1,437 examples\)\n",
        r"6 steps of batch size 8, on .*, to .*run\n",
        r"compiling the train step \.\.\.\n",
        r"compiling the sampler and drawing a picture \.\.\.\n",
        r"step 6 of 6 \(100%\), loss [\d.]+, kl [\d.]+, reconstruction [\d.]+, [\d,]+ examples/s\n",
        r"done: 6 steps in [\d.]+ s\nreport: .*report\.html\n$",
    ):
        assert re.search(part, said), part
    assert re.findall(r"^step (\d+) of 6", said, re.MULTILINE) == ["2", "4", "6"]
    assert "picture of step 6 drawn in" in said


def test_a_job_log_takes_a_line_in_ten_seconds_and_the_last(tmp_path, capsys):
    train(tmp_path / "run", 30)
    assert re.findall(r"^step (\d+) of 30", capsys.readouterr().err, re.MULTILINE) == ["5", "30"]


def test_the_bar_fits_into_eighty_columns(monkeypatch):
    """Two long names; and a third metric is left out, not the bar."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown = Progress(0, 8000)
    shown.advance(1000, 10.0)
    mean = {"generator_loss": 0.8512, "discriminator_loss": 1.23456, "real": 0.5, "host_wait": 0.1}
    shown.show(mean, 1234.0, 10.0, False)
    text = shown._bar.format_meter(
        **{**shown._bar.format_dict, "ncols": 80, "elapsed": 10.0, "postfix": shown._bar.postfix}
    )
    shown.close()
    assert len(text) <= 80 and "generator_loss 0.851, discriminator_loss 1.23" in text
    assert re.match(r" 12%\|\S+ *\|1000/8000 01:10 left", text)


def test_the_time_left_is_by_the_rate_after_compilation(capsys):
    shown = Progress(0, 100)
    shown.advance(1, 60.0)  # a minute to compile
    shown.advance(10, 80.0)  # 2 s a step
    shown.show({"loss": 1.0}, 4.0, 80.0, False)
    shown.close()
    assert "step 11 of 100 (11%), 2 min 58 s left, loss 1, 4 examples/s" in capsys.readouterr().err


def test_the_loss_comes_first_and_technical_metrics_last():
    names = ["host_wait", "gradient_norm", "kl", "critic_loss", "loss", "learning_rate"]
    assert ordered(names) == [
        *("loss", "critic_loss", "kl", "host_wait", "gradient_norm", "learning_rate")
    ]
    assert main_metrics(["examples_per_s", "a", "b", "c", "d"]) == ["a", "b", "c"]
