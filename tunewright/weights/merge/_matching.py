"""Which unit of one model is which unit of another: similarities and assignments. Plain functions on bare tensors.

A matching is an index p [n]: unit i of the first model goes with unit p[i] of the second.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(similarity: Tensor) -> Tensor:
    """The matching p [n] that maximises sum_i similarity[i, p[i]]; similarity [n, n] finite. int64, on the CPU."""
    _, columns = linear_sum_assignment(similarity.detach().double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).long()


def closeness(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """-||a_i - b_j|| [n, m] from sums over rows: cross = A^T B [n, m], first = sum a_i^2 [n], second = sum b_j^2
    [m].
    """
    return -(first[:, None] + second[None] - 2 * cross).clamp_min(0).sqrt()


def kept_apart(similarity: Tensor, share: float) -> Tensor:
    """bool [n]: the round(share n) units whose match is worst (similarity [n] of each with its match); ties by
    index.
    """
    count = round(share * len(similarity))
    apart = torch.zeros(len(similarity), dtype=torch.bool)
    apart[similarity.argsort(stable=True)[:count].cpu()] = True
    return apart


def head_similarity(
    q: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor], o: tuple[Tensor, Tensor]
) -> Tensor:
    """[H, H] how alike two attention heads are, whatever the order of dimensions inside each: cosines of the products
    that a head is made of, W_q^T W_k (what it looks at) and W_o W_v (what it writes), added.

    Of both models: q, k, v as [H, h, d] (k and v repeated for the heads that share them), o as [H, d, h].
    """
    look = _product_cosine(q[0], k[0], q[1], k[1])
    write = _product_cosine(o[0].transpose(1, 2), v[0], o[1].transpose(1, 2), v[1])
    return look + write


def _product_cosine(l1: Tensor, r1: Tensor, l2: Tensor, r2: Tensor) -> Tensor:
    """cos(L1_i^T R1_i, L2_j^T R2_j) [H, H] for [H, h, d] factors, without forming the d x d products."""

    def inner(la: Tensor, ra: Tensor, lb: Tensor, rb: Tensor) -> Tensor:
        return (torch.einsum("ixd,jyd->ijxy", la, lb) * torch.einsum("ixd,jyd->ijxy", ra, rb)).sum((2, 3))

    first, second = inner(l1, r1, l1, r1).diagonal(), inner(l2, r2, l2, r2).diagonal()
    return inner(l1, r1, l2, r2) / (first[:, None] * second[None]).clamp_min(1e-60).sqrt()


def assign_heads(similarity: Tensor, groups: int) -> Tensor:
    """Matching of attention heads [H] where H / groups heads share their keys and values: groups go to groups, and
    heads inside a group to heads inside its match. similarity [H, H], heads in order of their groups."""
    heads = len(similarity) // groups
    blocks = similarity.reshape(groups, heads, groups, heads).transpose(1, 2)  # [g, g', heads, heads]
    best = [[assign(blocks[g, h]) for h in range(groups)] for g in range(groups)]
    rows = torch.arange(heads)
    totals = torch.stack(
        [torch.stack([blocks[g, h][rows, best[g][h]].sum() for h in range(groups)]) for g in range(groups)]
    )
    outer = assign(totals)
    return torch.cat([outer[g] * heads + best[g][int(outer[g])] for g in range(groups)])
