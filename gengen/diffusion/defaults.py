"""Default settings for data of any shape, and the optimiser, of all diffusion models.

`cfg` is a Config of `gengen.diffusion.ddpm`, or of a model built on it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import optax

from gengen.contract import Task
from gengen.nn.unet import RESAMPLE, SKIPS
from gengen.optim import learning_rate
from gengen.types import InputError, Shape


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


def check_network(cfg: Any) -> None:
    """Check the fields of the data, the network and the batches.

    Raises:
        InputError: naming the field and its value.
    """
    for name in ("batch_size", "hidden_dim"):
        if getattr(cfg, name) < 1:
            raise InputError(f"Config.{name} = {getattr(cfg, name)}; it must be at least 1")
    if len(cfg.shape) not in (1, 3) or min(cfg.shape, default=0) < 1:
        raise InputError(f"Config.shape = {cfg.shape}; it must be (H, W, C) or (D,)")
    if cfg.patch < 0:
        raise InputError(f"Config.patch = {cfg.patch}; it must be at least 0")
    if not cfg.channels or len(cfg.num_blocks) != len(cfg.channels):
        raise InputError(
            f"Config.num_blocks = {cfg.num_blocks} and Config.channels = {cfg.channels}; "
            "both must have one number per level"
        )
    for name, known in (("skips", SKIPS), ("resample", RESAMPLE)):
        check_choice(cfg, name, known)
    if not 0 <= cfg.dropout < 1:
        raise InputError(f"Config.dropout = {cfg.dropout}; it must be in [0, 1)")


def check_choice(cfg: Any, name: str, known: Collection[str]) -> None:
    """Check that a field is one of the known words.

    Raises:
        InputError: naming the field, its value and the words.
    """
    if getattr(cfg, name) not in known:
        raise InputError(
            f"Config.{name} = {getattr(cfg, name)!r}; it must be one of {', '.join(known)}"
        )


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
