"""LoHa and LoKr: high rank from few numbers; parity with PEFT in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.methods.adapters.loha import LoHa
from tunewright.methods.adapters.lokr import LoKr, split


def deltas(run: Run):
    return {n: next(iter(d.values())) for n, d in run.adapted.deltas().items()}


METHODS = {
    "loha": LoHa(rank=3, alpha=6),
    "lokr": LoKr(rank=2, alpha=6),
    "lokr, whole": LoKr(rank=30),
    "lokr, both": LoKr(rank=1, decompose_both=True, decompose_factor=4),
}


@pytest.mark.parametrize("name", METHODS)
def test_it_starts_as_the_base_and_every_factor_trains(name):
    r = Run({"m": METHODS[name]}, steps=5)
    torch.testing.assert_close(logits(r.adapted.model), logits(tiny.llama()), atol=0, rtol=0)
    before = {n: p.clone() for n, p in r.adapted.delta_parameters().items()}
    r.train()
    after = r.adapted.delta_parameters()
    assert all(not torch.equal(before[n], p) for n, p in after.items())


def test_lohas_change_is_the_entrywise_product_and_its_rank_exceeds_loras():
    r = Run({"m": LoHa(rank=3, alpha=6)}, steps=8)
    r.train()
    for n, d in deltas(r).items():
        expected = torch.einsum("or,ri,os,si->oi", d.a1, d.b1, d.a2, d.b2) * 2.0
        torch.testing.assert_close(d.change(), expected, atol=1e-6, rtol=1e-4)
        assert 6 < int(torch.linalg.matrix_rank(d.change().detach().double(), rtol=1e-6)) <= 9, n
        numbers = sum(p.numel() for p in d.parameters())
        assert numbers == 2 * 3 * sum(d.change().shape), "those of a LoRA of rank 6"
        bounds = {"a1": 3, "b1": d.b1.shape[1], "a2": 3}
        start = deltas(Run({"m": LoHa(rank=3)}, steps=1))[n]
        assert not start.b2.any()
        for part, columns in bounds.items():
            most = float(getattr(start, part).detach().abs().max())
            assert most <= columns**-0.5 < 1.6 * most, part


@pytest.mark.parametrize("name", ["lokr", "lokr, whole", "lokr, both"])
def test_lokrs_change_is_torchs_kronecker_product(name):
    r = Run({"m": METHODS[name]}, steps=5)
    r.train()
    for n, d in deltas(r).items():
        W = tiny.llama().get_submodule(n).weight
        change = torch.einsum("ij,pq->ipjq", d.factor("C"), d.factor("D")).reshape(W.shape) * d.scale
        torch.testing.assert_close(d.change(), change, atol=1e-6, rtol=1e-4)
        x = torch.randn(4, W.shape[1], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(d(x, torch.zeros(4, len(W))), x @ change.T, atol=1e-5, rtol=1e-4)
        whole = {"lokr": ("C",), "lokr, whole": ("C", "D"), "lokr, both": ()}[name]
        parts = dict(d.named_parameters())
        assert ("C" in parts, "D" in parts) == ("C" in whole, "D" in whole), sorted(parts)


def test_sides_are_split_as_pefts():
    cases = {(128, None): (8, 16), (127, None): (1, 127), (250, None): (10, 25), (360, None): (18, 20),
             (128, 4): (4, 32), (12, 5): (3, 4), (1024, None): (32, 32), (128, 64): (64, 2)}  # fmt: skip
    assert {k: split(*k) for k in cases} == cases
    layer = pytest.importorskip("peft.tuners.lokr.layer")
    for size in range(1, 300):
        for factor in (None, 1, 2, 3, 4, 7, 8, 16, 50):
            assert split(size, factor) == layer.factorization(size, factor or -1), (size, factor)


@pytest.mark.parametrize("name", METHODS)
def test_resumes(name):
    assert_resumes(lambda listen: Run({"m": METHODS[name]}, steps=5, listen=listen), 2)
