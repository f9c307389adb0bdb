"""Default settings for data of any shape, and the optimiser, of all diffusion models.

`cfg` is a Config of `gengen.diffusion.ddpm`, or of a model built on it.
"""

from __future__ import annotations

from typing import Any

import optax

from gengen.contract import Task
from gengen.optim import learning_rate
from gengen.types import Shape


def task_fields(task: Task) -> dict[str, Any]:
    """Return the fields of a Config that depend on the data, the number of steps and the device."""
    cpu = not task.accelerator
    warmup = min(50 if cpu else 500, task.steps // 4)
    fields: dict[str, Any] = {
        "shape": task.shape, "warmup_steps": warmup, "decay_floor": 0.02,
        "decay_steps": task.steps if task.steps > warmup else 0,
    }  # fmt: skip
    if len(task.shape) == 1:
        return fields | {"ema_decay": 0.995 if cpu else 0.999}
    tiny = max(task.shape[:2]) <= 8
    fields["patch"] = patch_size(task.shape, 4 if tiny else 7 if cpu else 14)
    if not cpu:
        return fields | {
            "num_blocks": (2, 2), "skips": "block", "batch_size": 128, "learning_rate": 1e-3,
            "b2": 0.999, "ema_decay": 0.999,
        }  # fmt: skip
    if tiny:  # one level, which compiles quickly
        fields |= {"channels": (64,), "num_blocks": (2,)}
    return fields


def patch_size(shape: Shape, least: int = 7) -> int:
    """Return the largest of 4, 2, 1 that divides an image into at least `least` patches a side."""
    sides = shape[:2]
    fits = (p for p in (4, 2) if not any(n % p for n in sides) and min(sides) // p >= least)
    return next(fits, 1)


def optimizer(cfg: Any) -> optax.GradientTransformation:
    """Return Adam with a warmed-up, optionally decaying learning rate, and gradient clipping."""
    rate = learning_rate(cfg)
    rate = rate if callable(rate) else optax.constant_schedule(rate)
    adam = optax.inject_hyperparams(optax.adam)(rate, b2=cfg.b2)  # the rate becomes a metric
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adam)
