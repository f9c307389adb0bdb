"""Several processes training as one: who they are, and what they must agree on.

The same program runs on every host; JAX's own runtime connects them. Each process reads its part of
every batch; process 0 alone writes logs and pictures; checkpoints are written together.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from gengen.types import InputError


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connect this process to the others, before anything else is asked of JAX.

    Args:
        coordinator: HOST:PORT of process 0; if None, JAX finds all three by itself: on TPU pods,
            under SLURM, Open MPI and Kubernetes.
        num_processes: how many there are.
        process_id: which this is, 0 to num_processes - 1.

    Raises:
        InputError: if only some of the three are given, they cannot be, or nothing is found.
    """
    given = (coordinator, num_processes, process_id)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise InputError(
            "--coordinator HOST:PORT, --num-processes and --process-id belong together: "
            "give all three, or none where JAX finds them (TPU pods, SLURM, Kubernetes)"
        )
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise InputError(f"--process-id {process_id}: it is 0 to {num_processes - 1}")
        if ":" not in str(coordinator):
            raise InputError(f"--coordinator {coordinator}: write it as HOST:PORT")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(
            f"the processes cannot be connected ({line}): name them by --coordinator HOST:PORT "
            "--num-processes N --process-id I"
        ) from error


def is_main() -> bool:
    """Whether this process writes logs and pictures."""
    return jax.process_index() == 0


def my_part(batch_size: int) -> slice:
    """The rows of a batch that this process reads.

    Raises:
        InputError: if the processes cannot share it equally.
    """
    count = jax.process_count()
    if batch_size % count:
        raise InputError(f"batch_size = {batch_size} is no multiple of the {count} processes")
    size = batch_size // count
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def from_main(number: int) -> int:
    """Process 0's `number`, on every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def wait_for_all(name: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def asked_to_stop(step: int, here: Any) -> bool:
    """Whether to stop after `step`: the same answer on every process at the same step.

    Args:
        step: steps taken.
        here: an event, set by this process's signals; it answers alone if there is one process.
    """
    if jax.process_count() == 1:
        return here.is_set()
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
