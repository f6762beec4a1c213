"""ID3: entries are unmasked step by step, the steepest for their size first (Agarwal et al. 2024, arXiv:2408.14470;
papers: id3).

    D = |g| / (|theta| + eps)^p         of every entry that is still masked, ranked over all tensors together
    step t of T unmasks the u_t entries of largest D: floor(B / T), and one more in the first B mod T steps

What is unmasked trains from this step to the end; what is not has no step and no decay, and keeps the base's bits. The
whole budget B = density x entries is spent when the run ends, so that about B T / 2 updates are made, half of what a
mask that is fixed at the start makes (`until`: by which share of the stage's steps it is spent; next to 0: at once).
It chooses among the base's tensors, or among deltas where there are some (LoRA with fewer numbers); a new head trains
whole and is not counted. Adam's moments are kept for what is unmasked alone, each entry with its own count of steps;
the gradient is that of all candidates, which the ranking needs.

Defaults: density 0.01 (ours; the authors give a number of entries), p 0 and eps 1e-3 (their README; with p 0 it is the
gradient alone that ranks), betas and eps of AdamW as torch has them.
Raises MethodError where nothing can be unmasked, and beside another method's optimizer.
Differs from the authors' code in: exactly u_t entries a step, the earlier tensor's first where D is equal (there ties
are unmasked together and others masked again); an entry's bias correction begins with its own first step (there it is
spent by then, and the first step is about three times the rate); weight decay reaches unmasked entries alone.
Source: Aradhye2002/selective-peft-toolkit, selective_optimizers/optimizers/id3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from tunewright.contract.found import Found
from tunewright.contract.method import Candidates, Choice, Method, Plan, State
from tunewright.errors import MethodError
from tunewright.pieces.growing_adam import GrowingAdam


def unmasked_at(step: int, budget: int, steps: int) -> int:
    """How many entries step `step` (from 0) unmasks, so that `budget` are after `steps`; none afterwards."""
    if step >= steps:
        return 0
    return budget // steps + (step < budget % steps)


def best(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Sorted flat places of the `count` largest scores over all tensors together, by name; none: left out.

    Scores below 0 are never taken. One tensor at a time: what is compared together is `count` numbers a tensor at most.
    """
    tops = {n: s.flatten().topk(min(count, s.numel())) for n, s in scores.items()}
    values = torch.cat([t.values for t in tops.values()])
    order = torch.sort(values, descending=True, stable=True).indices[:count]
    taken = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    taken[order] = values[order] >= 0
    found, at = {}, 0
    for name, top in tops.items():
        mine = top.indices[taken[at : at + len(top.values)]]
        if len(mine):
            found[name] = mine.sort().values
        at += len(top.values)
    return found


class ID3(Method):
    """Unmask entries until the budget is spent, those first that are steep for their size."""

    density: float = Field(
        0.01, gt=0, le=1, description="entries that train in the end, as a share of all", examples=[0.1]
    )
    p: NonNegativeFloat = Field(
        0.0, description="how much an entry's size counts against it; 0: not at all", examples=[1.0]
    )
    eps: PositiveFloat = Field(1e-3, description="added to the size, so that zeros do not always come first")
    until: float = Field(
        1.0, ge=0, le=1, description="share of the stage's steps by which the budget is spent; 0: at once", examples=[0]
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("id3",)
    conformance: ClassVar[dict[str, object]] = {"density": 0.02, "p": 0.5, "eps": 0.01}

    def choose(self, candidates: Candidates, plan: Plan, state: State) -> Choice:
        adapted = candidates.adapted
        fresh = set(adapted.new)
        masked = candidates.deltas or {n: p for n, p in candidates.base.items() if n not in fresh}
        if not masked:
            raise MethodError("there is nothing to unmask here", where="id3", remedy="use it on a plain model")
        entries = sum(p.numel() for p in masked.values())
        state.data.update(
            masked=sorted(masked),
            budget=max(1, round(self.density * entries)),
            steps=max(1, round(self.until * plan.steps)),
            entries=entries,
            updates=0,
        )
        return Choice((*masked, *adapted.trainable_new()))

    def gradient(
        self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], step: int, state: State
    ) -> dict[str, Tensor]:
        masked = [n for n in state.data["masked"] if n in gradients]
        count = unmasked_at(step, state.data["budget"], state.data["steps"])
        if count:
            grown = best({n: self._score(gradients[n], parameters[n], state.get(f"places.{n}")) for n in masked}, count)
            for name, new in grown.items():
                old = state.get(f"places.{name}")
                state.set_buffer(f"places.{name}", new if old is None else torch.cat([old, new]).sort().values)
        changed = dict(gradients)
        for name in masked:
            kept, places = torch.zeros_like(gradients[name]), state.get(f"places.{name}")
            if places is not None:
                kept.view(-1)[places] = gradients[name].reshape(-1)[places]
                state.data["updates"] += len(places)
            changed[name] = kept
        return changed

    def optimizer(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, weight_decay: float, state: State
    ) -> torch.optim.Optimizer:
        masked = set(state.data["masked"])
        none = torch.zeros(0, dtype=torch.int64, device=state.device)

        def places(name: str) -> Tensor | None:
            return state.get(f"places.{name}", none) if name in masked else None

        return GrowingAdam(parameters, places, learning_rate, weight_decay)

    def found(self, state: State) -> Found | None:
        done = {k: state.data[k] for k in ("entries", "budget", "steps", "updates")}
        return Found(
            "Unmasked entries",
            "entries that could train; those that do in the end; steps over which they were unmasked; updates of "
            "single entries that were made in all",
            done,
        )

    def _score(self, gradient: Tensor, parameter: Tensor, places: Tensor | None) -> Tensor:
        score = gradient.abs().float() / (parameter.abs().float() + self.eps) ** self.p
        if places is not None:
            score.view(-1)[places] = -1.0
        return score
