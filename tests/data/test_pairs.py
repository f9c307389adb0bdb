"""Two images an example: matched by name, cut from one, or with orders of their own."""

import numpy as np
import pytest

from gengen.data import Dataset, load, to_batch
from gengen.data.options import DataOptions
from tests.data.pictures import noise, save


def test_pairs_are_matched_by_name(tmp_path):
    a = [save(tmp_path / "a" / f"{i}.png", noise(4, 4)) for i in range(3)]
    b = [save(tmp_path / "b" / f"{i}.jpg", noise(4, 4, 3), quality=95) for i in range(3)]
    data = load(f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}")
    assert isinstance(data, Dataset) and len(a) == len(b) == len(data)
    np.testing.assert_array_equal(data.arrays["image"][1, ..., 0], a[1])
    batch = to_batch(data.arrays, data.rows(2, 0, 0))
    assert batch["target"].shape == (2, 4, 4, 3) and float(abs(batch["target"]).max()) <= 1
    save(tmp_path / "a" / "9.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"a/9 has no namesake in .*b"):
        load(f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}")


def test_a_pair_is_skipped_as_one(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", np.full((4, 4), i, np.uint8))
    (tmp_path / "a" / "0.png").write_bytes(b"bad")
    (tmp_path / "b" / "1.png").write_bytes(b"bad")
    spec, options = f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}", DataOptions(skip_bad_images=True)
    data = load(spec, options)
    assert (data.arrays["image"] == 2).all() and (data.arrays["target"] == 2).all()
    (tmp_path / "a" / "2.png").unlink()
    (tmp_path / "b" / "2.png").unlink()
    with pytest.raises(ValueError, match="no pair is left"):
        load(spec, options)


def test_halves(tmp_path):
    pixels = save(tmp_path / "a" / "1.png", noise(4, 8, 3))
    data = load(f"halves:{tmp_path / 'a'}")
    np.testing.assert_array_equal(data.arrays["image"][0], pixels[:, :4])
    np.testing.assert_array_equal(data.arrays["target"][0], pixels[:, 4:])
    swapped = load(f"halves:{tmp_path / 'a'}:right")
    np.testing.assert_array_equal(swapped.arrays["target"], data.arrays["image"])
    np.testing.assert_array_equal(swapped.arrays["image"], data.arrays["target"])
    small = load(f"halves:{tmp_path / 'a'}", DataOptions(size=2))
    assert small.arrays["target"].shape == (1, 2, 2, 3)
    save(tmp_path / "b" / "1.png", noise(4, 7, 3))
    with pytest.raises(ValueError, match="cannot be halved"):
        load(f"halves:{tmp_path / 'b'}")


def test_unpaired_sets_have_orders_of_their_own(tmp_path):
    save(tmp_path / "one, two" / "1.png", noise(8, 8))
    data = load("unpaired:digits,digits:test")
    assert isinstance(data, Dataset)
    rows = data.rows(100, 0, 3)
    assert rows.shape == (100, 2)
    assert rows[:, 1].max() < len(data.arrays["other"]) < len(data)
    batch = to_batch(data.arrays, rows)
    np.testing.assert_array_equal(batch["label"], data.arrays["label"][rows[:, 0]])
    np.testing.assert_array_equal(batch["other_label"], data.arrays["other_label"][rows[:, 1]])
    twins = load("unpaired:digits,digits").rows(100, 0, 3)
    assert (twins[:, 0] != twins[:, 1]).sum() > 90
    assert load("unpaired:digits,mnist5k").other_shape == (28, 28, 1)
    with pytest.raises(ValueError, match="sets of images, but moons"):
        load("unpaired:digits,moons")
    assert load("unpaired:digits,mnist5k", DataOptions(size=16)).shape == (16, 16, 1)
    twice = str(tmp_path / "one, two").replace(",", ",,")
    assert load(f"unpaired:digits,folder:{twice}").arrays["other"].shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match="one comma"):
        load("unpaired:digits")
