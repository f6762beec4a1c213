"""BM25 by its formula, and whether it finds what one means."""

from __future__ import annotations

import math

import pytest

from tunewright.papers import cards, search


def test_scores_are_those_of_the_formula():
    texts = {"x": "cat cat dog", "y": "dog", "z": "bird bird bird bird bird"}
    index = search.Index(texts, k1=1.5, b=0.5)
    mean = (3 + 1 + 5) / 3

    def part(tf: int, length: int, having: int) -> float:
        idf = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return idf * tf * 2.5 / (tf + 1.5 * (0.5 + 0.5 * length / mean))

    found = dict(index.search("dog cat"))
    assert found == pytest.approx({"x": part(1, 3, 2) + part(2, 3, 1), "y": part(1, 1, 2)})
    assert [k for k, _ in index.search("dog")] == ["y", "x"]  # the shorter text is more about it
    assert index.search("fish") == [] and index.search("") == []
    assert index.search("cat cat") == index.search("cat")


def test_endings_do_not_matter():
    for words in (
        "merge merging merged merges",
        "forget forgetting forgets",
        "quantise quantized quantisation quantization",
        "distil distilled distillation",
        "tune tuned tuning",
        "loss losses",
    ):
        assert len({search.stem(w) for w in words.split()}) == 1, words
    assert search.stem("bias") != search.stem("bi") and search.stem("loss") != search.stem("lose")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("average the weights of several fine-tuned models", "model-soups"),
        ("train half of the matrices each round", "hft"),
        ("sparse task vectors sign election", "ties"),
        ("quantized low-rank adapters 4-bit", "lq-lora"),
        ("initialise LoRA from the gradient", "lora-ga"),
        ("serve thousands of adapters", "s-lora"),
        ("learning rate schedule for continual pre-training", "infinite-lr"),
        ("importance resampling of n-grams", "dsir"),
        ("test-time prompt entropy", "tpt"),
        ("children's stories for tiny models", "tinystories"),
        ("XLNet", "xlnet"),
    ],
)
def test_it_finds_what_is_meant(words, expected):
    assert expected in [c.slug for c in search.search(words)][:3]


def test_similar_papers_are_of_its_kind_and_not_itself():
    for slug, one_of in {
        "ties": {"breadcrumbs-ties", "dare-ties", "della", "model-breadcrumbs"},
        "dapt": {"pcp", "small-lm-cpt", "robust-wav2vec-2-0"},
        "var": {"m-var", "carp"},
    }.items():
        found = [c.slug for c in search.similar(slug)]
        assert slug not in found and len(found) == 5 and one_of & set(found), (slug, found)
    same = sum(cards.find(s).family == search.similar(s, 1)[0].family for s in cards.load())
    assert same > 0.5 * len(cards.load())  # a random other card shares the family in about 8 % of cases
