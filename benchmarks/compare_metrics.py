"""gengen's metrics beside torch-fidelity, pytorch-fid, prdc and scikit-image, on the same arrays.

Prints a table of both numbers and their relative difference; `--write` puts it into
docs/METRICS.md. Where a reference is unstable (a singular covariance, in pytorch-fid), the exact
value stands in, from mpmath with 60 digits. Needs those libraries: the extra `compare` and
`pip install --no-deps torch-fidelity pytorch-fid prdc`. `pytest -m compare` asserts the bounds.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import tyro

from gengen.data import load
from gengen.metrics import classifier, fid, inception_score, kid, prdc, similarity, statistics

PAGE = Path(__file__).parent.parent / "docs" / "METRICS.md"
BEGIN, END = "<!-- compare_metrics: begin -->", "<!-- compare_metrics: end -->"
_TORCHVISION = ("", ".transforms", ".models", ".datasets", ".transforms.functional")


class Row(NamedTuple):
    """One number, twice."""

    metric: str
    features: str  # of what
    reference: str
    ours: float
    theirs: float
    bound: float  # on the relative difference

    @property
    def difference(self) -> float:
        """|ours - theirs| / |theirs|; the absolute one if theirs is 0."""
        return abs(self.ours - self.theirs) / (abs(self.theirs) or 1.0)


@dataclass(frozen=True)
class Args:
    """Settings."""

    write: bool = False
    """Put the table into docs/METRICS.md."""


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """Both libraries import torchvision for their networks, which are not needed here."""
    names = [f"torchvision{part}" for part in _TORCHVISION]
    missing = [name for name in names if name not in sys.modules]
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]

        missing = []
    except ImportError:
        for name in missing:
            module = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None), __path__=[])
            sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of 1,500 digits and of 1,500 others with noise, and the noisy ones and theirs."""
    reader = classifier.load("mnist-v1")
    images = load("mnist5k").arrays["image"]
    clean = images[1500:3000]
    noise = np.random.default_rng(0).normal(0, 60, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    return reader.features(images[:1500]), reader.features(noisy), noisy, clean


@cache
def gaussians() -> tuple[np.ndarray, np.ndarray]:
    """3,000 and 2,000 examples of two correlated Gaussians in 64 dimensions."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 64)) @ rng.normal(size=(64, 64))
    return x, 0.5 + rng.normal(size=(2000, 64)) @ rng.normal(size=(64, 64))


def of_fid() -> list[Row]:
    """Against both tools, and, for fewer examples than features, against the exact value."""
    import torch  # pyright: ignore[reportMissingImports]

    with without_torchvision():
        from pytorch_fid.fid_score import (  # pyright: ignore[reportMissingImports]
            calculate_frechet_distance,
        )
        from torch_fidelity import metric_fid  # pyright: ignore[reportMissingImports]
    rows = []
    for name, (x, y) in {"64-d Gaussians": gaussians(), "digits, mnist-v1": digits()[:2]}.items():
        x, y = x.astype(np.float64), y.astype(np.float64)
        ours = fid.fid(real=x, fake=y).value
        moments = [m for z in (x, y) for m in (z.mean(0), np.cov(z, rowvar=False))]
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = float(calculate_frechet_distance(*moments))
        rows.append(Row("fid", name, "pytorch-fid", ours, theirs, 1e-6))
        stats = [metric_fid.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
        value = metric_fid.fid_statistics_to_metric(*stats, verbose=False)
        theirs = value["frechet_inception_distance"]
        rows.append(Row("fid", name, "torch-fidelity", ours, theirs, 1e-6))
    x, y = (z[:20].astype(np.float64) for z in gaussians())
    truth = exact_fid(x, y)
    from_covariances = fid.frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    name = "20 examples of 64-d"
    rows.append(Row("fid", name, "exact (mpmath)", fid.fid(real=x, fake=y).value, truth, 1e-6))
    rows.append(Row("frechet_distance", name, "exact (mpmath)", from_covariances, truth, 1e-6))
    return rows


def exact_fid(x: np.ndarray, y: np.ndarray) -> float:
    """With 60 digits: Tr (Σ₁Σ₂)^½ = Σ √λ of the small matrix XYᵀYXᵀ of centred features."""
    import mpmath  # pyright: ignore[reportMissingImports]

    with mpmath.workdps(60):
        a, b = (mpmath.matrix(z.tolist()) for z in (x, y))
        means = [
            [mpmath.fsum(m[i, j] for i in range(m.rows)) / m.rows for j in range(m.cols)]
            for m in (a, b)
        ]
        for m, mean in zip((a, b), means, strict=True):
            root = mpmath.sqrt(m.rows - 1)
            for i in range(m.rows):
                for j in range(m.cols):
                    m[i, j] = (m[i, j] - mean[j]) / root
        cross = a * b.T
        values = mpmath.eigsy(cross * cross.T, eigvals_only=True)
        trace = mpmath.fsum(mpmath.sqrt(max(v, 0)) for v in values)
        squares = mpmath.fsum(v * v for m in (a, b) for v in m)
        gap = mpmath.fsum((p - q) ** 2 for p, q in zip(*means, strict=True))
        return float(gap + squares - 2 * trace)


def of_kid_and_is() -> list[Row]:
    """Against torch-fidelity: its subsets, and its shuffle before the splits."""
    import torch  # pyright: ignore[reportMissingImports]

    with without_torchvision():
        from torch_fidelity import metric_isc, metric_kid  # pyright: ignore[reportMissingImports]
    rows = []
    for name, (x, y) in {"64-d Gaussians": gaussians(), "digits, mnist-v1": digits()[:2]}.items():
        x, y = x.astype(np.float64), y.astype(np.float64)
        ours = kid.kid_of_subsets(real=x, fake=y)
        theirs = metric_kid.kid_features_to_metric(
            torch.from_numpy(y), torch.from_numpy(x), verbose=False
        )
        mean = theirs["kernel_inception_distance_mean"]
        rows.append(Row("kid_of_subsets", name, "torch-fidelity", ours.value, mean, 1e-5))
    logits = np.random.default_rng(2).normal(0, 3, (5003, 10))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.random.RandomState(2020).permutation(len(logits))
    ours = inception_score.inception_score(probs[order])
    theirs = metric_isc.isc_features_to_metric(torch.from_numpy(logits))
    mean, std = theirs["inception_score_mean"], theirs["inception_score_std"]
    rows.append(Row("inception_score", "10 classes", "torch-fidelity", ours.value, mean, 1e-5))
    assert ours.standard_error is not None
    # Theirs is the spread over 10 parts itself, divided by 10 and not 9.
    error = ours.standard_error * 3
    rows.append(Row("its spread", "10 classes", "torch-fidelity", error, std, 1e-5))
    return rows


def of_prdc() -> list[Row]:
    """All four against prdc; precision and recall against torch-fidelity."""
    import torch  # pyright: ignore[reportMissingImports]

    with without_torchvision():
        from prdc import compute_prdc  # pyright: ignore[reportMissingImports]
        from torch_fidelity import metric_prc  # pyright: ignore[reportMissingImports]
    rows = []
    for name, (x, y) in {"64-d Gaussians": gaussians(), "digits, mnist-v1": digits()[:2]}.items():
        x, y = x.astype(np.float64), y.astype(np.float64)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = compute_prdc(x, y, nearest_k=5)
        ours = prdc.prdc(real=x, fake=y, k=5)._asdict()
        rows += [Row(k, name, "prdc", ours[k], float(v), 1e-5) for k, v in theirs.items()]
        theirs = metric_prc.prc_features_to_metric(
            torch.from_numpy(y), torch.from_numpy(x), verbose=False
        )
        ours = prdc.prdc(real=x, fake=y, k=3)._asdict()
        rows += [
            Row(f"{k}, k = 3", name, "torch-fidelity", ours[k], theirs[k], 1e-5)
            for k in ("precision", "recall")
        ]
    return rows


def of_similarity() -> list[Row]:
    """SSIM and PSNR against scikit-image, in float64: digits, and coloured noise."""
    from skimage import metrics  # pyright: ignore[reportMissingImports]

    noisy, clean = digits()[2:]
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (20, 32, 48, 3), np.uint8)
    paler = np.clip(0.7 * colours + rng.normal(0, 20, colours.shape), 0, 255).astype(np.uint8)
    rows = []
    pairs = {"digits and noise": (clean[:200], noisy[:200]), "colours": (colours, paler)}
    for name, (a, b) in pairs.items():
        theirs = [
            metrics.structural_similarity(
                p.astype(np.float64), q.astype(np.float64), data_range=255, channel_axis=-1,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            )
            for p, q in zip(a, b, strict=True)
        ]  # fmt: skip
        ours = similarity.ssim(a, b, 255)
        rows.append(Row("ssim", name, "scikit-image", ours, float(np.mean(theirs)), 1e-5))
        theirs = [
            metrics.peak_signal_noise_ratio(p, q, data_range=255) for p, q in zip(a, b, strict=True)
        ]
        ours = similarity.psnr(a, b, 255)
        rows.append(Row("psnr", name, "scikit-image", ours, float(np.mean(theirs)), 1e-5))
    return rows


GROUPS: dict[str, Callable[[], list[Row]]] = {
    "fid": of_fid, "kid, is": of_kid_and_is, "prdc": of_prdc, "similarity": of_similarity,
}  # fmt: skip


def table(rows: list[Row]) -> str:
    """Markdown."""
    names = ("torch-fidelity", "pytorch-fid", "prdc", "scikit-image", "scipy", "numpy")
    lines = [
        "| metric | of | reference | gengen | reference's | relative difference |",
        "|---|---|---|---:|---:|---:|",
        *(
            f"| {r.metric} | {r.features} | {r.reference} | {r.ours:.9g} | {r.theirs:.9g} "
            f"| {r.difference:.0e} |"
            for r in rows
        ),
        "",
        f"With {', '.join(f'{name} {version(name)}' for name in names)}.",
    ]
    return "\n".join(lines)


def main(args: Args) -> None:
    rows = [row for compare in GROUPS.values() for row in compare()]
    text = table(rows)
    print(text)
    if args.write:
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    worst = [row for row in rows if row.difference > row.bound]
    if worst:
        sys.exit(f"compare_metrics: beyond its bound: {worst}")


def statistics_are_shared(folder: Path) -> Any:
    """What pytorch-fid reads of our file: (mu, sigma), and ours of theirs."""
    with without_torchvision():
        from pytorch_fid import fid_score  # pyright: ignore[reportMissingImports]
    made = statistics.of_features(gaussians()[0], "test", "ab" * 32)
    statistics.save(folder / "ours.npz", made)
    read = fid_score.compute_statistics_of_path(str(folder / "ours.npz"), None, 1, 1, "cpu")
    return made, read


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
