"""Streamed mean and covariance, and their files."""

import numpy as np
import pytest

from gengen.metrics import statistics
from gengen.types import InputError


def features(n=1003, dims=24, seed=0):
    """Far from 0, where Σxxᵀ - nμμᵀ would lose most digits; float32, as networks give them."""
    rng = np.random.default_rng(seed)
    x = 30 + rng.normal(size=(n, dims)) @ rng.normal(size=(dims, dims))
    return x.astype(np.float32)


def test_streamed_is_as_good_as_float64():
    """Products in float32 of what is left after the shift: 1e-7/√n of the largest entry."""
    x = features()
    got = statistics.accumulate(x[i : i + 128] for i in range(0, len(x), 128))
    y = x.astype(np.float64)
    scale = np.abs(np.cov(y.T)).max()
    np.testing.assert_allclose(got.mean, y.mean(0), rtol=1e-8)
    np.testing.assert_allclose(got.cov, np.cov(y.T), atol=2e-7 * scale)
    assert got.n == 1003


def test_batches_do_not_matter_and_one_shape_is_compiled(monkeypatch):
    """A short last batch is padded, a long one cut up."""
    x = features()
    shapes, sums = set(), statistics._sums
    record = lambda x, *rest: (shapes.add(x.shape), sums(x, *rest))[1]  # noqa: E731
    monkeypatch.setattr(statistics, "_sums", record)
    parts = [x[:100], x[100:150], x[150:151], x[151:]]
    got = statistics.accumulate(parts)
    assert shapes == {(100, 24)}
    whole = statistics.of_features(x)
    np.testing.assert_allclose(got.cov, whole.cov, atol=2e-7 * np.abs(whole.cov).max())
    np.testing.assert_allclose(got.mean, whole.mean, rtol=1e-8)
    assert got.n == whole.n


def test_padding_counts_for_nothing():
    """The second batch has one row; with the padding's zeros counted, the mean would be off."""
    got = statistics.accumulate([np.array([[1.0], [3.0]]), np.array([[8.0]])])
    assert (got.mean[0], got.cov[0, 0], got.n) == (4.0, 13.0, 3)


def test_features_in_memory():
    x = features(50)
    got = statistics.of_features(x)
    np.testing.assert_allclose(got.cov, np.cov(x.T.astype(np.float64)), rtol=1e-9, atol=1e-9)
    assert got.centred is None
    few = statistics.of_features(x[:10])
    np.testing.assert_allclose(few.root.T @ few.root, few.cov, atol=1e-9)


def test_factors():
    x = features(200, 6)
    got = statistics.of_features(x)
    assert got.cholesky is not None
    np.testing.assert_allclose(got.cholesky @ got.cholesky.T, got.cov, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.root.T @ got.root, got.cov, rtol=1e-11, atol=1e-11)
    singular = statistics.Statistics(np.zeros(2), np.outer([3.0, 4.0], [3.0, 4.0]))
    assert singular.root.shape == (1, 2)


def test_merged_is_as_of_all():
    x = features(300)
    a, b = statistics.of_features(x[:70]), statistics.of_features(x[70:])
    got, whole = statistics.merge(a, b), statistics.of_features(x)
    np.testing.assert_allclose(got.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(got.cov, whole.cov, atol=1e-11 * np.abs(whole.cov).max())
    assert got.n == 300


def test_file_round_trip(tmp_path):
    made = statistics.of_features(features(60), "mnist-v1", "ab" * 32)
    statistics.save(tmp_path / "s.npz", made)
    got = statistics.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(got.mean, made.mean)
    np.testing.assert_array_equal(got.cov, made.cov)
    assert (got.n, got.extractor, got.sha256) == (60, "mnist-v1", "ab" * 32)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_pytorch_fid_files_are_read_with_a_warning(tmp_path):
    """As pytorch-fid writes them, and by what it reads: arrays mu and sigma."""
    np.savez_compressed(tmp_path / "theirs.npz", mu=np.ones(3), sigma=np.eye(3))
    with pytest.warns(UserWarning, match="does not say its n, extractor, sha256"):
        got = statistics.load(tmp_path / "theirs.npz")
    assert got.n is None and got.mean.tolist() == [1, 1, 1]
    statistics.save(tmp_path / "ours.npz", got)
    with np.load(tmp_path / "ours.npz") as file:
        assert set(file) == {"mu", "sigma"}


def pickled(path):
    np.savez(path, mu=np.array([{}], object), sigma=np.eye(1))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04 no archive"),
        lambda path: np.savez(path, arr_0=np.ones(3)),
        lambda path: np.savez(path, mu=np.array(["a"]), sigma=np.eye(1)),
        pickled,
    ],
)
def test_other_files_are_refused(tmp_path, write):
    path = tmp_path / "file.npz"
    write(path)
    with pytest.raises(InputError, match="holds no statistics"):
        statistics.load(path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_is_unpickled(tmp_path):
    """An array of objects is a pickle, which can run anything: here, make a file."""
    bomb = np.empty(1, object)
    bomb[0] = Bomb(str(tmp_path / "made"))
    np.savez(tmp_path / "file.npz", mu=bomb, sigma=np.eye(1))
    with pytest.raises(InputError, match="holds no statistics"):
        statistics.load(tmp_path / "file.npz")
    assert not (tmp_path / "made").exists()


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "file.npz"
    statistics.save(path, statistics.of_features(features(60), "mnist-v1", "ab"))
    whole = path.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="holds no statistics"):
            statistics.load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(bytes(flipped))
    with pytest.raises(InputError, match="holds no statistics"):
        statistics.load(path)


def test_statistics_of_two_networks_are_not_compared():
    x = features(60)
    one = statistics.of_features(x, "mnist-v1", "aa" * 32)
    for other in (
        statistics.of_features(x, "mnist-v1", "bb" * 32),
        statistics.of_features(x, "fashion-v1"),
    ):
        with pytest.raises(InputError, match="two networks"):
            statistics.check_comparable(one, other)
        with pytest.raises(InputError, match="two networks"):
            statistics.merge(one, other)
    statistics.check_comparable(one, statistics.of_features(x))


def test_bad_input():
    with pytest.raises(InputError, match="at least 2"):
        statistics.accumulate([])
    with pytest.raises(InputError, match="at least 2"):
        statistics.accumulate([np.ones((1, 3))])
    with pytest.raises(InputError, match="a batch has 2 features, the ones before 3"):
        statistics.accumulate([np.ones((2, 3)), np.ones((2, 2))])
    with pytest.raises(InputError, match="NaN or infinity in 1 of 2"):
        statistics.accumulate([np.array([[1.0], [np.inf]])])
    with pytest.raises(InputError, match=r"end in \.npz"):
        statistics.save("s.pkl", statistics.of_features(np.eye(3)))
    with pytest.raises(InputError, match="without n"):
        statistics.merge(*[statistics.Statistics(np.zeros(1), np.eye(1))] * 2)
