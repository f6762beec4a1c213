"""EASE over tasks: prototypes in every subspace, made-up ones, and answers, by loops in NumPy; what trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.class_tasks import PICTURES, TASKS, TEXT, logits, model, rows
from tests.methods.prompt_tasks import check_going_on, follow, learnt, some, stage
from tunewright.errors import MethodError
from tunewright.methods.continual.ease import EASE
from tunewright.models.adapted import Adapted
from tunewright.models.experts import expert, speaking
from tunewright.runs.stages import end_stage
from tunewright.training import carry

MADE = {"ease": EASE(width=3, alpha=0.4, scale=7.0)}
ALL = [f"ease-{t}" for t in range(3)]


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param, steps=4), request.param


def features(run, given, adapter: int) -> np.ndarray:
    with speaking(run.adapted.structure, ALL, ALL[adapter]), torch.no_grad():
        return run.task.forward(run.adapted.model.eval(), run.task.collate(given)).features.double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def by_hand(run, given, task: str) -> np.ndarray:
    """[R, 6] the authors' steps: means, made-up prototypes class by class, and the weighted sum of cosines."""
    owner, p = [c // 2 for c in range(6)], {}
    for t, classes in enumerate(TASKS):
        own = rows(classes, task)
        for i in range(t + 1):
            read = features(run, own, i)
            for c in classes:
                p[c, i] = np.mean([f for f, r in zip(read, own, strict=True) if r.label == c], axis=0)
    for c in range(6):
        for i in range(owner[c] + 1, 3):
            later = [d for d in range(6) if owner[d] >= i]
            alike = np.exp([cosine(p[c, owner[c]], p[d, owner[c]]) for d in later])
            p[c, i] = sum(w / alike.sum() * p[d, i] for w, d in zip(alike, later, strict=True))
    read = [features(run, given, i) for i in range(3)]
    return np.array(
        [
            [sum((1.0 if i == owner[c] else 0.4 / 2) * cosine(read[i][r], p[c, i]) for i in range(3)) for c in range(6)]
            for r in range(len(given))
        ]
    )


def test_three_tasks_are_answered_by_prototypes_in_all_subspaces(two):
    folder, last, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=4, weight_decay=0.1)
    state, adapters = run.state("ease"), [expert(run.adapted.structure, n) for n in ALL]
    start = [[p.clone() for d in of for p in d.parameters()] for of in adapters]
    assert not any(d.up.any() or d.up_bias.any() for d in adapters[2])  # a new one starts as the base
    assert torch.equal(state.get("prototypes"), last.state("ease").get("prototypes"))
    base = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    now = [[p for d in of for p in d.parameters()] for of in adapters]
    stays = [all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(start, now, strict=True)]
    assert stays == [True, True, False]
    assert all(torch.equal(p, base[n]) for n, p in run.adapted.base_parameters().items())
    end_stage(run.stage, "three")
    given = some(task)
    wanted = torch.tensor(7.0 * by_hand(run, given, task)).log_softmax(-1)
    torch.testing.assert_close(logits(run, run.task.collate(given)).double(), wanted, atol=1e-4, rtol=1e-4)
    assert state.data["classes"] == [0, 1, 2, 3, 4, 5] and state.data["owners"] == [0, 0, 1, 1, 2, 2]
    assert "proxies" not in state.state_dict()


def test_the_loss_is_of_cosines_with_the_tasks_own_proxies(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, TASKS[2], task, steps=1)
    state, by_id = run.state("ease"), {r.id: r for r in rows(TASKS[2], task)}
    state.sigma.data.fill_(2.5)
    proxies = state.proxies.detach().double().numpy().copy()
    read = {i: features(run, [r], 2)[0] for i, r in by_id.items()}
    run.train()
    losses = []
    for i in run.cursor.seen:
        said = np.array([2.5 * cosine(read[i], w) for w in proxies])
        losses.append(np.log(np.exp(said).sum()) - said[by_id[i].label - 4])
    assert run.records[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert not np.array_equal(state.proxies.detach().numpy(), proxies) and state.sigma.item() != 2.5


def test_a_class_that_comes_again_belongs_to_its_last_task(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, (1, 4), task)
    run.train()
    end_stage(run.stage, "three")
    state = run.state("ease")
    assert state.data["classes"] == [0, 2, 3, 1, 4] and state.data["owners"] == [0, 1, 1, 2, 2]
    held = state.get("prototypes")
    assert held.shape[:2] == (5, 3) and (held.abs().sum(-1) > 0).sum(1).tolist() == [1, 2, 2, 3, 3]


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    check_going_on(folder, MADE, task, some(task))


def test_what_it_cannot_do_is_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match="this model has none"):
        stage(MADE, Adapted(tiny.efficientnet(labels=6)), TASKS[0], task=PICTURES)
    run = follow(folder, "two", MADE, TASKS[2], task)
    run.cursor.sources["t"][0] = rows(TASKS[0], task)[0]
    with pytest.raises(MethodError, match="not the task's own"):
        run.train()
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    with pytest.raises(MethodError, match="adapters of 2 tasks, and what 0 of them left"):
        stage(MADE, adapted, TASKS[2], task=task)
