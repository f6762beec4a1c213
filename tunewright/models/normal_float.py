"""Matrices in 2, 3, 4 or 8 bits of normal floats, whose scales are held in few bits too (LQ-LoRA, arXiv:2311.12023).

A code of b bits stands for one of 2^b quantiles of a normal distribution, from -1 to 1, zero among them. A block of B
weights has one scale; scales are whole numbers of s bits above the matrix's smallest scale, in steps of which a group
of G blocks has one size. What is held of N weights, in bits:

    b 8 ceil(N / 8)  +  s 8 ceil(n / 8)  +  t ceil(n / G)  +  32      n = ceil(N / B) blocks, t of the group's size

`Format.bits_of` is that number, and the tensors that `quantise` gives have as many. Eight codes of b bits are b bytes,
so that 3 bits are 3 bits.

At 4 bits the quantiles are those of NF4 (`nf4.py`, QLoRA's one form, with its own two levels of scales).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

Top = Literal["bf16", "fp16", "fp32"]
TYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PARTS = ("codes", "steps", "tops", "low")
"""What is held of a matrix: codes and scales, eight to `bits` bytes; sizes of groups' steps; the smallest scale."""
OUTERMOST = 0.9677083
"""Probability at the largest quantile, as bitsandbytes and the authors have it; the value there is called 1."""
SMALLEST = 1e-38


@dataclass(frozen=True)
class Format:
    """`bits` of a code, `scale_bits` of a scale, `block` weights to a scale, `group` scales to a `top` in its type."""

    bits: int = 4
    scale_bits: int = 8
    block: int = 64
    group: int = 256
    top: Top = "fp32"

    def bits_of(self, weights: int) -> int:
        """Bits that a matrix of so many weights takes."""
        blocks = math.ceil(weights / self.block)
        codes, scales = (8 * math.ceil(n / 8) for n in (weights, blocks))
        tops = math.ceil(blocks / self.group) * torch.finfo(TYPES[self.top]).bits
        return self.bits * codes + self.scale_bits * scales + tops + 32

    @property
    def share(self) -> float:
        """Bits of a weight of a large matrix: `bits_of` is never less for each of its weights."""
        return self.bits + (self.scale_bits + torch.finfo(TYPES[self.top]).bits / self.group) / self.block

    def settings(self) -> dict[str, Any]:
        """JSON values that `Format(**...)` takes."""
        return asdict(self)


@cache
def quantiles(bits: int) -> tuple[float, ...]:
    """The 2^bits values that codes stand for, rising from -1 to 1, one more above zero than below."""
    half = 2 ** (bits - 1)
    below = torch.linspace(1 - OUTERMOST, 0.5, half, dtype=torch.float64)[:-1]
    at_and_above = torch.linspace(0.5, OUTERMOST, half + 1, dtype=torch.float64)
    values = torch.special.ndtri(torch.cat([below, at_and_above]))
    return tuple((values / values[-1]).tolist())


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 [ceil(n / 8), bits] of codes [n] below 2^bits: eight of them in `bits` bytes, the first lowest."""
    eight = nn.functional.pad(codes.long(), (0, -len(codes) % 8)).view(-1, 8)
    word = (eight << (bits * torch.arange(8, device=codes.device))).sum(1)
    return ((word[:, None] >> (8 * torch.arange(bits, device=codes.device))) & 255).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Codes [count] of what `pack` gave."""
    if bits == 8:
        return packed.view(-1)[:count].int()
    wide = packed.to(torch.int32)  # 8 codes of 4 bits fill 32: the sign is one of them, and is masked
    word = (wide << (8 * torch.arange(bits, device=packed.device, dtype=torch.int32))).sum(1, dtype=torch.int32)
    places = bits * torch.arange(8, device=packed.device, dtype=torch.int32)
    return ((word[:, None] >> places) & (2**bits - 1)).view(-1)[:count]


def quantise(W: Tensor, form: Format) -> dict[str, Tensor]:
    """What is held of a matrix of any shape, by `PARTS`: the nearest code of each weight in its block."""
    flat = W.detach().float().reshape(-1)
    blocks = nn.functional.pad(flat, (0, -len(flat) % form.block)).view(-1, form.block)
    largest = blocks.abs().amax(1)
    low, levels = largest.min(), 2**form.scale_bits - 1
    above = nn.functional.pad(largest - low, (0, -len(largest) % form.group)).view(-1, form.group)
    tops = above.amax(1).to(TYPES[form.top])
    steps = (above * (levels / tops.float().clamp(min=SMALLEST))[:, None]).round().clamp(0, levels)
    held = {"steps": pack(steps.view(-1)[: len(largest)], form.scale_bits), "tops": tops, "low": low}
    table = torch.tensor(quantiles(form.bits), device=W.device)
    scaled = blocks / _scales(held, form, len(largest)).clamp(min=SMALLEST)[:, None]
    codes = torch.bucketize(scaled, (table[1:] + table[:-1]) / 2, out_int32=True).view(-1)[: len(flat)]
    return {"codes": pack(codes, form.bits), **held}


def _scales(held: Mapping[str, Tensor], form: Format, blocks: int) -> Tensor:
    """fp32 [blocks]."""
    size = held["tops"].float() / (2**form.scale_bits - 1)
    return unpack(held["steps"], form.scale_bits, blocks) * size.repeat_interleave(form.group)[:blocks] + held["low"]


def dequantise(
    held: Mapping[str, Tensor], form: Format, shape: tuple[int, int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The matrix that is held."""
    count = math.prod(shape)
    blocks = math.ceil(count / form.block)
    table = torch.tensor(quantiles(form.bits), device=held["codes"].device)
    values = nn.functional.pad(table[unpack(held["codes"], form.bits, count)], (0, -count % form.block))
    return (values.view(blocks, -1) * _scales(held, form, blocks)[:, None]).view(-1)[:count].view(shape).to(dtype)


def empty(form: Format, count: int) -> dict[str, Tensor]:
    """Zeros of the shapes that `quantise` gives for so many weights."""
    blocks = math.ceil(count / form.block)
    return {
        "codes": torch.zeros(math.ceil(count / 8), form.bits, dtype=torch.uint8),
        "steps": torch.zeros(math.ceil(blocks / 8), form.scale_bits, dtype=torch.uint8),
        "tops": torch.zeros(math.ceil(blocks / form.group), dtype=TYPES[form.top]),
        "low": torch.zeros(()),
    }
