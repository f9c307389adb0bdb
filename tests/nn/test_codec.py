"""Encoders and decoders: shapes, and each output's field of view."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.nn.codec import Decoder, Encoder, code_map


def build(shape, latent_shape, **options) -> tuple[Any, Any, Any]:
    encoder, decoder = (
        Encoder(shape, latent_shape, **options),
        Decoder(shape, latent_shape, **options),
    )
    down = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    up = jax.jit(decoder.init)(jax.random.key(1), jnp.zeros((1, *latent_shape)))
    params = (down["params"], up["params"])
    return jax.jit(partial(encoder.apply, down)), jax.jit(partial(decoder.apply, up)), params


@pytest.mark.parametrize(
    "shape, code, options",
    [
        ((28, 28, 1), (4, 4, 16), {}),
        ((32, 32, 3), (4, 4, 16), {}),
        ((8, 8, 1), (3,), dict(channels=(4, 8), num_blocks=1, hidden=(6,))),
        ((9, 11, 2), (3,), dict(channels=(4, 8))),
        ((14, 14, 1), (2, 2, 5), dict(channels=(4, 8), strides=(7, 1))),
        ((9, 11, 2), (3,), dict(channels=(4, 8), kernel_size=5, level_activation="softplus")),
        ((8, 8, 2), (2, 2, 3), dict(channels=(4, 8), kernel_size=5, transposed=True)),
        ((6, 5, 1), (2,), dict(channels=(), hidden=(7,))),
        ((4,), (2,), dict(hidden=(8, 7))),
    ],
)
def test_there_and_back(shape, code, options):
    encode, decode, _ = build(shape, code, **options)
    x = jax.random.normal(jax.random.key(2), (3, *shape))
    z = encode(x)
    assert z.shape == (3, *code) and decode(z).shape == x.shape
    # Each example on its own.
    np.testing.assert_allclose(decode(encode(x[1:2])), decode(z)[1:2], atol=1e-5)


def test_the_map_of_an_image_is_where_the_levels_lead():
    assert code_map((32, 32, 3), 16) == code_map((28, 28, 1), 16) == (4, 4, 16)
    assert code_map((224, 224, 3), 8, strides=(7, 1)) == (32, 32, 8)
    assert code_map((9, 11, 2), 1, levels=1) == (5, 6, 1)


def test_a_stride_of_seven_gives_a_224_image_32_by_32_codes():
    encode, decode, _ = build((224, 224, 3), (32, 32, 4), channels=(4, 4), strides=(7, 1))
    z = encode(jnp.zeros((1, 224, 224, 3)))
    assert z.shape == (1, 32, 32, 4) and decode(z).shape == (1, 224, 224, 3)


def test_transposed_convolutions_have_the_windows_of_the_encoders():
    _, decoder, params = build((28, 28, 1), (4, 4, 2), channels=(3, 5, 7), strides=(2, 2, 2),
                               num_blocks=2, residual_kernel_size=1, transposed=True)  # fmt: skip
    shapes = {name: p["kernel"].shape for name, p in params[1].items()}
    assert [shapes[f"ConvTranspose_{i}"] for i in range(3)] == [
        (4, 4, 7, 5), (4, 4, 5, 3), (4, 4, 3, 1)
    ]  # fmt: skip
    assert sorted(s for n, s in shapes.items() if n.startswith("Conv_")) == [
        (1, 1, 7, 7), (1, 1, 7, 7), (3, 3, 2, 7), (3, 3, 7, 7), (3, 3, 7, 7)
    ]  # fmt: skip
    assert decoder(np.ones((2, 4, 4, 2))).shape == (2, 28, 28, 1)


def test_a_latent_map_is_local():
    """A corner of the image changes the codes near that corner, and conversely."""
    encode, decode, _ = build((32, 32, 1), (4, 4, 2))
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    moved = np.abs(encode(x) - encode(x.at[0, 0, 0, 0].add(1.0)))[0].max(-1)
    assert moved[0, 0] > 0 and not moved[2:, 2:].any()
    z = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))
    moved = np.abs(decode(z) - decode(z.at[0, 0, 0, 0].add(1.0)))[0, ..., 0]
    assert moved[0, 0] > 0 and not moved[30:, 30:].any()


def test_the_levels_have_the_windows_and_the_activation_that_are_named():
    """The first level by hand: 5×5 pixels around every second one, and ln(1 + eˣ)."""
    options: dict[str, Any] = dict(channels=(1,), kernel_size=5)
    soft, _, params = build((6, 6, 1), (3, 3, 1), **options, level_activation="softplus")
    assert [p["Conv_0"]["kernel"].shape[:2] for p in params] == [(5, 5), (5, 5)]
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 1)).astype(np.float32)
    kernel, last = (np.asarray(params[0][f"Conv_{i}"]["kernel"])[:, :, 0, 0] for i in (0, 1))
    # "SAME" with an even side and a stride of 2: one row and column of zeros before, two after.
    padded = np.pad(x[0, :, :, 0].astype(np.float64), (1, 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[::2, ::2]
    want = np.log1p(np.exp(np.einsum("ijkl,kl->ij", windows, kernel))) * last[0, 0]
    np.testing.assert_allclose(np.asarray(soft(x))[0, :, :, 0], want, atol=1e-5)


def test_every_parameter_is_used():
    options: dict[str, Any] = dict(
        shape=(9, 11, 1), latent_shape=(3, 3, 2), channels=(4, 4), num_blocks=1
    )
    encoder, decoder, params = Encoder(**options), Decoder(**options), build(**options)[2]
    x = jax.random.normal(jax.random.key(0), (4, 9, 11, 1))

    def loss(params):
        z = encoder.apply({"params": params[0]}, x)
        return jnp.sum(jnp.sin(jnp.asarray(decoder.apply({"params": params[1]}, z))))

    key = jax.random.key(3)
    lively = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(key, p.shape), params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(jax.grad(loss)(lively)))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(shape=(4,), latent_shape=(2, 2, 1)), "without convolutions"),
        (dict(shape=(8, 8, 1), latent_shape=(2, 2, 1), channels=(4,)), "lead to"),
        (dict(shape=(8, 8, 1), latent_shape=(2,), channels=(4,), strides=(2, 2)), "one stride"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**options).init(jax.random.key(0), jnp.zeros((1, *options["shape"])))
