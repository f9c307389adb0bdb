"""Checkpoints: whole or not used, and the bad one named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.steps import Skipping
from gengen.training.checkpoint import (
    INDEX,
    Checkpoints,
    fault_of,
    newest_valid,
    restore,
    restore_variables,
    write_manifest,
)
from gengen.types import TrainState


def state(step=1, width=3, ema=True):
    params = {"w": jnp.arange(width, dtype=jnp.float32) + step, "b": jnp.float32(step)}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        opt_state=({"mu": jnp.ones(width)}, ()),
        mutables={"batch_stats": {"mean": jnp.zeros(2)}},
        ema=params if ema else None,
    )


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step))
    return tmp_path


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_the_newest_are_kept_and_the_newest_is_restored(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["2", "3"]
    got = restore(saved, state())
    assert got is not None and int(got.step) == 3
    np.testing.assert_array_equal(got.params["w"], state(3).params["w"])
    assert got.opt_state[1] == () and got.params["b"].shape == ()


@pytest.mark.parametrize("fault", ["flip", "truncate", "remove", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_named(saved, fault):
    victim = largest_file(saved / "3")
    if fault == "flip":
        flip(victim)
    elif fault == "truncate":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif fault == "remove":
        victim.unlink()
    else:
        (saved / "3" / "MANIFEST.json").unlink()
    said = []
    got = restore(saved, state(), said.append)
    assert got is not None and int(got.step) == 2
    assert len(said) == 1 and "checkpoint 3 is not used" in said[0]


def test_every_flipped_byte_of_every_file_is_seen(saved):
    step = saved / "3"
    for path in sorted(p for p in step.rglob("*") if p.is_file() and p.name != "MANIFEST.json"):
        good = path.read_bytes()
        if not good:
            continue
        flip(path)
        assert fault_of(step) is not None, path
        path.write_bytes(good)
    assert fault_of(step) is None


def test_none_where_there_is_nothing_valid(saved, tmp_path):
    assert restore(tmp_path / "nowhere", state()) is None
    for step in ("2", "3"):
        flip(largest_file(saved / step))
    assert newest_valid(saved) is None


def test_a_damaged_step_is_saved_again(saved):
    flip(largest_file(saved / "3"))
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(state(3))
    got = restore(saved, state())
    assert got is not None and int(got.step) == 3


def test_a_checkpoint_of_another_model_is_refused(saved):
    with pytest.raises(ValueError, match="another model"):
        restore(saved, state(width=4))
    with pytest.raises(ValueError, match="another model"):
        restore(saved, state(ema=False))


def test_variables_need_no_optimiser(saved):
    variables = restore_variables(saved)
    assert variables is not None and set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(variables["params"]["w"], state(3).params["w"])


def test_saving_copies_what_the_next_step_will_overwrite(tmp_path):
    host = state(1)
    host = host.replace(params={"w": np.arange(3.0, dtype=np.float32), "b": np.zeros((), "f")})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(host)
        host.params["w"][:] = -1  # while the writer is still at work
    got = restore_variables(tmp_path)
    assert got is not None
    like = restore(tmp_path, host)
    assert like is not None
    np.testing.assert_array_equal(like.params["w"], [0, 1, 2])


def test_when_all_are_damaged_the_first_new_one_is_kept(saved):
    """Orbax counts steps, not whole ones: it would keep the two damaged and drop the new."""
    for step in ("2", "3"):
        flip(largest_file(saved / step))
    with Checkpoints(saved, keep=2) as checkpoints:
        checkpoints.save(state(1))
    assert sorted(p.name for p in saved.iterdir()) == ["1", "2.damaged", "3.damaged"]
    got = restore(saved, state())
    assert got is not None and int(got.step) == 1


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a b", "a%20b", "a#b", "a\\b", "ä{x}"])
def test_any_name_of_a_folder_will_do(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    for step in (1, 2):
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(state(step))
    got, variables = restore(folder, state()), restore_variables(folder)
    assert got is not None and int(got.step) == 2 and variables is not None
    np.testing.assert_array_equal(variables["params"]["w"], state(2).params["w"])
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_what_orbax_did_not_write_is_not_vouched_for(saved):
    (saved / "3" / INDEX).unlink()
    with pytest.raises(OSError, match="was not written"):
        write_manifest(saved / "3")


def guarded(inner, skipped=0):
    """The optimiser state of runs that skipped steps before schema 3."""
    return optax.ApplyIfFiniteState(
        jnp.int32(skipped), jnp.bool_(skipped == 0), jnp.int32(skipped), inner
    )


def test_earlier_runs_that_skip_steps_are_converted(tmp_path):
    adam = optax.adam(0.1).init({"w": jnp.ones(3)})
    for name, former, inner, count in [
        ("one", guarded(adam, 2), adam, 2),
        ("game", {"x": guarded(adam, 1), "y": guarded(adam, 3)}, {"x": adam, "y": adam}, 3),
    ]:
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(state(1).replace(opt_state=former))
        like = state(1).replace(
            opt_state=Skipping(jax.tree.map(jnp.ones_like, inner), jnp.int32(0))
        )
        got = restore(tmp_path / name, like)
        assert got is not None and int(got.opt_state.in_a_row) == count
        chex.assert_trees_all_equal(got, like.replace(opt_state=Skipping(inner, jnp.int32(count))))
