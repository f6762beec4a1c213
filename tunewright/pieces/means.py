"""Means over the tokens of each row, and over the items that belong to a row. R rows, T tokens, N items."""

from __future__ import annotations

import torch
from torch import Tensor


def token_means(x: Tensor, mask: Tensor) -> Tensor:
    """[R, k]: each row's mean of x [R, T, k] over its real tokens, where `mask` [R, T] is 1. Differentiable.

    A row without a real token gives nan.
    """
    real = mask.to(x.dtype)
    return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def mask_over(states: Tensor, mask: Tensor) -> Tensor:
    """[R, T] of states [R, T, k]: `mask` [R, T], or [R, T / n] where the model reads each place as n tokens
    (a policy a step's return, state and action).
    """
    return mask.repeat_interleave(states.shape[1] // mask.shape[1], 1)


def last_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """[R, k]: x [R, T, k] at each row's last real token, for rows padded on the right: `mask` [R, T] is 1, then 0."""
    last = mask.sum(1) - 1
    return x[torch.arange(len(last), device=last.device), last]


def row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """[count, ..]: each row's mean of values [N, ..], `rows` [N] (int64) says whose an item is. Differentiable.

    0 for a row without any. Of losses per target: `row_means(losses, batch.rows, len(batch.row_ids))` per row.
    """
    total = torch.zeros(count, *values.shape[1:], dtype=values.dtype, device=values.device).index_add(0, rows, values)
    return total / torch.bincount(rows, minlength=count).clamp_min(1).reshape(-1, *[1] * (values.dim() - 1))
