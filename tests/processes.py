"""The command in processes of their own, as users run it: on one device, without test settings."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

# Tests compile much and compute little: without LLVM's optimisation and MLIR's kernels the same
# programs take half the time, and in one piece, not 32 for idle cores, a fifth less. (A jaxlib that
# does not know a flag says so and stops: later ones have no other kernels.)
COMPILE_QUICKLY = " ".join(
    ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    + ["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10.")
)

ROOT = Path(__file__).parents[1]
SMALL_DDPM = ("patch=2", "channels=8", "num_blocks=1", "num_groups=4", "T=10", "batch_size=8")
SMALL_WGAN = ("hidden=8,8", "latent_dim=2", "critic_batch_size=8")
# The learning rate does not depend on the number of steps: runs are stopped and go on.
VECTOR_DDPM = ("hidden_dim=16", "T=10", "batch_size=8", "warmup_steps=5", "decay_steps=0")


def as_users() -> dict[str, str]:
    """The environment, without the devices and compiler options that tests give themselves."""
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def for_few_steps() -> dict[str, str]:
    """The environment of a process that compiles much and computes little: on one device."""
    return as_users() | {"XLA_FLAGS": COMPILE_QUICKLY}


def settings(words):
    return [part for word in words for part in ("--set", word)]


def environment(**changes):
    env = as_users()
    env["PYTHONPATH"] = os.pathsep.join([*changes.pop("first", []), str(ROOT)])
    return env | changes


def command(words):
    return [sys.executable, "-m", "gengen", *map(str, words)]


def gengen(*words, cwd=None, env=None, **options):
    """Run to the end."""
    return subprocess.run(
        command(words), cwd=cwd, env=env or environment(), capture_output=True, text=True, **options
    )


def start(*words, cwd, env=None):
    """Run beside the test. Its stderr is for `process.communicate()`."""
    return subprocess.Popen(
        command(words), cwd=cwd, env=env or environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, process, seconds=240):
    """Else the process ends too: what is left open would be another test's warning."""
    end = time.monotonic() + seconds
    try:
        while not condition():
            assert process.poll() is None, "it ended before"
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
    except BaseException as error:
        process.kill()
        error.add_note(str(process.communicate()))
        raise


def checkpoints_in(folder):
    """Every whole one, also of a stage, while others are written and renamed beside them."""
    return [Path(at) for at, _, files in os.walk(folder) if "MANIFEST.json" in files]


def arrays(path):
    """Every array of a checkpoint, by its place."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        tree = reader.restore(path / "default", args=ocp.args.StandardRestore())
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_checkpoint(a, b):
    import numpy as np

    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys() and len(a) > 4
    for place in a:
        np.testing.assert_array_equal(a[place], b[place], err_msg=place)


def logged(run):
    """What `metrics.jsonl` says, times aside."""
    times = ("seconds", "preview_seconds", "examples_per_s", "host_wait")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]
