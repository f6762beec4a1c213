"""Progressive prompts over tasks: every class is answered behind its own task's prompts, and old answers stay."""

from __future__ import annotations

import pytest
import torch

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, logits, model, rows
from tests.methods.prompt_tasks import among, check_going_on, embedded, encoded, features, follow, learnt, some
from tunewright.errors import MethodError
from tunewright.methods.continual.progressive_prompts import ProgressivePrompts
from tunewright.pieces.heads import classifier_head

MADE = {"progressive-prompts": ProgressivePrompts(length=2)}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param), request.param


def by_hand(net, prompts, row, task: str) -> torch.Tensor:
    """[V] logits of one row behind prompts [n, D] of tasks, the newest first."""
    before = torch.cat(prompts)
    states = encoded(net, torch.cat([before, embedded(net, row, task)]), task)
    return net.classifier(features(net, states[len(before)], task))


@torch.no_grad()
def test_a_class_is_answered_behind_its_own_tasks_prompts(two):
    _, run, task = two
    state, net, given = run.state("progressive-prompts"), run.adapted.model, some(task)
    first, second = state.get_buffer("prompts")[0], state.prompt
    said = logits(run, run.task.collate(given))
    for i, row in enumerate(given):
        own, all_so_far = by_hand(net, [first], row, task), by_hand(net, [second, first], row, task)
        wanted = torch.cat([own[:2], all_so_far[2:4], torch.zeros(2)])
        torch.testing.assert_close(said[i], among(wanted, range(4)), atol=2e-5, rtol=1e-4)


def test_a_task_trains_its_own_prompt_alone_and_old_tasks_are_answered_as_before(two):
    folder, last, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=1, weight_decay=0.1)
    state, before = run.state("progressive-prompts"), last.state("progressive-prompts")
    assert state.get_buffer("prompts").shape[0] == 2 and torch.equal(state.get_buffer("prompts")[1], before.prompt)
    start = {n: t.detach().clone() for n, t in state.state_dict().items()}
    net, by_id = model(task).model, {r.id: r for r in rows(TASKS[2], task)}
    net.load_state_dict(run.adapted.model.state_dict())
    head = classifier_head(run.adapted.model).weight.clone()
    run.train()
    losses = []
    for row in (by_id[i] for i in run.cursor.seen):
        said = by_hand(net, [start["prompt"], start["prompts"][1], start["prompts"][0]], row, task)
        losses.append(-said[4:].log_softmax(-1)[row.label - 4])
    assert run.records[0]["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert {n for n, t in state.state_dict().items() if not torch.equal(t, start[n])} == {"prompt"}
    rows_moved = (classifier_head(run.adapted.model).weight != head).any(1)
    assert rows_moved.tolist() == [False] * 4 + [True] * 2
    batch = run.task.collate(some(task))
    now, then = logits(run, batch), logits(last, batch)
    torch.testing.assert_close(now[:, :4].log_softmax(-1), then[:, :4].log_softmax(-1), atol=2e-5, rtol=1e-4)


def test_a_class_that_comes_again_is_its_last_tasks(two):
    folder, _, task = two
    state = follow(folder, "two", MADE, (1, 4), task).state("progressive-prompts")
    assert state.data["classes"] == [0, 1, 2, 3, 4] and state.data["owners"] == [0, 2, 1, 1, 2]


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    check_going_on(folder, MADE, task, some(task))


def test_another_length_is_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match=r"left prompt of shape \[2, 32\]"):
        follow(folder, "two", {"progressive-prompts": ProgressivePrompts(length=3)}, TASKS[2], task)
