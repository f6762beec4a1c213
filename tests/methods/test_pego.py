"""PEGO: a group's steps against the authors' penalty written out, on text, labels and pictures; what is orthogonal is
free.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, changed, logits
from tests.methods.selecting import BASES, EPS, rows_for, stayed
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.pego import PEGO, absolute_sum, overlap
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.nf4 import quantise_sites
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.tasks import get_task

FOUND = {"causal": {"c_attn"}, "encoder": {"query", "value"}, "vision": {"q_proj", "v_proj"}}
"""Endings of the layers that are found by themselves."""


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(listen=None, steps=4, **fields) -> Run:
    return Run({"pego": PEGO(**{"rank": 2, "members": 3, **fields})}, steps=steps, listen=listen)


def deltas(run: Run) -> dict:
    return {n: d["pego"] for n, d in run.adapted.deltas().items() if "pego" in d}


def written_out(weights, groups, coefficient: float) -> torch.Tensor:
    """The authors' `loss_o`, sums of whole products: `groups` has each layer's list of (A_i, B_i)."""
    total = torch.zeros(())
    for w, group in zip(weights, groups, strict=True):
        made = [b @ a for a, b in group]
        for i, one in enumerate(made):
            total = total + (w @ one.T).abs().sum()
            for other in made[i + 1 :]:
                total = total + (one @ other.T).abs().sum()
    return coefficient * total


@pytest.mark.parametrize("base", BASES)
def test_its_steps_are_those_of_separate_changes_under_the_authors_penalty(base):
    """Modules beside the layers, one for each member, and AdamW over them: what the loop does with one stacked pair."""
    make, task = BASES[base]
    rows, coefficient = rows_for(task), 2e-3
    method = PEGO(rank=2, members=3, preserve=coefficient, diversify=coefficient)
    run = Run({"pego": method}, model=make(), task=task, sources={"new": rows}, steps=4, eps=EPS)
    own = deltas(run)
    assert {n.rsplit(".", 1)[-1] for n in own} == FOUND[base]
    model, groups, weights = make().requires_grad_(False), [], []
    for name, d in own.items():
        parts = zip(d.lora_A.detach().split(2), d.lora_B.detach().split(2, dim=1), strict=True)
        group = [tuple(t.clone().requires_grad_() for t in part) for part in parts]
        assert len(group) == 3
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _, x, y, group=group: y + sum(x[0] @ a.T @ b.T for a, b in group))
        groups.append(group)
        weights.append(layer.weight.T if "Conv1D" in type(layer).__name__ else layer.weight)
    served, cursor, trained = get_task(task), Cursor({"new": rows}), [t for g in groups for p in g for t in p]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, eps=EPS, weight_decay=0.0)
    for _ in range(4):
        batch = served.collate([r for r, _ in cursor.next_batch()], False, seed=0)
        loss = served.loss(served.forward(model, batch), batch)
        mean = (loss.value * batch.weights).sum() / batch.weights.sum()
        (mean + written_out(weights, groups, coefficient)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    run.train()
    for d, group in zip(deltas(run).values(), groups, strict=True):
        for i, (a, b) in enumerate(group):
            torch.testing.assert_close(d.lora_A[2 * i : 2 * i + 2], a, atol=2e-6, rtol=1e-4)
            torch.testing.assert_close(d.lora_B[:, 2 * i : 2 * i + 2], b, atol=2e-6, rtol=1e-4)
    assert all(bool(same.all()) for same in stayed(run.adapted.model, make()).values())


def test_the_penalty_is_the_sum_over_layers_and_over_its_own_changes_alone():
    run = Run({"pego": PEGO(rank=2, members=3), "lora": LoRA(rank=2)})
    own = deltas(run)
    sums = []
    for i, (name, d) in enumerate(own.items()):
        d.lora_B.data = normal(*d.lora_B.shape, seed=i)
        W = run.adapted.structure.site(name).matrix().detach().double().numpy()
        A, B = d.lora_A.detach().double().numpy(), d.lora_B.detach().double().numpy()
        D = [B[:, 2 * k : 2 * k + 2] @ A[2 * k : 2 * k + 2] for k in range(3)]
        with_weight = sum(np.abs(W @ x.T).sum() for x in D)
        sums.append((with_weight, sum(np.abs(D[j] @ D[k].T).sum() for j, k in [(0, 1), (0, 2), (1, 2)])))
    weights = {
        n: SimpleNamespace(deltas=by_name, site=run.adapted.structure.site(n))
        for n, by_name in run.adapted.deltas().items()
    }
    assert len(own) == 4 < len(weights) == 14
    first, second = (sum(s[i] for s in sums) for i in (0, 1))
    for preserve, diversify in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
        got = PEGO(rank=2, members=3, preserve=preserve, diversify=diversify).penalty(weights)
        assert got.item() == pytest.approx(preserve * first + diversify * second, rel=1e-5)
    assert float(PEGO().penalty({})) == 0
    half = PEGO(rank=2, members=3, preserve=1.0, diversify=1.0, alpha=1.0)
    for d in own.values():
        d.scale = 0.5
    assert half.penalty(weights).item() == pytest.approx(0.5 * first + 0.25 * second, rel=1e-5)


def test_it_costs_nothing_where_no_rows_overlap_and_something_where_two_do():
    """Rows of W, D_1 and D_2 on axes of their own; then D_2 reads D_1's, and then W's."""
    W, eye = torch.zeros(5, 8), torch.eye(8)
    W[:4, :4] = normal(4, 4)
    A = torch.cat([eye[4:5], eye[5:6]])
    B = normal(5, 2, seed=1)
    assert [float(x) for x in overlap(W, A, B, 1)] == [0.0, 0.0]
    own, among = overlap(W, torch.cat([eye[4:5], eye[4:5]]), B, 1)
    assert float(own) == 0 and float(among) == pytest.approx(float(torch.outer(B[:, 0], B[:, 1]).abs().sum()))
    own, among = overlap(W, torch.cat([eye[4:5], eye[0:1]]), B, 1)
    assert float(among) == 0 and float(own) == pytest.approx(float(torch.outer(W[:, 0], B[:, 1]).abs().sum()))
    assert float(overlap(W, A, B, 2)[1]) == 0, "one member has nobody beside it"


def test_the_sums_gradient_is_autograds_and_zero_at_the_start():
    left, right = (normal(*s, seed=i).requires_grad_() for i, s in enumerate([(7, 3), (6, 3)]))
    made = torch.autograd.grad(3 * absolute_sum(left, right), (left, right))
    wanted = torch.autograd.grad(3 * (left @ right.T).abs().sum(), (left, right))
    for got, expected in zip(made, wanted, strict=True):
        torch.testing.assert_close(got, expected)
    A, B = normal(4, 8).requires_grad_(), torch.zeros(5, 4, requires_grad=True)
    total = sum(overlap(normal(5, 8, seed=2), A, B, 2))
    assert total.item() == 0
    assert not any(g.any() for g in torch.autograd.grad(total, (A, B)))


def test_it_starts_as_the_base_with_as_many_numbers_as_n_loras():
    run = made()
    assert torch.equal(logits(run.adapted.model), logits(tiny.llama()))
    assert {d.scale for d in deltas(run).values()} == {1.0} and {d.rank for d in deltas(run).values()} == {6}
    for d in deltas(run).values():
        assert not d.lora_B.any() and float(d.lora_A.detach().abs().max()) <= 32**-0.5
        assert len({tuple(row) for row in d.lora_A.tolist()}) == 6
    assert PEGO().rank_at(None) == 16 and PEGO(alpha=8.0).scale_at(None, 16) == 2.0


def test_a_strong_penalty_leaves_less_overlap():
    def left(**fields):
        run = made(steps=25, **fields)
        run.train()
        sites = run.adapted.structure.site
        found = [overlap(sites(n).matrix(), d.lora_A, d.lora_B, 2) for n, d in deltas(run).items()]
        return [sum(float(f[i]) for f in found) for i in (0, 1)]

    none = left(preserve=0.0, diversify=0.0)
    assert left(preserve=0.01, diversify=0.0)[0] < 0.7 * none[0]
    assert left(preserve=0.0, diversify=0.1)[1] < 0.7 * none[1]


def test_every_field_changes_what_is_trained():
    def after(**fields):
        run = made(**fields)
        return changed(run.train())

    first = after()
    for field in ({"rank": 3}, {"members": 2}, {"alpha": 8.0}, {"target_modules": ("q_proj",)}):
        assert {n: t.shape for n, t in after(**field).items()} != {n: t.shape for n, t in first.items()} or any(
            not torch.equal(first[n], t) for n, t in after(**field).items()
        )
    for field in ({"preserve": 0.0}, {"diversify": 1.0}, {"dropout": 0.3}):
        assert any(not torch.equal(first[n], t) for n, t in after(**field).items()), field


def test_the_group_folds_and_is_saved_as_one_lora(tmp_path: Path):
    run = made(steps=6)
    run.train()
    tuned = logits(run.adapted.model)
    save_adapter(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    load_adapter(again, tmp_path)
    assert {d.rank for by in again.deltas().values() for d in by.values()} == {6}
    assert agrees(logits(again.model), tuned)
    run.adapted.fold()
    assert agrees(logits(run.adapted.model), tuned) and not agrees(tuned, logits(tiny.llama()))


def test_it_resumes_beside_lora():
    def make(listen):
        return Run({"pego": PEGO(rank=2, members=2), "lora": LoRA(rank=2)}, steps=5, listen=listen)

    assert_resumes(make, 2)


def test_a_base_in_4_bits_is_held_as_its_codes_say():
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    run = Run({"pego": PEGO(rank=2, members=2, preserve=0.01)}, model=adapted, steps=3)
    run.train()
    assert all(d.lora_B.any() for d in deltas(run).values())


def test_what_it_cannot_do_is_refused():
    with pytest.raises(MethodError, match="queries or values") as told:
        PEGO().sites(Adapted(tiny.efficientnet()).structure)
    assert "target_modules" in str(told.value)
    with pytest.raises(MethodError, match="no module"):
        made(target_modules=("no_such",))
    whole = PEGO(target_modules="all-linear").sites(Adapted(tiny.llama()).structure)
    assert len(whole) == 14
