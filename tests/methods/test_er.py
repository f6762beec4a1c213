"""Experience replay: each step is one on its rows and kept ones together, from stage to stage."""

from __future__ import annotations

import json

import pytest

from tests import small
from tests.methods.rehearsing import TASKS, ByHand, trained
from tunewright.conformance.bench import Tiny
from tunewright.errors import MethodError
from tunewright.methods.continual.er import ER
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.training.carry import earlier_of


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_plain_descent_on_its_rows_and_all_that_were_seen(task):
    """With a buffer and a minibatch as large as the stream nothing is drawn: step t trains on batches 1 .. t."""
    er = trained({"er": ER(buffer_size=50, minibatch_size=50)}, task)
    hand, seen, losses = ByHand(task), [], []
    for batch in hand.batches:
        seen = [*batch, *seen]
        loss = hand.loss(seen)
        losses.append(loss.item())
        hand.step(hand.gradient(loss))
    assert [r["loss"] for r in er.records] == pytest.approx(losses, rel=1e-4)
    assert [r.get("joined_rows", 0) for r in er.records] == [0, 4, 8]
    hand.check(er)


def test_rows_of_the_stage_before_are_there_from_the_first_step_and_as_many_as_the_step_has():
    t = Tiny([("er", ER(buffer_size=4))])
    before = {s[0] for s in t.loop.methods.one("step").state.data["memory"]["slots"]}
    assert before == {"earlier1"} and len(t.left[0].values["rows"]) == 4
    first = t.loop.one_step()
    assert first["joined_rows"] == 2  # the step's own rows are two


def test_a_herding_buffer_sees_earlier_stages_alone_and_needs_classes():
    t = Tiny([("er", ER(buffer_size=5, keep="herding"))], task_name="text-classification")
    kept = [s[1] for s in t.loop.methods.one("step").state.data["memory"]["slots"]]
    assert kept == [0, 0, 1, 1]  # 5 // 2 of each of the two classes of the stage before
    t.run()
    state = t.loop.methods.one("step").state
    assert [s[1] for s in state.data["memory"]["slots"]] == [0, 1, 2] and state.get("rows.3") is None
    with pytest.raises(MethodError, match="have no classes"):
        Tiny([("er", ER(keep="herding"))], task_name="text-generation")


def test_two_tasks_through_files_and_a_report_that_counts_the_rows(tmp_path):
    small.write_inputs(tmp_path, train=12, test=2)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for k, name in enumerate(("one", "two")):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows[k::2]))
    er = {"er": {"buffer_size": 7, "minibatch_size": 3}}
    each = {"each": ["one.jsonl", "two.jsonl"], "methods": [{"lora": {"rank": 2}}, er]}
    file = small.write_recipe(
        tmp_path, stages=[{**each, "budget": {"epochs": 1}}], keep=[], train__batch_tokens=64, measurement__rows=2
    )
    out = tmp_path / "out"
    run(Recipe.load(file, out=out))
    left = earlier_of({n: out / "stages" / n for n in ("one", "two")})
    memories = [one.values["memory"] for one in left]
    assert [m["seen"] for m in memories] == [6, 12] and [len(m["slots"]) for m in memories] == [6, 7]
    assert {s for s, _ in memories[0]["slots"]} == {"one"} and {s for s, _ in memories[1]["slots"]} == {"one", "two"}
    told = json.loads((out / "report.json").read_text())
    found = [p for p in json.dumps(told).split('"') if p == "Rehearsal buffer"]
    assert len(found) == 2 and "has room for 7 rows and holds every row that came by, 6 with" in json.dumps(told)
