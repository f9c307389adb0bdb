"""What was measured about XLA's CPU backend, in one place; accelerators are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gengen.types import PyTree


def on_cpu() -> bool:
    """Whether programs are compiled for the CPU."""
    return jax.default_backend() == "cpu"


def scan(body: Callable, carry: PyTree, xs: PyTree, length: int) -> tuple[PyTree, PyTree]:
    """`lax.scan`, unrolled on CPU, where the gradient of a convolution in a loop is 40× slower."""
    return jax.lax.scan(body, carry, xs, length, unroll=length if on_cpu() else 1)


@jax.custom_vjp
def computed_once(x: jax.Array) -> jax.Array:
    """Itself, x; but on CPU computed before what uses it, and so is its gradient.

    Else each sum over x is fused with all that x is made of: along a residual stream, where x is a
    sum of all blocks so far, the sums of a U-Net's gradient took half of the time.
    """
    return jax.lax.optimization_barrier(x) if on_cpu() else x


# The gradient is used by four loops of the convolution before: its own, two of the kernel, one of
# the bias.
computed_once.defvjp(lambda x: (computed_once(x), None), lambda _, dx: (set_apart(dx),))


def set_apart(x: jax.Array) -> jax.Array:
    """Itself, x [..., C]; but on CPU never a part of the loop that uses it.

    XLA would compute it again for each number that it is used for, eight times slower where it is
    a gain or shift of few numbers; barriers do not hold it, a product with the identity does.
    """
    return x @ jnp.eye(x.shape[-1], dtype=x.dtype) if on_cpu() else x


def mean_of_places(x: jax.Array) -> jax.Array:
    """The mean of x [B, ..., C] over all but its first and last axes: [B, C].

    On CPU a product with ones: XLA's sums over the middle of an array take five times as long.
    """
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    if not on_cpu():
        return flat.mean(1)
    ones = jnp.full((x.shape[0], 1, flat.shape[1]), 1 / flat.shape[1], x.dtype)
    return jax.lax.batch_matmul(ones, flat)[:, 0]


@jax.custom_vjp
def scale_and_shift(x: jax.Array, gain: jax.Array, shift: jax.Array) -> jax.Array:
    """Of x [B, ..., C], gain and shift [B, C]: x · gain + shift; its gradient by the same means."""
    places = (-1, *(1,) * (x.ndim - 2), x.shape[-1])
    return x * gain.reshape(places) + shift.reshape(places)


def _forward(x: jax.Array, gain: jax.Array, shift: jax.Array):
    return scale_and_shift(x, gain, shift), (x, gain)


def _backward(kept: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, gain = kept
    num = x[0, ..., 0].size
    by_gain, by_shift = (num * mean_of_places(d) for d in (dy * x, dy))
    return scale_and_shift(dy, gain, jnp.zeros_like(gain)), by_gain, by_shift


scale_and_shift.defvjp(_forward, _backward)


def compiler_options() -> dict[str, Any]:
    """For programs that run many times: what `benchmarks/compile_options.py` showed to win.

    On CPU, jaxlib 0.10's fusion of convolutions makes their weight gradients 2-4 times slower than
    no fusion.
    """
    return _known({"xla_cpu_experimental_ynn_fusion_type": ""})


def jit(*static_argnums: int, often: bool = True) -> Callable[[Callable], Callable]:
    """Return a decorator: `jax.jit` with the compiler options that suit the program.

    Where the function is called while another program is traced, it becomes a part of it without
    options of its own: the outer program's options hold then, and JAX refuses others.

    Args:
        *static_argnums: positions of the arguments that are compiled in, as in `jax.jit`.
        often: whether the program runs so often that `compiler_options` pay. False: XLA's default
            options, exactly as plain `jax.jit`.
    """
    return _jit(static_argnums, compiler_options if often else dict)


def jit_once(function: Callable) -> Callable:
    """`jax.jit` of a program that runs once: compiled in a fifth of the time, to slower code."""
    return _jit((), _quick_options)(function)


def _quick_options() -> dict[str, Any]:
    return _known({"xla_backend_optimization_level": 0})


def _jit(
    static_argnums: tuple[int, ...], options: Callable[[], dict[str, Any]]
) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        part = jax.jit(function, static_argnums=static_argnums)

        @cache
        def whole() -> Callable:  # not before the backend is known
            known = options()
            if not known:
                return part
            return jax.jit(function, static_argnums=static_argnums, compiler_options=known)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            seen = (args, kwargs, jnp.zeros(()))  # a tracer wherever a program is traced
            traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(seen))
            return (part if traced else whole())(*args, **kwargs)

        return call

    return decorate


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, on CPU, if this jaxlib knows them; else none."""
    return options if on_cpu() and _is_known(tuple(options.items())) else {}


@cache
def _is_known(options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(jnp.zeros(())).compile()
    except Exception:  # an unknown option is an error of XLA's own, of no fixed class
        return False
    return True
