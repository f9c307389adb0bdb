"""The number of samples that are scored: as many as fit into the time, the same for one seed."""

import itertools
from dataclasses import dataclass
from types import ModuleType

import jax
import numpy as np
import pytest

from gengen.runs import sizes
from gengen.runs.trained import Run


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (2,)
    steps: int = 1


def sample(cfg, variables, key, num, *, condition=None):
    x = jax.random.normal(key, (num, 2))
    return x if condition is None else x + 100 * condition[:, None]


MODULE = ModuleType("fake")
vars(MODULE).update(
    Config=Config,
    sample=sample,
    evaluations=lambda cfg: cfg.steps,
    with_evaluations=lambda cfg, num: Config(steps=num),
)


def run(steps=1):
    return Run(MODULE, Config(steps=steps), {}, {"model": "fake"})


@pytest.fixture
def seconds(monkeypatch):
    """What each chunk seems to take."""

    def set_to(each):
        ticks = itertools.chain.from_iterable((0.0, each) for _ in itertools.count())
        monkeypatch.setattr(sizes.time, "monotonic", lambda: next(ticks))

    return set_to


@pytest.mark.parametrize(
    "each, most, num",
    [(0.01, 10_000, 10_000), (0.01, 750, 500), (13.0, 10_000, 500), (90, 500, 100)],
)
def test_the_largest_size_that_fits_is_chosen(seconds, each, most, num):
    seconds(each)
    said = []
    x = sizes.draw(run(), None, most, say=said.append)
    assert len(x) == num
    assert f"scoring {num:,} samples" in said[0] and "--num chooses" in said[0]


def test_samples_depend_on_seed_and_number_only(seconds):
    want = sizes.draw(run(), 500, 500, seed=3)
    seconds(13.0)
    np.testing.assert_array_equal(sizes.draw(run(), None, 10_000, seed=3), want)
    np.testing.assert_array_equal(sizes.draw(run(), None, 10_000, seed=3)[:200], want[:200])
    np.testing.assert_array_equal(sizes.draw(run(200), 500, 500, seed=3, say=lambda _: None), want)
    assert np.abs(sizes.draw(run(), 500, 500, seed=4) - want).max() > 0.1


def test_a_slow_sampler_is_timed_by_a_faster_one(seconds):
    seconds(1.0)  # of 20 network evaluations of 100 samples: 1,000 take 50 s
    said = []
    assert len(sizes.draw(run(1000), None, 10_000, say=said.append)) == 200
    assert said == ["scoring 200 samples, about 100 s; --num chooses"]


def test_a_number_that_is_given_is_obeyed(seconds):
    seconds(13.0)
    said = []
    assert len(sizes.draw(run(), 1030, 500, say=said.append)) == 1030
    assert said == ["scoring 1,030 samples, about 117 s"]
    assert len(sizes.draw(run(), 7, 500)) == 7


def test_conditions_stay_with_their_samples():
    condition = np.arange(250)
    x = sizes.draw(run(), 250, 250, condition=condition)
    np.testing.assert_array_equal(np.rint(x[:, 0] / 100).astype(int), condition)
