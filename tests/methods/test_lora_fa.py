"""LoRA-FA: A is frozen, less is kept for the backward pass, a projected gradient is the nearest to the whole one's."""

from __future__ import annotations

import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.lora_fa import LoRAFA, projection
from tunewright.models.deltas import LowRankFixedA, deltas_of


def deltas(run: Run):
    return {n: next(iter(d.values())) for n, d in run.adapted.deltas().items()}


def test_a_stays_and_the_first_step_of_b_is_loras():
    r = Run({"lora-fa": LoRAFA(rank=3)}, steps=5)
    assert torch.equal(logits(r.adapted.model), logits(tiny.llama()))
    before = {n: d.lora_A.clone() for n, d in deltas(r).items()}
    loop = r.train()
    assert all(isinstance(d, LowRankFixedA) and torch.equal(d.lora_A, before[n]) for n, d in deltas(r).items())
    assert loop.trained.count() == sum(d.lora_B.numel() for d in deltas(r).values())
    held = sum(t.numel() for n, t in loop.state()[1]["optimizer"].items() if t.dim())
    assert held == 2 * loop.trained.count(), "moments of B alone"
    first = Run({"lora-fa": LoRAFA(rank=3)}, steps=1)
    first.train()
    other = Run({"lora-fa": LoRA(rank=3)}, steps=1)
    other.train()
    for n, d in deltas(first).items():
        torch.testing.assert_close(d.lora_B, deltas(other)[n].lora_B, atol=1e-6, rtol=1e-4)


def kept_bytes(adapted, x) -> int:
    """Bytes that the linear layers' forward passes keep beside parameters and their own inputs' storage."""
    own = {p.data_ptr() for p in adapted.model.parameters()} | {b.data_ptr() for b in adapted.model.buffers()}
    kept: dict[int, int] = {}
    site = adapted.structure.linear_sites()[0]

    def keep(t):
        if t.data_ptr() not in own:
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        site.module(x)
    assert deltas_of(site)
    return sum(kept.values())


def test_the_input_is_not_kept():
    sizes = {}
    for cls in (LoRA, LoRAFA):
        r = Run({"m": cls(rank=3)}, steps=1)
        site = r.adapted.structure.linear_sites()[0]
        sizes[cls] = kept_bytes(r.adapted, torch.randn(50, site.in_features))
    assert sizes == {LoRA: 50 * site.in_features * 4, LoRAFA: 50 * 3 * 4}


def test_the_projected_gradient_moves_the_weight_nearest_to_full_fine_tuning():
    g = torch.Generator().manual_seed(0)
    A, G, s = torch.randn(3, 10, generator=g), torch.randn(6, 10, generator=g), 2.0  # G: of the whole weight
    gB = s * G @ A.T
    moved = gB @ projection(A, s)
    best = torch.linalg.lstsq(s * A.T, G.T).solution.T  # B that brings s B A nearest to G
    torch.testing.assert_close(moved, best, atol=1e-4, rtol=1e-3)
    plain, turned = (Run({"m": LoRAFA(rank=3, project=p)}, steps=4) for p in (False, True))
    for run in (plain, turned):
        run.train()
    assert any(not torch.equal(d.lora_B, deltas(turned)[n].lora_B) for n, d in deltas(plain).items())


def test_resumes():
    assert_resumes(lambda listen: Run({"m": LoRAFA(rank=3, project=True)}, steps=5, listen=listen), 2)
