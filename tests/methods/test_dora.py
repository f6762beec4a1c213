"""DoRA: rows' lengths and directions train apart; parity with PEFT is in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.errors import MethodError
from tunewright.methods.adapters.dora import DoRA
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import WeightDecomposed
from tunewright.models.nf4 import quantise_sites


def run(**fields) -> Run:
    return Run({"dora": DoRA(**{"rank": 2, **fields})}, steps=5)


def test_it_starts_as_the_base_with_the_rows_lengths():
    r = run()
    torch.testing.assert_close(logits(r.adapted.model), logits(tiny.llama()), atol=1e-5, rtol=1e-5)
    for name, by_name in r.adapted.deltas().items():
        delta = by_name["dora"]
        W = tiny.llama().get_submodule(name).weight
        assert isinstance(delta, WeightDecomposed) and not delta.lora_B.any()
        torch.testing.assert_close(delta.magnitude, W.square().sum(1).sqrt())


def test_what_is_folded_has_the_trained_lengths_and_the_low_rank_parts_directions():
    r = run(alpha=6)
    loop = r.train()
    each = {n: d["dora"] for n, d in r.adapted.deltas().items()}
    assert loop.trained.count() == sum(p.numel() for d in each.values() for p in (d.lora_A, d.lora_B, d.magnitude))
    r.adapted.fold()
    for name, d in each.items():
        folded, W = r.adapted.model.get_submodule(name).weight, tiny.llama().get_submodule(name).weight
        torch.testing.assert_close(folded.norm(dim=1), d.magnitude.abs(), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(d.magnitude, W.norm(dim=1), atol=1e-4), "lengths train"
        V = W + 3.0 * d.lora_B @ d.lora_A
        cosines = torch.nn.functional.cosine_similarity(folded, V, dim=1)
        torch.testing.assert_close(cosines, torch.ones(len(V)), atol=1e-5, rtol=0)


def test_options_are_loras():
    for fields in ({"use_rslora": True}, {"rank_pattern": {"q_proj": 1}}, {"alpha_pattern": {"q_proj": 9}}):
        ours, theirs = (Run({"m": cls(rank=2, **fields)}, steps=1) for cls in (DoRA, LoRA))
        a, b = ({n: d["m"] for n, d in r.adapted.deltas().items()} for r in (ours, theirs))
        assert {n: (d.rank, d.scale) for n, d in a.items()} == {n: (d.rank, d.scale) for n, d in b.items()}
        assert all(torch.equal(a[n].lora_A, b[n].lora_A) for n in a), "one start"


def test_resumes():
    assert_resumes(lambda listen: Run({"dora": DoRA(rank=2, dropout=0.2)}, steps=5, listen=listen), 2)


def test_a_row_of_zeros_stays_one_and_no_number_is_lost():
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3] = 0.0
    r = Run({"dora": DoRA(rank=2)}, model=model, steps=3)
    r.train()
    assert all(torch.isfinite(p).all() for p in r.adapted.delta_parameters().values())
    assert torch.isfinite(logits(r.adapted.model)).all()


def test_a_base_in_4_bits_takes_it_and_a_norm_does_not():
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    four = logits(adapted.model)
    r = Run({"dora": DoRA(rank=2)}, model=adapted, steps=3)
    torch.testing.assert_close(logits(r.adapted.model), four, atol=1e-5, rtol=1e-5)
    r.train()
    tuned = logits(r.adapted.model)
    r.adapted.fold()
    torch.testing.assert_close(logits(r.adapted.model), tuned, atol=2e-5, rtol=1e-4)
    with pytest.raises(MethodError, match="which is a norm"):
        Run({"dora": DoRA(target_modules="input_layernorm")})
