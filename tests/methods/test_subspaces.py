"""GPM, InfLoRA and O-LoRA: where a task may learn is what earlier tasks' inputs, or rows, leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import text_rows
from tests.methods.rehearsing import SGD
from tests.methods.sequences import Tasks
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.gpm import GPM
from tunewright.methods.continual.inflora import InfLoRA
from tunewright.methods.continual.o_lora import OLoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.deltas import deltas_of
from tunewright.pieces.input_subspaces import free_directions, grown, without
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def inputs(tasks: Tasks, rows, site: str) -> np.ndarray:
    """[tokens, in] of what flows into a layer when the rows are read, by a hook of the test's own."""
    seen: list[torch.Tensor] = []
    module = tasks.adapted.structure.site(site).module
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))
    with torch.no_grad(), tasks.adapted.evaluating():
        TASK.forward(tasks.adapted.model, TASK.collate(rows))
    hook.remove()
    return seen[-1].double().numpy()


def leading(X: np.ndarray, M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(squared singular values, directions in columns) of the inputs outside of M, by the SVD of the inputs."""
    _, S, Vt = np.linalg.svd(X - X @ M @ M.T, full_matrices=False)
    return S**2, Vt.T


def same_span(A: np.ndarray, B: np.ndarray) -> None:
    assert A.shape == B.shape
    np.testing.assert_allclose(A @ A.T, B @ B.T, atol=2e-4)


def test_a_basis_grows_by_the_fewest_directions_that_hold_the_share():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(40, 6)) @ np.diag([5, 3, 2, 1, 0.5, 0.1]), rng.normal(size=(40, 6))
    M = np.zeros((6, 0))
    for inputs_ in (X, Y):
        C = torch.tensor(inputs_.T @ inputs_)
        values, vectors = leading(inputs_, M)
        total, held = (inputs_**2).sum(), ((inputs_ @ M) ** 2).sum()
        need = next((k for k in range(7) if held + values[:k].sum() >= 0.9 * total), 6)
        grew = grown(torch.tensor(M) if M.size else None, C, 0.9)
        same_span(grew.double().numpy(), np.concatenate([M, vectors[:, :need]], 1))
        free = free_directions(torch.tensor(M) if M.size else None, C, 2).double().numpy()
        same_span(free.T, vectors[:, :2])
        M = grew.double().numpy()
        np.testing.assert_allclose(M.T @ M, np.eye(M.shape[1]), atol=1e-6)
    assert 0 < M.shape[1] <= 6 and torch.equal(grown(grew, C * 0, 0.9), grew)
    full = torch.eye(6)
    assert torch.equal(grown(full, C, 1.0), full) and not free_directions(full, C, 2).any()
    np.testing.assert_allclose(without(torch.tensor(X), torch.tensor(M)).numpy() @ M, 0, atol=1e-6)


def test_wide_layers_directions_are_those_of_the_dense_way():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 300)) * np.linspace(3, 0.1, 300)
    C, basis = torch.tensor(X.T @ X), torch.linalg.qr(torch.tensor(rng.normal(size=(300, 20)))).Q
    for M in (None, basis):
        held = np.zeros((300, 0)) if M is None else M.numpy()
        same_span(free_directions(M, C, 6).double().numpy().T, leading(X, held)[1][:, :6])
    few = torch.zeros(300, 300, dtype=torch.float64)
    few[7, 7] = 2.0  # one direction is read: the other rows are zero
    rows = free_directions(None, few, 3)
    assert rows.abs().sum(1).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6) and abs(rows[0, 7]) == 1
    assert not free_directions(torch.eye(300), few, 3).any()


def test_inflora_learns_where_the_first_tasks_inputs_are_not():
    rows, tasks = [text_rows(6, seed=k) for k in range(2)], Tasks()
    method = {"inflora": InfLoRA(rank=3, threshold=0.7)}
    site = "model.layers.0.self_attn.q_proj"
    own = leading(inputs(tasks, rows[0], site), np.zeros((32, 0)))[1][:, :3]
    run = tasks.begin(method, rows[0])
    first = deltas_of(tasks.adapted.structure.site(site))["inflora"].lora_A.double().numpy()
    np.testing.assert_allclose(first.T @ first * 3, own @ own.T, atol=1e-3)  # the leading inputs, over sqrt 3
    run.train()
    X = inputs(tasks, rows[0], site)  # the inputs of the model that the task left
    values, vectors = leading(X, np.zeros((32, 0)))
    need = next(k for k in range(33) if values[:k].sum() >= 0.7 * (X**2).sum())
    tasks.end(run)
    M = tasks.left[0].values["basis"][site].double().numpy()
    same_span(M, vectors[:, :need])
    run = tasks.begin(method, rows[1])
    delta = deltas_of(tasks.adapted.structure.site(site))["inflora"]
    A = delta.lora_A.double().numpy()
    np.testing.assert_allclose(A @ M, 0, atol=1e-5)
    new = leading(inputs(tasks, rows[1], site), M)[1][:, :3]
    np.testing.assert_allclose(A.T @ A * 3, new @ new.T, atol=1e-3)
    run.train()
    change = delta.change().detach().double().numpy()
    assert np.abs(change).max() > 1e-4 and np.abs(change @ M).max() < 1e-6
    assert torch.equal(delta.lora_A.double(), torch.tensor(A)), "A does not train"
    assert 0 < run.methods.bound[0].method.found(run.state("inflora")).values["mean"] < 1


def test_gpm_moves_no_weight_along_earlier_inputs_under_adamw_and_holds_the_rest():
    rows, tasks = [text_rows(6, seed=k) for k in range(2)], Tasks(tiny.gpt2())
    methods = {"full": FullFineTuning(), "gpm": GPM(threshold=0.8)}
    tasks.stage(methods, rows[0])
    sites = tasks.adapted.structure.linear_sites()
    before = {n: p.detach().clone() for n, p in tasks.adapted.base_parameters().items()}
    basis = tasks.left[0].values["basis"]
    tasks.stage(methods, rows[1])
    after = dict(tasks.adapted.base_parameters())
    kinds = set()
    for s in sites:
        moved = (after[s.weight_name].detach() - before[s.weight_name]).double()
        moved = (moved.T if s.kind == "conv1d" else moved).numpy()
        M = basis[s.name].double().numpy()
        assert np.abs(moved).max() > 1e-4 and np.abs(moved @ M).max() < 1e-5
        assert 0 < M.shape[1] < len(M)
        kinds.add(s.kind)
    weights = {s.weight_name for s in sites}
    assert "conv1d" in kinds and all(torch.equal(after[n], p) for n, p in before.items() if n not in weights)


def test_gpm_lets_the_rest_go_where_it_is_told_to_and_refuses_what_it_cannot_project():
    tasks = Tasks()
    methods = {"full": FullFineTuning(), "gpm": GPM(threshold=0.8, rest=False)}
    tasks.stage(methods)
    norm = tasks.adapted.base_parameters()["model.norm.weight"].detach().clone()
    tasks.stage(methods)
    assert not torch.equal(tasks.adapted.base_parameters()["model.norm.weight"], norm)
    with pytest.raises(MethodError, match="no weight trains"):
        tasks.stage({"lora": LoRA(rank=2), "gpm": GPM()})


def test_o_lora_charges_the_overlap_with_all_earlier_rows_which_no_longer_train():
    tasks, rows = Tasks(carry="frozen"), []
    method = {"o-lora": OLoRA(rank=2, coefficient=0.25)}
    for _ in range(2):
        run = tasks.begin(method)
        run.train()
        rows.append(own_rows(tasks, "o-lora"))
        tasks.end(run)
    frozen = {n: p.detach().clone() for n, p in tasks.adapted.delta_parameters().items()}
    run = tasks.begin(method, steps=2, **SGD)
    start = own_rows(tasks, "o-lora")
    wanted = 0.25 * sum(float(np.abs(old[n] @ A.T).sum()) for old in rows for n, A in start.items())
    run.train()
    assert run.records[0]["penalty/o-lora"] == pytest.approx(wanted, rel=1e-4)
    now = tasks.adapted.delta_parameters()
    assert all(torch.equal(now[n], p) for n, p in frozen.items())
    site = next(iter(start))
    assert tasks.left[1].values["earlier"][site].shape == (4, start[site].shape[1])


def test_o_lora_s_penalty_brings_the_overlap_down():
    found = []
    for coefficient in (0.0, 1.0):
        tasks = Tasks()
        method = {"o-lora": OLoRA(rank=2, coefficient=coefficient)}
        first = tasks.begin(method, steps=1)
        first.train()
        old = own_rows(tasks, "o-lora")
        tasks.end(first)
        tasks.begin(method, steps=12).train()
        found.append(sum(float(np.abs(old[n] @ A.T).sum()) for n, A in own_rows(tasks, "o-lora").items()))
    assert found[1] < 0.6 * found[0]


def own_rows(tasks: Tasks, name: str) -> dict[str, np.ndarray]:
    sites = tasks.adapted.structure.linear_sites()
    return {s.name: deltas_of(s)[name].lora_A.detach().double().numpy() for s in sites if name in deltas_of(s)}
