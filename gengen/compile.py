"""Compiling a train step: the only place that knows jit from pmap, and CPU from accelerators."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen.rng import AXIS
from gengen.types import InputError, Key, Metrics, PyTree, TrainState
from gengen.xla import compiler_options, on_cpu, scan


class CompiledStep(NamedTuple):
    """A compiled train step: called as the step itself, with the whole batch.

    Attributes:
        run: (key, state, batch, *shared) -> (state, metrics). The state is donated: its buffers are
            gone afterwards. Under pmap it may be given plain or as `put` returns it, and comes
            back as `put` returns it.
        put: puts a pytree (a state, or what is shared by all steps) where `run` wants it.
        get: takes one copy of a state back.
        num_devices: how many devices share the batch.
    """

    run: Callable[..., tuple[TrainState, Metrics]]
    put: Callable[[PyTree], PyTree]
    get: Callable[[PyTree], PyTree]
    num_devices: int

    def __call__(self, key: Key, state: TrainState, batch: PyTree, *shared: Any):
        """Run one dispatch: `inner` train steps."""
        return self.run(key, state, batch, *shared)


def compile_step(
    step: Callable[..., tuple[TrainState, Metrics]],
    mode: str = "jit",
    inner: int = 1,
    num_devices: int | None = None,
) -> CompiledStep:
    """Compile `step(key, state, batch, *shared) -> (state, metrics)`.

    Args:
        step: a pure train step. The key is the same at every call of it; `Method.train_step`
            derives its own from `state.step`.
        mode: "jit", one device; or "pmap", the batch split over devices, whose gradients and
            float metrics the step averages over the axis `gengen.rng.AXIS`.
        inner: train steps per dispatch, in one `lax.scan` (unrolled on CPU). If above 1, the batch
            has a leading axis of that length, and metrics are means over it.
        num_devices: of pmap; all local ones if None.

    Raises:
        InputError: for an unknown mode, or a batch that the devices cannot share equally.
    """
    if inner < 1:
        raise InputError(f"inner = {inner}, but a dispatch runs at least 1 step")
    many = step if inner == 1 else _repeated(step, inner)
    if mode == "jit":
        run = jax.jit(many, donate_argnums=1, compiler_options=compiler_options())
        return CompiledStep(run, put=jax.device_put, get=lambda tree: tree, num_devices=1)
    if mode == "pmap":
        return _pmapped(many, 0 if inner == 1 else 1, num_devices or jax.local_device_count())
    raise InputError(f'mode = {mode!r}, but it is "jit" or "pmap"')


def _repeated(step: Callable, inner: int) -> Callable:
    def many(key: Key, state: TrainState, batches: PyTree, *shared: Any):
        body = lambda state, batch: step(key, state, batch, *shared)  # noqa: E731
        state, metrics = scan(body, state, batches, inner)
        return state, jax.tree.map(lambda m: jnp.mean(m, 0), metrics)

    return many


def _pmapped(step: Callable, batch_axis: int, num_devices: int) -> CompiledStep:
    devices = jax.local_devices()[:num_devices]
    if len(devices) < num_devices:
        raise InputError(f"{num_devices} devices asked for, but there are {len(devices)}")

    def split(x: Any) -> Any:
        """[..., B, ...] -> [devices, ..., B / devices, ...]."""
        size = x.shape[batch_axis]
        if size % num_devices:
            raise InputError(
                f"a batch of {size} examples cannot be shared by {num_devices} devices: "
                f"take a multiple of {num_devices}"
            )
        parts = x.reshape(*x.shape[:batch_axis], num_devices, -1, *x.shape[batch_axis + 1 :])
        return parts.swapaxes(0, batch_axis) if batch_axis else parts

    def put(tree: PyTree) -> PyTree:
        def stack(x: Any) -> Any:
            copies = np.broadcast_to(np.asarray(x), (num_devices, *np.shape(x)))
            return jax.pmap(lambda x: x, axis_name=AXIS, devices=devices)(copies)

        return jax.tree.map(stack, tree)

    def get(tree: PyTree) -> PyTree:
        # A shard's own data: indexing y[0] would copy through a gather over devices.
        return jax.tree.map(lambda y: y.addressable_shards[0].data.squeeze(0), tree)

    @cache
    def compiled(num_shared: int) -> Callable:
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0, 0) + (0,) * num_shared,
            out_axes=(0, None),
            devices=devices,
            donate_argnums=1,
        )

    def run(key: Key, state: TrainState, batch: PyTree, *shared: Any):
        if state.step.ndim == 0:
            state = put(state)
        return compiled(len(shared))(key, state, jax.tree.map(split, batch), *shared)

    return CompiledStep(run, put, get, num_devices)


def default_inner() -> int:
    """Train steps per dispatch: many where dispatch costs, one on CPU (see `xla.scan`)."""
    return 1 if on_cpu() else 20


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start is quick.

    A folder that cannot be written is no error: compiling is only slower.
    """
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "gengen" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
