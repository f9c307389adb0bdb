"""Training for tests that must learn: thousands of small steps, compiled as for users."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from gengen.types import Batch, Method, TrainState
from tests.processes import COMPILE_QUICKLY

RUN_OFTEN: dict[str, Any] = {"xla_backend_optimization_level": 3}
if "fusion_emitters" in COMPILE_QUICKLY:  # which turns it off
    RUN_OFTEN["xla_cpu_use_fusion_emitters"] = True


def often(step: Callable) -> Callable:
    """A train step compiled to run often: up to twice as fast, but longer to compile."""
    return jax.jit(step, donate_argnums=1, compiler_options=RUN_OFTEN)


def train(
    method: Method,
    batch: Batch,
    steps: int,
    seed: int = 0,
    start: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
    """The state after so many steps on one batch, for networks without convolutions."""

    def step(state, _):
        return method.train_step(jax.random.key(seed + 1), state, batch)[0], None

    state = start(method.init(jax.random.key(seed), batch))
    loop = lambda state: jax.lax.scan(step, state, None, steps)[0]  # noqa: E731
    return jax.jit(loop, compiler_options=RUN_OFTEN)(state)


def falling(steps: int, rate: float = 1e-2) -> optax.GradientTransformation:
    """Adam, whose rate falls to 0 on a cosine: it ends in the minimum, not around it."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))
