"""AdaLoRA: adaptive budget allocation (Zhang et al. 2023, arXiv:2303.10512; papers: adalora).

Low-rank changes in the form of a singular value decomposition, whose least important triplets are switched off while
they train, so that rank goes to the layers that need it:

    y = x (W + s B diag(g) A)^T     A [r, in], B [out, r] ~ N(0, 0.02^2), g [r] = 0, s = alpha / r

At every step t the importance of each entry w with gradient dw of the task's and all other losses is smoothed,

    I <- b1 I + (1 - b1) |w dw|     U <- b2 U + (1 - b2) | |w dw| - I |     score = I U

and a triplet's is score(g_i) + mean score(A_i) + mean score(B_i). Every `delta_t` steps all layers' triplets but the
budget's many highest have their g set to 0; they may come back until the budget is final. The budget falls from the
sum of r to the sum of target_r:

    r                                                        t <= t_i
    target_r + (r - target_r) (1 - (t - t_i) / (T - t_f - t_i))^3     t_i < t < T - t_f
    target_r, with the triplets of that moment for good      t >= T - t_f

Beside that, orth_reg_weight times the mean over all A and B of ||A A^T - 1||_F and ||B^T B - 1||_F is minimised. When
the stage ends, what is switched off is cut out: what is saved is a plain LoRA with a `rank_pattern`.

Beside the optimizer's two moments, I and U are held of every entry until the budget is final.

Defaults: ranks 12 to 8, b1 = b2 = 0.85, delta_t 1, orth_reg_weight 0.5 (PEFT); t_i and t_f a tenth and a half of the
steps (about what the authors' GLUE runs have: 0.04 to 0.18 and 0.44 to 0.6), so that the budget falls at any length;
alpha twice the rank. Names are PEFT's too (init_r, deltaT, lora_alpha). Peak rate: ours; the authors': 5e-4 to 2e-3.

Raises MethodError for `target_modules` that name no layer; a plan says where the budget cannot fall.
Differs from PEFT in: importance is taken at the weights that the gradient is of, and the gradient before clipping
(there: at the weights after the step); the final budget is reached even where t_f is 0; s has no 1e-5 below the line.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Plan, State, torch_generator
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import GatedLowRank
from tunewright.pieces.dead_pieces import cut_dead_pieces
from tunewright.pieces.low_rank import LowRankChange, LowRankMethod, Start

NAME = "adalora"
STD = 0.02
KINDS = ("sensitivity", "uncertainty")
PARTS = ("gate", "lora_A", "lora_B")
FIRST, LAST = 0.1, 0.5
"""Shares of the steps before the budget falls and after."""


def smoothed(
    sensitivity: Tensor, uncertainty: Tensor, now: Tensor, beta1: float, beta2: float
) -> tuple[Tensor, Tensor]:
    """(I, U) of entries whose |w dw| is `now`, all of one shape."""
    mean = beta1 * sensitivity + (1 - beta1) * now
    return mean, beta2 * uncertainty + (1 - beta2) * (now - mean).abs()


def triplet_scores(gate: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """[r] from the entries' scores of g [r], A [r, in] and B [out, r]."""
    return gate + A.mean(1) + B.mean(0)


def budget_at(step: int, first: int, final: int, largest: int, least: int) -> int:
    """Triplets that may live after a step, over all layers: `largest` up to `first`, `least` from `final` on."""
    if step <= first and step < final:
        return largest
    if step >= final:
        return least
    left = 1 - (step - first) / (final - first)
    return int((largest - least) * left**3 + least)


