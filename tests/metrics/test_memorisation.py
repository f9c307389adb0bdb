"""Nearest training examples, in blocks, and the share of copies."""

import numpy as np
import pytest

from gengen.metrics import memorisation
from gengen.types import InputError


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, training = 100 + rng.normal(size=(20, 3, 2)), 100 + rng.normal(size=(33, 3, 2))
    away = np.linalg.norm((x[:, None] - training[None]).reshape(20, 33, -1), axis=-1)
    for block in (7, 500):
        monkeypatch.setattr(memorisation, "BLOCK", block)
        distance, row = memorisation.nearest(x, training)
        np.testing.assert_allclose(distance, away.min(1), rtol=1e-12)
        np.testing.assert_array_equal(row, away.argmin(1))


def test_share_of_copies():
    """One real set; half the samples are copies. New samples: as many as the quantile says."""
    rng = np.random.default_rng(1)
    training, held_out, new = rng.normal(size=(3, 1000, 2))
    half = np.concatenate([training[:500] + 1e-9, new[:500]])
    share = lambda fake: memorisation.copied_share(  # noqa: E731
        fake=fake, training=training, held_out=held_out, quantile=0.05
    )
    assert share(training) == 1
    # Binomial: 5 % of 1000 within 4 errors of both quantile and share, 0.04.
    assert share(new) == pytest.approx(0.05, abs=0.04)
    assert share(half) == pytest.approx(0.525, abs=0.03)


def test_bad_input():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(InputError, match="give both as uint8"):
        memorisation.nearest(images, images / 255)
    with pytest.raises(InputError, match=r"training \(2, 4, 5, 1\)"):
        memorisation.nearest(images, np.zeros((2, 4, 5, 1), np.uint8))
    with pytest.raises(InputError, match="quantile = 1"):
        memorisation.copied_share(fake=images, training=images, held_out=images, quantile=1)
