"""Our metrics beside other libraries' on the same features; the table of docs/METRICS.md."""

from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import compare_metrics

pytestmark = [
    pytest.mark.compare,
    # Of the libraries' own imports, not of gengen.
    pytest.mark.filterwarnings("default"),
]
NEEDED = ("torch", "torch_fidelity", "pytorch_fid", "prdc", "skimage", "mpmath")


@pytest.fixture(autouse=True)
def libraries():
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.parametrize("group", compare_metrics.GROUPS)
def test_equals_the_references(group):
    """Relative difference < 1e-6 for FID, 1e-5 for the rest: float32 in SSIM, float64 elsewhere."""
    rows = compare_metrics.GROUPS[group]()
    assert rows
    for row in rows:
        assert row.difference < row.bound, row


def test_pytorch_fid_reads_our_statistics(tmp_path):
    made, (mu, sigma) = compare_metrics.statistics_are_shared(tmp_path)
    np.testing.assert_array_equal(mu, made.mean)
    np.testing.assert_array_equal(sigma, made.cov)
