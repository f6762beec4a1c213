"""MOS asked: a row's own answers choose its adapter, through a whole run and its resume, too."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tunewright
from tests import classifying, small
from tests.methods.class_tasks import (
    SMALL,
    TASKS,
    TEXT,
    end,
    follow,
    logits,
    made,
    model,
    next_task,
    rows,
    stage,
    two,
)
from tests.methods.driving import Run
from tunewright.contract.batch import Row
from tunewright.errors import Interrupted
from tunewright.files import checkpoint
from tunewright.methods.continual.mos import Retrieval, named, refined
from tunewright.models.agreement import agrees, differing
from tunewright.models.experts import expert, speaking
from tunewright.recipe import Recipe
from tunewright.runs.run import resume as resume_run
from tunewright.runs.run import run as run_recipe
from tunewright.runs.stages import TrainingCallback, end_stage
from tunewright.training import carry

__all__ = ["two"]

# -- retrieval -----------------------------------------------------------------------------------------------

OWNERS = torch.tensor([0, 0, 1, 1, 2])


def told(table: dict[int, list[int]], asked: list[int]):
    """An adapter's answers: the class that it is surest of for each row."""

    def answer(t: int) -> Tensor:
        asked.append(t)
        return torch.nn.functional.one_hot(torch.tensor(table[t]), 5).float() + t / 100

    return answer


def test_a_row_ends_with_the_adapter_that_names_its_own_task():
    asked: list[int] = []
    table = {0: [1, 2, 4, 2], 1: [0, 3, 0, 4], 2: [0, 0, 4, 4]}
    got, task = refined(torch.tensor([0, 0, 2, 0]), told(table, asked), OWNERS, 4)
    # stays with 0; 0 -> 1 stays; stays with 2; 0 -> 1 -> 2 stays
    assert task.tolist() == [0, 1, 2, 2] and got.argmax(-1).tolist() == [1, 3, 4, 4]
    assert torch.equal(got[3], told(table, [])(2)[3])  # the row's logits are its own adapter's


def test_rounds_end_a_row_that_never_settles_and_no_adapter_is_asked_for_nothing():
    asked: list[int] = []
    table = {0: [2], 1: [0], 2: [0]}  # 0 says a class of 1, and 1 one of 0
    for rounds, ends in ((1, 0), (2, 1), (3, 0), (4, 1)):
        got, task = refined(torch.tensor([0]), told(table, asked), OWNERS, rounds)
        assert task.tolist() == [ends] and got.argmax(-1).tolist() == table[ends]
    assert 2 not in asked


def by_hand(run: Run, row: Row, prototypes: Tensor, rounds: int, ensemble: bool) -> tuple[Tensor, int]:
    """A row alone, as the authors' loop goes: (probabilities of the classes seen, the adapter that it ends with)."""
    adapted, state = run.adapted, run.state("mos")
    classes, owners = state.data["classes"], state.data["owners"]
    tasks = max(owners) + 1
    batch, names = run.task.collate([row]), [named(t) for t in range(tasks)]

    def ask(t: int):
        with speaking(adapted.structure, names, names[t]), torch.no_grad():
            out = run.task.forward(adapted.model.eval(), batch)
        return out.logits[0, classes], out.features[0]

    f = ask(0)[1]
    cosines = torch.stack([f @ p / (f.norm() * p.norm()) for p in prototypes])
    task, loops = owners[int(cosines.argmax())], 0
    while True:
        loops += 1
        said = ask(task)[0]
        now = owners[int(said.argmax())]
        if loops >= rounds or now == task:
            break
        task = now
    p = said.softmax(-1)
    return ((p + (tasks * cosines).softmax(-1)) / 2 if ensemble else p), task


@pytest.mark.parametrize(("rounds", "ensemble"), [(4, True), (4, False), (1, True)])
def test_the_finished_model_answers_each_row_as_by_hand(two, rounds, ensemble):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task, rounds=rounds, ensemble=ensemble)
    run.train()
    some = [r for classes in TASKS for r in rows(classes, task, 4)]
    batch = run.task.collate(some)
    torch.testing.assert_close(logits(run, batch), logits(run, batch, outer=False))  # its own adapter, while it trains
    end_stage(run.stage, "three")
    state = run.state("mos")
    # prototypes that lead astray: rows have to find their adapters by the answers
    wrong = state.get("prototypes").roll(2, 0)
    for prototypes in (state.get("prototypes"), wrong):
        state.set_buffer("prototypes", prototypes)
        with torch.no_grad():
            out = run.task.forward(run.adapted.outer.eval(), batch)
        assert torch.isfinite(out.logits).all()
        for i, row in enumerate(some):
            p, own = by_hand(run, row, prototypes, rounds, ensemble)
            torch.testing.assert_close(out.logits[i].exp()[state.data["classes"]], p, atol=1e-5, rtol=1e-4)
            assert int(out.present.notes["retrieved"][0][i]) == own
            alone, names = run.task.collate([row]), [named(t) for t in range(3)]
            with speaking(run.adapted.structure, names, names[own]), torch.no_grad():
                wanted = run.task.forward(run.adapted.model, alone).features[0]
            torch.testing.assert_close(out.features[i], wanted, atol=1e-5, rtol=1e-4)
    strengths = [d.strength for t in range(3) for d in expert(run.adapted.structure, named(t))]
    assert strengths == [0.0] * (2 * len(strengths) // 3) + [1.0] * (len(strengths) // 3)  # as they were


def test_classes_that_were_not_seen_are_never_said(two):
    folder, task = two
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    run = stage(model(task), TASKS[0], task=task)
    with torch.no_grad():
        said = run.task.forward(adapted.outer.eval(), run.task.collate(rows(TASKS[2], task))).logits
    assert bool((said.argmax(-1) < 4).all()) and torch.allclose(said[:, 4:].exp(), torch.tensor(1e-8))


def test_a_finished_stage_is_read_back_with_its_retrieval(two):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task)
    run.train()
    end(run, folder, "three")
    batch = run.task.collate([r for classes in TASKS for r in rows(classes, task, 4)])
    said = logits(run, batch)
    again = model(task)
    carry.begin(again, "stages.three", "frozen", folder, "recipe.yaml")
    with torch.no_grad():
        assert agrees(run.task.forward(again.outer.eval(), batch).logits, said)
    with again.base() as base, torch.no_grad():
        assert agrees(run.task.forward(base, batch).logits, run.task.forward(model(task).model, batch).logits)


