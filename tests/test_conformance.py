"""What holds for every model, whatever its family.

What may differ between one device and many: only the order of sums, and dropout masks. Noise does
not: `gengen.rng` draws it by the position in the global batch.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.compile import compile_step
from gengen.runs import discover
from gengen.training.checkpoint import Checkpoints, restore, restore_variables
from tests.cases import CASES, Case, batch

KEY = jax.random.key(7)
TRACES: dict[tuple, int] = {}  # how often the step of each case was traced


# A case's tests run in one worker, so that it compiles once. Variants of a model are slow tests.
PARAMS = [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *[pytest.mark.slow] * ("-" in name)])
    for name in CASES
]


@pytest.fixture(scope="module", params=PARAMS, ids=str)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def trained(case):
    """The method, its compiled step, and the states after 0, 1 and 2 steps, on the host."""
    method = case.method(case.cfg)
    TRACES[case.model, case.cfg] = 0

    def counted(*args):
        TRACES[case.model, case.cfg] += 1
        return method.train_step(*args)

    compiled = compile_step(counted)
    state = method.init(jax.random.key(0), batch(case))
    states, metrics = [jax.device_get(state)], {}
    for seed in (0, 1):
        state, metrics = compiled(KEY, state, batch(case, seed=seed))
        states.append(jax.device_get(state))
    return method, compiled, states, metrics


def test_every_model_has_a_case():
    named = {m.name: m.trained_by for m in discover.models()}
    cases = {named[case.model] for case in CASES.values()}  # a stage may be one, too
    assert cases <= {"method", "stages"}
    loops = {name for name, how in named.items() if how == "method"}
    assert loops <= {case.model for case in CASES.values()}


def test_init_is_a_function_of_the_key_and_the_batch(case, trained):
    method, _, states, _ = trained
    again = method.init(jax.random.key(0), batch(case))
    chex.assert_trees_all_equal(states[0], jax.device_get(again))
    other = method.init(jax.random.key(1), batch(case))
    assert not _equal(states[0].params, jax.device_get(other.params))


def test_a_step_keeps_the_structure(trained):
    _, _, states, _ = trained
    chex.assert_trees_all_equal_shapes_and_dtypes(states[0], states[1])
    assert [int(s.step) for s in states] == [0, 1, 2]


def test_a_step_changes_parameters_and_all_is_finite(trained):
    _, _, states, metrics = trained
    assert not _equal(states[0].params, states[2].params)
    chex.assert_tree_all_finite((states[2], metrics))
    assert all(np.shape(m) == () for m in metrics.values())


@pytest.mark.slow  # each operation is compiled for itself
def test_jit_equals_eager(case, trained):
    method, _, states, _ = trained
    eager, _ = method.train_step(KEY, _on_device(states[1]), batch(case, seed=1))
    # XLA fuses and reorders sums; Adam divides by |g|, so tiny gradients may differ in full: what
    # is compared is each leaf as a whole.
    _assert_close(eager, states[2], 1e-3)


@pytest.mark.slow  # another program is compiled
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_equal_one_on_the_whole_batch(case, trained, mode):
    """Five steps: the order of sums differs, nothing else, and the copies stay alike.

    Each leaf is compared as a whole, ‖a - b‖ ≤ 5e-3 ‖b‖. One step's sums differ by about 1e-6; Adam
    and RMSProp divide by |g|, so an entry whose gradient is near 0 may move the other way by a full
    step, and five steps let what follows from that grow. Noise drawn twice alike, a mean not taken
    or a batch split wrongly change a leaf by 1e-1 and more: measured by breaking each.
    """
    method, compiled, _, _ = trained
    many = compile_step(method.train_step, mode, num_devices=8)
    finals = []
    for step in (compiled, many):
        state = step.put(method.init(jax.random.key(0), batch(case)))
        for seed in range(5):
            state, _ = step(KEY, state, batch(case, seed=seed))
        finals.append(state)
    _assert_close(many.get(finals[1]), finals[0], 5e-3)
    for leaf in jax.tree.leaves(finals[1]):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 8
        for copy in copies:
            np.testing.assert_array_equal(copy, copies[0])


def test_same_seed_same_bits(case, trained):
    _, compiled, states, _ = trained
    again, _ = compiled(KEY, _on_device(states[1]), batch(case, seed=1))
    chex.assert_trees_all_equal(jax.device_get(again), states[2])


def test_another_key_another_step(case, trained):
    _, compiled, states, _ = trained
    other, _ = compiled(jax.random.key(8), _on_device(states[1]), batch(case, seed=1))
    assert not _equal(jax.device_get(other.params), states[2].params)


def test_one_key_serves_a_run(case, trained):
    """The step's own key depends on `state.step`: the same batch twice, other noise."""
    _, compiled, states, _ = trained
    first = states[1]
    later = first.replace(step=first.step + 1)
    at = [compiled(KEY, _on_device(s), batch(case))[0].params for s in (first, later)]
    assert not _equal(*at)


