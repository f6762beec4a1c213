"""AdamW with its two moments in 8 bits (Dettmers et al. 2021, arXiv:2110.02861: block-wise dynamic quantisation).

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   w <- (1 - rate decay) w - rate m' / (sqrt(v') + eps)

as AdamW has it (m', v' corrected for their start at 0). Between steps m and v are a byte an entry, and 4 bytes for each
block of 256: 2.03 bytes a weight in the place of 8. A tensor's moments are whole while it is stepped. Tensors of fewer
than 4,096 entries keep theirs in 32 bits. Rates and decay are AdamW's.

Defaults: blocks of 256 (bitsandbytes and torchao today; the paper has 2,048), 4,096 entries, betas and eps as AdamW.
Differs from the paper in: the embedding is a tensor as any other; decay comes before the step, as torch has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from tunewright.contract.method import Method
from tunewright.pieces.eight_bit import packed, unpacked

_SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def _risen(beta: float, t: Tensor) -> Tensor:
    """1 - beta^t on the device that holds t, where reading t would wait for it."""
    return -torch.expm1(t * (math.log(beta) if beta else -math.inf))


class EightBit(torch.optim.Optimizer):
    """AdamW. State: `step`; `exp_avg` and `exp_avg_sq` shaped as the parameter, in float32, or in bytes beside
    `exp_avg_absmax` and `exp_avg_sq_absmax` [blocks].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, **options: Any):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad.float()
                moments = self.whole(state)
                m = moments.get("exp_avg", torch.zeros_like(g)).lerp_(g, 1 - b1)
                v = moments.get("exp_avg_sq", torch.zeros_like(g)).mul_(b2).addcmul_(g, g, value=1 - b2)
                t = state.get("step", torch.zeros(())).to(p.device) + 1
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(m / (v / _risen(b2, t)).sqrt_().add_(group["eps"]) * (group["lr"] / _risen(b1, t)))
                state["step"] = t
                for key, moment in (("exp_avg", m), ("exp_avg_sq", v)):
                    if p.numel() < group["min_8bit_size"]:
                        state[key] = moment
                        continue
                    state[key], state[f"{key}_absmax"] = packed(moment, group["block_size"], signed=_SIGNED[key])

    def whole(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The moments of a parameter's state in float32, which `step` takes up as it does bytes."""
        block, found = self.defaults["block_size"], {}
        for key, signed in _SIGNED.items():
            if key in state:
                scales = state.get(f"{key}_absmax")
                found[key] = state[key] if scales is None else unpacked(state[key], scales, block, signed=signed)
        return found


class AdamW8bit(Method):
    """AdamW whose moments take two bytes a weight."""

    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="decay rates of the two moments", examples=[[0.8, 0.9]]
    )
    eps: PositiveFloat = Field(1e-8, description="keeps it from dividing by zero", examples=[1e-2])
    block_size: int = Field(256, ge=16, description="entries that share a largest magnitude", examples=[64])
    min_8bit_size: NonNegativeInt = Field(
        4096, description="tensors of fewer entries keep moments in 32 bits", examples=[16384]
    )

    conformance: ClassVar[dict[str, object]] = {"min_8bit_size": 16}

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        options = self.model_dump(include={"betas", "eps", "block_size", "min_8bit_size"})
        return EightBit(parameters.values(), learning_rate, weight_decay, **options)
