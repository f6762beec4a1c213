"""CoDyRA: the shrink of the authors' code, kappa's climb, exact zeros, cutting and folding that change no output."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.contract.method import Plan
from tunewright.methods.adapters.codyra import CoDyRA, cut_dead_pieces, kappa_at, shrunk
from tunewright.models.agreement import agrees
from tunewright.models.deltas import GatedLowRank


def test_shrink_cuts_at_two_kappa_and_shifts_by_one():
    gates = torch.tensor([0.5, -0.5, 0.25, 0.15, -0.15, 0.05, 0.0])
    torch.testing.assert_close(shrunk(gates, 0.1), torch.tensor([0.4, -0.4, 0.15, 0.0, 0.0, 0.0, 0.0]))
    assert torch.equal(shrunk(gates, 0.0), gates)


def test_kappa_climbs_in_fifty_levels_after_the_dense_phase():
    levels = [kappa_at(i, 500, 0.5, 0.49) for i in range(500)]
    assert set(levels[:251]) == {0.0} and levels[251] == pytest.approx(0.01) and levels[255] == pytest.approx(0.02)
    assert levels[490] == pytest.approx(0.49) == levels[499] and levels == sorted(levels)


def test_update_shrinks_each_gate_after_the_optimizers_own_step_and_nothing_else():
    gates, moves = torch.tensor([0.5, -0.5, 0.12, 0.0]), torch.tensor([0.2, 0.1, -0.1, 0.9])
    other, plan = torch.ones(3), Plan(100, 0, "s", 0, 1.0, 0)
    method = CoDyRA(dense=0.5, kappa=0.05)
    given = {"x.delta.codyra.gate": moves, "x.delta.codyra.lora_A": other}
    before = {"x.delta.codyra.gate": gates, "x.delta.codyra.lora_A": other}
    early, late = (method.update(given, before, step, plan) for step in (10, 99))
    torch.testing.assert_close(early["x.delta.codyra.gate"], moves)
    # the steps lead to 0.7, -0.4, 0.02 and 0.9; then each is shrunk by 0.05 or cut
    torch.testing.assert_close(gates + late["x.delta.codyra.gate"], torch.tensor([0.65, -0.35, 0.0, 0.85]))
    assert late["x.delta.codyra.lora_A"] is other


@pytest.mark.parametrize("steps", [20, 60, 500, 2500])
def test_what_is_taken_from_a_gate_in_all_does_not_grow_with_the_steps(steps):
    """A gate that no optimizer moves, from far above: what a whole stage takes is what the authors' 500 steps take."""
    method, plan = CoDyRA(), Plan(steps, 0, "s", 0, 1.0, 0)
    gate, still = torch.tensor([3.0]), torch.zeros(1)
    for step in range(steps):
        gate = gate + method.update({"x.gate": still}, {"x.gate": gate}, step, plan)["x.gate"]
    assert 3.0 - float(gate) == pytest.approx(0.63, abs=0.04)
    assert method.caution(plan) is None


def test_a_kappa_that_kills_every_gate_and_stages_without_a_shrinking_step_are_said_before_training():
    def plan(steps):
        return Plan(steps, 0, "s", 0, 1.0, 0)

    fixed = CoDyRA(kappa=0.005)
    assert fixed.caution(plan(500)) is None and CoDyRA(kappa=0).caution(plan(5000)) is None
    assert "takes 3.2 from every gate in 2500 steps" in fixed.caution(plan(2500))
    assert "no gate is shrunk in 1 steps" in CoDyRA().caution(plan(1))


def test_the_end_of_a_task_says_how_many_gates_are_alive():
    run = Run({"codyra": CoDyRA(rank=6, dense=0.0, kappa=0.6)}, steps=5)
    run.train()
    gates = torch.cat([d["codyra"].gate.detach() for d in run.adapted.deltas().values()])
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    assert run.adapted.notes == [
        f"codyra: {int((gates != 0).sum())} of {len(gates)} gates are alive at the end of 'main'"
    ]


def test_gates_reach_zero_exactly_and_the_rank_is_their_number():
    run = Run({"codyra": CoDyRA(rank=6, dense=0.0, kappa=0.6)}, steps=5)
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))
    run.train()
    gates = torch.cat([d["codyra"].gate for d in run.adapted.deltas().values()])
    assert 0 < int((gates == 0).sum()) < gates.numel()


def test_cutting_and_folding_change_no_output():
    run = Run({"codyra": CoDyRA(rank=6, dense=0.0, kappa=0.6)}, steps=5)
    run.train()
    before = logits(run.adapted.model)
    alive = {n: int((d["codyra"].gate != 0).sum()) for n, d in run.adapted.deltas().items()}
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    ranks = {n: d["codyra"].rank for n, d in run.adapted.deltas().items()}
    assert ranks == {n: max(1, k) for n, k in alive.items()} and min(ranks.values()) < 6
    torch.testing.assert_close(logits(run.adapted.model), before, atol=1e-5, rtol=1e-5)
    delta = next(iter(run.adapted.deltas().values()))["codyra"]
    assert delta.settings()["rank"] == delta.lora_B.shape[1] == delta.gate.numel()
    run.adapted.fold()
    assert not run.adapted.deltas()
    torch.testing.assert_close(logits(run.adapted.model), before, atol=1e-5, rtol=1e-4)


def test_a_dead_site_keeps_one_dead_piece():
    delta = GatedLowRank(
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(5, 3), torch.zeros(3), 1.0
    )
    assert cut_dead_pieces(delta) == 1 and delta.gate.tolist() == [0.0] and not delta.change().any()


def test_change_is_b_diag_g_a():
    rng = torch.Generator().manual_seed(0)
    A, B, g = torch.randn(3, 4, generator=rng), torch.randn(5, 3, generator=rng), torch.randn(3, generator=rng)
    torch.testing.assert_close(GatedLowRank(A, B, g, 1.0).change(), B @ torch.diag(g) @ A)


def test_resumes():
    assert_resumes(lambda listen: Run({"codyra": CoDyRA(rank=3, dense=0.2, kappa=0.3)}, steps=6, listen=listen), 3)
