"""CLEAR: the confidence is BSDetector's, doubted rows go, and only surely better answers take a target's place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.clear import TIED, Clear, letter, words_alike
from tunewright.errors import DataError
from tunewright.runs.run import run

TARGETS = ["the river Rhine", "a stone", "salt", "north", "glass"]
ROWS = [
    Record({"prompt": f"q{i}?", "completion": t}, id=f"rows:{i}", source="rows", where=f"rows.jsonl:{i}")
    for i, t in enumerate(TARGETS)
]
OWN = {  # four answers to each prompt
    "rows:0": ["the river Rhine", "The Rhine.", "rhine river", "a lake"],
    "rows:1": ["lamp"] * 4,
    "rows:2": ["salt", "salt", "pepper", "salt"],
    "rows:3": [""] * 4,
    "rows:4": ["road", "road", "road", "glass"],
}
RIGHT = {"the river Rhine": "A", "a stone": "(B) no", "salt": "A.", "glass": "who knows", "road": "A", "lamp": "a"}
BETTER = {"rows:1": "lamp", "rows:2": "salt", "rows:4": "road", "rows:0": "the river Rhine", "rows:3": "south"}


def answer_in(prompt: str) -> str:
    return prompt.split("Proposed answer:\n")[1].split("\n")[0]


def say(prompt: Any, k: int) -> Reply | str:
    if prompt in OWN:
        return OWN[prompt][k]
    if "Proposed answer" in prompt:
        return "A" if "Answer B is better." in prompt else RIGHT.get(answer_in(prompt), "C")
    first, second = (prompt.split(f"Answer {x}:\n")[1].split("\n")[0] for x in "AB")
    if "lamp" in (first, second):  # prefers lamp, whatever the order
        return "A" if first == "lamp" else "B"
    return "B"  # always the second one


def plain_f1(a: str, b: str) -> float:
    """An oracle by precision and recall."""
    one, other = Counter(a.lower().replace(".", "").split()), Counter(b.lower().replace(".", "").split())
    both = sum(min(n, other[w]) for w, n in one.items())
    if not both:
        return 0.0
    precision, recall = both / sum(one.values()), both / sum(other.values())
    return 2 * precision * recall / (precision + recall)


def confidence(target: str, own: list[str], said: float) -> float:
    o = [0.8 * plain_f1(target, y) + 0.2 * (target == y) for y in own]
    return 0.7 * sum(o) / len(o) + 0.3 * said


TRUE = {
    "rows:0": confidence(TARGETS[0], OWN["rows:0"], 1.0),
    "rows:1": confidence(TARGETS[1], OWN["rows:1"], 0.0),
    "rows:2": confidence(TARGETS[2], OWN["rows:2"], 1.0),
    "rows:4": confidence(TARGETS[4], OWN["rows:4"], 0.5),
}


def test_it_filters_by_the_papers_confidence_at_the_median_and_nothing_unknown_goes() -> None:
    found, writer = made(Clear(samples=4, max_new_tokens=9), ROWS, say)
    assert {m.of.id: m.scores["confidence"] for m in found if m.scores} == pytest.approx(TRUE)
    assert [m.of.id for m in found if not m.thrown] == ["rows:0", "rows:2", "rows:3"]
    assert {m.thrown for m in found if m.thrown} == {"the model doubts the target"}
    assert found[3].verdict == "kept, since the model answered nothing" and "confidence" not in found[3].values
    assert found[0].values == {**ROWS[0], "confidence": pytest.approx(TRUE["rows:0"]), "verdict": "kept as it was"}
    assert all(limit == 9 and t == 1.0 for p, limit, t in writer.asked if p in OWN)
    low, _ = made(Clear(samples=4, least=0.3), ROWS, say)
    assert [m.of.id for m in low if not m.thrown] == ["rows:0", "rows:2", "rows:3", "rows:4"]


def test_where_all_confidences_tie_it_says_that_none_goes() -> None:
    alike = [r.replace(completion="nothing alike") for r in (ROWS[1], ROWS[4])]
    found, _ = made(Clear(samples=4), alike, say)
    assert [m.thrown for m in found] == [""] * 2 and {m.verdict for m in found} == {TIED}
    assert {m.verdict for m in made(Clear(samples=4, least=0.0), alike, say)[0]} == {"kept as it was"}
    one, _ = made(Clear(samples=4), alike[:1], say)
    assert [m.verdict for m in one] == ["kept as it was"]


def test_only_what_both_orders_prefer_surely_takes_a_targets_place() -> None:
    method = Clear(samples=4, candidates="stages.filter", surely=0.9)
    found, _ = made(method, ROWS, say, others={"stages.filter": lambda prompt, k: BETTER[prompt]})
    assert found[1].verdict == "replaced" and found[1].written is not None
    assert found[1].written.writer == "stages.filter"
    assert found[1].values["completion"] == "lamp" and found[1].values["replaced"] == "a stone"
    assert found[1].values["better"] == pytest.approx(1.0)
    # the second is always said to be better: that is no verdict, so this doubted row goes
    assert found[4].thrown and "better" not in found[4].scores
    assert [m.verdict for m in found[:1] + found[2:4]] == ["kept as it was"] * 2 + [found[3].verdict]


def test_confidences_can_judge_and_what_was_cut_off_never_wins() -> None:
    method = Clear(samples=4, candidates="stages.filter", judge="confidence", surely=0.7)
    said = {**BETTER, "rows:1": Reply("lamp", False, 3)}
    found, _ = made(method, ROWS, say, others={"stages.filter": lambda prompt, k: said[prompt]})
    assert found[4].scores["better"] == pytest.approx(confidence("road", OWN["rows:4"], 1.0))
    assert found[4].values["replaced"] == "glass" and found[1].thrown
    sure, _ = made(method.model_copy(update={"surely": 0.9}), ROWS, say, others={"stages.filter": lambda p, k: said[p]})
    assert sure[4].thrown and sure[4].scores["better"] < 0.9


def test_letters_are_read_where_they_are_meant_and_bad_rows_are_named() -> None:
    assert [letter(t) for t in ("B", "(a) yes", "Answer: C", "The answer is A.", "b) no")] == ["B", "A", "C", "A", "B"]
    assert [letter(t) for t in ("A good answer", "Because", "", "yes")] == [""] * 4
    assert words_alike("?", "?") == 1.0 and words_alike("?", "yes") == 0.0
    with pytest.raises(DataError, match="no answer that others") as error:
        made(Clear(), [Record({"text": "plain"}, id="r", where="r.txt:1")], say)
    assert error.value.where == "r.txt:1"
    with pytest.raises(ValueError, match="one and the same"):
        Clear(temperature=0)


def test_in_a_run_the_page_counts_what_was_kept_and_what_went(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=8)
    clear = {"samples": 2, "max_new_tokens": 3}
    lora = [{"lora": {"rank": 2}}]
    filtered = {"name": "filter", "data": {"synthesize": [{"clear": clear}]}, "methods": lora, "budget": {"steps": 1}}
    again = {**clear, "model": "base", "candidates": "stages.filter", "judge": "confidence", "surely": 0.0}
    correct = {**filtered, "name": "correct", "start": "base", "data": {"synthesize": [{"clear": again}]}}
    file = small.write_recipe(tmp_path, stages=[filtered, correct], measurement__strengths=[1.0])
    run(file, tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (tmp_path / "out/made/correct.jsonl").read_text().splitlines())
    assert head["made"] == [8] and sum(head["verdicts"].values()) == head["kept"]
    assert {x["verdict"] for x in lines if "verdict" in x} == set(head["verdicts"])
    assert all({"confidence", "verdict"} <= set(x["values"]) for x in lines if not x["thrown"])
    notes = json.loads((tmp_path / "out/report.json").read_text())["notes"]
    (said,) = [n for n in notes if n.startswith("stage 'correct'")]
    assert all(f"{count}: {verdict}" in said for verdict, count in head["verdicts"].items())
