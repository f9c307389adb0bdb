"""Likelihoods and reconstructions of held-out data, with the right units and words."""

import numpy as np
import pytest

import gengen
from gengen.autoregressive import made, pixelcnn
from gengen.data import Dataset, load, to_uint8
from gengen.density import gmm
from gengen.diffusion import ddpm
from gengen.flow import realnvp
from gengen.metrics.likelihood import LEVEL
from gengen.runs import likelihoods
from gengen.runs.likelihoods import OfHeldOut
from gengen.runs.trained import Run
from gengen.types import InputError
from gengen.vae import vae

IMAGE = (8, 8, 1)


@pytest.mark.parametrize(
    ("module", "fields", "observed"),
    [
        (ddpm, {}, "levels"),
        (realnvp, {}, "levels"),
        (gmm, {}, "density"),
        (made, {}, "binary"),
        (vae, {}, "binary"),
        (vae, {"likelihood": "logistic"}, "levels"),
        (vae, {"likelihood": "laplace"}, "density"),
        (vae, {"likelihood": "gaussian"}, "density"),
        (pixelcnn, {}, "binary"),
        (pixelcnn, {"head": "logistic"}, "levels"),
        (pixelcnn, {"head": "categorical"}, "levels"),
        (pixelcnn, {"head": "gaussian"}, "density"),
    ],
)
def test_what_a_likelihood_is_of(module, fields, observed):
    cfg = module.Config(shape=IMAGE, **fields)
    assert likelihoods.observed(module, cfg) == observed
    assert likelihoods.level_of(module, cfg) == (LEVEL if observed == "density" else 1)


def test_vectors_have_densities_and_flows_are_exact_on_them():
    assert likelihoods.observed(vae, vae.Config(shape=(2,))) == "density"
    kind = lambda module, shape: likelihoods.log_prob_kind(  # noqa: E731
        Run(module, module.Config(shape=shape), {}, {})
    )
    assert kind(realnvp, (2,)) == kind(gmm, IMAGE) == "exact"
    assert kind(realnvp, IMAGE) == kind(ddpm, (2,)) == "an upper bound"


def of(run, data):
    return OfHeldOut(run, data, lambda: pytest.fail("no samples are needed"), seed=3)


def uniform(x):
    """Images of 256 levels, each as likely, to a model that knows it."""
    return np.full(len(x), -64 * np.log(256))


@pytest.fixture
def data():
    return load("digits:test")


def test_bits_of_uniform_levels_are_eight(data, monkeypatch):
    """And of a density of 1/2 in [-1, 1], on the scale of levels: ln 255 / ln 2."""
    cfg = realnvp.Config(shape=IMAGE)
    run = Run(realnvp, cfg, {}, {})
    monkeypatch.setattr(Run, "log_prob", lambda self, x, *rest: uniform(x))
    found, note = of(run, data).bits()
    assert found.value == pytest.approx(8, abs=1e-6) and found.standard_error == pytest.approx(0)
    assert "levels" in note and found.n == len(data)
    nats, _ = of(run, data).nats()
    assert nats.value == pytest.approx(64 * np.log(256))
    monkeypatch.setattr(Run, "log_prob", lambda self, x, *rest: np.full(len(x), -64 * np.log(2)))
    found, note = of(Run(gmm, gmm.Config(shape=IMAGE), {}, {}), data).bits()
    assert found.value == pytest.approx(np.log2(255), rel=1e-6) and "no bound" in note


def test_every_held_out_example_counts_once_and_with_its_own_noise(data, monkeypatch):
    seen = []

    def log_prob(self, x, seed, condition):
        seen.append(seed)
        return x.reshape(len(x), -1).sum(axis=1)

    monkeypatch.setattr(Run, "log_prob", log_prob)
    found, _ = of(Run(realnvp, realnvp.Config(shape=IMAGE), {}, {}), data).nats()
    x = data.arrays["image"].astype(np.float64) / 127.5 - 1
    each = -x.reshape(len(x), -1).sum(axis=1)
    assert found.value == pytest.approx(each.mean(), rel=1e-5)
    assert found.standard_error == pytest.approx(each.std(ddof=1) / len(x) ** 0.5, rel=1e-4)
    assert len(seen) == len(set(seen)) == -(-len(x) // likelihoods.CHUNK)


def test_a_slow_likelihood_is_of_fewer_examples(data, monkeypatch):
    ticks = iter(np.arange(0, 1e6, 100.0))
    monkeypatch.setattr(likelihoods.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(Run, "log_prob", lambda self, x, *rest: np.zeros(len(x)))
    said = []
    run = Run(realnvp, realnvp.Config(shape=IMAGE), {}, {})
    found = OfHeldOut(run, data, lambda: np.zeros(0), say=said.append)
    assert found.nats()[0].n == likelihoods.CHUNK
    assert said == [f"likelihood of 25 of {len(data)} held-out examples"]


def test_reconstructions_are_beside_their_own_truth(data, monkeypatch):
    monkeypatch.setattr(Run, "reconstruct", lambda self, x, condition: np.asarray(x) / 2)
    made_of, truth = of(Run(vae, vae.Config(shape=IMAGE), {}, {}), data).pairs
    np.testing.assert_array_equal(made_of, to_uint8((truth / 127.5 - 1).astype(np.float32) / 2))
    assert len(truth) == len(data)


def test_what_a_model_cannot_do_is_one_line(data):
    points = Dataset.of(np.zeros((10, 2), np.float32))
    for attempt, words in (
        (lambda: of(Run(ddpm, ddpm.Config(shape=IMAGE), {}, {}), data).pairs, "not reconstruct"),
        (lambda: of(Run(gmm, gmm.Config(shape=(2,)), {}, {}), points).bits(), "take nats"),
        (lambda: of(Run(gmm, gmm.Config(shape=(2,)), {}, {}), points).pairs, "of images"),
        (
            lambda: of(Run(gengen.runs, gmm.Config(shape=(2,)), {}, {"model": "x"}), points).nats(),
            "x has no likelihood",
        ),
    ):
        with pytest.raises(InputError, match=words):
            attempt()
