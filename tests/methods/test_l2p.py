"""L2P over tasks: what a row is given and what is said of it, by hand; what trains, goes on and is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests import tiny
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
from tunewright.contract.combining import check_conflicts
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.l2p import L2P
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.models.recompute import recomputing
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.prompt_pool import CHOSEN
from tunewright.tasks import get_task
from tunewright.training import carry

POOL = {"size": 6, "length": 2, "top_k": 2}
MADE = {"l2p": L2P(**POOL, coefficient=0.7)}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param), request.param


def by_hand(net, keys: Tensor, prompts: Tensor, row, task: str, head: str = "prompts") -> tuple[Tensor, Tensor, Tensor]:
    """(logits [V], cosines of the two chosen keys, their places) of one row, without batches, masks or hooks."""
    q = query(row, task)
    cosines = torch.stack([q @ k / (q.norm() * k.norm()) for k in keys])
    best = sorted(range(len(keys)), key=lambda i: -float(cosines[i]))[:2]
    own = torch.cat([prompts[best[0]], prompts[best[1]]])
    states = encoded(net, torch.cat([own, embedded(net, row, task)]), task)
    read = states[:4].mean(0) if head == "prompts" else states[4]
    return net.classifier(features(net, read, task)), cosines[best], torch.tensor(best)


@torch.no_grad()
def test_a_row_is_answered_behind_its_own_prompts(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, TASKS[2], task)
    net, state, given = run.adapted.model, run.state("l2p"), some(task)
    asked = torch.stack([query(r, task) for r in given])
    state.keys.copy_(asked - asked.mean(0))  # a key for each row
    said = logits(run, run.task.collate(given))
    chosen = run.task.forward(run.adapted.outer, run.task.collate(given)).present.notes[CHOSEN][-1]
    assert len({tuple(sorted(c)) for c in chosen.tolist()}) > 1
    for i, row in enumerate(given):
        wanted, _, best = by_hand(net, state.keys, state.prompts, row, task)
        torch.testing.assert_close(said[i], among(wanted, range(6)), atol=2e-5, rtol=1e-4)
        assert torch.equal(chosen[i], best)


def test_the_loss_is_the_tasks_own_and_pulls_chosen_keys_to_the_rows(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=1)
    state = run.state("l2p")
    keys, prompts = (state.get_parameter(n).detach().clone() for n in ("keys", "prompts"))
    net, by_id = model(task).model, {r.id: r for r in rows(TASKS[2], task)}
    net.load_state_dict(run.adapted.model.state_dict())
    run.train()
    losses = []
    for row_id in run.cursor.seen:
        row = by_id[row_id]
        said, cosines, _ = by_hand(net, keys, prompts, row, task)
        losses.append(-said[4:].log_softmax(-1)[row.label - 4] + 0.7 * (1 - cosines).sum())
    assert run.records[0]["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    best = {i for r in run.cursor.seen for i in by_hand(net, keys, prompts, by_id[r], task)[2].tolist()}
    for name, before in (("keys", keys), ("prompts", prompts)):
        moved = (state.get_parameter(name) != before).flatten(1).any(1)
        assert {i for i, m in enumerate(moved.tolist()) if m} == best and len(best) < 6


def test_the_pool_goes_on_and_old_rows_of_the_head_and_the_base_stay(two):
    folder, last, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, weight_decay=0.1)
    state = run.state("l2p")
    for name in ("keys", "prompts"):
        assert torch.equal(state.get_parameter(name), last.state("l2p").get_parameter(name))
    before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    assert state.data["classes"] == [0, 1, 2, 3, 4, 5]
    moved = {n for n, p in run.adapted.base_parameters().items() if not torch.equal(p, before[n])}
    assert moved == {"classifier.weight", "classifier.bias"}
    rows_moved = (classifier_head(run.adapted.model).weight != before["classifier.weight"]).any(1)
    assert rows_moved.tolist() == [False] * 4 + [True] * 2


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    check_going_on(folder, MADE, task, some(task))


def test_the_head_may_read_the_rows_own_token_and_a_delta_beside_changes_no_query(tmp_path):
    run = stage({"l2p": L2P(**POOL, head="token"), "lora": LoRA(rank=2)}, model(TEXT), TASKS[0])
    batch = run.task.collate(some(TEXT))

    def chosen():
        run.adapted.outer.train()
        return run.task.forward(run.adapted.outer, batch).present.notes[CHOSEN][-1]

    first, state = chosen(), run.state("l2p")
    with torch.no_grad():
        wanted, _, _ = by_hand(run.adapted.model, state.keys, state.prompts, some(TEXT)[0], TEXT, "token")
        torch.testing.assert_close(logits(run, batch)[0], among(wanted, (0, 1)), atol=2e-5, rtol=1e-4)
    keys = state.keys.detach().clone()
    loop = run.train()
    assert any(".lora." in n for n in loop.trained.leaves)
    state.keys.data.copy_(keys)
    assert torch.equal(chosen(), first)


def test_what_it_cannot_do_is_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match="does not serve the task text-generation"):
        check_conflicts([("l2p", L2P())], stage="main", task=get_task("text-generation"))
    with pytest.raises(MethodError, match="'l2p' and 'full' each"):
        check_conflicts([("l2p", L2P()), ("full", FullFineTuning())], stage="main", task=get_task(TEXT))
    with pytest.raises(MethodError, match="no encoder of equal blocks"):
        stage(MADE, Adapted(tiny.efficientnet(labels=6)), TASKS[0], task=PICTURES)
    with pytest.raises(MethodError, match="cannot be given 7 of 6"):
        stage({"l2p": L2P(size=6, top_k=7)}, model(task), TASKS[0], task=task)
    with pytest.raises(MethodError, match=r"left keys of shape \[6, 32\]"):
        follow(folder, "two", {"l2p": L2P(size=7)}, TASKS[2], task)
    run = follow(folder, "two", MADE, TASKS[2], task)
    with recomputing(run.adapted.model, True), pytest.raises(MethodError, match="blocks are computed again"):
        run.train()
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    with pytest.raises(MethodError, match="brings the prompts of earlier tasks"):
        stage(MADE, adapted, TASKS[2], task=task)
    run = follow(folder, "two", MADE, TASKS[2], task)
    run.cursor.sources["t"][0] = rows(TASKS[0], task)[0]
    with pytest.raises(MethodError, match="not the task's own"):
        run.train()
    with pytest.raises(MethodError, match="cannot be folded"):
        carry.begin(model(task), "stages.two", "fold", folder, "recipe.yaml")
