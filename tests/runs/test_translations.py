"""Translations: directions, data of two kinds, scores by hand, and the command line."""

import jax
import numpy as np
import pytest

from gengen.cli import main
from gengen.data import DataOptions, Dataset, load, open_data
from gengen.data.pairs import one_kind
from gengen.gan import cyclegan, dcgan, pix2pix
from gengen.runs import conditions, config, scores, translations
from gengen.runs.trained import Run
from gengen.training.validation import split
from gengen.types import InputError
from tests.data.pictures import noise, save

CYCLE = cyclegan.Config(
    shape=(8, 8, 1), other_shape=(8, 8, 1), channels=(4, 6), num_blocks=1,
    discriminator_channels=(4, 5), batch_size=4, residual=False,
)  # fmt: skip
PAIRS = pix2pix.Config(
    shape=(8, 8, 1), target_shape=(8, 8, 1), channels=(4, 6), discriminator_channels=(4, 5),
    batch_size=4,
)  # fmt: skip
UNPAIRED, EDGES = "unpaired:digits,digits:test", "edges:digits"


def fresh(module, cfg, spec) -> Run:
    data = load(spec)
    batch = conditions.some(data, 4)
    variables = module.method(cfg).init(jax.random.key(0), batch).variables
    variables["params"] = jax.tree.map(lambda leaf: 8 * leaf, variables["params"])
    return Run(module, cfg, variables, {"data": {"name": spec}})


@pytest.mark.parametrize(
    "spec, want",
    [
        ("unpaired:digits,mnist5k", "unpaired:digits:test,mnist5k:test"),
        ("unpaired:digits,digits:test", None),
        ("edges:fashion", "edges:fashion:test"),
        ("grey:photographs:test", None),
        ("fashion:classes=7+9", "fashion:test:classes=7+9"),
        (
            "unpaired:fashion:classes=7,fashion:classes=9",
            "unpaired:fashion:test:classes=7,fashion:test:classes=9",
        ),
        ("pairs:a,b", None),
    ],
)
def test_held_out_parts(spec, want):
    assert conditions.held_out_of(spec) == want


def test_a_direction_that_was_not_trained_is_refused():
    with pytest.raises(InputError, match="pix2pix is trained to translate a to b only"):
        translations.in_direction(pix2pix, PAIRS, "ba")
    with pytest.raises(InputError, match="ab or ba"):
        translations.in_direction(cyclegan, CYCLE, "b")
    assert translations.in_direction(cyclegan, CYCLE, "ba").direction == "ba"


def test_a_model_of_one_shape_refuses_two():
    cfg = dcgan.Config(shape=(8, 8, 1), channels=(4, 8))
    config.check_second(cfg, load(UNPAIRED))
    with pytest.raises(InputError, match="--size"):
        config.check_second(cfg, load("unpaired:digits,mnist5k"))
    config.check_second(CYCLE, load("unpaired:digits,mnist5k"))


def test_streamed_sets_are_those_in_memory(tmp_path):
    for i in range(6):
        save(tmp_path / "a" / f"{i}.png", noise(4, 4))
        save(tmp_path / "b" / f"{i}.png", noise(6, 6, 3))
    (tmp_path / "b" / "5.png").unlink()
    spec = f"unpaired:folder:{tmp_path / 'a'},folder:{tmp_path / 'b'}"
    stream, whole = open_data(spec, DataOptions(stream=True)), load(spec)
    assert not isinstance(stream, Dataset) and stream.source == whole.source
    assert (len(stream), stream.num_others) == (len(whole), whole.num_others) == (6, 5)
    assert stream.other_shape == whole.other_shape == (6, 6, 3)
    rows = stream.rows(8, 3, 2)
    np.testing.assert_array_equal(rows, whole.rows(8, 3, 2))
    for some in (rows, np.arange(6)):
        first, second = stream.read(some), whole.read(some)
        for name in ("image", "other"):
            np.testing.assert_array_equal(first[name], second[name])
    others = one_kind(stream, "other")
    assert len(others) == 5 and others.shape == (6, 6, 3)
    assert isinstance(others, type(stream))
    np.testing.assert_array_equal(others.read(np.arange(5))["image"], whole.arrays["other"])


