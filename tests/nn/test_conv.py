"""The transposed convolution: Flax's own, with a gradient of its own."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.conv import ConvTranspose

CASES = [((4, 4), (2, 2), "SAME"), ((5, 3), (2, 1), "SAME"), ((3, 3), (2, 2), "VALID"),
         ((4, 4), (1, 1), "VALID")]  # fmt: skip


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_flaxs_and_so_are_its_gradients_twice(case, side):
    """Sums of fewer than 100 products of numbers of about 1, in another order: 1e-4 is ample."""
    ours, flaxs = ConvTranspose(5, *case), nn.ConvTranspose(5, *case)
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    variables = ours.init(jax.random.key(1), x)
    chex.assert_trees_all_equal_shapes(variables, flaxs.init(jax.random.key(1), x))
    direction = jax.random.normal(jax.random.key(2), x.shape)

    def both(net):
        def height(x, variables):
            return jnp.sum(jnp.sin(net.apply(variables, x)))

        def slope(x, variables):
            return jnp.sum(jax.grad(height)(x, variables) * direction)

        gradients = [jax.grad(f, (0, 1)) for f in (height, slope)]
        return net.apply(variables, x), [g(x, variables) for g in gradients]

    chex.assert_trees_all_close(both(ours), both(flaxs), atol=1e-4)


def test_one_number_is_spread_as_the_kernel():
    """A pixel, by stride 2 and a kernel of two: the kernel times it, turned as Flax turns it."""
    net = ConvTranspose(1, (2, 2), (2, 2), use_bias=False)
    kernel = jnp.arange(4.0).reshape(2, 2, 1, 1)
    out = net.apply({"params": {"kernel": kernel}}, jnp.full((1, 1, 1, 1), 3.0))
    np.testing.assert_array_equal(np.asarray(out)[0, :, :, 0], 3.0 * np.array([[3, 2], [1, 0]]))
