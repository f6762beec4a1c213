"""Self-improving transformers: harder rows in each round, answered by the model, kept by votes and by length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.self_improving_transformers import SelfImproving, majority
from tunewright.errors import DataError
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

ROWS = [Record({"prompt": f"q{i}", "level": 1 + i // 3}, id=f"r:{i}", where=f"r.jsonl:{i}") for i in range(9)]
ROWS = [r.replace(completion="known") if r["level"] == 1 else r for r in ROWS]
SAID = {"r:3": "12345", "r:4": "1234", "r:5": "12", "r:6": "", "r:7": "long answer", "r:8": "long answers"}


def say(prompt: Any, k: int) -> Reply | str:
    return Reply("12345678", False, 2) if prompt == "r:8" else SAID[prompt]


def fates(found: Any) -> dict[str, str]:
    return {m.of.id: m.thrown or m.verdict for m in found}


def test_each_round_reaches_further_and_what_is_known_stays() -> None:
    first, writer = made(SelfImproving(known=1), ROWS, say, round=1)
    assert [p for p, _, _ in writer.asked] == ["r:3", "r:4", "r:5"]
    assert fates(first) == {
        **dict.fromkeys(("r:0", "r:1", "r:2"), "as it was"),
        **dict.fromkeys(("r:3", "r:4", "r:5"), "answered"),
        **dict.fromkeys(("r:6", "r:7", "r:8"), "harder than this round's"),
    }
    assert {m.of.id: m.values["completion"] for m in first if m.verdict == "answered"}["r:4"] == "1234"
    second, _ = made(SelfImproving(known=1), ROWS, say, round=2)
    assert [fates(second)[f"r:{i}"] for i in (6, 7, 8)] == ["the writer gave nothing", "answered", "cut off"]
    assert sum(m.verdict == "as it was" for m in second) == 3


def test_lengths_are_compared_within_a_difficulty() -> None:
    found, _ = made(SelfImproving(known=1, shorter=1), ROWS[::-1], say, round=2)
    kept = {m.of.id for m in found if not m.thrown and m.verdict == "answered"}
    assert kept == {"r:3", "r:4", "r:7"} and fates(found)["r:5"] == "shorter than others"


def test_models_vote_and_an_answer_needs_its_share() -> None:
    others = {"a": lambda p, k: SAID[p], "b": lambda p, k: "12345"}
    method = SelfImproving(known=1, voters=["a", "b"], agree=0.9)
    found, _ = made(method, ROWS, say, others=others, round=1)
    assert [fates(found)[f"r:{i}"] for i in (3, 4, 5)] == ["answered", *["too few votes agree"] * 2]
    assert {m.of.id: m.scores["votes"] for m in found if m.scores} == pytest.approx(
        {"r:3": 1, "r:4": 2 / 3, "r:5": 2 / 3}
    )
    low, _ = made(method.model_copy(update={"agree": 0.6}), ROWS, say, others=others, round=1)
    assert sum(m.verdict == "answered" and not m.thrown for m in low) == 3
    assert majority(["a", " a", "b", ""]) == ("a", 0.5) and majority(["", " "]) == ("", 0.0)


def test_a_row_that_does_not_say_how_hard_it_is_is_named() -> None:
    with pytest.raises(DataError, match="no number in 'level'") as error:
        made(SelfImproving(known=1), [Record({"prompt": "q"}, id="r", where="r.jsonl:7")], say)
    assert error.value.where == "r.jsonl:7"
    with pytest.raises(DataError, match="no number in 'level'"):  # a check asks for stand-ins alone
        SelfImproving(known=1).stand_in(Record({"prompt": "q"}, id="r", where="r.jsonl:7"), None)
    longer, writer = made(SelfImproving(known=1, level="length"), ROWS[3:4], say, round=1)
    assert [m.thrown for m in longer] == [""] and len(writer.asked) == 1
    with pytest.raises(ValueError, match="one and the same"):
        SelfImproving(known=1, samples=2)


def test_a_check_refuses_rows_of_which_nothing_says_how_hard_they_are(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=2)
    file = small.write_recipe(tmp_path, data__synthesize=[{"self-improving-transformers": {"known": 1}}])
    with pytest.raises(DataError, match="no number in 'level'") as error:
        assemble(Recipe.load(file))
    assert error.value.where == "train.jsonl:1"


def test_rounds_of_a_run_answer_ever_more_rows(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=2)
    rows = [{"prompt": f"card {i}", "level": 1 + i % 3} for i in range(9)]
    rows = [{**r, "completion": "fee" if r["level"] == 1 else ""} for r in rows]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    maker = {"self-improving-transformers": {"known": 1, "max_new_tokens": 3}}
    data = {"train": "all.jsonl", "synthesize": [maker]}
    stage = {"name": "harder", "rounds": 2, "data": data, "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 1}}
    run(small.write_recipe(tmp_path, stages=[stage], measurement__strengths=[1.0]), tmp_path / "out", quiet=True)
    heads = [json.loads((tmp_path / f"out/made/harder-{r}.jsonl").read_text().splitlines()[0]) for r in (1, 2)]
    assert [h["round"] for h in heads] == [1, 2] and all(h["verdicts"]["as it was"] == 3 for h in heads)
    assert heads[0]["thrown"]["harder than this round's"] == 3 and "harder than this round's" not in heads[1]["thrown"]
    assert [h["writers"]["start"]["prompts"] for h in heads] == [3, 6]
