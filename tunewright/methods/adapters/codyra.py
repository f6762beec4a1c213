"""CoDyRA: low-rank adapters with gated pieces, dropped as their gates shrink to zero (Lu et al. 2024, arXiv:2412.01004;
papers: codyra).

y = x (W + B diag(g) A)^T with A [r, in] uniform in +-1/sqrt(in), B [out, r] zero and gates g [r] ~ N(0, 1): the model
starts as the base. A dense phase first; then, after every optimizer step, each gate is shrunk by kappa:

    g <- g - kappa sign(g)  where |g| > kappa;   then g <- 0 where |g| < kappa

kappa climbs from 0 to its largest in 50 equal stages over what is left of the steps. The effective rank is the number
of gates that are not zero; a gate at zero still gets a gradient and may come back. When the task ends, the report says
how many gates are alive, and dead pieces are cut out; a later stage that starts from this one with `carry: fold` (the
default) merges W += B diag(g) A and begins with fresh pieces, as in the paper.

kappa is an amount of the gate, not times the learning rate: a fixed one takes the more from every gate the longer a
stage is, and at 2,500 steps of the authors' 0.005 it takes 3.2 from gates that start at N(0, 1), so that all die and
the model is the base again. So the default is 0.005 x 500 / steps, whose sum is that of the authors' 500 steps, about
0.64, at any length. A number that is given is used as it is, and a plan says where it takes more than 1.

Raises MethodError for `target_modules` that name no module.

Source: Artificer-AI-Lab/CoDyRA, loralib/codyra.py and models/codyra.py. The shrink is theirs and is not soft
thresholding: a gate between kappa and 2 kappa goes to 0, so the cut is at 2 kappa and the shift kappa.
Differs from the paper in: its own formula was not read; any task's loss instead of CLIP's two-sided one; all linear
layers of the blocks; a site whose gates all died keeps one dead piece, so that its file stays readable elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Plan, torch_generator
from tunewright.models.deltas import GatedLowRank
from tunewright.pieces.dead_pieces import cut_dead_pieces
from tunewright.pieces.low_rank import LowRankMethod, Start

STAGES = 50
STEPS, KAPPA = 500, 0.005
"""Of the authors' runs: how long they were, and how far a gate was shrunk in each of the last steps."""
MOST = 1.0
"""What may be taken from a gate in all before a plan says so: the deviation of a gate's start."""


def shrunk(gates: Tensor, kappa: float) -> Tensor:
    """Gates of any shape, each moved by kappa towards 0 and set to 0 where it is then within kappa of it."""
    moved = torch.where(gates.abs() > kappa, gates - kappa * gates.sign(), gates)
    return torch.where(moved.abs() < kappa, torch.zeros_like(moved), moved)


def kappa_at(step: int, steps: int, dense: float, largest: float) -> float:
    """kappa after optimizer step `step` (from 0) of `steps`: 0 up to the dense phase's end, then 50 levels up to
    `largest`.
    """
    begin = dense * steps
    if step <= begin:
        return 0.0
    level = 1 + int((step - begin) * STAGES / (steps - begin))
    return largest * min(STAGES - 1, level) / (STAGES - 1)


class CoDyRA(LowRankMethod):
    """Gated low-rank pieces, shrunk to the rank that a task needs."""

    rank: PositiveInt = Field(16, description="rank-one pieces a layer to begin with", examples=[4])
    dense: float = Field(0.5, ge=0, lt=1, description="share of the steps before any shrinking", examples=[0.2])
    kappa: NonNegativeFloat | None = Field(
        None,
        description="how far a gate is shrunk in each of the last steps; none: 0.005 x 500 / steps, whose sum is the "
        "authors' at any length",
        examples=[0.5],
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    alpha: ClassVar[None] = None  # type: ignore[misc]
    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    papers: ClassVar[tuple[str, ...]] = ("codyra",)
    conformance: ClassVar[dict[str, object]] = {"rank": 3, "dense": 0.0}

    def delta(self, start: Start, A: Tensor, B: Tensor) -> GatedLowRank:
        return GatedLowRank(A, B, torch.randn(start.rank, generator=torch_generator(start.rng)), start.scale)

    def update(
        self, changes: dict[str, Tensor], parameters: Mapping[str, Tensor], step: int, plan: Plan
    ) -> dict[str, Tensor]:
        kappa = kappa_at(step, plan.steps, self.dense, self._largest(plan.steps))
        gates = {n: parameters[n] for n in changes if n.endswith(".gate")}
        return {**changes, **{n: shrunk(g + changes[n], kappa) - g for n, g in gates.items()}}

    def caution(self, plan: Plan) -> str | None:
        taken = sum(kappa_at(step, plan.steps, self.dense, self._largest(plan.steps)) for step in range(plan.steps))
        if not taken and self.kappa != 0:
            return f"no gate is shrunk in {plan.steps} steps, of which {self.dense:.0%} are dense: every piece stays"
        if self.kappa is not None and taken > MOST:
            return (
                f"kappa {self.kappa:g} takes {taken:.2g} from every gate in {plan.steps} steps, and gates start at "
                "about 1: most will die and the change with them; leave kappa out (0.64 in all at any length)"
            )
        return None

    def end_task(self, adapted: Any, stage: str) -> None:
        gated = [d for by_name in adapted.deltas().values() for d in by_name.values() if isinstance(d, GatedLowRank)]
        alive, gates = (sum(int(f(d.gate.detach())) for d in gated) for f in (torch.count_nonzero, torch.numel))
        adapted.notes.append(f"codyra: {alive} of {gates} gates are alive at the end of '{stage}'")
        for delta in gated:
            cut_dead_pieces(delta)

    def _largest(self, steps: int) -> float:
        """kappa in the last steps of a stage of `steps`."""
        return KAPPA * STEPS / steps if self.kappa is None else self.kappa
