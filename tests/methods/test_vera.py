"""VeRA: two vectors a layer, matrices that no file holds; parity with PEFT in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

from pathlib import Path

import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.methods.adapters.vera import VeRA
from tunewright.models import delta_format


def deltas(run: Run):
    return {n: d["vera"] for n, d in run.adapted.deltas().items()}


def test_it_starts_as_the_base_and_two_vectors_a_layer_train():
    r = Run({"vera": VeRA(rank=8)}, steps=5)
    assert torch.equal(logits(r.adapted.model), logits(tiny.llama()))
    each = deltas(r)
    assert all((d.vector_d == 0.1).all() and not d.vector_b.any() for d in each.values())
    loop = r.train()
    sites = r.adapted.structure.linear_sites()
    assert loop.trained.count() == sum(8 + s.out_features for s in sites)
    held = sum(t.numel() for n, t in loop.state()[1]["optimizer"].items() if t.dim())
    assert held == 2 * loop.trained.count(), "moments of the vectors alone"
    assert all(not torch.allclose(d.vector_d, torch.full((8,), 0.1)) and d.vector_b.any() for d in each.values())


def test_all_layers_share_one_pair_and_no_file_holds_it(tmp_path: Path):
    r = Run({"vera": VeRA(rank=8)}, steps=2)
    r.train()
    pairs = [d.matrices() for d in deltas(r).values()]
    assert len({A.data_ptr() for A, _ in pairs}) == 1 and len({B.data_ptr() for _, B in pairs}) == 1
    delta_format.save_delta(r.adapted, tmp_path, "tiny")
    _, tensors = delta_format.read_delta(tmp_path)
    assert {n.rpartition(".")[2] for n in tensors} == {"vector_b", "vector_d"}


def test_the_change_is_the_formula_and_the_key_draws_others():
    r = Run({"vera": VeRA(rank=8, projection_prng_key=4)}, steps=4)
    r.train()
    other = Run({"vera": VeRA(rank=8, projection_prng_key=5)}, steps=4)
    for n, d in deltas(r).items():
        A, B = d.matrices()
        expected = torch.einsum("o,or,r,ri->oi", d.vector_b, B, d.vector_d, A)
        torch.testing.assert_close(d.change(), expected, atol=1e-6, rtol=1e-4)
        assert not torch.equal(A, deltas(other)[n].matrices()[0])
        assert float(B.abs().max()) <= (6 / 8) ** 0.5 < 1.05 * float(B.abs().max())


def test_resumes():
    assert_resumes(lambda listen: Run({"vera": VeRA(rank=8, dropout=0.2)}, steps=5, listen=listen), 2)
