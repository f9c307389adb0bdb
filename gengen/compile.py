"""Compiling a train step: the only place that knows jit from pmap, and CPU from accelerators."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gengen.rng import AXIS
from gengen.steps import mean_metrics
from gengen.types import InputError, Key, Metrics, PyTree, TrainState
from gengen.xla import compiler_options, on_cpu, scan

Devices = list[Any]  # of jax.Device


class CompiledStep(NamedTuple):
    """A compiled train step: called as the step itself, with this process's part of the batch.

    Attributes:
        run: (key, state, batch, *shared) -> (state, metrics). The state is donated: its buffers are
            gone afterwards. It may be given plain or as `put` returns it, and comes back as `put`
            returns it; the batch plain or as `place` returns it.
        put: puts a pytree (a state, or what is shared by all steps) where `run` wants it.
        get: takes one copy of a state back.
        place: puts this process's part of a batch where `run` wants it: all of the batch, if there
            is one process.
        num_devices: how many devices share the batch, those of other processes included.
    """

    run: Callable[..., tuple[TrainState, Metrics]]
    put: Callable[[PyTree], PyTree]
    get: Callable[[PyTree], PyTree]
    place: Callable[[PyTree], PyTree]
    num_devices: int

    def __call__(self, key: Key, state: TrainState, batch: PyTree, *shared: Any):
        """Run one dispatch: `inner` train steps."""
        return self.run(key, state, batch, *shared)

    def temporary_bytes(self, *args: PyTree) -> int | None:
        """Return the bytes of the program's temporaries, as XLA estimates them; None if unknown.

        Args:
            args: of a call, or their shapes and dtypes. After that call nothing is compiled again.
        """
        lower = getattr(self.run, "lower", None)
        if lower is None:  # several devices: not one program
            return None
        memory = lower(*args).compile().memory_analysis()
        return getattr(memory, "temp_size_in_bytes", None)


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
        mode: "jit": one program for the whole batch, which XLA splits over the devices; or "pmap":
            the program of one device's share of the batch, whose gradients and float metrics the
            step averages over the axis `gengen.rng.AXIS`.
        inner: train steps per dispatch, in one `lax.scan` (unrolled on CPU). If above 1, the batch
            has a leading axis of that length, and metrics are means over it.
        num_devices: if None, under jit one device, under pmap all; with several processes, all of
            theirs in either case.

    Raises:
        InputError: for an unknown mode, or a batch that the devices cannot share equally.
    """
    if inner < 1:
        raise InputError(f"inner = {inner}, but a dispatch runs at least 1 step")
    many = step if inner == 1 else _repeated(step, inner)
    devices = devices_for(mode, num_devices)
    batch_axis = 0 if inner == 1 else 1
    if mode == "pmap":
        return _pmapped(many, batch_axis, devices)
    if len(devices) > 1:
        return _sharded(many, batch_axis, devices)
    run = jax.jit(many, donate_argnums=1, compiler_options=compiler_options())
    return CompiledStep(run, jax.device_put, lambda tree: tree, jax.device_put, 1)


def devices_for(mode: str, num_devices: int | None) -> Devices:
    """The devices that `compile_step` would use; its arguments and errors."""
    if mode not in ("jit", "pmap"):
        raise InputError(f'mode = {mode!r}, but it is "jit" or "pmap"')
    devices, processes = jax.devices(), jax.process_count()
    if num_devices is None:
        num_devices = 1 if mode == "jit" and processes == 1 else len(devices)
    if not 1 <= num_devices <= len(devices):
        raise InputError(f"{num_devices} devices asked for, but there are {len(devices)}")
    if processes > 1 and num_devices < len(devices):
        raise InputError(
            f"{num_devices} devices asked for, but {processes} processes share all of their "
            f"{len(devices)}: leave the number out"
        )
    return devices[:num_devices]


