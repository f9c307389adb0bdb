"""What a model says of held-out data: their likelihood, and their reconstructions."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from gengen.data import AnyData, batch_indices, normalise, to_uint8
from gengen.metrics.estimate import Estimate
from gengen.metrics.likelihood import LEVEL, bits_per_dim
from gengen.metrics.resampling import of_mean
from gengen.runs import conditions, translations
from gengen.runs.trained import Run
from gengen.types import InputError, data_of

CHUNK = 25  # examples at a time
MOST = 10_000  # examples of a likelihood
RECONSTRUCTED = 1000  # examples, at the most
SECONDS = 40.0  # of a likelihood, about


class OfHeldOut:
    """Likelihoods and reconstructions of held-out examples by a trained model.

    Args:
        run: the trained model.
        data: real examples that it was not trained on.
        samples: returns samples, or reconstructions where the model does not sample, uint8; those
            of a model that is conditioned on examples take them in the order of the seed.
        seed: of the order of examples and of noise.
        say: called with how many examples are taken.
    """

    def __init__(
        self,
        run: Run,
        data: AnyData,
        samples: Callable[[], np.ndarray],
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run, self.data, self.samples, self.seed, self.say = run, data, samples, seed, say

    @cached_property
    def log_probs(self) -> np.ndarray:
        """Log-likelihoods of held-out examples, float64 [N]: what fits into `SECONDS`."""
        if not hasattr(self.run.module, "log_prob"):
            raise InputError(f"nats, bits: {self.run.name} has no likelihood")
        most, found, since = min(len(self.data), MOST), [], time.monotonic()
        while len(found) * CHUNK < most:
            found.append(self._log_prob(len(found)))
            passed = time.monotonic() - since
            if passed > SECONDS or (len(found) == 1 and passed > SECONDS / 2):
                break
            if len(found) == 1:  # the first one compiles
                since = time.monotonic()
        values = np.concatenate(found)[:most].astype(np.float64)
        if len(values) < len(self.data):
            self.say(f"likelihood of {len(values):,} of {len(self.data):,} held-out examples")
        return values

    def _log_prob(self, chunk: int) -> np.ndarray:
        size = min(CHUNK, len(self.data))
        rows = batch_indices(len(self.data), size, self.seed, chunk)
        batch = conditions.examples(self.data, rows)
        condition = _condition_of(self.run, batch)
        return self.run.log_prob(np.asarray(data_of(batch)), self.seed + chunk, condition)

    def nats(self) -> tuple[Estimate, str]:
        """Return the mean of -ln p, in nats per example, and what it is of."""
        nats = -self.log_probs
        about = f"{log_prob_kind(self.run)}, of {self._of_what()}"
        return Estimate(float(nats.mean()), of_mean(nats), len(nats)), about

    def bits(self) -> tuple[Estimate, str]:
        """Return bits per dimension, and what they are of.

        Raises:
            InputError: for vectors, which have no levels.
        """
        if len(self.run.cfg.shape) != 3:
            raise InputError("bits: they are of images; for vectors take nats")
        dims, level = int(np.prod(self.run.cfg.shape)), level_of(self.run.module, self.run.cfg)
        bits = bits_per_dim(-self.log_probs, dims, level)
        about = f"{log_prob_kind(self.run)}, of {self._of_what()}"
        if level != 1:
            about += ", without dequantisation: no bound"
        return Estimate(float(bits.mean()), of_mean(bits), len(bits)), about

    def _of_what(self) -> str:
        kind = observed(self.run.module, self.run.cfg)
        if len(self.run.cfg.shape) != 3:
            return "the signs of numbers" if kind == "binary" else "the density of vectors"
        return {
            "binary": "binarised pixels", "density": "the density of pixels in [-1, 1]",
            "levels": "the probability of pixels' levels",
        }[kind]  # fmt: skip

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Reconstructions, or samples given a held-out image, and the truth: uint8 images [N, ...].

        Raises:
            InputError: for a model that has neither, or vectors.
        """
        module, cfg = self.run.module, self.run.cfg
        if len(cfg.shape) != 3:
            raise InputError("l1, psnr, ssim, ms_ssim: they are of images")
        of_examples = not hasattr(module, "sample") or conditions.kind(module, cfg) == "image"
        if of_examples:
            made = self.samples()
        elif hasattr(module, "reconstruct"):
            made = None
        else:
            raise InputError(f"l1, psnr, ssim, ms_ssim: {self.run.name} does not reconstruct")
        if translations.translates(module):
            return self.samples(), self._of_batch("target")
        num = min(RECONSTRUCTED, len(self.data)) if made is None else len(made)
        rows = np.resize(batch_indices(len(self.data), len(self.data), self.seed, 0), num)
        batch = conditions.examples(self.data, rows)
        truth = np.asarray(data_of(batch))
        if made is None:
            made = to_uint8(self.run.reconstruct(truth, _condition_of(self.run, batch)))
        return made, to_uint8(truth)

    @cached_property
    def cycles(self) -> tuple[np.ndarray, np.ndarray]:
        """Translations that are translated back, and the images: uint8 [N, ...].

        Raises:
            InputError: for a model that is not trained in both directions.
        """
        module, run = self.run.module, self.run
        if not translations.translates(module) or len(translations.directions(module)) < 2:
            raise InputError(f"cycle_l1: {run.name} does not translate in both directions")
        made = np.asarray(normalise({"image": self.samples()})["image"])
        back = translations.back(module, run.cfg, run.variables, made, self.seed, run.net)
        return to_uint8(back), self._of_batch(None)

    def _of_batch(self, name: str | None) -> np.ndarray:
        """Return images of the examples that were translated; None: the sources themselves."""
        rows = self.data.rows(len(self.samples()), self.seed, 0)
        batch = conditions.examples(self.data, rows)
        if name is not None and name not in batch:
            raise InputError(f"l1, psnr, ssim: {self.data.name} has no {name}s: use pairs")
        of = self.run.module.condition_of(self.run.cfg, batch) if name is None else batch[name]
        return to_uint8(of)


