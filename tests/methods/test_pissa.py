"""PiSSA and OLoRA: starts against independent decompositions; parity with PEFT in tests/parity/test_peft_kinds.py."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits
from tunewright.errors import MethodError
from tunewright.methods.adapters.olora import OLoRA
from tunewright.methods.adapters.pissa import PiSSA
from tunewright.models.adapted import Adapted
from tunewright.models.nf4 import quantise_sites

BOTH = pytest.mark.parametrize("cls", [PiSSA, OLoRA])


def deltas(run: Run):
    return {n: next(iter(d.values())) for n, d in run.adapted.deltas().items()}


@BOTH
def test_the_start_is_the_base_to_rounding_and_its_frozen_part_is_an_offset(cls):
    r = Run({"m": cls(rank=4, alpha=6)}, steps=3)
    torch.testing.assert_close(logits(r.adapted.model), logits(tiny.llama()), atol=2e-5, rtol=1e-4)
    before = {n: (d.lora_A.clone(), d.lora_B.clone()) for n, d in deltas(r).items()}
    r.train()
    for n, d in deltas(r).items():
        assert torch.equal(d.offset_A, before[n][0]) and torch.equal(d.offset_B, before[n][1]), "the start stays"
        assert not torch.equal(d.lora_A, before[n][0]) and not torch.equal(d.lora_B, before[n][1]), "both train"


@pytest.mark.parametrize("model", [tiny.llama, tiny.gpt2])
def test_pissa_holds_the_largest_singular_components(model):
    for n, d in deltas(Run({"m": PiSSA(rank=3, alpha=6)}, model=model(), steps=1)).items():
        W = model().get_submodule(n).weight.detach()
        W = W.T if model is tiny.gpt2 else W
        values = torch.linalg.svdvals(W.double())
        rest = torch.linalg.svdvals((W - d.scale * d.lora_B @ d.lora_A).double())
        torch.testing.assert_close(rest[: len(values) - 3], values[3:], atol=1e-4, rtol=1e-4)
        # evenly shared: both factors carry the square root of the values
        torch.testing.assert_close(d.lora_A.norm(dim=1), d.lora_B.norm(dim=0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(d.scale * d.lora_B.norm(dim=0) ** 2, values[:3].float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", [tiny.llama, tiny.gpt2])
def test_olora_starts_from_the_first_orthonormal_columns(model):
    for n, d in deltas(Run({"m": OLoRA(rank=3)}, model=model(), steps=1)).items():
        W = model().get_submodule(n).weight.detach()
        W = W.T if model is tiny.gpt2 else W
        torch.testing.assert_close(d.lora_B.T @ d.lora_B, torch.eye(3), atol=1e-5, rtol=0)
        # Gram-Schmidt: the first three columns lie in the span of B, and B A is the projection of all of them
        projected = d.lora_B @ (d.lora_B.T @ W)
        torch.testing.assert_close(d.lora_B @ d.lora_A, projected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(projected[:, :3], W[:, :3], atol=1e-5, rtol=1e-4)
        assert d.scale == 1.0


@BOTH
def test_patterns_and_refusals(cls):
    each = deltas(Run({"m": cls(rank=4, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 6})}, steps=1))
    assert {(d.rank, d.scale) for n, d in each.items() if "q_proj" in n} == {(2, 3.0)}
    assert {(d.rank, d.scale) for n, d in each.items() if "q_proj" not in n} == {(4, 1.0)}
    with pytest.raises(MethodError, match=f"{cls.__name__.lower()}'s rank 1000 exceeds"):
        Run({"m": cls(rank=1000)})
    adapted = Adapted(tiny.llama())
    quantise_sites(adapted.model, adapted.structure.linear_sites(), False)
    adapted.rediscover()
    with pytest.raises(MethodError, match="held in 4 bits"):
        Run({"m": cls(rank=2)}, model=adapted)


@BOTH
def test_resumes(cls):
    assert_resumes(lambda listen: Run({"m": cls(rank=4)}, steps=5, listen=listen), 2)