def _repeated(step: Callable, inner: int) -> Callable:
    def many(key: Key, state: TrainState, batches: PyTree, *shared: Any):
        body = lambda state, batch: step(key, state, batch, *shared)  # noqa: E731
        state, metrics = scan(body, state, batches, inner)
        return state, mean_metrics(metrics)

    return many


def _check_shared(size: int, devices: int) -> None:
    if size % devices:
        raise InputError(
            f"a batch of {size} examples cannot be shared by {devices} devices: "
            f"take a multiple of {devices}"
        )


def _first_copy(y: jax.Array) -> jax.Array:
    # A shard's own data: indexing y[0] would copy through a gather over devices.
    return y.addressable_shards[0].data


def _sharded(step: Callable, batch_axis: int, devices: Devices) -> CompiledStep:
    """One program of the whole batch, split by XLA: each device holds a copy of the state."""
    mesh = Mesh(np.array(devices), (AXIS,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS))
    local = len(mesh.local_devices)

    def is_at(tree: PyTree, place: NamedSharding) -> bool:
        leaf = next(iter(jax.tree.leaves(tree)), None)  # one speaks for all
        return isinstance(leaf, jax.Array) and leaf.sharding == place

    def put(tree: PyTree) -> PyTree:
        def copy(x: Any) -> jax.Array:
            host = np.asarray(x)
            return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])

        return tree if is_at(tree, everywhere) else jax.tree.map(copy, tree)

    def place(batch: PyTree) -> PyTree:
        def part(x: Any) -> jax.Array:
            _check_shared(x.shape[batch_axis], local)
            return jax.make_array_from_process_local_data(split, np.asarray(x))

        return batch if is_at(batch, split) else jax.tree.map(part, batch)

    program = jax.jit(
        step, donate_argnums=1, out_shardings=everywhere, compiler_options=compiler_options()
    )

    def run(key: Key, state: TrainState, batch: PyTree, *shared: Any):
        return program(key, put(state), place(batch), *map(put, shared))

    return CompiledStep(run, put, lambda t: jax.tree.map(_first_copy, t), place, len(devices))


class _Placed(NamedTuple):
    """A batch that is split already: by its shape it could be taken for a whole one."""

    parts: PyTree


def _pmapped(step: Callable, batch_axis: int, devices: Devices) -> CompiledStep:
    """The program of one device's share, run by all of them; a state has a leading device axis."""
    here = [device for device in devices if device.process_index == jax.process_index()]

    def place(batch: PyTree) -> _Placed:
        def split(x: Any) -> Any:
            """[..., B, ...] -> [devices, ..., B / devices, ...]."""
            _check_shared(x.shape[batch_axis], len(here))
            parts = x.reshape(*x.shape[:batch_axis], len(here), -1, *x.shape[batch_axis + 1 :])
            return parts.swapaxes(0, batch_axis) if batch_axis else parts

        return batch if isinstance(batch, _Placed) else _Placed(jax.tree.map(split, batch))

    # All leaves by one program: one of each would take longer to compile than a small step.
    spread = jax.pmap(lambda tree: tree, axis_name=AXIS, devices=devices)

    def put(tree: PyTree) -> PyTree:
        if not jax.tree.leaves(tree):
            return tree
        repeat = lambda x: np.broadcast_to(np.asarray(x), (len(here), *np.shape(x)))  # noqa: E731
        return spread(jax.tree.map(repeat, tree))

    def get(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda y: _first_copy(y).squeeze(0), tree)

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
        return compiled(len(shared))(key, state, place(batch).parts, *shared)

    return CompiledStep(run, put, get, place, len(devices))


def default_inner() -> int:
    """Train steps per dispatch: many where dispatch costs, one on CPU (see `xla.scan`)."""
    return 1 if on_cpu() else 20


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start is quick.

    A folder chosen by JAX_COMPILATION_CACHE_DIR is used instead. A folder that cannot be written is
    no error: compiling is only slower.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
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
