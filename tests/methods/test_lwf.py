"""LwF: a new task's rows are answered as the model of the stage's start answers them, over the classes of before."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.methods.driving import Run, image_rows
from tests.methods.rehearsing import MODELS, SGD, TASKS, ByHand, rows_of
from tunewright.conformance.bench import Tiny
from tunewright.contract.combining import check_conflicts
from tunewright.contract.left import Earlier, Left
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.er import ER
from tunewright.methods.continual.lwf import LwF, own_log_probs
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

PICTURES = "image-classification"


def later(task: str, rows, classes=(0,), **fields) -> Run:
    """A stage of which one before had `classes`."""
    earlier = Earlier((Left("one", "lwf", {"classes": list(classes)}),))
    run = Run(
        {"lwf": LwF(**fields)},
        model=MODELS[task](),
        task=task,
        sources={"s": rows},
        steps=3,
        earlier=earlier,
        **SGD,
    )
    run.methods.event("begin_task", stage="two", adapted=run.adapted)
    return run


def kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    p, q = (torch.softmax(x / temperature, -1) for x in (teacher, student))
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("task", TASKS)
def test_three_steps_are_those_of_the_formula(task):
    """By hand with a second model that stays as it began. Pictures: own classes 1 and 2, old class 0 and 2."""
    rows = rows_of(task)
    if task == PICTURES:
        rows = [r.replace(label=1 + i % 2) for i, r in enumerate(rows)]
    run = later(task, rows, (0, 2), coefficient=1.5, temperature=3.0)
    run.train()
    hand, told = ByHand(task), []
    hand.rows = rows
    old = copy.deepcopy(hand.model).eval()
    for i in range(0, 12, 4):
        batch = hand.task.collate(rows[i : i + 4])
        outputs = hand.task.forward(hand.model, batch)
        with torch.no_grad():
            teacher = hand.task.forward(old, batch).logits
        if task == PICTURES:
            own = -outputs.logits[:, 1:].log_softmax(-1)[torch.arange(4), batch.labels - 1]
            apart = kl(teacher[:, [0, 2]], outputs.logits[:, [0, 2]], 3.0)
        else:
            own, apart = -outputs.log_probs(), kl(teacher, outputs.logits, 3.0)
        loss = ((own + 1.5 * apart) * batch.weights).sum() / batch.weights.sum()
        told.append(loss.item())
        hand.step(hand.gradient(loss))
    assert [r["loss"] for r in run.records] == pytest.approx(told, rel=1e-4)
    assert run.records[0]["apart/lwf"] == pytest.approx(0, abs=1e-6) and run.records[2]["apart/lwf"] > 1e-5
    hand.check(run)


def test_a_first_stage_of_classes_distils_nothing_and_leaves_what_it_saw():
    run = later(PICTURES, image_rows(12, 3), ())
    run.train()
    assert "apart/lwf" not in run.records[-1] and run.state("lwf").data["classes"] == [0, 1, 2]


def test_the_old_model_is_the_stages_start_and_not_the_base_where_they_differ():
    found = {}
    for reference in ("start", "base"):
        t = Tiny([("lora", LoRA(rank=2)), ("lwf", LwF(reference=reference))], dropout=False)
        found[reference] = t.loop.one_step()["apart/lwf"], t.loop.one_step()["apart/lwf"]
    # the stage before trained the model away from the base; after a step the model has left its start too
    assert found["start"][0] == pytest.approx(0, abs=1e-6) and found["base"][0] > 1e-3
    assert 1e-6 < found["start"][1] < found["base"][1]


def test_a_kept_row_of_another_class_is_read_over_all_classes():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    got = own_log_probs(logits, torch.tensor([3, 0]), [3, 4], [0, 1])
    assert float(got[0]) == pytest.approx(float(logits[0, [3, 4]].log_softmax(-1)[0]), rel=1e-5)
    assert float(got[1]) == pytest.approx(float(logits[1, [0, 1, 3, 4]].log_softmax(-1)[0]), rel=1e-5)
    t = Tiny([("er", ER(buffer_size=6)), ("lwf", LwF())], task_name="text-classification").run()
    assert all(r["joined_rows"] > 0 and r["apart/lwf"] >= 0 for r in t.records)


def test_other_tasks_are_refused_and_so_is_a_start_that_nobody_kept():
    with pytest.raises(MethodError, match="does not serve the task token-classification"):
        check_conflicts([("lwf", LwF())], stage="main", task=get_task("token-classification"))
    run = Run({"lwf": LwF(reference="base")}, model=Adapted(MODELS[TASKS[0]]()))
    run.methods.event("begin_task", stage="one", adapted=run.adapted)
    loop = run.train()
    from tunewright.training.again import Again

    with pytest.raises(MethodError, match="nobody kept the weights"):
        Again(loop)(run.task.collate(rows_of(TASKS[0], 2)), start=True)
