"""A text's ids are those of its words, under every tokenizer of which that is held to be true."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tunewright.tasks import _words

TEXT = (
    "The quick brown fox's 12 jumps, over 3 lazy dogs. It's what they'd said: don't!  Two  spaces\n\nand lines. "
    "caf\u00e9 na\u00efve ABC Abc abc def. x 1 y 22 z 333 the the the quick quick and and lines. A.b,c;d:e!f?g (h) 'i'"
)
SPLIT = {f"rule {i}": rule for i, rule in enumerate(sorted(_words.RULES))}
STEPS = {
    **{
        n: [pre_tokenizers.Split(Regex(r), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        for n, r in SPLIT.items()
    },
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "a space before": [pre_tokenizers.ByteLevel(add_prefix_space=True)],
    "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
}
ADDED = [
    "<|end|>",
    AddedToken("<|left|>", lstrip=True),
    AddedToken("Abc", single_word=True),
    AddedToken("fox", lstrip=True),
]


def backend(steps, *, normal=None, added=(), size=400) -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normal is not None:
        inner.normalizer = normal
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT] * 3, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_tokens(list(added))
    return inner


def about(inner: Tokenizer) -> dict:
    return json.loads(inner.to_str())


PARTS = [
    "a",
    "Abc",
    "fox",
    "the",
    "quick",
    "it's",
    "'s",
    "'",
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\t",
    "\u00a0",
    "1",
    "23",
    ".",
    ",",
    "!",
    ":",
    "(",
    "-",
    "\u00e9",
    "e\u0301",
    "\u0301",
    "\u4e2d",
    "\U0001f600",
    "<|end|>",
    "<|left|>",
    "_",
    "/",
    "\r\n",
    "\u2028",
]
texts = st.lists(st.sampled_from(PARTS), max_size=24).map("".join)


@pytest.mark.parametrize("normal", [None, normalizers.NFC()], ids=["as it is", "NFC"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_text_is_its_words(steps, normal):
    inner = backend(STEPS[steps], normal=normal, added=ADDED)
    assert _words.separable(about(inner))
    words = _words.Words(inner)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(texts, max_size=6))
    def holds(some):
        assert words.ids(some) == _words.encoded(inner, some)

    holds()
    assert words.ids([TEXT]) == _words.encoded(inner, [TEXT])


class Counting:
    """A backend that counts the characters that it is asked for."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def encode_batch(self, texts, **more):
        self.asked += texts
        return self.inner.encode_batch(texts, **more)

    def encode_batch_fast(self, texts, **more):
        self.asked += texts
        return self.inner.encode_batch_fast(texts, **more)


def test_known_words_are_not_encoded_again():
    inner = Counting(backend(STEPS["gpt-2"]))
    words, long = _words.Words(inner), "x" * 60
    first = words.ids(["the quick the " + long, "the fox"])
    assert sorted("".join(inner.asked).split()) == sorted(["the", "quick", "the", long, "fox"])
    inner.asked.clear()
    assert words.ids(["the quick the " + long, "the fox"]) == first and inner.asked == [" " + long]
    first[0][:] = []
    assert words.ids(["the fox"]) == _words.encoded(inner.inner, ["the fox"])


def test_as_many_words_are_kept_as_are_allowed(monkeypatch):
    monkeypatch.setattr(_words, "MOST", 8)
    inner = backend(STEPS["gpt-2"])
    words = _words.Words(inner)
    for i in range(6):
        some = [f"a{i} b{i} c{i} a0 b0"]
        assert words.ids(some) == _words.encoded(inner, some) and len(words._first) + len(words._later) <= 8


def changed(**changes) -> dict:
    return {**about(backend(STEPS["gpt-2"])), **changes}


@pytest.mark.parametrize(
    "description",
    [
        changed(pre_tokenizer=None),
        changed(pre_tokenizer={"type": "ByteLevel", "use_regex": False}),
        changed(
            pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
        ),
        changed(pre_tokenizer={"type": "Split", "pattern": {"Regex": "x y"}, "behavior": "Isolated", "invert": False}),
        changed(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": SPLIT["rule 0"]},
                "behavior": "MergedWithPrevious",
                "invert": False,
            }
        ),
        changed(normalizer={"type": "Lowercase"}),
        changed(normalizer={"type": "Prepend", "prepend": "\u2581"}),
        changed(padding={"strategy": "BatchLongest"}),
        changed(truncation={"max_length": 4}),
        changed(model={"type": "Unigram"}),
        changed(model={"type": "BPE", "dropout": 0.1}),
        changed(model={"type": "BPE", "end_of_word_suffix": "</w>"}),
        changed(added_tokens=[{"content": "New York", "rstrip": False}]),
        changed(added_tokens=[{"content": "fox", "rstrip": True}]),
    ],
)
def test_of_any_other_tokenizer_it_is_not_held(description):
    assert not _words.separable(description)


def test_a_token_that_is_added_later_counts():
    inner = backend(STEPS["gpt-2"])
    assert _words.words_of(inner) is not None
    inner.add_tokens(["quick fox"])
    assert _words.words_of(inner) is None
