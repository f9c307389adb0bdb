"""The order in which metrics are shown: the loss first, technical ones last."""

from __future__ import annotations

from collections.abc import Iterable

TECHNICAL = ("host_wait", "skipped", "examples_per_s")
TECHNICAL_ENDINGS = ("gradient_norm", "learning_rate")


def is_technical(name: str) -> bool:
    """Return whether a metric is about the optimiser or the machine, not the model."""
    return name in TECHNICAL or name.endswith(TECHNICAL_ENDINGS)


def ordered(names: Iterable[str]) -> list[str]:
    """Sort names of metrics for a reader.

    `loss` comes first, then other losses (`critic_loss`), then the model's other metrics in the
    order given, then the technical ones.
    """

    def rank(name: str) -> int:
        if is_technical(name):
            return 3
        return 0 if name == "loss" else 1 if name.endswith("loss") else 2

    return sorted(names, key=rank)


def main_metrics(names: Iterable[str], most: int = 3) -> list[str]:
    """Return the metrics that stand for a training: at most `most`, the loss first."""
    return [name for name in ordered(names) if not is_technical(name)][:most]