def test_one_trace_for_each_shape(case, trained):
    """A second batch, and the step's own output as input, need no second trace."""
    _, compiled, states, _ = trained
    state = _on_device(states[0])
    for seed in (4, 5):
        state, _ = compiled(KEY, state, batch(case, seed=seed))
    assert int(state.step) == 2 and TRACES[case.model, case.cfg] == 1


def test_no_transfer_inside_a_step(case, trained):
    _, compiled, states, _ = trained
    state, data = _on_device(states[1]), jax.device_put(batch(case))
    key = jax.device_put(KEY)
    with jax.transfer_guard("disallow"):
        compiled(key, state, data)


def test_the_state_is_donated(case, trained):
    _, compiled, states, _ = trained
    state = _on_device(states[1])
    compiled(KEY, state, batch(case))
    deleted = [leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert all(deleted)


def test_resumes_bit_for_bit(case, trained, tmp_path):
    """2 steps, or 1, save, restore, 1: the same bits, through a real checkpoint."""
    method, compiled, states, _ = trained
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[1])
    like = jax.eval_shape(method.init, jax.random.key(0), batch(case))
    restored = restore(tmp_path, like)
    assert restored is not None
    chex.assert_trees_all_equal(jax.device_get(restored), states[1])
    resumed, _ = compiled(KEY, restored, batch(case, seed=1))
    chex.assert_trees_all_equal(jax.device_get(resumed), states[2])


def test_samples_from_a_checkpoint(case, trained, tmp_path):
    if case.sample is None:
        return
    _, _, states, _ = trained
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(states[2])
    drawn = [
        np.asarray(case.sample(case.cfg, variables, jax.random.key(1), 3))
        for variables in (states[2].variables, restore_variables(tmp_path))
    ]
    assert drawn[0].shape == (3, *case.cfg.shape)
    assert drawn[0].dtype == np.float32 and np.all(np.isfinite(drawn[0]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    if len(case.cfg.shape) == 3:
        assert np.abs(drawn[0]).max() <= 1


def test_a_batch_of_another_shape_is_refused(case):
    wrong = {k: v[:, :1] if v.ndim > 1 else v for k, v in batch(case).items()}
    with pytest.raises(ValueError, match="Config.shape"):
        case.method(case.cfg).init(KEY, wrong)


def test_an_empty_batch_is_refused(case: Case):
    empty = {k: v[:0] for k, v in batch(case).items()}
    with pytest.raises(ValueError, match="empty"):
        case.method(case.cfg).init(KEY, empty)


def _on_device(tree):
    """A copy: what is put there may share memory with the host, and a step donates its state."""
    return jax.tree.map(jnp.array, tree)


def _equal(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _assert_close(got, want, tolerance: float) -> None:
    """Each leaf within `tolerance` of the other, as a whole: ‖a - b‖ ≤ tolerance ‖b‖ (+ 1e-6)."""
    places = jax.tree_util.tree_leaves_with_path(jax.device_get(got))
    for (place, a), b in zip(places, jax.tree.leaves(want), strict=True):
        error = np.linalg.norm(np.ravel(np.asarray(a, np.float64) - b))
        bound = tolerance * np.linalg.norm(np.ravel(b)) + 1e-6 * np.sqrt(np.size(b))
        assert error <= bound, (jax.tree_util.keystr(place), error, bound)
