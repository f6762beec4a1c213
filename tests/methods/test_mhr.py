"""MHR: steps of the authors' einsums on text, labels and pictures; an inventory that later stages tune in part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, changed, text_rows
from tests.methods.selecting import BASES, EPS, rows_for, stayed
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.method import Plan
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.mhr import MHR, mixed, routing
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.context import present
from tunewright.models.deltas import LowRank, PerTask, attach
from tunewright.models.generated import settle
from tunewright.models.nf4 import quantise_sites
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
K, H, R = 3, 4, 2
SIZES = {"inventory": K, "heads": H, "rank": R}


def plan(*names: str, index: int = 0) -> dict:
    return {"plan": {"sources": dict.fromkeys(names, 100), "index": index}}


def sources(names: str, count: int = 12) -> dict[str, list[Row]]:
    return {n: [Row(r.id, n, r.input_ids, r.weights) for r in text_rows(count, n)] for n in names}


def run_of(
    names: str = "ab", *, listen=None, steps: int = 6, model=None, earlier=None, index: int = 0, **fields
) -> Run:
    method = MHR(**{**SIZES, **fields})
    more = plan(*names, index=index)
    return Run(
        {"mhr": method}, model=model, sources=sources(names), steps=steps, listen=listen, earlier=earlier, **more
    )


def said(adapted: Adapted, rows: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return TASK.forward(adapted.model.eval(), TASK.collate(rows, True)).logits


def left_by(run: Run) -> Earlier:
    state = run.state("mhr")
    return Earlier((left_of("first", "mhr", MHR.leaves, state, state.data),))


def trained(names: str = "ab", **fields) -> tuple[Run, Earlier]:
    run = run_of(names, steps=12, **fields)
    run.train()
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    return run, left_by(run)


def later(first: Run, left: Earlier, names: str, how: str = "training", listen=None, steps: int = 6, **fields) -> Run:
    """A stage after `first`, on what its files would bring back."""
    adapted = Adapted(tiny.llama())
    for site in first.adapted.structure.every_site:
        for name, delta in first.adapted.deltas().get(site.name, {}).items():
            there = type(delta).rebuild(delta.settings(), adapted.structure.site(site.name))
            there.load_state_dict(delta.state_dict())
            attach(adapted.structure.site(site.name), name, there)
    carry.apply_carry(adapted, how, "first")
    return run_of(names, listen=listen, steps=steps, model=adapted, earlier=left, index=1, **fields)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("base", BASES)
def test_its_steps_are_those_of_the_authors_skilled_lora(base, heads):
    """Their selector and einsums ("bqs,sqdr->bqdr", "bqs,srqd->brqd") beside untouched layers, for each token by its
    row's task, and AdamW with a rate for logits.
    """
    make, task = BASES[base]
    rows = {n: [replace(r, source=n) for r in rows_for(task)[i::2]] for i, n in enumerate("ab")}
    method = MHR(**{**SIZES, "heads": heads}, alpha=3.0, routing_rate=0.5)
    run = Run({"mhr": method}, model=make(), task=task, sources=rows, steps=4, eps=EPS, **plan("a", "b"))
    state, model = run.state("mhr"), make().requires_grad_(False)
    factors, logits = [], []
    for i, name in enumerate(state.data["sites"]):
        # as after training: while B is zero no logit has a gradient
        state.get_parameter(f"B.{i}").data.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(i))
        A, B, Z = (state.get_parameter(f"{n}.{i}").detach().clone() for n in "ABZ")
        A = A.view(K, R, heads, -1).permute(0, 2, 3, 1).contiguous().requires_grad_()  # [s, q, d, r]
        B = B.view(K, heads, -1, R).permute(0, 3, 1, 2).contiguous().requires_grad_()  # [s, r, q, d]
        Z = Z.flatten(1).requires_grad_()  # [tasks, q * s]
        factors += [A, B]
        logits.append(Z)

        def hook(_, given, y, A=A, B=B, Z=Z):
            x, tasks = given[0], torch.tensor(["ab".index(s) for s in present().sources()])
            whose = tasks[present().at(y)[0]].flatten()  # of each token, however rows are laid
            weights = torch.sigmoid(Z[whose]).view(len(whose), heads, K)
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-12)
            first = torch.einsum("bqs,sqdr->bqdr", weights, A).reshape(len(weights), -1, R)
            last = torch.einsum("bqs,srqd->brqd", weights, B).reshape(len(weights), R, -1)
            return y + x.flatten(0, 1)[:, None].bmm(first).bmm(last).view(y.shape) * (3.0 / R)

        model.get_submodule(name).register_forward_hook(hook)
    served, cursor = get_task(task), Cursor(rows)
    optimizer = torch.optim.AdamW(
        [{"params": factors}, {"params": logits, "lr": 0.5}], lr=1e-2, eps=EPS, weight_decay=0.0
    )
    for _ in range(4):
        batch = served.collate([r for r, _ in cursor.next_batch()], False, seed=0)
        loss = served.loss(served.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        nn.utils.clip_grad_norm_([*factors, *logits], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    before = state.get_parameter("Z.0").detach().clone()
    run.train()
    assert float((state.get_parameter("Z.0") - before).detach().abs().max()) > 1e-2
    for i in range(len(logits)):
        A, B, Z = (state.get_parameter(f"{n}.{i}") for n in "ABZ")
        torch.testing.assert_close(A, factors[2 * i].permute(0, 3, 1, 2).flatten(2), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(B, factors[2 * i + 1].permute(0, 2, 3, 1).flatten(1, 2), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(Z, logits[i].view(2, heads, K), atol=1e-4, rtol=1e-3)
    assert all(bool(same.all()) for same in stayed(run.adapted.model, make()).values())


def test_weights_sum_to_one_block_by_block_and_are_no_softmax():
    Z = torch.randn(H, K, generator=torch.Generator().manual_seed(0))
    w = routing(Z)
    assert w.shape == (H, K) and torch.allclose(w.sum(-1), torch.ones(H)) and bool((w > 0).all())
    assert torch.equal(routing(torch.full((H, K), 0.3)), torch.full((H, K), 1 / K))
    assert not torch.allclose(routing(Z + 1), w, atol=1e-2)


def test_factors_are_mixed_and_not_products_and_one_head_is_poly():
    g = torch.Generator().manual_seed(0)
    A, B, Z = (torch.randn(*s, generator=g) for s in ((K, R, 8), (K, 12, R), (H, K)))
    w = routing(Z)
    first, last = mixed(A, B, w)
    for q in range(H):
        columns, rows = slice(2 * q, 2 * q + 2), slice(3 * q, 3 * q + 3)
        np.testing.assert_allclose(first[:, columns], sum(w[q, k] * A[k][:, columns] for k in range(K)), rtol=1e-4)
        np.testing.assert_allclose(last[rows], sum(w[q, k] * B[k][rows] for k in range(K)), rtol=1e-4, atol=1e-6)
    products = sum(float(w[0, k]) * B[k] @ A[k] for k in range(K))
    one = mixed(A, B, w[:1])
    assert not torch.allclose(one[1] @ one[0], products, atol=0.1)
    several = mixed(A, B, w[:1].expand(H, K))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, several, strict=True))


def test_it_starts_as_the_base_with_the_authors_bounds():
    run, rows = run_of(), sources("ab")["a"][:3]
    assert torch.equal(said(run.adapted, rows), said(Adapted(tiny.llama()), rows))
    state = run.state("mhr")
    site = run.adapted.structure.site(state.data["sites"][0])
    A, B, Z = (state.get_parameter(f"{n}.0") for n in "ABZ")
    assert A.shape == (K, R, 32) and Z.shape == (2, H, K) and not B.any()
    bound = (3 * site.in_features) ** -0.5
    assert 0.9 * bound < float(A.detach().abs().max()) <= bound
    assert 0 < float(Z.detach().abs().max()) <= 1e-3
    assert next(iter(run.adapted.deltas().values()))["mhr"].make("a")["lora_A"].shape == (R, 32)


def test_each_task_has_its_own_change_which_is_kept_plain_and_settles():
    run = run_of(steps=25)
    run.train()
    a, b = (sources(n)[n][:3] for n in "ab")
    as_b = [replace(r, source="b") for r in a]
    first = said(run.adapted, a)
    assert (said(run.adapted, as_b) - first).abs().max() > 1e-3
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert all(isinstance(d["mhr"], PerTask) and not d["mhr"].made for d in run.adapted.deltas().values())
    torch.testing.assert_close(said(run.adapted, a), first, atol=1e-5, rtol=1e-4)
    targets = int(sum(a[0].weights))
    torch.testing.assert_close(said(run.adapted, [a[0], b[0]])[:targets], first[:targets], atol=1e-5, rtol=1e-4)
    assert settle(run.adapted, "a") == 14
    run.adapted.fold()
    torch.testing.assert_close(said(run.adapted, a), first, atol=1e-4, rtol=1e-3)


def test_rows_of_other_sources_are_left_as_the_base_or_get_a_named_tasks_change():
    rows = sources("c")["c"][:2]
    none, named = run_of(steps=12), run_of(steps=12, others="b")
    for run in (none, named):
        run.train()
    assert agrees(said(none.adapted, rows), said(Adapted(tiny.llama()), rows))
    as_b = [replace(r, source="b") for r in rows]
    assert torch.equal(said(named.adapted, rows), said(named.adapted, as_b))


def test_mhr_z_trains_a_tasks_logits_alone_and_leaves_older_tasks_as_they_were():
    first, left = trained()
    old = sources("a")["a"][:3]
    before = said(first.adapted, old)
    run = later(first, left, "c", tune="routing")
    assert {len(d) for d in run.adapted.deltas().values()} == {1}, "the earlier stage's changes are made anew"
    state = run.state("mhr")
    kept = {n: state.get(n).clone() for n in ("A.0", "B.0")}
    assert torch.equal(state.get_parameter("Z.0")[:2], left[0].values["Z"]["0"])
    torch.testing.assert_close(said(run.adapted, old), before, atol=1e-5, rtol=1e-4)
    loop = run.train()
    assert loop.trained.count() == 14 * 3 * H * K
    assert all(torch.equal(state.get(n), t) for n, t in kept.items())
    assert torch.equal(kept["A.0"], left[0].values["A"]["0"])
    assert torch.equal(state.get_parameter("Z.0")[:2], left[0].values["Z"]["0"]), "nothing reached older tasks"
    assert not torch.equal(routing(state.get_parameter("Z.0")[2]), routing(torch.zeros(H, K)))
    torch.testing.assert_close(said(run.adapted, old), before, atol=1e-5, rtol=1e-4)
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert left_by(run)[0].values["known"] == ["a", "b", "c"]


def test_mhr_mu_is_a_plain_lora_from_the_mean_of_the_factors():
    first, left = trained()
    run = later(first, left, "c", tune="average", alpha=3.0)
    for i, name in enumerate(left[0].values["sites"]):
        d = run.adapted.deltas()[name]["mhr"]
        assert type(d) is LowRank and d.scale == 1.5
        assert torch.equal(d.lora_A, left[0].values["A"][f"{i}"].mean(0))
        assert torch.equal(d.lora_B, left[0].values["B"][f"{i}"].mean(0)) and bool(d.lora_B.any())
    assert run.train().trained.count() == sum(R * (s.in_features + s.out_features) for s in linear())
    tuned = said(run.adapted, sources("c")["c"][:3])
    run.adapted.fold()
    assert agrees(said(run.adapted, sources("c")["c"][:3]), tuned)
    assert torch.equal(run.state("mhr").get("A.0"), left[0].values["A"]["0"]), "the inventory is left as it was"


def linear():
    return Adapted(tiny.llama()).structure.linear_sites()


@pytest.mark.parametrize("how", ["training", "frozen", "drop"])
def test_a_later_stage_may_train_all_however_the_earlier_ones_changes_are_carried(how):
    first, left = trained()
    run = later(first, left, "c", how, steps=2)
    assert {tuple(d) for d in run.adapted.deltas().values()} == {("mhr",)}
    assert torch.equal(run.state("mhr").get_parameter("A.0"), left[0].values["A"]["0"])
    run.train()
    assert not torch.equal(run.state("mhr").get_parameter("A.0"), left[0].values["A"]["0"])
    assert torch.equal(first.state("mhr").get_parameter("A.0"), left[0].values["A"]["0"]), "it trains a copy"


def test_every_field_changes_what_is_trained():
    def after(**fields):
        run = run_of(steps=3, **fields)
        run.train()
        return {n: p.detach().clone() for n, p in run.state("mhr").named_parameters()}

    first = after()
    for field in ({"inventory": 2}, {"heads": 1}, {"rank": 1}, {"target_modules": ("q_proj",)}):
        assert {n: t.shape for n, t in after(**field).items()} != {n: t.shape for n, t in first.items()}, field
    for field in ({"alpha": 4.0}, {"routing_rate": 0.01}):
        assert any(not torch.equal(first[n], t) for n, t in after(**field).items()), field


def test_it_resumes_beside_lora_and_in_a_later_stage():
    def make(listen):
        methods = {"mhr": MHR(**SIZES), "lora": LoRA(rank=2)}
        return Run(methods, sources=sources("ab"), steps=5, listen=listen, **plan("a", "b"))

    assert_resumes(make, 2)
    first, left = trained()
    for tune in ("routing", "average"):
        assert_resumes(lambda listen, t=tune: later(first, left, "c", listen=listen, steps=4, tune=t), 2)
    assert changed(make(None).train())


def test_a_first_stage_that_would_tune_a_part_says_so():
    there = Plan(100, 10_000, "s", 1, 1e-3, 0)
    assert MHR().caution(replace(there, index=0)) is None
    for tune in ("routing", "average"):
        assert MHR(tune=tune).caution(there) is None
        assert f"tune: {tune}" in MHR(tune=tune).caution(replace(there, index=0))


def test_what_does_not_fit_is_refused():
    with pytest.raises(MethodError, match="they have no 5 blocks") as told:
        run_of(heads=5)
    assert "heads: 4" in str(told.value)
    with pytest.raises(MethodError, match="which is no task"):
        run_of(others="x")
    first, left = trained()
    with pytest.raises(MethodError, match="left 3 pairs of rank 2 in 4 blocks"):
        later(first, left, "c", rank=1)
    with pytest.raises(MethodError, match="names 2 others"):
        later(first, left, "c", target_modules=("q_proj",))
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    with pytest.raises(MethodError, match="4 bits"):
        run_of(model=adapted)
