"""Quality rules: each by hand on a page that breaks it alone, runs of words by counting, names and bounds."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.catalogue import build
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select._lexical import SENTENCE_ENDS
from tunewright.data.select._repetition import repeated_runs
from tunewright.data.select._rules import RULES, STOP_WORDS, measured
from tunewright.data.select._words import tokens
from tunewright.data.select.quality_rules import QualityRules
from tunewright.errors import RecipeError
from tunewright.recipe import MethodUse

NAMES = [f"{c}{v}{d}{u}s" for c in "bdfgk" for v in "aeiou" for d in "lmnr" for u in "ai"]


def page(lines=8, words=12, seed=0):
    """Sentences in which no run of words stands twice."""
    rng = random.Random(seed)
    some = rng.sample(NAMES, lines * (words - 2))
    each = [some[i::lines] for i in range(lines)]
    stops = ["the", "and"]
    return "\n".join(f"{' '.join(e[:5])} {stops[i % 2]} {' '.join(e[5:])}." for i, e in enumerate(each))


def selected(method, *texts):
    return call(method, "select", records=[Record({"text": t}, id=str(i)) for i, t in enumerate(texts)])


GOOD = page()
LINES = GOOD.split("\n")
BROKEN = {
    "gopher-words": " ".join(GOOD.split()[:45]) + ". The end. Yes.",
    "gopher-word-length": re.sub(r"\b([a-z])[a-z]{3}s\b", r"\1", GOOD),
    "gopher-symbols": GOOD.replace(" ", " # ", 12),
    "gopher-bullets": "\n".join(f"- {line}" for line in LINES),
    "gopher-ellipses": "\n".join(f"{line}.." if i < 3 else line for i, line in enumerate(LINES)),
    "gopher-letters": "\n".join(f"{line[:-1]} {100 + i} {200 + i} {300 + i}." for i, line in enumerate(LINES)),
    "gopher-stop-words": GOOD.replace(" and ", " ").replace("\n", " xa xe.\n"),
    "c4-sentences": "\n".join(line.rstrip(".") for line in LINES) + '."',
    "c4-placeholder": GOOD + "\nLorem Ipsum here.",
    "c4-braces": GOOD + "\nfunction() { now.",
    "fineweb-line-ends": GOOD.replace(".\n", ". so\n").rstrip("."),
    "fineweb-short-lines": GOOD.replace(" ", ".\n"),
    "fineweb-repeated-line-characters": GOOD + "\n" + LINES[0],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_page_that_breaks_one_rule_goes_by_it(name):
    found = selected(QualityRules(rules=[name]), GOOD, BROKEN[name])
    assert list(found.indices) == [0] and found.reasons[1].startswith(f"{name}: {RULES[name].says} ")
    assert set(found.scores) == {name}


def test_a_good_page_breaks_none_and_an_empty_one_is_measured():
    found = selected(QualityRules(), GOOD, "", " \n ", "\ud800")
    assert list(found.indices) == [0] and set(found.scores) == set(RULES)
    assert all(r == "gopher-words: words below 50" for r in found.reasons[1:])


def test_what_is_measured_is_right_by_hand():
    text = "The cat # sat... on 42 mats!\n- The cat…\n\n- The cat…\nEND {x} {y}"
    found = measured([GOOD, text], RULES, STOP_WORDS)[1]
    expected = {
        "gopher-words": 16,
        "gopher-word-length": (3 + 3 + 1 + 6 + 2 + 2 + 5 + 2 * (1 + 3 + 4) + 3 + 3 + 3) / 16,
        "gopher-symbols": 3 / 16,
        "gopher-letters": 12 / 16,
        "gopher-stop-words": 1,
        "gopher-bullets": 2 / 4,
        "gopher-ellipses": 2 / 4,
        "gopher-repeated-lines": 1 / 4,
        "gopher-repeated-line-characters": 10 / (28 + 20 + 11),
        "gopher-repeated-paragraphs": 0,
        "gopher-top-2-words": 3 * 6 / 34,
        "gopher-top-3-words": 0,
        "c4-sentences": 2,
        "c4-placeholder": 0,
        "c4-braces": 2,
        "fineweb-line-ends": 3 / 4,
        "fineweb-short-lines": 1,
    }
    assert {n: found[n] for n in expected} == pytest.approx(expected)
    twice = "one two\n\nthree\n\none two\n\nfour"
    assert measured([twice], RULES, STOP_WORDS)[0]["gopher-repeated-paragraphs"] == pytest.approx(1 / 4)
    assert measured([twice], RULES, STOP_WORDS)[0]["gopher-repeated-paragraph-characters"] == pytest.approx(7 / 23)


def by_counting(text):
    """Shares of characters by runs of words, one run at a time."""
    words = re.findall(r"\w+", text.lower())
    whole, out = max(1, sum(map(len, words))), {}
    for n in range(2, 11):
        runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counted = Counter(runs)
        if n <= 4:
            top = max(((c, sum(map(len, r))) for r, c in counted.items() if c > 1), default=(0, 0))
            out[n] = top[0] * top[1] / whole
        else:
            again = {i + k for i, r in enumerate(runs) if r in runs[:i] for k in range(n)}
            out[n] = sum(len(words[i]) for i in again) / whole
    return out


def test_repeated_runs_are_those_of_counting_each():
    rng = random.Random(0)
    texts = ["", "one", "a a a a a a a a a a a a", "x, y! " * 9, GOOD + GOOD, "É É é é", *BROKEN.values()]
    texts += [" ".join(rng.choices("a bb ccc dddd".split(), k=rng.randint(1, 60))) for _ in range(40)]
    for some in (texts, texts[::-1], texts[2:3], [""]):
        found = repeated_runs(tokens(some, punctuation=False))
        for i, text in enumerate(some):
            assert {n: float(v[i]) for n, v in found.items()} == pytest.approx(by_counting(text)), text


def test_repetition_rules_have_the_table_s_bounds():
    bounds = [r.most for n, r in RULES.items() if re.fullmatch(r"gopher-(top|repeated)-\d+-words", n)]
    assert bounds == [0.20, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    found = selected(QualityRules(rules=["gopher"]), GOOD + "\n" + "\n".join(LINES[:3]))
    assert found.reasons[0].startswith("gopher-repeated-line-characters")
    found = selected(QualityRules(rules="gopher", without="gopher-repeated-line-characters"), GOOD + GOOD[:300])
    assert found.reasons[0].startswith("gopher-repeated-5-words")


def test_families_names_bounds_and_stop_words_are_read():
    assert list(QualityRules(rules="c4 gopher-words")._chosen()) == [
        "gopher-words",
        *(n for n in RULES if n[:2] == "c4"),
    ]
    assert len(QualityRules(without="gopher")._chosen()) == 6
    short = "the cat and the dog."
    assert list(selected(QualityRules(rules="gopher", bounds={"gopher-words": [5, None]}), short).indices) == [0]
    assert selected(QualityRules(rules="gopher", bounds={"gopher-words": [1, 4]}), short).reasons[0].endswith("above 4")
    german = "der Hund und die Katze"
    rule = {"rules": "gopher-stop-words"}
    assert not selected(QualityRules(**rule), german).indices
    assert list(selected(QualityRules(**rule, stop_words="der und"), german).indices) == [0]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"rules": ["gofer"]}, "no rule is called 'gofer'.*gopher"),
        ({"without": ["gopher-word"]}, "no rule is called 'gopher-word'"),
        ({"rules": ["c4"], "without": ["c4"]}, "leaves no rule over"),
        ({"bounds": {"gopher": [1, 2]}}, "bounds of one rule"),
        ({"bounds": {"gopher-words": [3, 2]}}, "must not be above"),
        ({"bounds": {"gopher-words": [None, None]}}, "bounds of one rule"),
        ({"bounds": {"gopher-wrds": [1, 2]}}, "no rule is called"),
        ({"stop_words": ["der"]}, "quality-rules.stop_words"),
    ],
)
def test_what_names_no_rule_is_refused(params, says):
    with pytest.raises(RecipeError, match=says):
        build(MethodUse(name="quality-rules", params=params))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aİß.!?… \t\n\u3000{loremipsum", max_size=30), min_size=1, max_size=4))
def test_sentences_of_many_texts_are_those_of_each(texts):
    """Against the expression that other selectors count by; over C4, MASC, medquad and German laws nothing differed."""
    rules = {n: RULES[n] for n in ("c4-sentences", "c4-placeholder", "c4-braces")}
    texts = [*texts, "Lorem ipsum. " + texts[0]]
    for text, found in zip(texts, measured(texts, rules, STOP_WORDS), strict=True):
        assert found["c4-sentences"] == len(SENTENCE_ENDS.findall(text))
        assert found["c4-placeholder"] == text.lower().count("lorem ipsum") and found["c4-braces"] == text.count("{")
