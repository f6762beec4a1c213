"""Polyhistor: adapters are Kronecker products of a layer's kernels and a task's templates; little trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, text_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.polyhistor import Polyhistor, Template, written
from tunewright.models.adapted import Adapted
from tunewright.models.generated import settle
from tunewright.models.per_task import PerTask
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
PLAN = {"plan": {"sources": {"a": 100, "b": 100}}}
A, K, Q, M = 4, 5, 2, 8


def sources(names: str = "ab", count: int = 12) -> dict[str, list[Row]]:
    return {n: [Row(r.id, n, r.input_ids, r.weights) for r in text_rows(count, n)] for n in names}


def run_of(listen=None, steps: int = 5, **fields) -> Run:
    method = Polyhistor(**{"width": A, "embedding": K, "rank": Q, "template": M, **fields})
    return Run({"poly": method}, sources=sources(), steps=steps, listen=listen, **PLAN)


def product(kernel: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """The Kronecker product, entry by entry."""
    (r, s), (p, q) = kernel.shape, template.shape
    out = torch.empty(r * p, s * q)
    for i in range(r):
        for j in range(s):
            out[i * p : i * p + p, j * q : j * q + q] = kernel[i, j] * template
    return out


def by_hand(run: Run, rows: list[Row]) -> torch.Tensor:
    """Logits of each row alone: the formula from the state's parameters, on hooks of a fresh model."""
    state, out = run.state("poly"), []
    for row in rows:
        fresh, e = tiny.llama(), state.embeddings["ab".index(row.source)]
        for name, key in state.data["sites"].items():
            tensors = {}
            for side in ("down", "up"):
                t = state.templates[side]
                template = (t.first @ e).view(-1, Q) @ (t.second @ e).view(Q, -1) / Q**0.5
                tensors[side] = product(state.kernels[key][side], template)
            b, c = (state.kernels[key][n] for n in ("down_bias", "up_bias"))

            def after(_, args, h, t=tensors, b=b, c=c):
                return h + nn.functional.gelu(h @ t["down"].T + b) @ t["up"].T + c

            fresh.get_submodule(name).register_forward_hook(after)
        with torch.no_grad():
            out.append(TASK.forward(fresh, TASK.collate([row])).logits)
    return torch.cat(out)


def said(adapted: Adapted, rows: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return TASK.forward(adapted.model.eval(), TASK.collate(rows, True)).logits


def test_trained_it_gives_each_row_its_tasks_adapters_and_keeps_them_plain():
    run = run_of(steps=12)
    rows = [sources()["a"][0], sources()["b"][0], sources()["a"][1]]
    assert torch.equal(said(run.adapted, rows), said(Adapted(tiny.llama()), rows)), "it starts as the base"
    start = {n: p.detach().clone() for n, p in run.state("poly").named_parameters()}
    loop = run.train()
    assert set(loop.trained.leaves) == {f"poly.{n}" for n in start}
    assert all(not torch.equal(p, start[n]) for n, p in run.state("poly").named_parameters())
    expected = by_hand(run, rows)
    torch.testing.assert_close(said(run.adapted, rows), expected, atol=2e-5, rtol=1e-4)
    assert (expected - said(Adapted(tiny.llama()), rows)).abs().max() > 1e-2
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert all(not d.made for by in run.adapted.deltas().values() for d in by.values())
    torch.testing.assert_close(said(run.adapted, rows), expected, atol=2e-5, rtol=1e-4)
    swapped = [Row(r.id, "b" if r.source == "a" else "a", r.input_ids, r.weights) for r in rows]
    assert (said(run.adapted, swapped) - expected).abs().max() > 1e-3, "tasks have adapters of their own"


def test_a_template_has_its_rank_and_a_product_the_product_of_ranks():
    g = torch.Generator().manual_seed(0)
    template = Template(K, Q, A, M, g)(torch.randn(K, generator=g))
    assert template.shape == (A, M) and int(torch.linalg.matrix_rank(template)) == Q
    kernels = {"down": torch.randn(3, 2, generator=g), "up": torch.randn(2, 3, generator=g)}
    kernels |= {"down_bias": torch.zeros(3 * A), "up_bias": torch.zeros(2 * M)}
    templates = {"down": Template(K, Q, A, M, g), "up": Template(K, Q, M, A, g)}
    made = written(torch.randn(K, generator=g), templates, kernels)
    assert made["down"].shape == (3 * A, 2 * M) and made["up"].shape == (2 * M, 3 * A)
    assert int(torch.linalg.matrix_rank(made["down"])) == 2 * Q


def test_what_trains_is_networks_once_kernels_a_layer_and_an_embedding_a_task():
    run = run_of()
    networks = 2 * K * Q * (A + M)
    kernels = 4 * (2 * (32 // M) + A + 32)
    assert run.train().trained.count() == networks + kernels + 2 * K
    wide = Run(
        {"poly": Polyhistor(width=A, embedding=K, rank=Q, template=M)},
        model=tiny.llama(hidden=64),
        sources=sources(),
        steps=1,
        **PLAN,
    )
    assert wide.train().trained.count() == networks + 4 * (2 * (64 // M) + A + 64) + 2 * K


def test_defaults_and_starts():
    run = Run({"poly": Polyhistor()}, sources=sources(), steps=1, **PLAN)
    state = run.state("poly")
    assert state.embeddings.shape == (2, 64) and state.kernels["0"]["down"].shape == (1, 4)
    made = written(state.embeddings[0], state.templates, state.kernels["0"])
    assert made["down"].shape == (8, 32) and not made["up"].any()
    assert 0.3 * 32**-0.5 < float(made["down"].std()) < 3 * 32**-0.5


def test_rows_of_other_sources():
    run = run_of(others="b")
    run.train()
    rows = sources("c")["c"][:2]
    as_b = [Row(r.id, "b", r.input_ids, r.weights) for r in rows]
    torch.testing.assert_close(said(run.adapted, rows), said(run.adapted, as_b))
    none = run_of()
    none.train()
    torch.testing.assert_close(said(none.adapted, rows), said(Adapted(tiny.llama()), rows), atol=1e-6, rtol=1e-6)


def test_it_resumes_comes_back_and_settles_on_one_task(tmp_path):
    assert_resumes(run_of, 2)
    run = run_of()
    run.train()
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    rows = sources()["a"][:3]
    tuned = said(run.adapted, rows)
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    torch.testing.assert_close(said(again, rows), tuned)
    assert settle(run.adapted, "a") == 4
    assert not any(isinstance(d, PerTask) for by in run.adapted.deltas().values() for d in by.values())
    torch.testing.assert_close(said(run.adapted, rows), tuned, atol=1e-5, rtol=1e-4)


def test_pictures_and_refusals():
    pictures = {n: [Row(r.id, n, r.input_ids, r.weights, r.label, r.fields) for r in image_rows(8)] for n in "ab"}
    vision = {"task": "image-classification", "sources": pictures, "steps": 2, **PLAN}
    Run({"poly": Polyhistor(width=2)}, model=tiny.vit(), **vision).train()
    with pytest.raises(MethodError, match="attention"):
        Run({"poly": Polyhistor()}, model=tiny.efficientnet(), **vision)
    with pytest.raises(MethodError, match="side 5"):
        run_of(template=5)
    with pytest.raises(MethodError, match="no task"):
        run_of(others="z")
