"""Experience replay: what goes in, what comes out, and that nothing is lost or drawn twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.gan import replay
from gengen.gan.replay import replay as buffer_of
from gengen.rng import AXIS

ZERO = jnp.zeros((4, 1))


def fresh(step, num=4):
    """Samples that say when they were made: num · step + 0, 1, ..."""
    return jnp.asarray(num * step + np.arange(num)[:, None], jnp.float32)


def run(buffer, steps, num=4, key=0):
    """What was shown at each step, and the states after it."""
    state, shown, states = buffer.init(ZERO[:1]), [], []
    move = jax.jit(buffer.in_discriminator_step)
    for step in range(steps):
        step_key = jax.random.fold_in(jax.random.key(key), step)
        _, out, state = move({}, state, step_key, ZERO, fresh(step, num))
        shown.append(np.asarray(out)[:, 0])
        states.append(jax.device_get(state))
    return shown, states


def test_it_fills_first():
    shown, states = run(buffer_of(10), 3)
    for step in range(2):
        np.testing.assert_array_equal(shown[step], fresh(step)[:, 0])
    assert [int(s["filled"]) for s in states] == [4, 8, 10]
    np.testing.assert_array_equal(states[1]["buffer"][:8, 0], np.arange(8))
    # Of the third four, two fit; they take the places of the two before as well.
    np.testing.assert_array_equal(states[2]["buffer"][:, 0], [0, 1, 2, 3, 4, 5, 8, 9, 10, 11])
    np.testing.assert_array_equal(shown[2], fresh(2)[:, 0])


def test_nothing_is_lost_or_doubled():
    """Once it is full: what is in the buffer and what is shown, is what was there and is fresh."""
    shown, states = run(buffer_of(8), 30)
    for step in range(2, 30):
        before, after = states[step - 1]["buffer"][:, 0], states[step]["buffer"][:, 0]
        had, has = (np.sort(np.concatenate(x)) for x in
                    ((before, fresh(step)[:, 0]), (after, shown[step])))  # fmt: skip
        np.testing.assert_array_equal(had, has)


def test_half_are_earlier_ones():
    """Of 4 · 400 samples: ½ ± 4 standard deviations, 0.0125 each; and from all places alike."""
    shown, _ = run(buffer_of(16), 404)
    early = np.array([out < 4 * step for step, out in enumerate(shown)][4:])
    assert abs(early.mean() - 0.5) < 0.05
    # Of each of 16 places 2 samples leave at each of 100 steps... 1/8 a step: mean age 8 steps.
    age = np.concatenate([step - out[out < 4 * step] // 4 for step, out in enumerate(shown)])
    # A place is left with probability ½ · 4/16 a step; geometric, of deviation 7.5: 0.27 the mean.
    assert abs(age.mean() - 8) < 1.2


@pytest.mark.parametrize("probability, share", [(0.0, 0.0), (1.0, 1.0)])
def test_the_probability(probability, share):
    shown, _ = run(buffer_of(8, probability), 20)
    early = np.array([out < 4 * step for step, out in enumerate(shown)][2:])
    assert early.mean() == share


def test_the_same_key_the_same_buffer():
    a, b, other = run(buffer_of(8), 12), run(buffer_of(8), 12), run(buffer_of(8), 12, key=1)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1][-1]["buffer"], b[1][-1]["buffer"])
    assert np.any(a[1][-1]["buffer"] != other[1][-1]["buffer"])


def test_replicas_keep_the_same_buffer():
    """Two replicas of two samples each: shown and kept is what one replica has of four."""
    buffer = buffer_of(8)
    state, _ = buffer.init(ZERO[:1]), None
    move = jax.pmap(
        lambda s, k, x: buffer.in_discriminator_step({}, s, k, x, x)[1:],
        AXIS,
        in_axes=(None, None, 0),
    )
    alone, states = run(buffer, 6)
    for step in range(6):
        key = jax.random.fold_in(jax.random.key(0), step)
        out, both = move(state, key, fresh(step).reshape(2, 2, 1))
        np.testing.assert_array_equal(np.ravel(out), alone[step])
        for k in range(2):
            np.testing.assert_array_equal(both["buffer"][k], states[step]["buffer"])
        state = jax.tree.map(lambda x: x[0], both)


def test_data_and_the_generators_step_are_unchanged():
    buffer = buffer_of(8, 1.0)
    state = buffer.init(ZERO[:1])
    for step in range(4):
        real, _, state = buffer.in_discriminator_step(
            {}, state, jax.random.key(0), ZERO + 7, fresh(step)
        )
        np.testing.assert_array_equal(real, ZERO + 7)
        np.testing.assert_array_equal(
            buffer.in_generator_step(state, jax.random.key(0), ZERO), ZERO
        )


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="Config.capacity"):
        replay.Config(capacity=64, batch_size=128)
    with pytest.raises(ValueError, match="Config.probability"):
        dataclasses.replace(replay.Config(), probability=1.5)
    with pytest.raises(ValueError, match="capacity = 2"):
        run(buffer_of(2), 1)
