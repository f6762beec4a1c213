"""The glossary defines each word once, and names what the code knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from tunewright.claims.claim import Scale
from tunewright.claims.rule import Word
from tunewright.contract.category import CATEGORIES
from tunewright.contract.slot import SLOTS
from tunewright.recipe import Budget, StageSpec

PAGE = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^- \*\*([\w ]+)\*\*: ((?:.+\n)(?:  .+\n)*)", PAGE, re.MULTILINE)
MEANS = dict(ENTRIES)


def test_every_word_is_defined_once_in_one_sentence() -> None:
    words = [word for word, _ in ENTRIES]
    assert len(words) == len(set(words)) == len(re.findall(r"^- ", PAGE, re.MULTILINE))
    for word, text in ENTRIES:
        assert text.rstrip().endswith("."), word


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("carry", get_args(StageSpec.model_fields["carry"].annotation)),
        ("verdict", get_args(Word)),
        ("scale", get_args(Scale)),
        ("category", tuple(CATEGORIES)),
    ],
)
def test_every_value_is_named(word: str, values: tuple[str, ...]) -> None:
    assert values and all(f"`{value}`" in MEANS[word] for value in values)


def test_every_kind_of_budget_is_named() -> None:
    assert all(kind in MEANS["budget"].lower() for kind in Budget.model_fields)


def test_the_slots_that_are_named_are_slots() -> None:
    named = re.findall(r"`(\w+)`", MEANS["slot"])
    assert len(named) > 2 and set(named) <= set(SLOTS)
