"""Tensors in 8 bits by blocks: each block's largest entry is kept, and of an entry the nearest of 256 values times that
(Dettmers et al. 2021, arXiv:2110.02861, section 2.1 and appendix F: block-wise dynamic tree quantisation).

The 256 values are the paper's tree: seven decades down from 1, of which each has half as many values as the one above,
spread evenly; then 0 and 1. Unsigned values have no sign to keep, and twice as many fractions in each decade.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

DECADES = 7


@lru_cache
def values(signed: bool) -> Tensor:
    """The 256 values in their order, float32, from -1 (0 where unsigned) to 1."""
    found = [0.0, 1.0]
    for i in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (i + (not signed)) + 1, dtype=torch.float64)
        decade = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (i + 1 - DECADES)).tolist()
        found += [*decade, *(-x for x in decade)] if signed else decade
    return torch.tensor(sorted(found), dtype=torch.float64).float()


@lru_cache
def _on(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The values [256] and the borders between neighbours [255]."""
    known = values(signed)
    return known.to(device), ((known[1:] + known[:-1]) / 2).to(device)


def packed(tensor: Tensor, block: int, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes, uint8, in the tensor's shape, and the largest magnitude of each `block` of entries [blocks], float32.

    The last block may be shorter. A block of zeros keeps 0 and comes back as zeros.
    """
    flat = tensor.detach().reshape(-1).float()
    count = flat.numel()
    rows = torch.nn.functional.pad(flat, (0, -count % block)).view(-1, block)
    largest = rows.abs().amax(1)
    share = rows / largest.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(share, _on(signed, flat.device)[1], out_int32=True).to(torch.uint8)
    return codes.view(-1)[:count].reshape(tensor.shape).contiguous(), largest


def unpacked(codes: Tensor, largest: Tensor, block: int, *, signed: bool) -> Tensor:
    """What `packed` gave codes of, as float32 in their shape, each entry to its nearest value."""
    found = _on(signed, codes.device)[0][codes.reshape(-1).int()]
    count = found.numel()
    rows = torch.nn.functional.pad(found, (0, -count % block)).view(-1, block) * largest[:, None]
    return rows.view(-1)[:count].reshape(codes.shape)
