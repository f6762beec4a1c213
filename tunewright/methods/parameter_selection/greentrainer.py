"""GreenTrainer: under a budget of operations, train the tensors that promise most (Huang et al. 2023, arXiv:2309.13192;
papers: greentrainer).

    I_k    what one probing step of tensor k takes off the loss                               need `probing_step`
    w_k    operations of k's own gradient;  y_k  of passing the gradient on through k
    choose m in {0, 1}^n with the largest sum I m under  sum m w + sum_{k from the output down to the lowest chosen} y
           <= rho_b (sum w + sum y),   rho_b = rho (1 + t_f / t_b) - t_f / t_b, 0.05 where that is not above 0

rho is the share of full tuning's operations, forward passes included, which cannot be saved (t_f: forward, t_b:
backward). What lies below the lowest chosen tensor gets no backward pass; tensors between chosen ones get no gradient
of their own. The choice is made `selections` times, evenly over the stage, from a fresh probe; moments wait for a
tensor's next turn. Where no tensor that fits would gain, since the step overshoots, the gradient before the step counts
in the place of the one after it. The order of tensors is that in which the model's forward comes to them.

A position costs a matrix of N entries 2 N for each of w and y, as `cost.flops` counts; a vector or a table of vectors
its width for w, and a vector as much for y. A table that is the head too costs what a matrix does, and passing through
the head is paid before anything else. Costs are cut into 1,000 parts, rounded up, and the best choice is found by
dynamic programming over these, the lowest tensor in turn: it never goes over the budget. A new head always trains and
is not in it. Deltas beside it train along.

Defaults: rho 0.5, three selections (the authors: every second of five epochs), 8 rows a probe.
Raises MethodError where the budget reaches no tensor.
Differs from the authors' code in: an exact programme (theirs falls short of the best choice in a third of small random
cases, by our note); the probe's step is Adam's first one, and leaves no trace in moments; attention's products of
activations are not counted; branches beside each other (queries, keys, values) count as a chain, which can only
overstate.
Source: pittisl/GreenTrainer, decoder_lm/train.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import nn

from tunewright.contract.method import Candidates, Choice, Method, Need, Needs, Plan, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.probing_step import ProbingStep
from tunewright.models.sites import Structure

PARTS = 1000
LEAST = 0.05


def costs(structure: Structure, parameters: dict[str, nn.Parameter]) -> dict[str, tuple[float, float]]:
    """(own gradient, passing the gradient on) of each tensor, in operations a position."""
    kinds = {s.weight_name: s.kind for s in structure.sites}
    heads = set(structure.tied.values())
    found = {}
    for name, p in parameters.items():
        if p.dim() >= 2 and kinds.get(name) == "embedding" and name in heads:
            found[name] = (2.0 * p.numel(), 0.0)  # passing through it is the head's
        elif p.dim() >= 2 and kinds.get(name) != "embedding":
            found[name] = (2.0 * p.numel(), 2.0 * p.numel())
        elif p.dim() >= 2:
            found[name] = (float(p.shape[-1]), 0.0)
        else:
            found[name] = (float(p.numel()), float(p.numel()))
    return found


def of_backward(rho: float, forward: float, backward: float) -> float:
    """The share of the backward pass's operations that a share of all leaves."""
    share = rho * (1 + forward / backward) - forward / backward
    return share if share > 0 else LEAST


def best_choice(
    gains: Sequence[float], own: Sequence[float], passing: Sequence[float], budget: float, parts: int = PARTS
) -> list[int]:
    """Rising places of the tensors to train, counted from the output, with the largest sum of gains within the budget.

    Costs are cut into `parts` of the budget, rounded up. Empty where the budget reaches none that gains.
    """
    gaining = [k for k, gain in enumerate(gains) if gain > 0]
    if gaining and sum(own[k] for k in gaining) + sum(passing[: gaining[-1] + 1]) <= budget:
        return gaining
    unit = budget / parts
    weights = [math.ceil(w / unit - 1e-9) for w in own]
    best = torch.zeros(parts + 1, dtype=torch.float64)  # by what may be spent: of the tensors above the present one
    taken: list[torch.Tensor] = []
    way, found, top = 0.0, (-1, 0), 0.0
    for k, gain in enumerate(gains):
        way += passing[k]
        left = parts - math.ceil(way / unit - 1e-9) - weights[k]
        if left >= 0 and gain > 0 and float(best[left]) + gain > top:
            top, found = float(best[left]) + gain, (k, left)
        with_it = torch.full_like(best, -math.inf)
        if weights[k] <= parts and gain > 0:
            with_it[weights[k] :] = best[: parts + 1 - weights[k]] + gain
        taken.append(with_it > best)
        best = torch.maximum(best, with_it)
    lowest, spare = found
    if lowest < 0:
        return []
    chosen = [lowest]
    for k in range(lowest - 1, -1, -1):
        if bool(taken[k][spare]):
            chosen.append(k)
            spare -= weights[k]
    return chosen[::-1]


class GreenTrainer(Method):
    """Train what pays most for its operations."""

    rho: float = Field(
        0.5, gt=0, le=1, description="share of full tuning's operations, forward and backward", examples=[0.8]
    )
    selections: PositiveInt = Field(3, description="how often the stage chooses, evenly over its steps", examples=[1])
    rows: PositiveInt = Field(8, description="training rows of a probe", examples=[2])

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("greentrainer",)

    def needs(self) -> Sequence[Need]:
        return (ProbingStep(rows=self.rows),)

    def setup(self, run: Setup) -> State:
        return State(rate=run.plan.learning_rate, probes=0)

    def choose(self, candidates: Candidates, plan: Plan, needs: Needs, state: State) -> Choice:
        adapted, probed = candidates.adapted, needs.probing_step
        state.data["probes"] += 1
        spent = costs(candidates.structure, {n: p for n, p in candidates.base.items() if n not in adapted.new})
        names = [n for n in reversed(probed.order) if n in spent]
        own, passing = ([spent[n][i] for n in names] for i in (0, 1))
        tied = set(candidates.structure.tied.values())
        head = sum(2.0 * p.numel() for n, p in candidates.base.items() if n in tied and p.dim() == 2)
        backward = sum(own) + sum(passing) + head
        budget = of_backward(self.rho, sum(passing) + head, backward) * backward - head
        chosen: list[str] = []
        for gains in (probed.falls, probed.slopes) if budget > 0 else ():
            chosen = chosen or [names[k] for k in best_choice([gains[n] for n in names], own, passing, budget)]
        if not chosen and not candidates.deltas:
            raise MethodError(
                "no tensor fits into the budget of operations",
                where="greentrainer.rho",
                remedy="write a larger rho",
            )
        every = math.ceil(plan.steps / self.selections)
        rest = (*adapted.trainable_new(), *candidates.deltas)
        return Choice((*chosen, *rest), redraw_every=every if every < plan.steps else None, moments="park")
