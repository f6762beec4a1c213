"""EWC: elastic weight consolidation, hold weights near where each earlier task left them (Kirkpatrick et al. 2017,
arXiv:1612.00796; papers: ewc).

    penalty = lambda / 2 sum over earlier tasks t of sum F_t (W - W_t)^2

F_t [out, in] is the diagonal Fisher information of task t's rows at W_t, the weights that it ended with, divided by its
mean over all weights looked at (so that lambda has one meaning); W are the weights now, with all that hangs on them.
Every task has an anchor of its own, as the paper says: `online-ewc` has one running importance about the last task's
end. The sum is kept exactly in as much memory as two tasks would take, since it is a quadratic in W:

    sum_t F_t (W - W_t)^2 = A W^2 - 2 B W + C;     A = sum F_t,  B = sum F_t W_t,  C = sum of all F_t W_t^2

A (`fisher`) and B (`anchored`), each as large as the weights looked at, and C are left to later stages. A later stage
may start from any other: the anchors are weights and not changes.

Defaults: lambda 1 is ours (the paper searches it for each problem).
Differs from the paper in: importances are normalised, of linear layers' weights alone, and from the empirical Fisher
information over `samples` rows, a backward pass each. Rounding: W - W_t is exact to about 1e-7 of W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.methods.needs.fisher_at_end import FisherAtEnd
from tunewright.models.adapted import Adapted
from tunewright.pieces.weight_importance import changes, check_shape, normalised, present_weight

NAME = "ewc"


class EWC(Method):
    """A penalty on moving away from where each earlier task ended, weighed by what it was sensitive to."""

    coefficient: NonNegativeFloat = Field(1.0, description="lambda, weight of the penalty", examples=[100.0, 0.0])
    samples: PositiveInt = Field(
        256, description="rows for the Fisher information, one backward pass each", examples=[1]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="weights to hold back: all-linear, or module names or endings", examples=[["q_proj"]]
    )

    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = ("fisher", "anchored", "constant")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"coefficient": 50.0, "samples": 4}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (FisherAtEnd(source="train", samples=self.samples, target_modules=self.target_modules),)

    def setup(self, run: Setup) -> State:
        before = run.earlier.latest(NAME)
        state = State(constant=dict(before.values["constant"]) if before else {}, fisher={}, anchored={})
        for name in ("fisher", "anchored"):
            for site, values in (before.values[name] if before else {}).items():
                state.set_buffer(f"{name}.{site}", values)
        return state

    def begin_task(self, adapted: Adapted, state: State) -> None:
        """Turn the quadratic in W into one in the stage's own change of each weight."""
        for name in state.data["constant"]:
            weight = present_weight(adapted.structure.site(name))
            if weight is None:
                continue
            a, b = state.get(f"fisher.{name}"), state.get(f"anchored.{name}")
            assert a is not None and b is not None
            check_shape(a.shape, weight.shape, name, NAME)
            a, b = a.to(weight.device), b.to(weight.device)
            state.set_buffer(f"slope.{name}", a * weight - b)
            begun = (weight.double() * (a.double() * weight - 2 * b.double())).sum()
            state.set_buffer(f"begun.{name}", (begun + state.data["constant"][name]).clamp_min(0).float())

    def penalty(self, weights: Mapping[str, Any], state: State) -> Tensor:
        total = torch.zeros(())
        for site, change in changes(weights):
            slope, fisher, begun = (state.get(f"{n}.{site}") for n in ("slope", "fisher", "begun"))
            if slope is not None and fisher is not None and begun is not None:
                total = total.to(change.device) + (change * (fisher * change + 2 * slope)).sum() + begun
        return self.coefficient / 2 * total

    def end_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        for name, fisher in normalised(needs.fisher_at_end).items():
            weight = present_weight(adapted.structure.site(name))
            if weight is None:
                continue
            zero = torch.zeros_like(fisher)
            state.set_buffer(f"fisher.{name}", state.get(f"fisher.{name}", zero) + fisher)
            state.set_buffer(f"anchored.{name}", state.get(f"anchored.{name}", zero) + fisher * weight)
            own = float((fisher.double() * weight.double().square()).sum())
            state.data["constant"][name] = state.data["constant"].get(name, 0.0) + own
