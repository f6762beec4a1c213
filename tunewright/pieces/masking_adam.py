"""AdamW on scores in the place of weights: a weight is its start where its score is above a threshold, else 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Named = Callable[[str], Tensor]
"""A parameter's name -> a tensor of its shape."""
Held = Callable[[str], Tensor | None]
"""The same; None for a parameter without scores, which moves itself."""


class MaskingAdam(torch.optim.AdamW):
    """What lies in a parameter's gradient is that of its scores `score(name)`, which move as AdamW moves weights.

    The parameter itself is `start(name)` where the moved score is above `threshold`, 0 elsewhere.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        score: Held,
        start: Named,
        threshold: float,
        lr: float,
        weight_decay: float,
    ):
        super().__init__(list(parameters.values()), lr=lr, weight_decay=weight_decay)
        self._held = (score, start, threshold)
        self._names = {id(p): n for n, p in parameters.items()}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        score, start, threshold = self._held
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        held = {p: s for p in moving if (s := score(self._names[id(p)])) is not None}
        weights = {p: p.data for p in held}
        try:
            for p, scores in held.items():
                p.data = scores
            super().step()
        finally:
            for p, weight in weights.items():
                p.data = weight
        for p, scores in held.items():
            p.copy_(torch.where(scores > threshold, start(self._names[id(p)]), 0.0))