def alive(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """By layer, which triplets have more than the score that the budget cuts at: ties with it die."""
    if not scores:
        return {}
    together = torch.cat(list(scores.values()))
    cut = len(together) - budget
    if cut <= 0:
        return {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()}
    threshold = together.kthvalue(cut).values
    return {n: s > threshold for n, s in scores.items()}


class AdaLoRA(LowRankMethod):
    """Low-rank changes whose ranks are found by the importance of their triplets."""

    rank: PositiveInt = Field(12, description="rank r of every change at first (init_r)", examples=[4])
    target_r: PositiveInt = Field(8, description="mean rank of the changes at last", examples=[1])
    tinit: NonNegativeInt | None = Field(
        None, description="steps before the budget falls; none: a tenth of them", examples=[2]
    )
    tfinal: NonNegativeInt | None = Field(
        None, description="steps after it has fallen; none: half of them", examples=[1]
    )
    delta_t: PositiveInt = Field(1, description="steps from one cut to the next", examples=[2])
    beta1: float = Field(0.85, gt=0, lt=1, description="share of itself that sensitivity keeps in a step")
    beta2: float = Field(0.85, gt=0, lt=1, description="share of itself that uncertainty keeps in a step")
    orth_reg_weight: NonNegativeFloat = Field(
        0.5, description="weight of the penalty that holds the rows of A and the columns of B orthonormal"
    )

    category: ClassVar[str] = "reparameterised"
    divides: ClassVar[bool] = True
    also: ClassVar[Mapping[str, str]] = {**LowRankChange.also, "init_r": "rank", "deltaT": "delta_t"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 3, "target_r": 2}

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        g, site = torch_generator(start.rng), start.site
        A = STD * torch.randn(start.rank, site.in_features, generator=g)
        return A, STD * torch.randn(site.out_features, start.rank, generator=g)

    def delta(self, start: Start, A: Tensor, B: Tensor) -> GatedLowRank:
        return GatedLowRank(A, B, torch.zeros(start.rank), start.scale, dropout=self.dropout)

    def penalty(self, weights: Mapping[str, Any]) -> Tensor:
        found = []
        for change in (t.deltas[NAME] for t in weights.values() if NAME in t.deltas):
            for gram in (change.lora_A @ change.lora_A.t(), change.lora_B.t() @ change.lora_B):
                found.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.orth_reg_weight * torch.stack(found).mean() if found else torch.zeros(())

    def gradient(
        self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], step: int, plan: Plan, state: State
    ) -> None:
        if step >= self._times(plan.steps)[1]:
            return
        for name, g in gradients.items():
            if f".delta.{NAME}." in name:
                now = (parameters[name] * g).abs()
                old, wavered = (state.get(f"{kind}.{name}", torch.zeros_like(now)) for kind in KINDS)
                for kind, value in zip(KINDS, smoothed(old, wavered, now, self.beta1, self.beta2), strict=True):
                    state.set_buffer(f"{kind}.{name}", value)

    def after_step(self, step: int, plan: Plan, parameters: Mapping[str, Tensor], state: State) -> None:
        t, (first, final) = step - 1, self._times(plan.steps)
        gates = {n.removesuffix(".gate"): p for n, p in parameters.items() if n.endswith(f".delta.{NAME}.gate")}
        if t == final or (first < t < final and t % self.delta_t == 0):
            scores = {n: s for n in gates if (s := self._scores(n, state)) is not None}
            budget = budget_at(t, first, final, self.rank * len(scores), self.target_r * len(scores))
            for n, lives in alive(scores, budget).items():
                state.set_buffer(f"alive.{n}", lives)
        for n, gate in gates.items():
            left = state.get(f"alive.{n}")
            if left is not None and (t >= final or t % self.delta_t == 0):
                gate.data.masked_fill_(~left, 0.0)
        if t == final:
            for n in gates:
                for kind, part in itertools.product(KINDS, PARTS):
                    state.set_buffer(f"{kind}.{n}.{part}", torch.zeros(0))

    def caution(self, plan: Plan) -> str | None:
        first, final = self._times(plan.steps)
        if first >= final:
            return (
                f"the budget cannot fall by importance: of {plan.steps} steps {first} come before and "
                f"{plan.steps - final} after; lower tinit and tfinal, or leave them out"
            )
        if self.delta_t > final - first:
            return (
                f"the budget falls at once and not by and by: delta_t is {self.delta_t}, and {final - first} steps lie "
                "between tinit and tfinal"
            )
        if self.target_r >= self.rank:
            return f"no triplet is cut: target_r {self.target_r} is not below the first rank {self.rank}"
        return None

    def end_task(self, adapted: Adapted, state: State) -> None:
        named = {site: d.get(NAME) for site, d in adapted.deltas().items()}
        own = {site: d for site, d in named.items() if isinstance(d, GatedLowRank)}
        state.data["ranks"] = {site: int(torch.count_nonzero(d.gate.detach())) for site, d in own.items()}
        for change in own.values():
            cut_dead_pieces(change)

    def found(self, state: State) -> Found | None:
        ranks = state.data.get("ranks")
        if not ranks:
            return None
        return Found(
            title="Ranks by importance",
            description="How many triplets of each layer's change are alive at the stage's end.",
            values={"mean rank": sum(ranks.values()) / len(ranks)},
            columns=["layer", "rank"],
            rows=[[site, rank] for site, rank in ranks.items()],
        )

    def _times(self, steps: int) -> tuple[int, int]:
        """(t_i, T - t_f): the step up to which nothing is cut, and that at which the budget is final."""
        first = int(FIRST * steps) if self.tinit is None else self.tinit
        after = int(LAST * steps) if self.tfinal is None else self.tfinal
        return first, max(0, min(steps - after, steps - 1))

    def _scores(self, change: str, state: State) -> Tensor | None:
        """[r] of one layer's triplets as importance stands; None where some of it does not train, or where it is
        forgotten: the budget is final.
        """
        held = [[state.get(f"{kind}.{change}.{part}") for kind in KINDS] for part in PARTS]
        scores = [i * u for i, u in held if i is not None and u is not None and i.numel()]
        return triplet_scores(*scores) if len(scores) == len(PARTS) else None
