"""Interrupting what computes in XLA."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gengen.training.signals import interruptible
from tests.processes import environment

# A loop of XLA that takes a minute, interrupted after half a second.
SLOW = """
import os, signal, sys, threading, time
import jax, jax.numpy as jnp
from gengen import cli
from gengen.training.signals import interruptible

slow = jax.jit(lambda x: jax.lax.fori_loop(0, 10**9, lambda i, x: jnp.sin(x + i), x))
start = threading.Event()

def press():
    start.wait(); time.sleep(0.5); print(time.time(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

def compute(self):
    interruptible(lambda: (start.set(), slow(jnp.ones(8)).block_until_ready()))

cli.List.__call__ = compute
sys.argv = ["gengen", "list"]
threading.Thread(target=press, daemon=True).start()
sys.exit(cli.main())
"""


def test_a_value_and_an_error_pass_through():
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


@pytest.fixture
def ctrl_c_raises():
    """Set Python's own handler: of processes in the background, SIGINT may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_is_answered_while_the_function_runs():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: time.sleep(3))
    assert time.monotonic() - since < 1.5


def test_a_stop_event_abandons_the_function():
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: time.sleep(3), stop)
    assert time.monotonic() - since < 1.5


@pytest.mark.slow
def test_a_command_ends_though_xla_computes():
    done = subprocess.run(
        [sys.executable, "-c", SLOW], env=environment(), capture_output=True, text=True, timeout=50
    )
    assert time.time() - float(done.stdout) < 2
    assert done.returncode == 1 and done.stderr == "gengen: interrupted\n"
