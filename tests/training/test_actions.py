"""Pictures within their bound, and starts that fail."""

import jax
import numpy as np
import pytest
from PIL import Image

from gengen import loop
from gengen.stages import Stage
from gengen.training import run_dir
from gengen.training.actions import Now, Picture
from gengen.training.record import Record
from gengen.training.tracking import Trackers
from tests.test_loop import regression, train


@pytest.mark.parametrize(
    "seconds, drawn",
    [(10.0, [2, 100]), (3.0, [2, 30, 60, 90, 100]), (0.1, list(range(2, 101, 2)))],
)
def test_pictures_take_a_tenth_of_the_time_at_most(tmp_path, capsys, monkeypatch, seconds, drawn):
    """The first and the last one aside; train steps take a second."""
    clock, steps = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def draw(state, step):
        clock[0] += seconds
        steps.append(step)

    state = regression().init(jax.random.key(0), {"x": np.zeros((2, 2))})
    with Record(tmp_path, 0, 100, 8, Trackers([], tmp_path), lambda metrics: ()) as record:
        action = Picture(2, record, draw)
        for step in range(1, 101):
            clock[0] += 1.0
            now = Now(step, step, 1, state, lambda state: state, step == 100, False)
            if action.due(now):
                action.act(now)
        assert record.trained == pytest.approx(100)
        assert record.preview_seconds == pytest.approx(seconds * len(drawn))
    assert steps == drawn
    said = capsys.readouterr().err
    assert said.count("no picture at step") == (seconds > 1)
    assert said.count("sampling for the picture at step 100: about 10 s") == (seconds == 10)
    assert f"pictures took {seconds * len(drawn):.1f} s" in said


def test_seconds_of_pictures_are_logged(tmp_path):
    preview = lambda variables, key: np.zeros((40, 2))  # noqa: E731
    train(tmp_path / "run", preview=preview, preview_every=5)
    rows = run_dir.read_metrics(tmp_path / "run" / "metrics.jsonl")
    taken = [row.get("preview_seconds", 0.0) for row in rows]
    assert taken[0] == 0 < taken[1] and taken == sorted(taken)
    assert "preview_seconds" not in (tmp_path / "run" / "report.html").read_text()
    train(tmp_path / "run", 40, preview=preview, preview_every=5, resume=True)
    rows = run_dir.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[4]["preview_seconds"] >= rows[3]["preview_seconds"]


def test_a_finished_picture_is_saved(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    train(tmp_path / "run", 3, preview=lambda variables, key: pixels)
    (path, *_) = sorted((tmp_path / "run" / "samples").iterdir())
    saved = np.asarray(Image.open(path))
    scale = len(saved) // 6
    np.testing.assert_array_equal(saved[::scale, ::scale], pixels)


def refusing(where):
    """A model that raises in `init`, or while its train step is traced."""

    def fails(*args):
        raise ValueError("a shape error")

    model = regression()
    return model._replace(**{where: fails})


@pytest.mark.parametrize("where", ["init", "train_step"])
def test_a_failed_start_leaves_nothing(tmp_path, where):
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "new" / "folder" / "run", tmp_path / "mine"):
        with pytest.raises(ValueError, match="a shape error"):
            train(out, 3, method=refusing(where))
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not any((tmp_path / "mine").iterdir())
    train(tmp_path / "mine", 3)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="a shape error"):
        train(tmp_path / "mine", 5, method=refusing(where), resume=True)
    kept = before.keys() - {tmp_path / "mine" / "config.json"}  # the number of steps
    assert all(path.read_bytes() == before[path] for path in kept)


def test_a_stage_that_refuses_its_data_leaves_nothing(tmp_path):
    def refuse(before, data):
        raise loop.InputError("no such data")

    with pytest.raises(ValueError, match="no such data"):
        train(tmp_path / "run", 9, method=[Stage("first", regression(), data=refuse)])
    assert not (tmp_path / "run").exists()
    stages = [Stage("first", regression()), Stage("second", regression(), data=refuse)]
    with pytest.raises(ValueError, match="no such data"):
        train(tmp_path / "run", 9, method=stages)
    assert (tmp_path / "run" / "checkpoints" / "first").exists()  # that stage is done


def test_compiling_is_announced(tmp_path, capsys):
    train(tmp_path / "run", 3)
    assert "compiling the train step ..." in capsys.readouterr().err
