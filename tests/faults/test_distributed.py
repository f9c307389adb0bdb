"""Two processes on this machine train as one; one is killed; both go on where they were."""

import os
import signal
import socket

import pytest

from gengen.training.checkpoint import newest_valid
from tests.processes import (
    VECTOR_DDPM,
    arrays,
    assert_same_checkpoint,
    environment,
    gengen,
    logged,
    settings,
    start,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def words(steps, out, *more):
    base = ["train", "ddpm", "--data", "ring8", *settings(VECTOR_DDPM), "--steps", steps]
    base += ["--seed", 5, "--save-every", 20, "--log-every", 20, "--preview-every", 10**6]
    return [*base, "--out", out, *more]


def two(cwd, line):
    """Both processes, started."""
    common = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
    env = environment(JAX_PLATFORMS="cpu")
    return [start(*line, *common, "--process-id", i, cwd=cwd, env=env) for i in (0, 1)]


def finish(processes, timeout=300):
    ends = [p.communicate(timeout=timeout) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], ends
    return [err for _, err in ends]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    errors = finish(two(folder, words(400, "run")))
    assert "report" in errors[0] and "report" not in errors[1]  # process 0 speaks
    return folder / "run"


def newest(run):
    path = newest_valid(run / "checkpoints")
    return int(path.name) if path else 0


def test_two_processes_are_one_training(whole, tmp_path):
    """Only the order of sums differs from one process: what each draws is by position."""
    import numpy as np

    one = gengen(*words(20, "one"), cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    finish(two(tmp_path, words(20, "two")))
    a, b = (arrays(tmp_path / name / "checkpoints" / "20") for name in ("one", "two"))
    for place in a:
        np.testing.assert_allclose(a[place], b[place], rtol=1e-3, atol=1e-5, err_msg=place)
    assert [row["step"] for row in logged(tmp_path / "two")] == [20]


def test_one_of_two_is_killed_and_both_resume(whole, tmp_path, outcome):
    run = tmp_path / "run"
    processes = two(tmp_path, words(10**6, "run"))
    wait_for(lambda: newest(run) >= 40, processes[0])
    processes[1].kill()
    processes[1].communicate()
    # The survivor notices at its next exchange, and ends; nobody need wait for that here.
    try:
        _, err = processes[0].communicate(timeout=30)
        seen = f"the other ends by itself, exit code {processes[0].returncode}"
    except Exception:
        os.kill(processes[0].pid, signal.SIGKILL)
        processes[0].communicate()
        seen = "the other waits until JAX's heartbeat ends it"
    kept = newest(run)
    assert 40 <= kept < 400, kept
    finish(two(tmp_path, words(400, "run", "--resume")))
    assert_same_checkpoint(run / "checkpoints" / "400", whole / "checkpoints" / "400")
    assert logged(run) == logged(whole)
    outcome(
        "SIGKILL of one of two processes",
        f"{seen}; both are started again with `--resume` and end bitwise where two unbroken do",
        "the steps since the last checkpoint",
    )


def test_preemption_of_one_process_stops_both_at_one_step(tmp_path, outcome):
    run = tmp_path / "run"
    processes = two(tmp_path, words(10**6, "run"))
    wait_for(lambda: newest(run) >= 20, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    ends = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [1, 1], ends
    step = newest(run)
    assert f"stopped at step {step} of" in ends[0], ends
    outcome("SIGTERM to one of two processes", f"both stop at one step ({step}), saved", "nothing")
