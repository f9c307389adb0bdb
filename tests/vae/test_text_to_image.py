"""Text to image: probabilities by enumeration, frequencies of samples, captions that count."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.contract import Task
from gengen.data import Dataset
from gengen.types import InputError
from gengen.vae import text_to_image, tokens, vqvae
from gengen.vae.text_to_image import condition_of_text
from gengen.vae.vqvae_prior import codec

KEY = jax.random.key(0)
# 9 captions (padding counts) and 16 maps of 2 × 2 codes.
CFG = text_to_image.Config(
    shape=(8, 8, 1), channels=(4, 4), codebook_size=2, code_dim=2, words=("dark", "bright"),
    caption_length=2, hidden_dim=8, num_layers=1, num_heads=2, dropout=0.0, max_shift=0,
    guidance=0.0, batch_size=8,
)  # fmt: skip
CAPTIONS = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
CODES = np.array(list(itertools.product(range(2), repeat=4)), np.int32)
LOG_PROBS = jax.jit(tokens.log_probs, static_argnums=0)
NUM = 4000  # samples whose frequencies are compared


def log_probs(cfg, variables, caption, codes, is_dropped=False):
    """Log-probabilities of the transformer alone, float64: [B, T] and [B, h·w]."""
    caption, codes = np.broadcast_to(caption, (len(codes), 2)), jnp.asarray(codes)
    found = LOG_PROBS(cfg, variables, jnp.asarray(caption), codes, is_dropped)
    return [np.asarray(each, np.float64) for each in found]


@pytest.fixture(scope="module")
def trained():
    """Variables of both stages, the transformer far from its start."""
    x = np.random.default_rng(1).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    first = text_to_image.stages(CFG)[0].method.init(KEY, {"image": x}).variables
    batch = {"x": np.zeros((2, 2, 2, 1), np.float32), "caption": np.zeros((2, 2), np.int32)}
    start = text_to_image.prior_method(CFG).init(KEY, batch).variables
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(start))))
    moved = jax.tree.map(lambda w: w + 0.5 * jax.random.normal(next(keys), w.shape), start)
    return {"codec": first, "prior": moved}


def test_all_sequences_have_probability_one(trained):
    every = [(c, k) for c in CAPTIONS for k in CODES]
    caption, codes = (np.stack(part) for part in zip(*every, strict=True))
    text, image = log_probs(CFG, trained["prior"], caption, codes)
    p = np.exp(text.sum(1) + image.sum(1)).reshape(9, 16)
    np.testing.assert_allclose(p.sum(), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(image.sum(1)).reshape(9, 16).sum(1), 1, atol=1e-5)
    assert p.sum(1).std() > 1e-3 and (p / p.sum(1, keepdims=True)).std(0).max() > 1e-2
    dropped = log_probs(CFG, trained["prior"], caption, codes, True)[1].sum(1).reshape(9, 16)
    np.testing.assert_allclose(dropped, dropped[:1].repeat(9, 0), atol=1e-6)  # of no caption
    np.testing.assert_allclose(np.exp(dropped[0]).sum(), 1, atol=1e-5)


def assert_frequencies(rows, every, p):
    """The rows of `every` are as frequent as p says, within 4.5 standard deviations."""
    found = np.array([(rows == one).all(1).mean() for one in every])
    np.testing.assert_array_less(np.abs(found - p), 4.5 * np.sqrt(p * (1 - p) / NUM) + 1e-9)


def test_samples_are_as_frequent_as_the_model_says(trained):
    caption, k = tokens.sample_tokens(CFG, trained["prior"], KEY, NUM)
    p = np.exp(log_probs(CFG, trained["prior"], CAPTIONS, CODES[:9])[0].sum(1))
    assert_frequencies(np.asarray(caption), CAPTIONS, p)
    asked = jnp.tile(jnp.array([[2, 1]]), (NUM, 1))
    caption, k = tokens.sample_tokens(CFG, trained["prior"], KEY, NUM, asked)
    np.testing.assert_array_equal(caption, asked)
    p = np.exp(log_probs(CFG, trained["prior"], [2, 1], CODES)[1].sum(1))
    assert_frequencies(np.asarray(tokens.sequence(CFG, k)), CODES, p)


def test_guided_samples_are_as_frequent_as_by_hand(trained):
    cfg = dataclasses.replace(CFG, guidance=1.5)
    p = np.ones(16)
    for i in range(4):  # each conditional, normalised over the two codes
        mixed = []
        for code in range(2):
            codes = CODES.copy()
            codes[:, i] = code
            seen = log_probs(CFG, trained["prior"], [2, 1], codes)[1][:, i]
            unseen = log_probs(CFG, trained["prior"], [2, 1], codes, True)[1][:, i]
            mixed.append(np.exp(2.5 * seen - 1.5 * unseen))
        p *= np.stack(mixed)[CODES[:, i], np.arange(16)] / np.sum(mixed, axis=0)
    np.testing.assert_allclose(p.sum(), 1)
    asked = jnp.tile(jnp.array([[2, 1]]), (NUM, 1))
    k = tokens.sample_tokens(cfg, trained["prior"], KEY, NUM, asked)[1]
    assert_frequencies(np.asarray(tokens.sequence(cfg, k)), CODES, p)


def test_completions_are_as_frequent_as_the_model_says(trained):
    """Two codes are known: the others are of p(k_3, k_4 | k_1, k_2, c)."""
    asked, k = jnp.tile(jnp.array([[0, 2]]), (NUM, 1)), jnp.array([[1, 0], [0, 1]])
    known = jnp.tile(jnp.array([True, True, False, False]), (NUM, 1))
    found = tokens.sample_tokens(
        CFG, trained["prior"], KEY, NUM, asked, jnp.tile(k, (NUM, 1, 1)), known
    )[1]
    got = np.asarray(tokens.sequence(CFG, found))
    same = (CODES[:, :2] == [1, 0]).all(1)  # the left column of k
    p = np.exp(log_probs(CFG, trained["prior"], [0, 2], CODES[same])[1].sum(1))
    assert_frequencies(got, CODES[same], p / p.sum())


def test_codes_are_in_the_order_of_columns():
    cfg = dataclasses.replace(CFG, shape=(8, 12, 1))
    k = jnp.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(tokens.sequence(cfg, k), [[0, 3, 1, 4, 2, 5]])
    np.testing.assert_array_equal(tokens.as_map(cfg, tokens.sequence(cfg, k)), k)


def test_the_loss_is_the_weighted_cross_entropy():
    """By hand: means per token, text without the captions that are dropped."""
    cfg = dataclasses.replace(CFG, condition_dropout=0.5, text_weight=0.2)
    method, draws = text_to_image.prior_method(cfg), np.random.default_rng(0)
    caption = draws.integers(0, 3, (8, 2)).astype(np.int32)
    k = draws.integers(0, 2, (8, 2, 2)).astype(np.int32)
    batch = {"x": k[..., None].astype(np.float32), "caption": caption}
    state = method.init(KEY, batch)
    key = jax.random.split(jax.random.fold_in(jax.random.key(5), 0))[0]
    is_dropped = np.asarray(rng.uniform(key, (8, 1))) < 0.5
    assert 2 <= is_dropped.sum() <= 6
    codes = k.swapaxes(1, 2).reshape(8, 4)
    variables = {"params": state.params}
    text, seen = log_probs(cfg, variables, caption, codes)
    unseen = log_probs(cfg, variables, caption, codes, True)[1]
    text_loss = -(text * ~is_dropped).sum() / (8 * 2 * 0.5)
    image_loss = -np.where(is_dropped, unseen, seen).mean()
    _, metrics = jax.jit(method.train_step)(jax.random.key(5), state, batch)
    np.testing.assert_allclose(metrics["loss"], 0.2 * text_loss + 0.8 * image_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["image"], 4 * image_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["text"], 2 * text_loss, rtol=1e-5)


@pytest.fixture(scope="module")
def told(trained):
    """The codec, and a transformer that has learnt: "dark" are codes 0, "bright" codes 1."""
    cfg = dataclasses.replace(CFG, prior_learning_rate=0.03, ema_decay=0.5)
    label, caption = np.arange(8) % 2, condition_of_text(cfg, ["dark", "bright"] * 4)
    batch = {
        "x": np.ones((8, 2, 2, 1), np.float32) * label[:, None, None, None],
        "caption": caption,
    }
    method = text_to_image.prior_method(cfg)
    state, step = method.init(KEY, batch), jax.jit(method.train_step)
    for _ in range(60):
        state, _ = step(KEY, state, batch)
    return {"codec": trained["codec"], "prior": state.variables}, caption, label


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_samples_are_of_the_caption(told, guidance):
    variables, caption, label = told
    cfg = dataclasses.replace(CFG, guidance=guidance)
    x = text_to_image.sample(cfg, variables, KEY, 8, condition=caption)
    want = np.ones((8, 2, 2), int) * label[:, None, None]
    np.testing.assert_array_equal(x, vqvae.decode_codes(codec(cfg), variables["codec"], want))
    assert np.abs(np.asarray(x[0] - x[1])).max() > 1e-3


def test_the_bound_depends_on_the_caption(told):
    variables, caption, label = told
    k = jnp.ones((8, 2, 2), jnp.int32) * label[:, None, None]
    right = text_to_image.log_prior(CFG, variables, k, caption)
    wrong = text_to_image.log_prior(CFG, variables, k, caption[::-1])
    without = text_to_image.log_prior(CFG, variables, k)
    assert np.all(right > wrong + 3) and np.all(right > without)
    np.testing.assert_allclose(np.exp(without[:2]).sum(), 1, atol=0.2)  # either map


def test_with_a_uniform_prior_the_bound_is_the_codecs(trained):
    uniform = {**trained, "prior": jax.tree.map(jnp.zeros_like, trained["prior"])}
    x = np.random.default_rng(2).uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
    got = text_to_image.log_prob(CFG, uniform, x, KEY, condition=CAPTIONS[:5])
    np.testing.assert_allclose(got, vqvae.elbo(codec(CFG), trained["codec"], x, KEY), rtol=1e-5)


def with_both_codes(variables, x):
    """The codec whose codebook has the most even share of both codes among those of x."""

    def at(c):
        e = jnp.array([[c + 1.0, 0.0], [c - 1.0, 0.0]])  # nearest: by the first coordinate
        return {**variables, "codebook": {"shares": jnp.ones(2), "sums": e}}

    uneven = lambda c: abs(np.mean(vqvae.codes(codec(CFG), at(c), x)) - 0.5)  # noqa: E731
    return at(min(np.linspace(-1, 1, 81), key=uneven))


def test_the_right_half_is_completed_for_a_caption(trained):
    caption = np.array([[2, 2]] * 200, np.int32)
    x = np.random.default_rng(3).uniform(-1, 1, (200, 8, 8, 1)).astype(np.float32)
    mask = np.arange(8)[None, :, None] < 4
    variables = {**trained, "codec": with_both_codes(trained["codec"], x)}
    new = text_to_image.impute(CFG, variables, x, mask, KEY, condition=caption)
    np.testing.assert_array_equal(np.asarray(new)[:, :, :4], x[:, :, :4])
    k = vqvae.codes(codec(CFG), variables["codec"], np.where(mask, x, -1))
    known = jnp.tile(jnp.array([True, True, False, False]), (200, 1))
    k = tokens.sample_tokens(CFG, variables["prior"], KEY, 200, jnp.asarray(caption), k, known)[1]
    drawn = vqvae.decode_codes(codec(CFG), variables["codec"], np.asarray(k))
    np.testing.assert_array_equal(np.asarray(new)[:, :, 4:], np.asarray(drawn)[:, :, 4:])
    again = text_to_image.impute(
        CFG, variables, np.where(mask, x, 0.5).astype(np.float32), mask, KEY, condition=caption
    )
    np.testing.assert_array_equal(new, again)  # what is not known does not matter
    other = text_to_image.impute(CFG, variables, x, mask, KEY, condition=0 * caption)
    assert np.abs(np.asarray(new - other)).max() > 1e-3
    with pytest.raises(InputError, match="such as the left half"):
        text_to_image.impute(CFG, variables, x, ~mask, KEY, condition=caption)


def test_codes_are_of_shifted_images_with_their_captions(trained):
    x = np.zeros((2, 8, 8, 1), np.uint8)
    x[0, 3, 4], x[1, 0, 0] = 200, 100
    caption = np.array([[1, 0], [2, 0]], np.int32)
    data = Dataset("two", {"image": x, "caption": caption})
    moved = text_to_image.shifted(data, 1)
    assert len(moved) == 18
    places = {tuple(np.argwhere(a)[0][:2]) for a in moved.arrays["image"] if a.max() == 200}
    assert places == set(itertools.product((2, 3, 4), (3, 4, 5)))
    seen = moved.arrays["image"].max((1, 2, 3))
    np.testing.assert_array_equal(moved.arrays["caption"][seen == 200], [[1, 0]] * 9)
    np.testing.assert_array_equal(moved.arrays["caption"][seen == 100], [[2, 0]] * 4)
    cfg = dataclasses.replace(CFG, max_shift=1)
    before = {"codec": text_to_image.stages(cfg)[0].method.init(KEY, {"image": x / 127.5 - 1.0})}
    codes = text_to_image.stages(cfg)[1].data(before, data)
    assert isinstance(codes, Dataset)
    k = vqvae.codes(codec(cfg), before["codec"].variables, moved.arrays["image"] / 127.5 - 1.0)
    np.testing.assert_array_equal(codes.arrays["x"][..., 0], k)
    np.testing.assert_array_equal(codes.arrays["caption"], moved.arrays["caption"])


def test_captions_are_checked(trained):
    with pytest.raises(InputError, match="unknown word 'cat'; known words: dark, bright"):
        condition_of_text(CFG, ["a cat"[2:]])
    with pytest.raises(InputError, match=r"they must be integers \[3, 2\]"):
        text_to_image.sample(CFG, trained, KEY, 3, condition=np.zeros((3, 4), np.int32))
    with pytest.raises(InputError, match=r"they must lie in 0..2, for the 2 words"):
        text_to_image.sample(CFG, trained, KEY, 1, condition=np.array([[3, 0]]))
    with pytest.raises(InputError, match="the data have no captions: use captions:mnist5k"):
        text_to_image.condition_of(CFG, {"image": np.zeros((1, 8, 8, 1))})


def test_configs_are_checked():
    for changes, message in (
        ({"guidance": 1.0, "condition_dropout": 0.0}, "set condition_dropout above 0"),
        ({"words": ("a", "a")}, "name each word once"),
        ({"text_weight": 1.0}, r"must be in \[0, 1\)"),
        ({"num_layers": 0}, "must be positive"),
        ({"max_shift": -1}, "must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(CFG, **changes)
    with pytest.raises(InputError, match="no maps"):
        text_to_image.Config.for_task(Task((4,)))
