"""DualPrompt over tasks: the keys and values that a row finds first, and what is said of it, by hand; what trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
from tunewright.methods.continual.dualprompt import DualPrompt
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.prompt_pool import CHOSEN, blocks_of

# block 1 has both, the task's own first
PLACES = {"general_length": 3, "expert_length": 2, "general_blocks": (0, 1), "expert_blocks": (1,)}
MADE = {"dualprompt": DualPrompt(**PLACES, coefficient=0.7)}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param), request.param


def cosine(q: Tensor, key: Tensor) -> Tensor:
    return q @ key / (q.norm() * key.norm())


def by_hand(net, general: Tensor, expert: Tensor, row, task: str) -> Tensor:
    """[V] logits of one row that reads G [2, 2, 3, W] and E [1, 2, 2, W], without batches, masks or hooks."""
    pairs = {
        0: (general[0, 0], general[0, 1]),
        1: (torch.cat([expert[0, 0], general[1, 0]]), torch.cat([expert[0, 1], general[1, 1]])),
    }
    return net.classifier(features(net, encoded(net, embedded(net, row, task), task, pairs)[0], task))


@torch.no_grad()
def test_a_row_is_answered_behind_the_expert_whose_key_is_most_alike(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, TASKS[2], task)
    net, state, given = run.adapted.model, run.state("dualprompt"), some(task)
    asked = torch.stack([query(r, task) for r in given])
    apart = asked - asked.mean(0)
    state.get_buffer("keys").copy_(apart[:2])
    state.key.copy_(apart[5])
    state.get_buffer("experts")[0].mul_(-1)  # told from the others
    keys, experts = (torch.cat([state.get_buffer(f"{n}s"), state.get_parameter(n)[None]]) for n in ("key", "expert"))
    batch = run.task.collate(given)
    said = logits(run, batch)
    chosen = run.task.forward(run.adapted.outer, batch).present.notes[CHOSEN][-1][:, 0].tolist()
    assert len(set(chosen)) > 1 and len(keys) == 3
    for i, row in enumerate(given):
        assert chosen[i] == max(range(3), key=lambda k, q=asked[i]: float(cosine(q, keys[k])))
        wanted = by_hand(net, state.general, experts[chosen[i]], row, task)
        torch.testing.assert_close(said[i], among(wanted, range(6)), atol=2e-5, rtol=1e-4)


def test_a_task_trains_its_own_expert_and_key_and_the_general_prompt(two):
    folder, last, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=1, weight_decay=0.1)
    state, before = run.state("dualprompt"), last.state("dualprompt")
    assert torch.equal(state.general, before.general) and torch.equal(state.expert, before.expert)
    assert not torch.equal(state.key, before.key) and state.key.abs().max() <= 1
    for many, one in (("keys", "key"), ("experts", "expert")):
        wanted = torch.cat([before.get_buffer(many), before.get_parameter(one)[None]])
        assert torch.equal(state.get_buffer(many), wanted) and len(wanted) == 2
    start = {n: t.detach().clone() for n, t in state.state_dict().items()}
    net, by_id = model(task).model, {r.id: r for r in rows(TASKS[2], task)}
    net.load_state_dict(run.adapted.model.state_dict())
    head = classifier_head(run.adapted.model).weight.clone()
    run.train()
    losses = []
    for row in (by_id[i] for i in run.cursor.seen):
        said = by_hand(net, start["general"], start["expert"], row, task)[4:].log_softmax(-1)
        losses.append(-said[row.label - 4] + 0.7 * (1 - cosine(query(row, task), start["key"])))
    assert run.records[0]["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    moved = {n for n, t in state.state_dict().items() if not torch.equal(t, start[n])}
    assert moved == {"general", "expert", "key"}
    rows_moved = (classifier_head(run.adapted.model).weight != head).any(1)
    assert rows_moved.tolist() == [False] * 4 + [True] * 2


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    check_going_on(folder, MADE, task, some(task))


def test_blocks_are_the_authors_share_of_any_depth():
    from types import SimpleNamespace

    for depth, general, expert in ((12, [0, 1], [2, 3, 4]), (6, [0], [1, 2]), (1, [0], [0])):
        structure = SimpleNamespace(blocks=range(depth))
        assert blocks_of(None, structure, (0, 2), "g") == general
        assert blocks_of(None, structure, (2, 5), "e") == expert


def test_what_does_not_fit_is_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match="there is no block 2: the model has 2"):
        stage({"dualprompt": DualPrompt(expert_blocks=(2,))}, model(task), TASKS[0], task=task)
    with pytest.raises(MethodError, match=r"left expert of shape \[1, 2, 2, 32\]"):
        follow(folder, "two", {"dualprompt": DualPrompt(**{**PLACES, "expert_length": 4})}, TASKS[2], task)
