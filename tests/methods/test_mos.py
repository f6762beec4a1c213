"""MOS over three tasks: each adapter is merged with those before, and classes leave what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.class_tasks import (
    PICTURES,
    TASKS,
    follow,
    left_by,
    logits,
    made,
    model,
    next_task,
    rows,
    same,
    stage,
    two,
    values,
)
from tests.methods.driving import changed, snapshot
from tunewright.contract.combining import check_conflicts
from tunewright.contract.left import Earlier
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.lae import LAE
from tunewright.methods.continual.mos import MOS, merged, named
from tunewright.methods.optimization.lion import Lion
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import is_frozen
from tunewright.models.experts import expert, speaking
from tunewright.pieces.class_gaussians import class_covariances
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.prototypes import class_means
from tunewright.runs.stages import end_stage
from tunewright.tasks import get_task
from tunewright.training import carry

__all__ = ["two"]

# -- merging -------------------------------------------------------------------------------------------------


def test_merging_is_a_step_to_the_mean_of_the_earlier_ones():
    own, earlier = torch.tensor([1.0, -2.0]), [torch.tensor([3.0, 0.0]), torch.tensor([5.0, 8.0])]
    torch.testing.assert_close(merged(own, earlier, 0.25), torch.tensor([0.75 + 1.0, -1.5 + 1.0]))
    assert merged(own, [], 0.25) is own


def test_each_step_of_a_later_task_ends_with_the_merge(two):
    """By hand: what the optimizer alone makes of the first step; (1 - m) of it and m of the earlier tasks' mean."""
    folder, task = two
    plain: list[list[Tensor]] = []
    follow(
        folder, "two", TASKS[2], listen=lambda loop: plain.append(values(loop.adapted, 2)), task=task, momentum=0.0
    ).train()
    got: list[list[Tensor]] = []
    run = follow(
        folder, "two", TASKS[2], listen=lambda loop: got.append(values(loop.adapted, 2)), task=task, momentum=0.3
    )
    start, zero, one = (values(run.adapted, t) for t in (2, 0, 1))
    assert same(start, one) and not same(zero, one)  # it starts where the last one ended
    run.train()
    for p, q, a, b in zip(got[0], plain[0], zero, one, strict=True):
        torch.testing.assert_close(p, 0.7 * q + 0.3 * (a + b) / 2)
    assert not same(got[0], plain[0]) and not same(got[1], got[0])
    assert same(values(run.adapted, 0), zero) and same(values(run.adapted, 1), one)


def test_the_first_task_is_merged_with_nothing():
    trained = []
    for momentum in (0.0, 0.5):
        run = stage(model(), TASKS[0], momentum=momentum)
        run.train()
        trained.append(values(run.adapted, 0))
    assert same(*trained)


def test_earlier_adapters_are_silent_and_frozen_and_old_rows_of_the_head_wait(two):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task, how="training")  # the method knows what is to stay
    for t in (0, 1):
        deltas = expert(run.adapted.structure, named(t))
        assert all(d.strength == 0 and is_frozen(p) for d in deltas for p in d.parameters())
    head = classifier_head(run.adapted.model).weight.clone()
    loop = run.train()
    assert not any(named(t) in n for n in loop.trained.leaves for t in (0, 1))
    assert any(named(2) in n for n in loop.trained.leaves)
    moved = (classifier_head(run.adapted.model).weight != head).any(1)
    assert moved.tolist() == [False] * 4 + [True] * 2


def test_of_a_new_head_the_last_layer_alone_trains():
    moved = []
    run = stage(made("Roberta"), TASKS[0])
    for following in (TASKS[1], None):
        before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
        run.train()
        moved.append({n for n, p in run.adapted.base_parameters().items() if not torch.equal(p, before[n])})
        run = next_task(run, following) if following else run
    assert moved[0] == moved[1] == {"classifier.out_proj.weight", "classifier.out_proj.bias"}


# -- what a task leaves --------------------------------------------------------------------------------------


def test_what_a_task_leaves_arrives_by_name_and_is_of_its_rows(two):
    folder, task = two
    earlier = left_by(folder)
    assert earlier.named("stages.one.classes") == [0, 1] and earlier.named("stages.one.owners") == [0, 0]
    assert earlier.named("stages.two.classes") == [0, 1, 2, 3] and earlier.named("stages.two.owners") == [0, 0, 1, 1]
    run = follow(folder, "two", TASKS[2], task=task)
    adapted, names = run.adapted, [named(t) for t in range(3)]

    def features(classes, t: int) -> tuple[Tensor, Tensor]:
        batch = run.task.collate(rows(classes, task))
        with speaking(adapted.structure, names, names[t]), torch.no_grad():
            return run.task.forward(adapted.model.eval(), batch).features, batch.labels

    for i, classes in enumerate(TASKS[:2]):
        own, first = features(classes, i), features(classes, 0)
        means, spreads, protos = class_means(*own), class_covariances(*own), class_means(*first)
        for c in classes:
            for key, wanted in (("means", means[c]), ("covariances", spreads[c]), ("prototypes", protos[c])):
                got = earlier.named(f"stages.two.{key}")[c]
                torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for key in ("means", "covariances", "prototypes"):  # a later task takes nothing from what an earlier one left
        assert torch.equal(earlier.named(f"stages.two.{key}")[:2], earlier.named(f"stages.one.{key}"))
    assert torch.equal(run.state("mos").get("prototypes"), earlier.named("stages.two.prototypes"))