def test_both_sets_are_split():
    data = load(UNPAIRED)
    kept, held = split(data, 0.25)
    assert (len(kept), kept.num_others) == (1078, 270) and (len(held), held.num_others) == (359, 90)
    both = np.concatenate([kept.arrays["other_label"], held.arrays["other_label"]])
    np.testing.assert_array_equal(np.bincount(both), np.bincount(data.arrays["other_label"]))


def test_scores_by_hand():
    run, data = fresh(pix2pix, PAIRS, EDGES), load(f"{EDGES}:test")
    found, _ = scores.of_run(run, EDGES, ("l1",), num=20, floor=False)
    batch = conditions.examples(data, data.rows(20, 0, 0))
    made = scores.to_uint8(run.translate(batch["image"]))
    want = np.abs(made.astype(float) - scores.to_uint8(batch["target"])).mean()
    assert found[0].value == pytest.approx(want, rel=1e-5) and found[0].n_fake == 20
    cycle = fresh(cyclegan, CYCLE, UNPAIRED)
    for way, kind in (("ab", "image"), ("ba", "other")):
        turned = cycle._replace(cfg=cyclegan.with_direction(CYCLE, way))
        found, _ = scores.of_run(turned, UNPAIRED, ("cycle_l1",), num=20, floor=False)
        data = load(UNPAIRED)
        x = scores.to_uint8(conditions.examples(data, data.rows(20, 0, 0))[kind])
        y = scores.to_uint8(cycle.translate(x, direction=way))
        back = scores.to_uint8(cycle.translate(y, direction="ba" if way == "ab" else "ab"))
        want = np.abs(back.astype(float) - x).mean()
        assert found[0].value == pytest.approx(want, rel=1e-5)
    with pytest.raises(InputError, match="no images to compare"):
        scores.of_run(cycle, "digits", ("cycle_l1",), num=20)


def test_translations_are_compared_with_the_other_kind():
    run = fresh(cyclegan, CYCLE, UNPAIRED)
    for way, kind in (("ab", "other"), ("ba", "image")):
        turned = run._replace(cfg=cyclegan.with_direction(CYCLE, way))
        found, _ = scores.of_run(
            turned, UNPAIRED, ("nearest",), num=20, floor=False, extractor="pixels"
        )
        assert found[0].n_real == len(load(UNPAIRED).arrays[kind])


def test_last_images_are_translated_as_the_first():
    run = fresh(cyclegan, CYCLE, UNPAIRED)
    x = load("digits").arrays["image"][: translations.CHUNK + 3]
    made = run.translate(x)
    np.testing.assert_allclose(made[-3:], run.translate(x[-3:]), atol=1e-5)
    with pytest.raises(InputError, match="direction ab"):
        run.translate(np.zeros((2, 4, 4, 1), np.float32))


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "channels=4,8 num_blocks=1 discriminator_channels=4,8 batch_size=8".split()
    fields = [part for word in words for part in ("--set", word)]
    train = ["train", "cyclegan", "--data", UNPAIRED, "--steps", "2", "--out", "run", *fields]
    assert main(train) == 0, capsys.readouterr().err
    save(tmp_path / "own.png", noise(9, 9, 3))
    for given in (["--input", "own.png"], ["--input", "digits:test"], ["--direction", "ba"]):
        out = ["--out", "x.npz", "--overwrite", "--num", "5"]
        assert main(["sample", "run", *given, *out]) == 0, capsys.readouterr().err
        with np.load("x.npz") as file:
            assert file["arr_0"].shape == (1 if "own.png" in given else 5, 8, 8, 1)
    assert main(["sample", "run", "--out", "x.png"]) == 0
    assert "image · translation · reconstruction" in capsys.readouterr().err
    assert main(["train", "pix2pix", "--data", UNPAIRED, "--out", "no"]) == 2
    assert "trained on pairs" in capsys.readouterr().err