def log_prob_kind(run: Run) -> str:
    """Return of what kind -ln p of a model is, for a table."""
    declared = getattr(run.module, "LOG_PROB", "exact")
    if declared == "lower bound" and len(run.cfg.shape) == 1 and _is_flow(run.module):
        return "exact"
    return {
        "exact": "exact", "lower bound": "an upper bound",
        "importance weighted": "an upper bound (importance weighted)",
    }[declared]  # fmt: skip


def observed(module: ModuleType, cfg: Any) -> str:
    """Return what the likelihood of an image is of: "binary", "levels" or "density".

    The pixels as binary numbers; as one of 256 levels (by a discrete distribution or by
    dequantisation), which is a probability; or as real numbers in [-1, 1], a density.
    """
    named = getattr(cfg, "likelihood", None) or getattr(cfg, "head", None)
    known = {"bernoulli": "binary", "gaussian": "density", "laplace": "density"}
    if named in known:
        return known[named]
    if getattr(cfg, "likelihood", None) == "":  # by the data: see `gengen.vae.networks`
        return "binary" if len(cfg.shape) == 3 else "density"
    if named is None and hasattr(cfg, "binarise"):
        return "binary"
    exact = getattr(module, "LOG_PROB", "exact") == "exact"
    return "density" if named is None and exact else "levels"


def level_of(module: ModuleType, cfg: Any) -> float:
    """Return the `level` of `gengen.metrics.likelihood.bits_per_dim` for a model's likelihood."""
    return LEVEL if observed(module, cfg) == "density" else 1.0


def _is_flow(module: ModuleType) -> bool:
    return ".flow." in f".{module.__name__}."


def _condition_of(run: Run, batch: Any) -> Any:
    condition_of = getattr(run.module, "condition_of", None)
    return None if condition_of is None else condition_of(run.cfg, batch)
