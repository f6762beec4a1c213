"""AdaLoRA: forward, scores, budget and masks against PEFT's own allocator; what is cut, and that it stays cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.contract.method import Plan, State
from tunewright.methods.adapters.adalora import AdaLoRA, alive, budget_at, smoothed, triplet_scores
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.deltas import GatedLowRank
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def plan(steps: int) -> Plan:
    return Plan(steps, 0, "s", 0, 1.0, 0)


def gates(run: Run) -> dict[str, torch.Tensor]:
    return {s: d["adalora"].gate.detach().clone() for s, d in run.adapted.deltas().items()}


def made(listen=None, steps: int = 10, **fields) -> Run:
    return Run({"adalora": AdaLoRA(**{"rank": 4, "target_r": 2, **fields})}, steps=steps, listen=listen)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_importance_is_sensitivity_times_how_much_it_wavers():
    I, U = smoothed(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([3.0]), 0.75, 0.5)  # noqa: E741
    assert float(I) == 1.5 and float(U) == 0.25 + 0.5 * 1.5
    g, A, B = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 3.0], [0.0, 4.0]]), torch.tensor([[5.0, 0.0]] * 3)
    assert triplet_scores(g, A, B).tolist() == [1 + 2 + 5, 2 + 2 + 0]


def test_the_budget_falls_by_the_cube_between_two_steps():
    falls = [budget_at(t, 10, 60, 120, 40) for t in range(100)]
    assert set(falls[:11]) == {120} and set(falls[60:]) == {40}
    assert falls[35] == int(80 * 0.5**3 + 40) and falls[11] == int(80 * 0.98**3 + 40)
    assert falls == sorted(falls, reverse=True)


def test_the_budgets_many_highest_live_and_ties_with_the_cut_die():
    scores = {"a": torch.tensor([5.0, 1.0, 3.0]), "b": torch.tensor([3.0, 4.0])}
    assert {n: v.tolist() for n, v in alive(scores, 2).items()} == {"a": [True, False, False], "b": [False, True]}
    assert {n: v.tolist() for n, v in alive(scores, 4).items()} == {"a": [True, False, True], "b": [True, True]}
    assert all(bool(v.all()) for v in alive(scores, 5).values()) and alive({}, 3) == {}


# -- beside PEFT ------------------------------------------------------------------------------------------------------


def beside_peft(total: int, **fields):
    """Our adapted model and PEFT's with the same factors, PEFT's allocator, and pairs of parameters by our names."""
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    run = Run({"adalora": AdaLoRA(rank=4, target_r=2, alpha=8, target_modules=("q_proj", "down_proj"), **fields)})
    config = peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        tinit=fields["tinit"],
        tfinal=fields["tfinal"],
        deltaT=fields["delta_t"],
        total_step=total,
        orth_reg_weight=fields.get("orth_reg_weight", 0.5),
        task_type="CAUSAL_LM",
    )
    theirs = peft.get_peft_model(tiny.llama(), config)
    named, pairs = dict(theirs.named_parameters()), {}
    for site, by_name in run.adapted.deltas().items():
        for ours, part in (("lora_A", "A"), ("gate", "E"), ("lora_B", "B")):
            q, p = named[f"base_model.model.{site}.lora_{part}.default"], getattr(by_name["adalora"], ours)
            q.data.copy_(p.data.view_as(q))
            pairs[f"{site}.delta.adalora.{ours}"] = p, q
    return run, theirs, pairs


@pytest.mark.parity
def test_forward_gradients_and_penalty_are_pefts():
    """PEFT 0.21.2. Its scale is alpha / (r + 1e-5): equal to that."""
    run, theirs, pairs = beside_peft(20, tinit=2, tfinal=5, delta_t=1)
    for p, q in pairs.values():
        p.data.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        q.data.copy_(p.data.view_as(q))
    batch = TASK.collate(text_rows(4))
    a, b = run.adapted.model(**batch.inputs).logits, theirs.base_model.model(**batch.inputs).logits
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    labels = batch.inputs["input_ids"]
    plain = theirs.base_model.model(**batch.inputs, labels=labels).loss
    whole = theirs(**batch.inputs, labels=labels).loss
    weights = {s: SimpleNamespace(deltas=by_name) for s, by_name in run.adapted.deltas().items()}
    penalty = AdaLoRA().penalty(weights)
    torch.testing.assert_close(penalty, whole - plain, atol=1e-4, rtol=1e-4)
    (a.logsumexp(-1).sum() + penalty).backward()
    (b.logsumexp(-1).sum() + whole - plain).backward()
    for name, (p, q) in pairs.items():
        assert float(p.grad.abs().max()) > 0, name
        torch.testing.assert_close(p.grad.view_as(q), q.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize(("tinit", "tfinal", "every"), [(2, 5, 1), (0, 4, 3), (3, 0, 2)])
def test_scores_budget_and_masks_are_those_of_pefts_allocator(tinit, tfinal, every):
    """PEFT 0.21.2's allocator over a whole stage, on the same values and gradients: each gate is cut at the same step.

    Its importance is asked for before the optimizer's step, where ours is taken.
    """
    total = 16
    run, theirs, pairs = beside_peft(total, tinit=tinit, tfinal=tfinal, delta_t=every)
    allocator, method, state = theirs.base_model.rankallocator, next(iter(run.methods)).method, State()
    params = {n: p for n, (p, _) in pairs.items()}
    g = torch.Generator().manual_seed(3)
    cuts = 0
    for t in range(total):
        grads = {n: torch.randn(p.shape, generator=g) * (1 + len(n) % 5) for n, p in params.items()}
        for n, (_, q) in pairs.items():
            q.grad = grads[n].view_as(q).clone()
        method.gradient(grads, {n: p.detach() for n, p in params.items()}, t, plan(total), state)
        final = total - tfinal
        if t < final:
            allocator.update_ipt(theirs.base_model.model)
        for n, (p, q) in pairs.items():  # an optimizer's step
            p.data.sub_(0.05 * grads[n])
            q.data.sub_(0.05 * q.grad)
        held, allocator.update_ipt = allocator.update_ipt, lambda model: None
        theirs.base_model.update_and_allocate(t)
        allocator.update_ipt = held
        method.after_step(t + 1, plan(total), params, state)
        if tfinal == 0 and t == total - 1:
            break  # here the budget is final; there it never is
        for n, (p, q) in pairs.items():
            torch.testing.assert_close(p.data.view_as(q), q.data, msg=lambda m, n=n, t=t: f"step {t}, {n}: {m}")
        cuts += sum(int((p == 0).sum()) for n, p in params.items() if n.endswith("gate"))
    assert cuts
    lives = sum(int((p != 0).sum()) for n, p in params.items() if n.endswith("gate"))
    assert lives == 2 * 4


# -- through the loop -------------------------------------------------------------------------------------------------


def test_ranks_fall_to_the_budget_and_stay():
    seen = []
    run = made(lambda loop: seen.append(gates(run)), steps=12, tinit=2, tfinal=5)
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))
    run.train()
    alive_at = [sum(int((g != 0).sum()) for g in at.values()) for at in seen]
    assert set(alive_at[:3]) == {14 * 4} and set(alive_at[7:]) == {14 * 2}
    assert alive_at == sorted(alive_at, reverse=True)
    patterns = [{s: (g != 0).tolist() for s, g in at.items()} for at in seen[7:]]
    assert all(p == patterns[0] for p in patterns), "the last budget's triplets are for good"
    assert len({tuple(sorted(map(sum, patterns[0].values())))}) == 1 and len({sum(p) for p in patterns[0].values()}) > 1


def test_dead_triplets_are_cut_out_and_the_report_tells_the_ranks(tmp_path):
    run = made(steps=8)
    run.train()
    wanted = logits(run.adapted.model)
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    found = next(iter(run.methods)).method.found(run.state("adalora"))
    assert found.values["mean rank"] == 2 and {r[0]: max(1, r[1]) for r in found.rows} == {
        s: d["adalora"].rank for s, d in run.adapted.deltas().items()
    }
    assert torch.allclose(logits(run.adapted.model), wanted, atol=1e-5)
    save_adapter(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    load_adapter(again, tmp_path)
    assert torch.allclose(logits(again.model), wanted, atol=1e-5)


def test_importance_is_held_until_the_budget_is_final_and_no_longer():
    def held(run):
        return sum(t.numel() for n, t in run.state("adalora").named_buffers() if "alive" not in n)

    sizes = []
    run = made(lambda loop: sizes.append(held(run)), steps=8, tfinal=4)
    trained = sum(p.numel() for d in run.adapted.deltas().values() for p in d["adalora"].parameters())
    run.train()
    assert sizes == [2 * trained] * 4 + [0] * 4


def test_the_penalty_brings_the_factors_towards_orthonormal():
    def apart(weight):
        run = made(steps=20, orth_reg_weight=weight)
        run.train()
        d = [by["adalora"] for by in run.adapted.deltas().values()]
        return sum(float(torch.linalg.norm(x.lora_A @ x.lora_A.t() - torch.eye(x.rank))) for x in d)

    assert apart(5.0) < 0.8 * apart(0.0)


@pytest.mark.parametrize("steps", [1, 3, 10, 100, 1000])
def test_the_budget_is_reached_at_any_length_that_has_a_fall(steps):
    first, final = AdaLoRA()._times(steps)
    assert final < steps and (first < final or steps == 1)
    assert (AdaLoRA().caution(plan(steps)) is None) == (first < final)


def test_cautions():
    assert "60 come before and 40 after" in AdaLoRA(tinit=60, tfinal=40).caution(plan(100))
    assert "not below the first rank 8" in AdaLoRA(rank=8).caution(plan(100))


def test_pefts_names_are_read():
    method = AdaLoRA(init_r=6, deltaT=3, lora_alpha=4, target_r=1)
    assert (method.rank, method.delta_t, method.alpha) == (6, 3, 4)


def test_it_resumes_before_and_after_the_last_cut():
    for at in (3, 7):
        assert_resumes(lambda listen: made(listen, steps=9, tfinal=3, delta_t=2), at)


def test_forms():
    run = made()
    for d in run.adapted.deltas().values():
        assert isinstance(d["adalora"], GatedLowRank) and not d["adalora"].gate.any()
        assert 0.01 < float(d["adalora"].lora_B.std()) < 0.03 and d["adalora"].scale == 2
