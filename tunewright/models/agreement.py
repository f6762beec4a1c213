"""When two tensors are the same: weights in every bit, outputs of two copies of one model to rounding.

A copy of the same weights may say something else in the last bits. Matrix-vector kernels sum the head of a row on its
own until the memory is aligned for vectors, so the order of a sum, and with it its rounding, follows the address. So
weights are compared with `differing` (nothing of a changed one escapes), outputs of two copies with `agrees`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest difference between outputs of two copies of the same weights, relative to the largest output, by the
weights' type. float32: on AVX2, copies at any address differed by up to 6e-7 on tiny models of seven families and by
1.3e-6 over 12 blocks of width 768; 1e-5 leaves a factor of eight for deeper ones. bfloat16: kernels did not differ at
all; eight units in the last place (2^-8 each) are left to those of other processors, and
float16 has eight of its own (2^-11). A changed weight may well move
outputs by less, so that outputs alone prove nothing about weights."""


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, of any devices, agree in shape, type and every bit (NaN equals itself, 0.0 is not -0.0)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (t.detach().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(first, second.to(first.device))


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names, sorted, that only one of the two has, or whose bits differ."""
    return sorted(n for n in {*a, *b} if n not in a or n not in b or not same_bits(a[n], b[n]))


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors of one shape, over the largest finite magnitude in `b`; 0.0 where equal.

    NaN when one holds a NaN, or an infinity that the other does not; infinite for a difference from all zeros.
    """
    a, b = a.detach().double(), b.detach().double().to(a.device)
    difference = torch.where(a == b, 0.0, (a - b).abs())
    if not difference.numel() or not bool(difference.any()):
        return 0.0
    return float(difference.max() / torch.where(b.isfinite(), b.abs(), 0.0).max())


def agrees(a: Tensor, b: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether outputs of two copies of the same weights, of type `dtype`, are the same to `ROUNDING`."""
    return a.shape == b.shape and gap(a, b) <= ROUNDING[dtype]
