"""The U-Net: shapes, what each option does, and what it refuses."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.unet import (
    AttentionBlock,
    ResidualBlock,
    UNet,
    depth_to_space,
    space_to_depth,
    upsample,
)

KEY = jax.random.key(0)


def unet(x, **options):
    return UNet(
        x.shape[-1], **{"channels": (8, 16), "num_blocks": (1, 1), "num_groups": 4} | options
    )


def build(x, **options):
    net = unet(x, **options)
    t = jnp.arange(1, len(x) + 1)
    apply: Any = jax.jit(net.apply, static_argnames="train")
    return apply, random_weights(net, x, t), t


def random_weights(net, x, t):
    """Variables of the shapes that `init` gives, without its zeros, and without compiling it."""
    rng = np.random.default_rng(0)

    def weight(path, like):
        near = 1.0 if path[-1].key == "scale" else 0.0
        fan_in = np.prod(like.shape[:-1]) if len(like.shape) > 1 else 100
        return jnp.asarray(near + rng.normal(0, fan_in**-0.5, like.shape), like.dtype)

    return jax.tree_util.tree_map_with_path(weight, jax.eval_shape(net.init, KEY, x, t))


@pytest.mark.parametrize(
    "shape, options",
    [
        ((7, 7, 1), {"skips": "level"}),  # halved to 4, grown to 8, cut to 7
        ((7, 7, 1), {}),
        ((7, 7, 1), {"resample": "block"}),
        ((6, 10, 3), {"skips": "level", "channels": (8, 8, 16), "num_blocks": (1, 0, 2)}),
        ((12, 12, 2), {"patch": 4}),
        ((8, 8, 1), {"attention": (4, 8), "num_heads": 2}),
        ((8, 8, 1), {"remat": True}),
    ],
)
def test_output_has_the_shape_of_the_input_in_float32(shape, options):
    x = jax.random.normal(KEY, (2, *shape))
    apply, variables, t = build(x, **options)
    out = apply(variables, x, t)
    assert out.shape == x.shape and out.dtype == jnp.float32
    assert np.all(np.isfinite(out)) and np.std(out) > 0
    assert all(w.dtype == jnp.float32 for w in jax.tree.leaves(variables))


@pytest.mark.parametrize("level", [0, 1])
def test_each_skip_connection_of_a_level_is_used(level):
    """With nothing coming up from below, a level on the way down is seen through its skip alone."""
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    apply, variables, t = build(x, channels=(8, 8, 8), num_blocks=(1, 1, 1), skips="level")
    below = variables["params"][f"Dense_{1 - level}"]  # Dense_0 goes up to level 1
    assert {*below} == {"kernel", "bias"}
    variables["params"][f"Dense_{1 - level}"] = jax.tree.map(jnp.zeros_like, below)

    def of_block(block):
        params = {**variables["params"], f"ResidualBlock_{level}": block}
        return jnp.sum(apply({"params": params}, x, t) ** 2)

    gradient = jax.grad(of_block)(variables["params"][f"ResidualBlock_{level}"])
    assert max(np.abs(g).max() for g in jax.tree.leaves(gradient)) > 1e-4


def test_every_block_has_a_skip_connection():
    """The weights of a block's shortcut have a gradient where what they multiply is not 0.

    On the way up a block's input is the features from below, then those of the skip connection.
    """
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    apply, variables, t = build(x, channels=(8, 16), num_blocks=(1, 2))
    gradient = jax.grad(lambda v: jnp.sum(apply(v, x, t) ** 2))(variables)["params"]
    # Down: 1 and 2 blocks; 2 in the middle; up: 3 and 2 blocks.
    assert sum(name.startswith("ResidualBlock") for name in gradient) == 10
    for i, (below, beside) in zip(range(5, 10), ((16, 16), (16, 16), (16, 8), (16, 8), (8, 8)),
                                  strict=True):  # fmt: skip
        shortcut = gradient[f"ResidualBlock_{i}"]["Dense_1"]["kernel"]
        assert shortcut.shape[0] == below + beside
        assert np.abs(shortcut[below:]).max(axis=1).min() > 1e-4, i


def test_residual_blocks_may_halve_and_double():
    x, t = jnp.zeros((1, 8, 8, 1)), jnp.ones(1, jnp.int32)
    params = [jax.eval_shape(unet(x, resample=how).init, KEY, x, t)["params"]
              for how in ("convolution", "block")]  # fmt: skip
    blocks = [sum(name.startswith("ResidualBlock") for name in p) for p in params]
    convolutions = [sum(name.startswith("Conv") for name in p) for p in params]
    assert (blocks, convolutions) == ([8, 10], [4, 2])


def test_heads_have_the_channels_that_are_asked_for():
    x, t = jnp.zeros((1, 8, 8, 1)), jnp.ones(1, jnp.int32)
    params = jax.eval_shape(unet(x, attention=(8,), head_dim=4).init, KEY, x, t)["params"]
    queries = {name: layer["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape
               for name, layer in params.items() if name.startswith("AttentionBlock")}  # fmt: skip
    assert sorted(queries.values()) == [(8, 2, 4)] * 3 + [(16, 4, 4)]  # down, up twice; the middle


def test_the_time_may_be_added():
    """Without a scale, features that the norm makes 0 are moved by the time all the same."""
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    apply, variables, t = build(x, channels=(8,), num_blocks=(1,), time_scale=False)
    assert variables["params"]["ResidualBlock_0"]["Dense_0"]["kernel"].shape == (32, 8)
    assert np.abs(apply(variables, x, t + 5) - apply(variables, x, t)).max() > 1e-3


def test_starts_at_zero_output():
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    net = UNet(1, (8,), (1,), num_groups=4)
    t = jnp.array([1, 2])
    np.testing.assert_array_equal(jax.jit(lambda: net.apply(net.init(KEY, x, t), x, t))(), 0)


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_block_is_added_to_its_input(name):
    """Its last layer starts at zero, so the block starts as the identity."""
    x, time = jax.random.normal(KEY, (2, 4, 4, 8)), jnp.ones((2, 6))
    block = ResidualBlock(8, 4, 0.0) if name == "residual" else AttentionBlock(2, 4)
    rest = (time, False) if name == "residual" else ()
    variables = block.init(KEY, x, *rest)
    np.testing.assert_array_equal(block.apply(variables, x, *rest), x)
    noisy = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(KEY, w.shape), variables)
    assert np.abs(np.asarray(block.apply(noisy, x, *rest)) - x).max() > 0.1


def test_the_time_matters_and_examples_do_not_mix():
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    apply, variables, t = build(x, attention=(4,))
    out = apply(variables, x, t)
    assert np.abs(apply(variables, x, t + 5) - out).max() > 1e-3
    alone = apply(variables, x[1:], t[1:])
    np.testing.assert_allclose(alone[0], out[1], atol=1e-4)


def test_attention_is_where_asked():
    x, t = jnp.zeros((1, 8, 8, 1)), jnp.ones(1, jnp.int32)

    def count(attention, skips):
        net = unet(x, attention=attention, skips=skips)
        params = jax.eval_shape(net.init, KEY, x, t)["params"]
        return sum(name.startswith("AttentionBlock") for name in params)

    assert [count(a, "level") for a in [(), (4,), (8,), (4, 8)]] == [0, 1, 2, 3]  # 8: down and up
    # One in the middle; 1 block down and 2 up at each level.
    assert [count(a, "block") for a in [(), (4,), (8,), (4, 8)]] == [1, 4, 4, 7]


def test_attention_joins_every_position():
    """Without its zero start and the norm before it, a gradient goes from each pixel to each."""
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    block = AttentionBlock(2, 4)
    variables = jax.tree.map(lambda w: w + 0.3, jax.jit(block.init)(KEY, x))
    corner = lambda x: jnp.asarray(block.apply(variables, x))[0, 0, 0].sum()  # noqa: E731
    assert np.abs(jax.jit(jax.grad(corner))(x)).min() > 0


def test_dropout_acts_in_training_only():
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    apply, variables, t = build(x, dropout=0.5)
    still = apply(variables, x, t)
    np.testing.assert_array_equal(still, apply(variables, x, t))
    a, b = (apply(variables, x, t, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert np.abs(a - b).max() > 1e-3


def test_folding_pixels_is_undone_exactly():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[0, 0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(folded, 2), x)


def test_upsample_repeats():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, ..., None]
    want = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(upsample(x)[0, ..., 0], want)


def test_what_cannot_work_is_refused():
    x = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(ValueError, match="patches of 3"):
        build(x, patch=3)
    with pytest.raises(ValueError, match="shared by 3 heads"):
        build(x, attention=(8,), num_heads=3)
    with pytest.raises(ValueError, match="shared by 5 groups"):
        build(x, num_groups=5)
    with pytest.raises(ValueError, match="skips = 'all'; it must be one of"):
        build(x, skips="all")


def test_remat_changes_memory_and_nothing_else():
    """The same parameters, outputs and gradients; fewer activations kept for the gradient."""
    x, sizes, results = jax.random.normal(KEY, (8, 8, 8, 1)), [], []
    for remat in (False, True):
        net = UNet(1, (8,), (1,), attention=(8,), num_groups=4, remat=remat)
        t = jnp.arange(8)
        variables = random_weights(net, x[:1], t[:1])

        def loss(variables, net=net, t=t):
            return jnp.mean(jnp.asarray(net.apply(variables, x, t, train=True)) ** 2)

        step = jax.jit(jax.value_and_grad(loss))
        kept = jax.eval_shape(lambda v, loss=loss: jax.vjp(loss, v)[1], variables)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(kept)))
        results.append((jax.tree.structure(variables), step(variables)))
    assert results[0][0] == results[1][0]
    # Activations are computed twice, by other fusions.
    chex.assert_trees_all_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-5)
    assert sizes[1] < sizes[0] / 2
