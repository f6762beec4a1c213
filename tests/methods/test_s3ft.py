"""S3FT: the model's own answer where it is right, else its own paraphrase that is, else the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize.s3ft import S3FT
from tunewright.errors import DataError, MethodError
from tunewright.files import checkpoint
from tunewright.methods.reinforcement.numeric_answer import numeric_answer
from tunewright.models.agreement import differing
from tunewright.runs.run import resume, run

ROWS = [
    Record({"prompt": f"q{i}", "completion": f"gold {i}"}, id=f"rows:{i}", source="rows", where=f"rows.jsonl:{i}")
    for i in range(5)
]
SAID = {
    "rows:0": ["it is 0", "0 it is"],  # right at once
    "rows:1": ["it is 7", "so 1"],  # right the second time
    "rows:2": ["no", "never"],  # wrong, and paraphrased rightly
    "rows:3": ["no", "never"],  # wrong, and paraphrased wrongly
    "rows:4": ["", "4 and on"],  # nothing, and right but cut off
}
AGAIN = {"gold 2": "two, that is 2", "gold 3": "30", "gold 4": ""}


def say(prompt: Any, k: int) -> Reply | str:
    if prompt in SAID:
        text = SAID[prompt][k]
        return Reply(text, "on" not in text, 2)
    return next((text for gold, text in AGAIN.items() if gold in prompt), "0")


def judge(record: Record, text: str) -> float:
    """The authors' rule for arithmetic, by the numbers at the end."""
    return numeric_answer(text, record["completion"])


def answers(found: Any) -> dict[str, str]:
    return {m.of.id: m.values["completion"] for m in found if not m.thrown}


def test_each_record_has_the_nearest_answer_that_is_right() -> None:
    found, writer = made(S3FT(samples=2, temperature=0.7, max_new_tokens=9), ROWS, say, judge)
    assert answers(found) == {
        "rows:0": "it is 0",
        "rows:1": "so 1",
        "rows:2": "two, that is 2",
        "rows:3": "gold 3",
        "rows:4": "gold 4",
    }
    assert {m.of.id: m.written is None for m in found if not m.thrown} == {f"rows:{i}": i > 2 for i in range(5)}
    assert all(m.values["prompt"] == m.of["prompt"] for m in found)
    thrown = {(m.of.id, m.values["completion"]): m.thrown for m in found if m.thrown}
    assert thrown == {
        ("rows:0", "0 it is"): "another answer is right",
        ("rows:1", "it is 7"): "not right",
        ("rows:2", "no"): "not right",
        ("rows:2", "never"): "not right",
        ("rows:3", "no"): "not right",
        ("rows:3", "never"): "not right",
        ("rows:3", "30"): "the paraphrase is not right",
        ("rows:4", ""): "the writer gave nothing",
        ("rows:4", "4 and on"): "cut off",
    }
    asked = [prompt for prompt, _, _ in writer.asked]
    assert asked[:5] == [r.id for r in ROWS] and len(asked) == 8
    assert all(f"q{i}" in asked[3 + i] and f"gold {i}" in asked[3 + i] for i in (2, 3, 4))
    assert all(limit == 9 and t == 0.7 for _, limit, t in writer.asked)


def test_without_paraphrases_and_with_another_bar() -> None:
    found, writer = made(S3FT(samples=2, temperature=1.0, paraphrase=False), ROWS, say, judge)
    assert answers(found)["rows:2"] == "gold 2" and len(writer.asked) == 5
    near, _ = made(S3FT(samples=2, temperature=1.0, right=0.1), ROWS, say, lambda r, t: 0.2 * ("7" in t))
    assert answers(near)["rows:1"] == "it is 7"
    assert [m.scores["judged"] for m in near if m.of.id == "rows:1"] == [0.2, 0.0]


def test_conversations_get_another_last_answer() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = Record({"messages": [*turns, {"role": "assistant", "content": "gold 0"}]}, id="rows:0", source="rows")
    found, _ = made(S3FT(), [row], say, lambda record, text: 1.0)
    assert found[0].values["messages"] == [*turns, {"role": "assistant", "content": "it is 0"}]
    assert row["messages"][-1]["content"] == "gold 0"


def test_what_has_no_answer_and_what_would_be_alike_is_refused() -> None:
    with pytest.raises(DataError, match="no answer that others could be compared with"):
        made(S3FT(), [Record({"text": "plain"}, id="r", where="r.txt:1")], say, judge)
    with pytest.raises(ValueError, match="one and the same"):
        S3FT(samples=2)


def test_in_a_run_it_trains_on_what_the_judge_took_beside_lora_and_another_method(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=12)
    judged = [{"s3ft": {"max_new_tokens": 6, "right": 0.01}}, {"exact-answer": {"partial": 0.9}}]
    methods = [{"lora": {"rank": 4}}, "asft"]
    changes: dict[str, Any] = {"data__synthesize": judged, "stages__0__methods": methods, "train__save_steps": 1}
    changes["measurement__strengths"] = [1.0]
    file = small.write_recipe(tmp_path, **changes)
    run(file, tmp_path / "out", quiet=True)
    head, *lines = map(json.loads, (tmp_path / "out/made/main.jsonl").read_text().splitlines())
    assert head["kept"] == 12 and head["judges"][0]["name"] == "exact-answer"
    assert {line["of"] for line in lines if not line["thrown"]} == {f"train.jsonl:{i}" for i in range(1, 13)}
    kept = checkpoint.save

    def dying(*given: Any, **named: Any) -> Any:
        kept(*given, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="interrupted"):
        patch.setattr(checkpoint, "save", dying)
        run(file, tmp_path / "stopped", quiet=True)
    resume(tmp_path / "stopped", quiet=True)
    ends = [checkpoint.read(tmp_path / n / "stages" / "main").tensors["trained"] for n in ("out", "stopped")]
    assert not differing(*ends)
    with pytest.raises(MethodError, match="asks a judge"):
        run(small.write_recipe(tmp_path, "n", data__synthesize=["s3ft"]), tmp_path / "no", quiet=True)
