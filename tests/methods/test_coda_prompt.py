"""CODA-Prompt over tasks: components, their weights and what is said of a row, by hand; what trains, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, logits, model, rows
from tests.methods.prompt_tasks import (
    among,
    check_going_on,
    embedded,
    encoded,
    features,
    follow,
    learnt,
    query,
    some,
    stage,
)
from tunewright.errors import MethodError
from tunewright.methods.continual.coda_prompt import PARTS, CODAPrompt
from tunewright.pieces.heads import classifier_head

MADE = {"coda-prompt": CODAPrompt(components=3, length=2, blocks=(0, 1), orthogonality=5.0)}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param), request.param


def every(state) -> dict[str, torch.Tensor]:
    """Components of all tasks [B, M, ...] by what they are."""
    both = {n: (state.get_buffer(f"old_{n}"), state.get_parameter(n)) for n in PARTS}
    return {n: torch.cat(pair, 1).detach().clone() for n, pair in both.items()}


def by_hand(net, parts, row, task: str) -> torch.Tensor:
    """[V] logits of one row, component by component."""
    q, pairs = query(row, task), {}
    for b in range(2):
        total = torch.zeros(2, 2, 32)
        for k, a, p in zip(*(parts[n][b] for n in PARTS), strict=True):
            seen = q * a
            total = total + (seen @ k) / (seen.norm() * k.norm()) * p
        pairs[b] = (total[0], total[1])
    return net.classifier(features(net, encoded(net, embedded(net, row, task), task, pairs)[0], task))


def bent(parts) -> float:
    """The orthogonality penalty by the paper's formula, in NumPy."""
    total = 0.0
    for rows_of in parts.values():
        for block in rows_of.numpy():
            flat = block.reshape(len(block), -1)
            total += float(np.mean((flat @ flat.T - np.eye(len(flat))) ** 2))
    return total


@torch.no_grad()
def test_a_row_is_answered_behind_the_weighted_sum_of_all_tasks_components(two):
    _, run, task = two
    net, parts, given = run.adapted.model, every(run.state("coda-prompt")), some(task)
    assert all(p.shape[:2] == (2, 6) for p in parts.values())
    said = logits(run, run.task.collate(given))
    for i, row in enumerate(given):
        wanted = among(by_hand(net, parts, row, task), range(4))
        torch.testing.assert_close(said[i], wanted, atol=2e-5, rtol=1e-4)


def test_the_loss_is_the_tasks_own_and_the_penalty_and_old_components_stay(two):
    folder, last, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=1, weight_decay=0.1)
    state, parts = run.state("coda-prompt"), every(run.state("coda-prompt"))
    for name, before in every(last.state("coda-prompt")).items():
        assert torch.equal(parts[name][:, :6], before) and parts[name].shape[1] == 9
    net, by_id = model(task).model, {r.id: r for r in rows(TASKS[2], task)}
    net.load_state_dict(run.adapted.model.state_dict())
    head = classifier_head(run.adapted.model).weight.clone()
    run.train()
    losses = []
    for row in (by_id[i] for i in run.cursor.seen):
        losses.append(-by_hand(net, parts, row, task)[4:].log_softmax(-1)[row.label - 4])
    wanted, held = float(torch.stack(losses).mean()), 5.0 * bent(parts)
    assert held > 1e-3 and run.records[0]["loss"] == pytest.approx(wanted + held, rel=1e-4)
    after = every(state)
    for name, before in parts.items():
        moved = (after[name] != before).flatten(2).any(-1).any(0)
        assert moved.tolist() == [False] * 6 + [True] * 3
    rows_moved = (classifier_head(run.adapted.model).weight != head).any(1)
    assert rows_moved.tolist() == [False] * 4 + [True] * 2


def test_new_components_start_as_unit_vectors_at_right_angles_to_all_before(two):
    folder, _, task = two
    parts = every(follow(folder, "two", MADE, TASKS[2], task).state("coda-prompt"))
    for of in parts.values():
        for block in of.double().flatten(2):
            products = block @ block.T
            wanted = torch.eye(9).double()
            torch.testing.assert_close(products[6:, 6:], wanted[6:, 6:], atol=1e-5, rtol=0)
            torch.testing.assert_close(products[6:, :6], wanted[6:, :6], atol=1e-5, rtol=0)
            assert (products[:6, :6] - wanted[:6, :6]).abs().max() > 1e-4  # training has bent the earlier ones


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    check_going_on(folder, MADE, task, some(task))


def test_more_components_than_features_and_other_sizes_are_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match="33 components cannot be at right angles in 32 features"):
        stage({"coda-prompt": CODAPrompt(components=33)}, model(task), TASKS[0], task=task)
    with pytest.raises(MethodError, match="left keys of shape"):
        follow(folder, "two", {"coda-prompt": CODAPrompt(components=4, length=2, blocks=(0, 1))}, TASKS[2], task)
