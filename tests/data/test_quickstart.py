"""The quickstart's data: made by its script, no message in two files, every intent everywhere, kept text clean."""

from __future__ import annotations

import json
import os
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from tunewright.data.quickstart import make

FOLDER = files("tunewright.data.quickstart")


def rows(part):
    return [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_sizes_shape_and_intents():
    intents = {part: Counter(row["completion"] for row in rows(part)) for part in ("train", "validation", "test")}
    assert {part: sum(c.values()) for part, c in intents.items()} == {"train": 1020, "validation": 120, "test": 300}
    assert (
        intents["train"].keys() == intents["validation"].keys() == intents["test"].keys()
        and len(intents["train"]) == 12
    )
    assert {part: set(c.values()) for part, c in intents.items()} == {"train": {85}, "validation": {10}, "test": {25}}
    for part in intents:
        for row in rows(part):
            assert row.keys() == {"prompt", "completion"} and row["prompt"].startswith("Which support topic is this?\n")


def test_no_message_says_nearly_the_same_as_another():
    seen = []
    for part in ("test", "validation", "train"):
        for row in rows(part):
            text = row["prompt"].removeprefix(make.QUESTION)
            assert not make.is_near(text, seen), f"{part}: {text}"
            seen.append(make.words(text))


def test_near_means_case_and_punctuation_do_not_count():
    seen = [make.words("Why was my card declined?")]
    assert make.is_near("why was my CARD declined", seen) and make.is_near(
        "My card: why was it declined!", [make.words("it declined why was my card")]
    )
    assert not make.is_near("Why was my transfer declined?", seen)


def test_the_kept_text_is_clean_prose():
    documents = (FOLDER / "keep.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert len(documents) == 24 and len(set(documents)) == 24
    for text in documents:
        assert 400 <= len(text) <= make.DOCUMENT and text[-1] in ".!?" and text[0].isupper()
        assert "  " not in text and " ," not in text and "<unk>" not in text and "@" not in text


def test_paragraphs_come_apart_and_glued_headings_go():
    good = "A first paragraph of prose that is long enough. " * 7
    found = make.paragraphs(f"{good.strip()}Another begins here. {good}.HistoryThe heading is glued to it. {good}")
    assert found[0] == good.strip() and not any("HistoryThe" in p for p in found)


def test_everything_is_credited():
    credits = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    for word in (
        "Banking77",
        "CC BY 4.0",
        "CC BY-SA 4.0",
        "Wikipedia",
        "Casanueva",
        "train.jsonl",
        "keep.txt",
        "drift-",
    ):
        assert word in credits


def test_the_script_makes_the_same_bytes(tmp_path):
    given = os.environ.get("TUNEWRIGHT_DATA")
    if not given:
        pytest.skip("TUNEWRIGHT_DATA does not name the folder of the original data")
    make.main(Path(given), tmp_path)
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "keep.txt"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
