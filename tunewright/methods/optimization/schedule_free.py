"""Schedule-free AdamW: an average in the place of a falling rate (Defazio et al. 2024, arXiv:2405.15682).

Three sequences: z takes AdamW's steps (without the first moment), x is their average and is what is kept, and the model
trains at y between them, which is where gradients are taken:

    z <- z - rate g(y) / (sqrt(v) + eps) - rate decay y;   x <- (1 - c) x + c z;   y = (1 - beta) z + beta x
    c_t = rate_t^2 / sum of rate_s^2 up to t,   v the bias-corrected second moment of the gradient

The rate rises over the warm-up (the recipe's, unless one is given) and then stays: `lr_scheduler_type` is replaced.
No end need be known, so a stage may be stopped anywhere. At its end x takes the weights' place; evaluations within the
stage see x, too.

Defaults: beta 0.9, beta2 0.999, weights by the squared rate (the authors' code); decay and eps the recipe's and 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Plan
from tunewright.training.schedules import warmup_of

Length = NonNegativeInt | Annotated[float, Field(ge=0, lt=1)]


def rising(step: int, warmup: int) -> float:
    """Factor of the rate at step 0, 1 ...: linear up to 1, then constant."""
    return min(1.0, (step + 1) / max(1, warmup))


def share(step: int, warmup: int) -> float:
    """c of the step: its squared rate over the sum of all so far; 1 at the first."""
    k = min(step + 1, max(1, warmup))
    risen = k * (k + 1) * (2 * k + 1) / 6 / max(1, warmup) ** 2
    return rising(step, warmup) ** 2 / (risen + (step + 1 - k))


class Between(torch.optim.Optimizer):
    """Parameters hold y. State: `z` and `exp_avg_sq`, shaped as the parameter, and `step`."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, **options: Any):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "eps": 1e-8, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta, b2 = group["beta"], group["beta2"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                t = int(state.get("step", 0))
                z = state.setdefault("z", p.clone())
                v = state.setdefault("exp_avg_sq", torch.zeros_like(p)).mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                x = (p - (1 - beta) * z) / beta
                move = p.grad / ((v / (1 - b2 ** (t + 1))).sqrt() + group["eps"]) + group["weight_decay"] * p
                z.sub_(move, alpha=group["lr"])
                x.lerp_(z, share(t, group["warmup"]))
                p.copy_((1 - beta) * z + beta * x)
                state["step"] = torch.tensor(t + 1, device=p.device)


class ScheduleFree(Method):
    """AdamW with an average of its iterates and no falling rate."""

    beta: float = Field(0.9, gt=0, lt=1, description="how near the average gradients are taken", examples=[0.5])
    beta2: float = Field(0.999, ge=0, lt=1, description="share of the second moment that goes on", examples=[0.9])

    warmup_steps: Length | None = Field(
        None,
        description="optimizer steps of rising rate, or (below 1) their share of the stage; none: the recipe's",
        examples=[3],
    )

    divides: ClassVar[bool] = True
    conformance: ClassVar[dict[str, object]] = {"warmup_steps": 2}

    def _warmup(self, plan: Plan) -> int:
        return plan.warmup_steps if self.warmup_steps is None else warmup_of(self.warmup_steps, plan.steps)

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float, plan: Plan
    ) -> torch.optim.Optimizer:
        options = {"beta": self.beta, "beta2": self.beta2, "warmup": self._warmup(plan)}
        return Between(parameters.values(), learning_rate, weight_decay, **options)

    def schedule(self, step: int, plan: Plan) -> float:
        return rising(step, self._warmup(plan))

    def average(
        self, averaged: dict[str, Tensor], parameters: Mapping[str, Tensor], step: int, plan: Plan
    ) -> dict[str, Tensor]:
        # x from the last x and the present y alone, since z is the optimizer's: y = (1 - beta) z + beta x, with
        # x = (1 - c) last + c z, solved for x
        c, beta = share(step, self._warmup(plan)), self.beta
        return {
            n: ((1 - c) * averaged[n] + c * p.detach() / (1 - beta)) / (1 + c * beta / (1 - beta))
            for n, p in parameters.items()
        }
