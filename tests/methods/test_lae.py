"""LAE over two tasks: the adapter waits for the new classifier, the offline expert follows, both answer, old rows
of the head stay.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, changed, snapshot
from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.combining import check_conflicts
from tunewright.errors import MethodError
from tunewright.methods.continual.lae import LAE, OFFLINE, ONLINE, follow, larger
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.deltas import LowRank
from tunewright.models.experts import expert, speaking
from tunewright.tasks import get_task
from tunewright.training import carry

STEPS, MOMENTUM = 5, 0.8


def rows(classes: tuple[int, ...], count: int = 8) -> list[Row]:
    g = torch.Generator().manual_seed(classes[0])
    return [
        Row(
            f"t{classes[0]}:{i}",
            "t",
            [tiny.CLS, 20 + classes[i % len(classes)], *torch.randint(30, 200, (6,), generator=g).tolist()],
            [1.0],
            classes[i % len(classes)],
        )
        for i in range(count)
    ]


def stage(adapted: Adapted, classes: tuple[int, ...], listen=None, **fields) -> Run:
    method = LAE(**{"rank": 2, "momentum": MOMENTUM, **fields})
    run = Run(
        {"lae": method},
        model=adapted,
        task="text-classification",
        sources={"t": rows(classes)},
        steps=STEPS,
        listen=listen,
    )
    run.methods.event("begin_task", stage="x", adapted=adapted)
    return run


def model() -> Adapted:
    return Adapted(tiny.bert_classifier(labels=4))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A run's folder with the first task done."""
    folder = tmp_path_factory.mktemp("run")
    run = stage(model(), (0, 1))
    run.train()
    assert expert(run.adapted.structure, ONLINE) and not expert(run.adapted.structure, OFFLINE)
    carry.save_stage(folder / "stages" / "one", run.adapted, {})
    return folder


def second(folder: Path, listen=None, **fields) -> Run:
    adapted = model()
    carry.begin(adapted, "stages.one", "training", folder, "recipe.yaml")
    return stage(adapted, (2, 3), listen, **fields)


def values(adapted: Adapted, name: str) -> list[torch.Tensor]:
    return [p.detach().clone() for d in expert(adapted.structure, name) for p in d.parameters()]


def same(a, b) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_larger_probability_of_a_class_wins_and_unseen_classes_have_none():
    logits = torch.tensor([[[2.0, 0.0, 9.0]], [[0.0, 1.0, 9.0]]])
    p = torch.softmax(logits[:, 0, :2], -1)
    torch.testing.assert_close(larger(logits, [0, 1])[0], torch.stack([p[0, 0], p[1, 1], torch.tensor(1e-8)]).log())


def test_following_is_an_exponential_mean():
    slow, fast = (LowRank(torch.full((1, 2), x), torch.full((2, 1), x), 1.0) for x in (1.0, 3.0))
    follow(slow, fast, 0.75)
    assert torch.equal(slow.lora_A, torch.full((1, 2), 1.5)) and torch.equal(fast.lora_A, torch.full((1, 2), 3.0))


def test_the_loss_is_over_the_tasks_own_classes_alone(first):
    run = second(first)  # classes 2 and 3 of four
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([3, 2, 3])
    batch = Batch({}, labels, torch.ones(3), torch.arange(3), ["a", "b", "c"], ["t"] * 3, 3)
    got = LAE().objective(Outputs(logits, labels), batch, run.state("lae")).value
    for i, label in enumerate(labels.tolist()):
        a, b = (math.exp(x) for x in logits[i, 2:].tolist())
        assert float(got[i]) == pytest.approx(-math.log((b if label == 3 else a) / (a + b)), rel=1e-5)
    (grad,) = torch.autograd.grad(got.sum(), logits)
    assert not grad[:, :2].any() and bool(grad[:, 2:].all())


def test_the_first_task_trains_its_own_rows_of_the_head_and_the_adapter_from_the_start():
    seen = []
    run = stage(model(), (0, 1), lambda loop: seen.append(values(loop.adapted, ONLINE)))
    head = run.adapted.model.classifier.weight.clone()
    loop = run.train()
    assert not same(seen[0], seen[1])
    leaves, width = loop.trained.leaves, run.adapted.model.classifier.in_features
    assert leaves["classifier.weight"].indices.tolist() == list(range(2 * width))
    moved = (run.adapted.model.classifier.weight != head).any(1)
    assert moved.tolist() == [True, True, False, False]