def test_a_decoder_is_asked_at_the_last_token_of_each_row():
    run = stage(made("Llama"), TASKS[0])
    run.train()
    run = next_task(run, TASKS[1])
    run.train()
    end_stage(run.stage, "two")
    some = rows(TASKS[0], TEXT, 4) + rows(TASKS[1], TEXT, 4)  # of several lengths
    with torch.no_grad():
        out = run.task.forward(run.adapted.outer.eval(), run.task.collate(some))
    for i, row in enumerate(some):
        p, own = by_hand(run, row, run.state("mos").get("prototypes"), 4, True)
        torch.testing.assert_close(out.logits[i, :4].exp(), p, atol=1e-5, rtol=1e-4)
        assert int(out.present.notes["retrieved"][0][i]) == own


# -- a whole run -------------------------------------------------------------------------------------------------------

NAMES = ("card", "fee", "rate", "cash")


def write_tasks(folder: Path) -> None:
    """base/ with a head of other classes; first.jsonl, second.jsonl of two classes each, and test.jsonl of all."""
    classifying.write_inputs(folder, TEXT, head=5, train=1, test=1)
    rng = random.Random(0)
    for file, labels, count in (("first", NAMES[:2], 16), ("second", NAMES[2:], 16), ("test", NAMES, 12)):
        made = [labels[i % len(labels)] for i in range(count)]
        lines = [json.dumps({"text": " ".join([*rng.sample(small.WORDS, 3), n, n]), "label": n}) for n in made]
        (folder / f"{file}.jsonl").write_text("\n".join(lines))


def recipe_of(folder: Path, name: str = "r", **changes: Any) -> Path:
    each = {"each": ["first.jsonl", "second.jsonl"], "carry": "frozen", "methods": [{"mos": SMALL}]}
    plain = {"data__train": "first.jsonl", "data__labels": list(NAMES), "train__save_steps": 2}
    made = classifying.recipe(TEXT, **{**plain, "stages": [{**each, "budget": {"steps": 5}}], **changes})
    return small.write_recipe(folder, name, **made)


def test_a_run_over_a_short_list_of_tasks_is_measured_by_its_retrieval_and_resumes_in_the_second(tmp_path, monkeypatch):
    write_tasks(tmp_path)
    plan = tunewright.plan(recipe_of(tmp_path), quiet=True)
    assert [s.name for s in plan.stages] == ["first", "second"]
    run_recipe(Recipe.load(recipe_of(tmp_path), out=tmp_path / "whole"))
    opened = tunewright.open_run(tmp_path / "whole")
    wrapper = opened.model()
    assert isinstance(wrapper, Retrieval)
    words = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    batch = opened.tokenizer(words, return_tensors="pt", padding=True)
    with torch.no_grad():
        said = wrapper(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    assert [r["tuned"] for r in opened.rows] == [NAMES[i] for i in said]
    left = carry.earlier_of({n: tmp_path / "whole" / "stages" / n for n in ("first", "second")})
    assert left.named("stages.second.owners") == [0, 0, 1, 1] and len(left.named("stages.first.prototypes")) == 2

    go_on = TrainingCallback.__call__

    def stop(self: TrainingCallback, loop: Any, record: dict[str, Any]) -> None:
        self.stop_requested = self.stage == "second" and loop.step_number == 3
        go_on(self, loop, record)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingCallback, "__call__", stop)
        run_recipe(Recipe.load(recipe_of(tmp_path), out=tmp_path / "half"))
    assert not (tmp_path / "half" / "stages" / "second").exists()
    resume_run(tmp_path / "half")
    for stage_name in ("first", "second"):
        a, b = (checkpoint.read(tmp_path / out / "stages" / stage_name).tensors for out in ("whole", "half"))
        assert a.keys() == b.keys() and {"trained", "wrapper", "left"} <= a.keys()
        assert not [n for part in a for n in differing(a[part], b[part])]
