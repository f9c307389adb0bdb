"""What was measured about XLA's CPU backend, in one place; accelerators are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from gengen.types import PyTree


def on_cpu() -> bool:
    """Whether programs are compiled for the CPU."""
    return jax.default_backend() == "cpu"


def scan(body: Callable, carry: PyTree, xs: PyTree, length: int) -> tuple[PyTree, PyTree]:
    """`lax.scan`, unrolled on CPU, where the gradient of a convolution in a loop is 40× slower."""
    return jax.lax.scan(body, carry, xs, length, unroll=length if on_cpu() else 1)


def compiler_options() -> dict[str, Any]:
    """For programs that run many times: what `benchmarks/compile_options.py` showed to win.

    On CPU, jaxlib 0.10's fusion of convolutions makes their weight gradients 2-4 times slower than
    no fusion.
    """
    return _known({"xla_cpu_experimental_ynn_fusion_type": ""})


def run_once_options() -> dict[str, Any]:
    """For programs that run once: compiled in a fifth of the time, to slower code."""
    return _known({"xla_backend_optimization_level": 0})


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
