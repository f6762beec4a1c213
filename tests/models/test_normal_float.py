"""Normal floats of 2 to 8 bits: packed exactly, scales in few bits, counted to the bit, the nearest code of each."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.models import nf4
from tunewright.models.normal_float import PARTS, Format, dequantise, empty, pack, quantiles, quantise, unpack

BITS = (2, 3, 4, 8)
FORMATS = st.builds(
    Format,
    st.sampled_from(BITS),
    st.sampled_from(BITS),
    st.sampled_from([3, 8, 16]),
    st.sampled_from([1, 4, 256]),
    st.sampled_from(["bf16", "fp16", "fp32"]),
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.sampled_from(BITS), st.integers(1, 40), st.integers(0, 5))
def test_codes_come_back_and_eight_of_them_take_as_many_bytes_as_one_has_bits(bits, count, seed):
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (math.ceil(count / 8), bits)
    assert torch.equal(unpack(packed, bits, count).long(), codes)


def test_at_four_bits_the_values_are_nf4s():
    """Of bitsandbytes, to 1.1e-7; its table is in single precision."""
    assert quantiles(4) == pytest.approx(nf4.CODES, abs=2e-7)
    for bits in BITS:
        values = quantiles(bits)
        assert len(values) == 2**bits and values[0] == -1 and values[-1] == 1 and 0.0 in values
        assert list(values) == sorted(values)


def by_hand(W, form):
    """The same one weight at a time, in double precision."""
    flat = W.flatten().tolist()
    blocks = [flat[i : i + form.block] for i in range(0, len(flat), form.block)]
    largest = [max(abs(w) for w in block) for block in blocks]
    low, levels, out = min(largest), 2**form.scale_bits - 1, []
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[form.top]
    for i, block in enumerate(blocks):
        group = largest[i // form.group * form.group :][: form.group]
        top = float(torch.tensor(max(group) - low).to(kind))
        step = min(levels, round((largest[i] - low) * levels / top)) if top else 0
        scale = low + step * top / levels
        out += [scale * min(quantiles(form.bits), key=lambda q: abs(w / scale - q)) for w in block]
    return torch.tensor(out).view(W.shape)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(FORMATS, st.integers(1, 9), st.integers(1, 13), st.integers(0, 99))
def test_each_weight_has_the_nearest_code_and_what_is_held_is_counted_to_the_bit(form, rows, columns, seed):
    W = normal(rows, columns, seed=seed)
    held = quantise(W, form)
    assert sum(t.nbytes for t in held.values()) * 8 == form.bits_of(W.numel())
    shapes = {n: (t.shape, t.dtype) for n, t in held.items()}
    assert shapes == {n: (t.shape, t.dtype) for n, t in empty(form, W.numel()).items()} and set(held) == set(PARTS)
    got, wanted = dequantise(held, form, (rows, columns)), by_hand(W, form)
    other = (~torch.isclose(got, wanted, atol=1e-5, rtol=1e-4)).flatten().nonzero()[:, 0]
    assert len(set((other // form.block).tolist())) <= 1, "a tie of one block's scale may go either way by rounding"


def test_more_bits_smaller_blocks_and_finer_scales_are_nearer():
    W = normal(64, 96) * torch.linspace(0.1, 3, 64)[:, None]

    def far(**fields) -> float:
        form = Format(**fields)
        return float((W - dequantise(quantise(W, form), form, (64, 96))).norm())

    errors = [far(bits=b) for b in BITS]
    assert errors == sorted(errors, reverse=True) and errors[0] > 3 * errors[2]
    assert far(bits=3, block=16) < far(bits=3, block=64)
    assert far(bits=8, scale_bits=8) < far(bits=8, scale_bits=4) < far(bits=8, scale_bits=2)
    assert far(bits=8, scale_bits=3, group=4) < far(bits=8, scale_bits=3, group=256)


def test_a_matrix_of_zeros_or_of_one_number_stays_finite():
    for W in (torch.zeros(4, 8), torch.full((4, 8), 0.3)):
        form = Format(3, 4, 8, 2, "fp16")
        assert torch.allclose(dequantise(quantise(W, form), form, (4, 8)), W, atol=1e-6)


def test_other_types_are_given_where_they_are_asked_for():
    form = Format(4)
    held = quantise(normal(8, 8).bfloat16(), form)
    assert dequantise(held, form, (8, 8), torch.bfloat16).dtype == torch.bfloat16
