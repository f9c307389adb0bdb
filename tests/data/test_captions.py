"""Captions of digits: words and thresholds by hand, combinations held out, unknown words."""

import numpy as np
import pytest

from gengen.data import Dataset, captions, load
from gengen.data.captions import HELD_OUT, WORDS, phrase, to_text, to_tokens, with_captions
from gengen.data.strokes import slant, stroke_thickness
from gengen.types import InputError


@pytest.fixture(scope="module")
def parts():
    return load("captions:digits"), load("captions:digits:test")


def test_words_and_tokens():
    text = phrase(7, thickness=1, size=0, slant=2)
    assert text == "a thick small seven leaning right"
    tokens = to_tokens([text, "A two, upright"])
    assert tokens.shape == (2, 6) and tokens.dtype == np.int32
    assert [WORDS[t - 1] for t in tokens[0]] == text.split()
    np.testing.assert_array_equal(tokens[1, 3:], 0)
    assert to_text(tokens) == [text, "a two upright"]
    assert phrase(2) == "a two" and phrase(3, slant=0) == "a three leaning left"


def test_an_unknown_word_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown word 'cat'; known words: a, thin, thick, .*ri"):
        to_tokens(["a thin cat"])
    with pytest.raises(InputError, match="has 7 words; give 1 to 6"):
        to_tokens(["a a a a a a a"])
    with pytest.raises(InputError, match="has 0 words"):
        to_tokens([" "])


def test_captions_say_what_is_measured(parts):
    """By hand: each word against the quantiles of the same digit in the whole training part."""
    whole, test = load("digits"), parts[1]
    at, x = whole.arrays["label"], whole.arrays["image"] / 127.5 - 1
    seen = test.arrays["image"] / 127.5 - 1
    thickness, lean = stroke_thickness(seen), slant(seen)
    texts = to_text(test.arrays["caption"])
    named = {"thin": 0, "thick": 0, "upright": 0, "left": 0, "right": 0}
    for i, (text, digit) in enumerate(zip(texts, test.arrays["label"], strict=True)):
        assert captions.DIGITS[digit] in text.split()
        same = x[at == digit]
        median = np.quantile(stroke_thickness(same), 0.5)
        low, high = np.quantile(slant(same), [0.3, 0.7])
        truth = {
            "thin": thickness[i] < median, "thick": thickness[i] >= median,
            "left": lean[i] < low, "right": lean[i] >= high, "upright": low <= lean[i] < high,
        }  # fmt: skip
        for word in text.split():
            if word in truth:
                assert truth[word], (text, word)
                named[word] += 1
    assert min(named.values()) > 50
    share = (named["thin"] + named["thick"]) / len(texts)
    assert 0.8 < share < 0.92  # one in seven is not named


def test_held_out_combinations_are_in_no_training_caption(parts):
    train, test = parts
    thresholds = captions.thresholds(load("digits").arrays["image"] / 127.5 - 1,
                                     load("digits").arrays["label"])  # fmt: skip
    shares = []
    for data in (train, test):
        labels = data.arrays["label"]
        found = captions.categories(data.arrays["image"] / 127.5 - 1, labels, thresholds)
        combos = zip(labels, found["thickness"], found["slant"], strict=True)
        shares.append(np.mean([(int(a), int(b), int(c)) in HELD_OUT for a, b, c in combos]))
    assert shares[0] == 0 and shares[1] > 0.1
    assert len({*HELD_OUT}) == 10 and {b for _, b, _ in HELD_OUT} == {0, 1}
    assert len(train) < len(load("digits")) and len(test) == len(load("digits:test"))
    assert train.name == "captions:digits:train" and test.name == "captions:digits:test"


def test_captions_are_of_digits(parts):
    with pytest.raises(InputError, match="captions are of digits, mnist5k and usps"):
        load("captions:folder:x")
    with pytest.raises(InputError, match="captions are of images of digits"):
        load("captions:moons")
    few = load("digits:classes=1+2")
    with pytest.raises(InputError, match="there is no 0"):
        with_captions("x", few, few)
    assert isinstance(parts[0], Dataset)
