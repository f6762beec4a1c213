"""Importances of weights, and what moving an important one costs. An importance is [out, in] by site or like a leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.models.deltas import deltas_of, fold_into
from tunewright.models.sites import Site


def normalised(importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importances over their mean over all entries of all weights; all zero where every one is."""
    count = sum(f.numel() for f in importance.values())
    mean = sum(float(f.double().sum()) for f in importance.values()) / max(1, count)
    return {n: f / mean if mean > 0 else torch.zeros_like(f) for n, f in importance.items()}


def changes(weights: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(site, change [out, in] since the stage began, with its gradient) of what a penalty is shown and folds."""
    for weight in weights.values():
        if weight.foldable:  # what folds into no weight has no change [out, in]
            yield weight.site.name, weight.change()


def present_weight(site: Site) -> Tensor | None:
    """[out, in] fp32: a site's weight with all its deltas, as it is now; None where one folds into no weight."""
    deltas = list(deltas_of(site).values())
    if not all(d.foldable for d in deltas):
        return None
    with torch.no_grad():
        return fold_into(site, deltas)[0].detach().float().clone()


def check_shape(kept: Sequence[int], now: Sequence[int], name: str, method: str) -> None:
    """MethodError where what an earlier stage left of a weight is of another shape than the weight is now."""
    if tuple(kept) != tuple(now):
        raise MethodError(
            f"'{method}' knows '{name}' as {list(kept)} of an earlier stage, and it is {list(now)} now",
            where=f"'{method}'",
            remedy="let no method change the model's shape, or which entries train, between stages that have it",
        )
