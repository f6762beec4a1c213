"""EntiGraph: entities of each document, then texts on how drawn pairs and triples of them relate."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.made import Made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.entigraph import EntiGraph, entities_of, groups
from tunewright.errors import DataError
from tunewright.runs.run import run

DOCS = [Record({"text": f"document {i} about it"}, id=f"d:{i}", source="d", where=f"d.txt:{i}") for i in range(3)]
NAMES = ["Ada", "the engine", "London", "Babbage", "cards"]


def say(prompt: str, k: int) -> Reply | str:
    if "List the entities" in prompt:
        return json.dumps({"entities": NAMES})
    return "on " + " and ".join(line[2:] for line in prompt.splitlines() if line.startswith("- "))


def related(prompt: str) -> frozenset[str]:
    return frozenset(line[2:] for line in prompt.splitlines() if line.startswith("- "))


def asked(made: Made) -> str:
    assert made.written is not None
    return str(made.written.prompt)


def test_all_pairs_and_triples_of_every_document_are_related_once() -> None:
    found, writer = made(EntiGraph(most_pairs=None, most_triples=None), DOCS, say)
    assert len(writer.asked) == 3 * (1 + 10 + 10)
    wanted = {frozenset(g) for size in (2, 3) for g in combinations(NAMES, size)}
    for doc in DOCS:
        mine = [m for m in found if m.of is doc]
        assert {related(asked(m)) for m in mine} == wanted and len(mine) == 20
        assert all(doc["text"] in asked(m) for m in mine)
        assert all(set(m.values) == {"text"} and m.values["text"].startswith("on ") for m in mine)


def test_a_draw_is_without_repeats_and_keyed_by_the_document() -> None:
    method = EntiGraph(most_pairs=4, most_triples=2)
    found, _ = made(method, DOCS, say)
    drawn = {d.id: [related(asked(m)) for m in found if m.of is d] for d in DOCS}
    for sets in drawn.values():
        assert sorted(map(len, sets)) == [2, 2, 2, 2, 3, 3] and len(set(sets)) == 6
    assert len({frozenset(s) for s in drawn.values()}) > 1
    backwards, _ = made(method, DOCS[::-1], say)
    assert {d.id: [related(asked(m)) for m in backwards if m.of is d] for d in DOCS} == drawn
    assert method.makes(3) == 18 and EntiGraph(most_pairs=None).makes(3) is None
    other, _ = made(method, DOCS, say, rng=random.Random(1))
    assert {d.id: [related(asked(m)) for m in other if m.of is d] for d in DOCS} != drawn


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"entities": ["A b", "C", "a B"]}', ["A b", "C"]),
        ('Sure:\n```json\n{"summary": "x", "entities": ["A", "B"]}\n```', ["A", "B"]),
        ('["A", 3, "B"]', ["A", "B"]),
        ("- A\n- B c\n* D", ["A", "B c", "D"]),
        ("1. A\n2) B", ["A", "B"]),
        ("A, B,C", ["A", "B", "C"]),
        ("", []),
        ('{"entities": ["A", ', ['{"entities": ["A"']),
        ("x" * 200 + "\nA", ["A"]),
    ],
)
def test_entities_are_read_as_models_write_them(text: str, names: list[str]) -> None:
    assert entities_of(text) == names


def test_many_groups_are_drawn_without_forming_all() -> None:
    drawn = groups(500, 3, 40, random.Random(0))
    assert len(set(drawn)) == 40 == len(drawn) and all(a < b < c for a, b, c in drawn)
    assert groups(4, 2, 6, random.Random(0)) == list(combinations(range(4), 2)) == groups(4, 2, None, random.Random(0))
    assert groups(1, 2, 5, random.Random(0)) == []


def test_what_cannot_be_read_is_asked_again_and_thrown_away_with_the_reason() -> None:
    tries = {"document 0": 0, "document 1": 0}

    def stubborn(prompt: str, k: int) -> Reply | str:
        for name in tries:
            if name in prompt and "List the entities" in prompt:
                tries[name] += 1
                return "" if name == "document 0" else "one" if tries[name] < 2 else "one, two"
        return say(prompt, k)

    found, writer = made(EntiGraph(most_pairs=1, most_triples=0, tries=2, temperature=0.0), DOCS, stubborn)
    thrown = [(m.of.id, m.thrown) for m in found if m.thrown]
    assert thrown == [
        ("d:0", "the writer gave nothing"),
        ("d:1", "fewer than two entities can be read in it"),
        ("d:0", "the writer gave nothing"),
    ]
    assert [m.of.id for m in found if not m.thrown] == ["d:1", "d:2"]
    assert [t for p, _, t in writer.asked if "List" in p] == [0.0, 0.0, 0.0, 1.0, 1.0], "the same list is not asked for"
    with pytest.raises(DataError, match="it has no text"):
        made(EntiGraph(), [Record({"prompt": "a", "completion": "b"}, id="r", where="r:1")], say)


def test_in_a_run_the_base_itself_may_write_beside_replayed_text(tmp_path: Path) -> None:
    small.write_inputs(tmp_path)
    (tmp_path / "docs.txt").write_text("card lost, fee, rate\n\npin and cash abroad")
    use = {"entigraph": {"most_pairs": 2, "most_triples": 1, "max_new_tokens": 24, "tries": 6}}
    changes: dict[str, Any] = {
        "data__train": "docs.txt",
        "data__synthesize": [use],
        "data__replay": {"keep": 0.1},
        "stages__0__methods": [{"lora": {"rank": 4}}, "e2wm"],
        "measurement__strengths": [1.0],
    }
    done = run(small.write_recipe(tmp_path, **changes), tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (done.folder / "made" / "main.jsonl").read_text().splitlines())
    assert head["kept"] > 0 and head["writers"]["start"]["weights"]
    assert all("relate to each other" in x["prompt"]["ask"] for x in lines if not x["thrown"])
