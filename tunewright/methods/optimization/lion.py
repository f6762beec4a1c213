"""Lion: the sign of a mixed momentum (Chen et al. 2023, arXiv:2302.06675).

    u = sign(b1 m + (1 - b1) g);   w <- w - rate (u + decay w);   m <- b2 m + (1 - b2) g        elementwise

One moment a weight, in the place of Adam's two. Every entry moves by the rate, so it wants a rate 3 to 10 times lower
than AdamW's and a decay as much higher (the authors' advice). Weight decay and rate are the recipe's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from tunewright.contract.method import Method


class Signs(torch.optim.Optimizer):
    """The rule above. State: `exp_avg`, shaped as the parameter."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(torch.lerp(p.grad, m, b1).sign_(), alpha=group["lr"])
                m.lerp_(p.grad, 1 - b2)


class Lion(Method):
    """Sign steps with one moment."""

    divides: ClassVar[bool] = True
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the moment in a step's direction", examples=[0.5])
    beta2: float = Field(0.99, ge=0, lt=1, description="share of the moment that goes on", examples=[0.9])
    group: Literal["all", "base", "delta", "owned"] = Field(
        "all", description="parameters that it steps; the recipe's optimizer takes the others", examples=["owned"]
    )

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        return Signs(parameters.values(), learning_rate, (self.beta1, self.beta2), weight_decay)