def test_alignment_trains_the_seen_rows_of_the_head_and_only_from_the_second_task_on(two):
    folder, task = two
    heads = []
    for epochs in (0, 4, 5):
        run = follow(folder, "one", TASKS[1], task=task, align_epochs=epochs)
        run.train()
        before = classifier_head(run.adapted.model).weight.clone()
        end_stage(run.stage, "two")
        after = classifier_head(run.adapted.model).weight
        moved = (before != after).any(1).tolist()
        assert moved == ([True] * 4 + [False] * 2 if epochs else [False] * 6)
        heads.append(after.clone())
    assert not torch.equal(heads[1], heads[2])
    run = stage(model(task), TASKS[0], task=task)
    run.train()
    before = classifier_head(run.adapted.model).weight.clone()
    end_stage(run.stage, "one")
    assert torch.equal(classifier_head(run.adapted.model).weight, before)


def test_a_class_that_comes_again_belongs_to_its_last_task(two):
    folder, task = two
    run = follow(folder, "two", (1, 4), task=task)
    run.train()
    end_stage(run.stage, "three")
    state = run.state("mos")
    assert state.data["classes"] == [0, 2, 3, 1, 4] and state.data["owners"] == [0, 1, 1, 2, 2]
    assert all(len(state.get(n)) == 5 for n in ("prototypes", "means", "covariances"))


def test_variances_alone_may_be_kept(two):
    folder, task = two
    run = stage(model(task), TASKS[0], task=task, covariance="diagonal")
    run.train()
    end_stage(run.stage, "one")
    full = left_by(folder).named("stages.one.covariances")
    torch.testing.assert_close(run.state("mos").get("covariances"), full.diagonal(dim1=1, dim2=2))


# -- resume, composition, refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3])
def test_a_later_task_resumes_bit_for_bit(two, at):
    folder, task = two
    kept: list[Any] = []
    whole = follow(
        folder,
        "one",
        TASKS[1],
        task=task,
        listen=lambda loop: kept.append(snapshot(loop)) if loop.step_number == at else None,
    )
    outcomes = []
    for run, saved in ((whole, None), (follow(folder, "one", TASKS[1], task=task), 0)):
        loop = run.train(None if saved is None else kept[0])
        end_stage(run.stage, "two")
        state = run.state("mos")
        outcomes.append({**changed(loop), **{n: state.get(n) for n in ("prototypes", "means", "covariances")}})
    wanted, got = outcomes
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)


def test_beside_lora_and_another_optimizer_all_train(two):
    folder, task = two
    moved = {}
    for name, beside in (("alone", {}), ("lora", {"lora": LoRA(rank=2)}), ("lion", {"lion": Lion()})):
        run = follow(folder, "one", TASKS[1], task=task, beside=beside)
        loop = run.train()
        end_stage(run.stage, "two")
        moved[name] = values(run.adapted, 1)
        assert any(".lora." in n for n in loop.trained.leaves) is (name == "lora")
        assert torch.isfinite(logits(run, run.task.collate(rows(TASKS[0], task)))).all()
    assert not same(moved["alone"], moved["lora"]) and not same(moved["alone"], moved["lion"])


def test_a_sequence_that_begins_at_the_base_takes_nothing_from_another(two):
    folder, task = two
    run = stage(model(task), TASKS[2], left_by(folder), task=task)
    assert run.state("mos").data["task"] == 0 and run.state("mos").data["classes"] == []
    run.train()
    end_stage(run.stage, "again")
    assert run.state("mos").data["classes"] == [4, 5] and len(run.state("mos").get("prototypes")) == 2


def test_what_it_cannot_do_is_refused(two):
    folder, task = two
    with pytest.raises(MethodError, match="does not serve the task text-generation"):
        check_conflicts([("mos", MOS())], stage="main", task=get_task("text-generation"))
    with pytest.raises(MethodError, match="'mos' and 'lae' each"):
        check_conflicts([("mos", MOS()), ("lae", LAE())], stage="main", task=get_task(task))
    with pytest.raises(MethodError, match="this model has none"):
        stage(Adapted(tiny.efficientnet(labels=6)), TASKS[0], task=PICTURES)
    run = follow(folder, "one", TASKS[1], task=task)
    run.cursor.sources["t"][0] = rows(TASKS[0], task)[0]
    with pytest.raises(MethodError, match="not the task's own"):
        run.train()
    with pytest.raises(MethodError, match="cannot be folded"):
        carry.begin(model(task), "stages.one", "fold", folder, "recipe.yaml")
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    with pytest.raises(MethodError, match="adapters of 2 tasks, and what 0 of them left"):
        stage(adapted, TASKS[2], Earlier(), task=task)
