"""SimpleCIL, ADAM and RanPAC: what is known of classes' features answers, whatever order the tasks come in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, model, rows
from tests.methods.driving import Run
from tests.methods.sequences import Tasks
from tunewright.contract.batch import Row
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.measure.drift import take_features
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.ranpac import RIDGES, RanPAC, best_ridge
from tunewright.methods.continual.simplecil_adam import SimpleCILAdam
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.agreement import differing
from tunewright.tasks import get_task

CIL, PAC = "simplecil-adam", "ranpac"


def learnt(task: str, method: Method, name: str, order: Sequence[int] = (0, 1, 2), beside=None) -> tuple[Tasks, Run]:
    """All tasks after each other; `beside` stands in the first one alone."""
    tasks = Tasks(carry="frozen", task=task, model=model(task).model)
    for k in order:
        run = tasks.stage({**(beside or {} if k == order[0] else {}), name: method}, rows(TASKS[k], task), steps=2)
    return tasks, run


def everything(task: str) -> list[Row]:
    return [r for classes in TASKS for r in rows(classes, task)]


def features(task: str, adapted=None) -> np.ndarray:
    """Of all rows of all tasks, by a fresh model or another one."""
    there = model(task).model if adapted is None else adapted.model
    return take_features(there, get_task(task), everything(task)).values.double().numpy()


def answers(tasks: Tasks, task: str) -> torch.Tensor:
    problem = get_task(task)
    with torch.no_grad(), tasks.adapted.at_strength(1.0):
        return problem.forward(tasks.adapted.outer.eval(), problem.collate(everything(task))).logits.double()


def by_means(f: np.ndarray, task: str, scale: float) -> torch.Tensor:
    """log softmax of scaled cosines with the means of all rows of a class at once."""
    labels = np.array([r.label for r in everything(task)])
    means = np.stack([f[labels == c].mean(0) for c in range(6)])
    cosines = (f @ means.T) / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    return torch.tensor(scale * cosines).log_softmax(-1)


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_simplecil_is_the_means_of_all_rows_whatever_the_order_and_trains_nothing(task):
    before = model(task).model.state_dict()
    for order in ((0, 1, 2), (2, 0, 1)):
        tasks, run = learnt(task, SimpleCILAdam(scale=7.0), CIL, order)
        torch.testing.assert_close(answers(tasks, task), by_means(features(task), task, 7.0), atol=1e-4, rtol=1e-4)
        assert not differing(tasks.adapted.model.state_dict(), before)
        assert [r["loss"] for r in run.records] == [0.0, 0.0]


def test_a_class_that_comes_again_joins_its_mean_and_unknown_ones_have_none():
    tasks = Tasks(carry="frozen", task=PICTURES, model=model(PICTURES).model)
    for part in (rows((0, 1), PICTURES)[:6], rows((0, 1), PICTURES)[6:]):
        tasks.stage({CIL: SimpleCILAdam()}, part, steps=1)
    left = tasks.left[-1].values
    whole = features(PICTURES)[:8]
    labels = np.array([r.label for r in rows((0, 1), PICTURES)])
    for i, c in enumerate(left["classes"]):
        np.testing.assert_allclose(left["prototypes"][i].numpy(), whole[labels == c].mean(0), atol=1e-5)
    assert left["counts"] == [4, 4]
    said = answers(tasks, PICTURES)
    assert bool((said[:, 2:] < -18).all()) and torch.allclose(said[:, :2].exp().sum(-1), torch.ones(24).double())


def test_adam_reads_the_base_beside_the_copy_that_the_first_task_adapted():
    beside = {"lora": LoRA(rank=2)}
    tasks, _ = learnt(TEXT, SimpleCILAdam(scale=7.0), CIL, beside=beside)
    own = features(TEXT, tasks.adapted)
    base = features(TEXT)
    assert np.abs(own - base).max() > 1e-2
    wanted = by_means(np.concatenate([base, own], 1), TEXT, 7.0)
    torch.testing.assert_close(answers(tasks, TEXT), wanted, atol=1e-4, rtol=1e-4)
    first, last = (one.values["prototypes"] for one in (tasks.left[0], tasks.left[-1]))
    assert torch.equal(first, last[:2]) and first.shape[1] == 2 * base.shape[1]
    inside = tasks.adapted.deltas()
    assert all(d.strength == 1.0 for of in inside.values() for d in of.values())  # switched back after asking


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_ranpac_is_one_ridge_regression_on_all_rows(task):
    for order in ((0, 1, 2), (1, 2, 0)):
        tasks, _ = learnt(task, RanPAC(projections=40, scale=3.0), PAC, order)
        left = tasks.left[-1].values
        W, ridge = left["projection"].double().numpy(), left["ridge"]
        h = np.maximum(features(task) @ W, 0)
        y = np.eye(6)[[r.label for r in everything(task)]]
        # ridge as least squares on rows that are added: no normal equations
        tall = np.concatenate([h, ridge**0.5 * np.eye(40)]), np.concatenate([y, np.zeros((40, 6))])
        weights = np.linalg.lstsq(*tall, rcond=None)[0]
        wanted = torch.tensor(3.0 * h @ weights).log_softmax(-1)
        torch.testing.assert_close(answers(tasks, task), wanted, atol=2e-3, rtol=1e-3)
        assert left["classes"] == list(range(6)) and left["gram"].shape == (40, 40)


def test_ranpacs_lambda_is_the_one_that_misses_held_out_rows_least():
    g = torch.Generator().manual_seed(0)
    h = torch.randn(30, 12, generator=g).relu()
    y = torch.eye(3)[torch.randint(0, 3, (30,), generator=g)]
    held = [i for i in range(30) if i % 5 == 4]
    own = [i for i in range(30) if i % 5 != 4]

    def miss(ridge: float) -> float:
        A, Y = h[own].double().numpy(), y[own].double().numpy()
        w = np.linalg.solve(A.T @ A + ridge * np.eye(12), A.T @ Y)
        return float(((h[held].double().numpy() @ w - y[held].double().numpy()) ** 2).mean())

    misses = [miss(r) for r in RIDGES]
    assert best_ridge(h, y) == RIDGES[int(np.argmin(misses))]
    assert best_ridge(h[:4], y[:4]) == 1.0


def test_ranpacs_lambda_is_weighed_with_the_sums_of_earlier_tasks():
    g = torch.Generator().manual_seed(1)
    way = torch.randn(40, 2, generator=g)
    h = torch.randn(60, 40, generator=g).relu().double()
    y = torch.eye(2)[(h.float() @ way).argmax(-1)].double()
    before, said = h[:40], torch.eye(2)[torch.randint(0, 2, (40,), generator=g)].double()  # as many rows as features
    gram, products = before.T @ before, before.T @ said
    held = torch.arange(20) % 5 == 4
    new, wanted = h[40:], y[40:]
    misses = []
    for ridge in RIDGES:
        A = gram + new[~held].T @ new[~held] + ridge * torch.eye(40).double()
        w = np.linalg.solve(A.numpy(), (products + new[~held].T @ wanted[~held]).numpy())
        misses.append(float(((new[held].numpy() @ w - wanted[held].numpy()) ** 2).mean()))
    chosen = best_ridge(new.float(), wanted.float(), gram, products)
    assert chosen == RIDGES[int(np.argmin(misses))] and chosen != best_ridge(new.float(), wanted.float())


def test_what_cannot_be_is_refused():
    for name, method in ((CIL, SimpleCILAdam()), (PAC, RanPAC(projections=8))):
        with pytest.raises(MethodError, match="does not serve the task text-generation"):
            check_conflicts([(name, method)], stage="main", task=get_task("text-generation"))
        tasks = Tasks(carry="frozen", task=TEXT, model=model(TEXT).model)
        tasks.stage({name: method}, rows(TASKS[0], TEXT), steps=1)
        with pytest.raises(MethodError, match="in its first stage alone"):
            tasks.begin({"lora": LoRA(rank=2), name: method}, rows(TASKS[1], TEXT))
    tasks = Tasks(carry="frozen", task=TEXT, model=model(TEXT).model)
    with pytest.raises(MethodError, match="wants the base's features"):
        tasks.stage({"full": FullFineTuning(), "lora": LoRA(rank=2), CIL: SimpleCILAdam()}, rows(TASKS[0], TEXT))
