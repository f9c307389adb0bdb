"""Eight devices on any machine, and array shapes checked at every call."""

import atexit
import gc
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.processes import COMPILE_QUICKLY

# Before JAX is imported: it reads these once.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), COMPILE_QUICKLY, "--xla_force_host_platform_device_count=8"]
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook finds it by name

# Programs compiled by one test are found by others, of all workers; never in the user's folder.
if "GENGEN_TESTS_PROGRAMS" not in os.environ:
    os.environ["GENGEN_TESTS_PROGRAMS"] = tempfile.mkdtemp(prefix="gengen-programs-")
    atexit.register(shutil.rmtree, os.environ["GENGEN_TESTS_PROGRAMS"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:  # else it frees program by program, for many seconds
    atexit.register(os._exit, 0)
jax.config.update("jax_compilation_cache_dir", os.environ["GENGEN_TESTS_PROGRAMS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Stays installed: every public annotation of gengen is checked while tests run.
install_import_hook("gengen", "tests.typecheck.check")

MAPS = Path("/proc/self/maps")
MANY = 40_000  # pieces of memory; Linux grants a process 65,530, and LLVM falls over beyond
FEW = 100  # programs


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs are several pieces of memory each, and JAX keeps them all."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def forget_lowered():
    """JAX keeps 2,048 programs as MLIR too: 3 MB each, all looked through for each new one.

    Late in the suite it took four times as long to lower a program. What is compiled stays; where
    JAX calls its caches otherwise, tests are slower again, and that is all.
    """
    yield
    with suppress(ImportError, AttributeError):
        from jax._src.interpreters.pxla import _cached_lowering_to_hlo
        from jax._src.pjit import _pjit_lower

        if _pjit_lower.cache_info().currsize > FEW:
            _pjit_lower.cache_clear()
            _cached_lowering_to_hlo.cache_clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A file's tests run in one worker, where its fixtures and programs are made once."""
    for item in items:
        if not any(item.iter_markers("xdist_group")) and not any(item.iter_markers("slow")):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish():
    """What is there now stays: to look through it again and again took a twentieth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
