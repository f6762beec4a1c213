"""Weights are the same in every bit or they are not; outputs of two copies are the same to rounding, and no further."""

from __future__ import annotations

import copy

import pytest
import torch

from tests import tiny
from tests.misalign import at
from tunewright.models.agreement import ROUNDING, agrees, differing, gap, same_bits


def flipped(t: torch.Tensor) -> torch.Tensor:
    """A copy of a float32 tensor with the last bit of its last entry changed."""
    out = t.clone()
    out.view(-1)[-1:].view(torch.int32).bitwise_xor_(1)
    return out


def test_bits_are_what_is_compared():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    nan = torch.tensor([float("nan"), 1.0])
    assert same_bits(x, x.clone()) and same_bits(nan, nan.clone()) and same_bits(x.t(), x.t().contiguous())
    assert not same_bits(x, flipped(x)) and not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(x, x.t()) and not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert same_bits(torch.tensor(1.5), torch.tensor(1.5)) and not same_bits(torch.tensor(1.5), torch.tensor(2.5))
    assert same_bits(torch.zeros(0), torch.zeros(0)) and not same_bits(torch.zeros(0), torch.zeros(0, 2))


def test_differing_names_what_is_missing_or_other():
    x = torch.ones(2)
    assert differing({"a": x, "b": x, "c": x}, {"a": x.clone(), "b": flipped(x), "d": x}) == ["b", "c", "d"]


def test_a_gap_is_relative_to_the_largest_number():
    b = torch.tensor([100.0, -200.0, 1.0])
    assert gap(b + torch.tensor([0.0, 0.0, 0.02]), b) == pytest.approx(1e-4, rel=1e-3)
    hidden = torch.tensor([1.0, float("-inf")])
    assert gap(hidden, hidden.clone()) == 0.0 and gap(torch.zeros(0), torch.zeros(0)) == 0.0
    assert agrees(hidden * (1 + 1e-6), hidden) and not agrees(torch.tensor([1.0, 2.0]), hidden)
    assert not agrees(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not agrees(torch.ones(2), torch.zeros(2)) and not agrees(torch.ones(1), torch.ones(2))


def test_the_tolerance_follows_the_weights_type():
    b = torch.tensor([1.0, 4.0])
    for dtype, limit in ROUNDING.items():
        assert agrees(b + 4 * limit * 0.9, b, dtype) and not agrees(b + 4 * limit * 1.1, b, dtype)


@pytest.mark.parametrize("family", tiny.MAKERS)
@pytest.mark.parametrize("rows", [1, 2])
def test_copies_at_any_address_agree_and_another_model_does_not(family, rows):
    model = tiny.MAKERS[family]()
    moved = copy.deepcopy(model)
    for i, p in enumerate(moved.parameters()):
        p.data = at(p.data, 4 * (i % 16))
    pixels = torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = (
        {"pixel_values": pixels}
        if family in ("vit", "efficientnet")
        else {"input_ids": torch.arange(20, 20 + rows)[None]}
    )
    with torch.no_grad():
        said, again, other = (m(**inputs).logits for m in (model, moved, tiny.MAKERS[family](1)))
    assert not differing(model.state_dict(), moved.state_dict())
    assert agrees(said, again) and not agrees(said, other)