def test_a_later_task_freezes_the_adapter_first_and_the_offline_expert_follows_every_step(first):
    online, offline, heads = [], [], []

    def listen(loop):
        online.append(values(loop.adapted, ONLINE))
        offline.append(values(loop.adapted, OFFLINE))
        heads.append(loop.adapted.model.classifier.weight.clone())

    run = second(first, listen)
    start, before, head = (
        values(run.adapted, ONLINE),
        values(run.adapted, OFFLINE),
        run.adapted.model.classifier.weight.clone(),
    )
    assert same(start, before)  # a copy of the adapter as the task begins
    loop = run.train()
    width = run.adapted.model.classifier.in_features
    rows = loop.trained.leaves["classifier.weight"].indices
    assert rows.tolist() == list(range(2 * width, 4 * width)), "the new task's rows of the head train, and no others"
    wait = 3  # 0.6 of five steps
    assert all(same(online[i], start) for i in range(wait)) and not same(online[wait], start)
    assert not torch.equal(heads[0], head)
    assert all(torch.equal(h[:2], head[:2]) for h in heads)  # the old task's classifier keeps its bits
    slow = before
    for fast, got in zip(online, offline, strict=True):
        slow = [torch.lerp(a, b, 1 - MOMENTUM) for a, b in zip(slow, fast, strict=True)]
        assert same(slow, got)
    assert all(
        float(p.grad.abs().sum()) == 0
        for d in expert(run.adapted.structure, OFFLINE)
        for p in d.parameters()
        if p.grad is not None
    )


def test_no_freezing_where_it_is_turned_off(first):
    online = []
    run = second(first, lambda loop: online.append(values(loop.adapted, ONLINE)), frozen=0.0)
    start = values(run.adapted, ONLINE)
    run.train()
    assert not same(online[0], start)


def test_both_experts_answer_over_all_classes_seen(first):
    run = second(first, frozen=0.0)
    run.train()
    adapted, batch = run.adapted, run.task.collate(rows((0, 1), 2) + rows((2, 3), 2))
    alone = {}
    with torch.no_grad():
        for name in (ONLINE, OFFLINE):
            with speaking(adapted.structure, (ONLINE, OFFLINE), name):
                alone[name] = torch.softmax(run.task.forward(adapted.model, batch).logits, -1)
        said = run.task.forward(adapted.wrapper.eval(), batch).logits
        plain = torch.softmax(run.task.forward(adapted.model, batch).logits, -1)
    assert not torch.equal(alone[ONLINE], alone[OFFLINE]) and torch.equal(
        plain, alone[ONLINE]
    )  # the online one speaks otherwise
    torch.testing.assert_close(said.exp(), torch.maximum(alone[ONLINE], alone[OFFLINE]))
    with adapted.at_strength(1.0), torch.no_grad():  # where runs are measured
        assert torch.equal(run.task.forward(adapted.wrapper, batch).logits, said)


def test_a_finished_stage_gives_the_ensemble_back(first):
    run = second(first)
    run.train()
    batch = run.task.collate(rows((0, 1), 2) + rows((2, 3), 2))
    with torch.no_grad():
        said = run.task.forward(run.adapted.wrapper.eval(), batch).logits
    carry.save_stage(first / "stages" / "two", run.adapted, {})
    again = model()
    carry.begin(again, "stages.two", "frozen", first, "recipe.yaml")
    with torch.no_grad():
        assert agrees(run.task.forward(again.wrapper.eval(), batch).logits, said)
    third = model()
    carry.begin(third, "stages.two", "training", first, "recipe.yaml")
    before = values(third, OFFLINE)
    run = stage(third, (1, 3))
    assert same(values(third, OFFLINE), before)  # one offline expert for all later tasks
    assert run.state("lae").data["seen"] == [0, 1, 2, 3]


@pytest.mark.parametrize("at", [2, 4])
def test_a_later_task_resumes_bit_for_bit(first, at):
    kept = []
    whole = second(first, lambda loop: kept.append(snapshot(loop)) if loop.step_number == at else None)
    wanted = changed(whole.train())
    got = changed(second(first).train(kept[0]))
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)


def test_what_it_cannot_do_is_refused(first):
    with pytest.raises(MethodError, match="does not serve the task text-generation"):
        check_conflicts([("lae", LAE())], stage="main", task=get_task("text-generation"))
    with pytest.raises(MethodError, match="gives none"):
        Run({"lae": LAE()}, model=model(), task="text-classification", sources={"t": []})
    run = second(first)
    run.cursor.sources["t"][0] = rows((0, 1))[0]  # an old row among the task's
    with pytest.raises(MethodError, match="not the task's own"):
        run.train()
    with pytest.raises(MethodError, match="cannot be folded"):
        carry.begin(model(), "stages.one", "fold", first, "recipe.yaml")
