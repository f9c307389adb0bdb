"""Validation of a run by -log_prob, or L1 of translations, of held-out examples: how often."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import jax
import numpy as np

from gengen.data import AnyData, Dataset
from gengen.errors import InputError
from gengen.runs import conditions, discover, translations
from gengen.training.plan import check_positive
from gengen.training.record import say
from gengen.training.validation import Validation, split
from gengen.types import PyTree, data_of

CHUNK = 250  # held-out examples at a time
TIMES, LEAST_STEPS = 20, 50  # validations of a run at most; steps between two of them at least
EXAMPLES = 1000  # of a validation at most
# For models whose log_prob takes one network evaluation for each of T steps.
TIMES_OF_STEPS, EXAMPLES_OF_STEPS, EVALUATIONS = 5, 16, 4000


def settings(
    cfg: Any,
    before: dict[str, Any],
    share: float | None,
    steps: int,
    every: int | None = None,
    patience: int | None = None,
    num: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Return how a run is validated, as `config.json` keeps it: {} if not at all.

    The defaults bound the time of validation by counts alone, and so a resumed run is validated as
    an unbroken one.

    Args:
        cfg: Config of the model.
        before: the settings before a resume, or of a file.
        share: of the data that is held out; None: as before.
        steps: train steps in all.
        every: steps between validations.
        patience: validations without a lower loss after which training ends.
        num: held-out examples of each validation.
        resume: whether a run is continued.

    Raises:
        InputError: for settings of validation without held-out data, or on resume another `num`.
    """
    share = before.get("hold_out", 0.0) if share is None else share
    if not share:
        if patience or every or num:
            raise InputError(
                "--patience, --validate-every and --validate-num need --hold-out, such as 0.1"
            )
        return {}
    check_positive(validate_every=every, patience=patience, validate_num=num)
    if resume and before and num is not None and num != before.get("num"):
        was = before.get("num") or "all"
        raise InputError(
            f"validate_num was {was}, now {num}: losses on other examples cannot be compared"
        )
    every = every or before.get("every") or default_every(cfg, steps)
    patience = before.get("patience") if patience is None else patience
    found = {"hold_out": share, "every": every, "patience": patience}
    if resume and before and before.get("num") is None:
        return found  # a run of a version that took all examples
    return found | {"num": num or before.get("num") or default_num(cfg)}


def default_every(cfg: Any, steps: int) -> int:
    """Return the steps between validations: in all at most 20, or 5 where log_prob is slow."""
    times = TIMES_OF_STEPS if _evaluations(cfg) > 1 else TIMES
    return min(steps, max(LEAST_STEPS, math.ceil(steps / times)))


def default_num(cfg: Any) -> int:
    """Return the number of held-out examples of each validation: fewer where log_prob is slow."""
    evaluations = _evaluations(cfg)
    if evaluations == 1:
        return EXAMPLES
    return min(EXAMPLES, max(EXAMPLES_OF_STEPS, EVALUATIONS // evaluations))


def _evaluations(cfg: Any) -> int:
    """Return the network evaluations of log_prob of an example: T of a diffusion model."""
    return getattr(cfg, "T", 1)


def split_off(
    data: AnyData,
    module: ModuleType,
    cfg: Any,
    net: Any,
    hold_out: float,
    every: int,
    patience: int | None,
    num: int | None = None,
) -> tuple[Dataset, Validation]:
    """Return what is trained on, and how it is validated on the rest.

    Args:
        data: in memory.
        module: of the model.
        cfg: its Config.
        net: a network instead of the Config's.
        hold_out: share of the data.
        every: steps between validations.
        patience: validations without a lower loss after which training ends.
        num: examples of each validation, chosen at random once and for all; None: all.

    Raises:
        InputError: for data that cannot be split, or a model without `log_prob`.
    """
    if not isinstance(data, Dataset):
        raise InputError("--hold-out splits data in memory: these are streamed")
    data, rest = split(data, hold_out)
    some = rest if num is None or num >= len(rest) else _subset(rest, num)
    translates = translations.translates(module)
    loss = (translations.error if translates else nats)(module, cfg, some, net)
    which = f"all {len(rest)}" if some is rest else f"{len(some)} of {len(rest)}"
    by = "L1" if translates else "-log_prob"
    say(f"validation by {by} of {which} held-out examples, every {every} steps")
    return data, Validation(loss, every, patience)


def _subset(data: Dataset, num: int) -> Dataset:
    """Return `num` examples, always the same ones."""
    rows = np.sort(np.random.default_rng(1).choice(len(data), num, replace=False))
    return Dataset(data.name, data.read(rows), data.classes)


def nats(module: ModuleType, cfg: Any, data: Dataset, net: Any = None):
    """Return the mean of -log_prob over data, nats per example, as a `Validation.loss`.

    Each example is conditioned on its own label or image, where the model is conditioned.

    Raises:
        InputError: for a model that has no `log_prob`.
    """
    if not hasattr(module, "log_prob"):
        raise InputError(f"{discover.name_of(module)} has no log_prob to validate by")
    own = {} if net is None else {"net": net}

    def loss(variables: PyTree, key: Any) -> float:
        total = 0.0
        for start in range(0, len(data), CHUNK):
            batch = conditions.examples(data, np.arange(start, min(start + CHUNK, len(data))))
            one = jax.random.fold_in(key, start)
            condition = module.condition_of(cfg, batch)
            log_p = module.log_prob(cfg, variables, data_of(batch), one, condition=condition, **own)
            total -= float(np.asarray(log_p, np.float64).sum())
        return total / len(data)

    return loss
