"""SaRA: the weights that are too small to matter learn the task (Hu et al. 2024, arXiv:2409.06633; papers: sara).

    M = 1[|theta| < tau]                       over all tensors with one tau; the rest of the model stays
    half-way: M <- M and 1[|theta| < tau]      entries that have outgrown tau stay as they are, and Adam begins anew
    pull: lambda ||W x M||_*                   of one matrix a step, drawn at random: low rank of the trained values

The optimizer sees the |M| entries alone, so that gradients and moments are as many numbers. The pull is on the masked
values themselves, not on their change: its gradient is U V^T at M, from the singular vectors of W x M.

tau is `threshold`, or the size below which `share` of all entries lie. Embeddings, norms and biases count; a new head
trains whole. `readjust` is the share of the steps before the second mask (none: never).

Defaults: share 0.1 (the paper finds the smallest 10 to 20 % without use; its code takes tau 2e-3 for Stable Diffusion
and leaves it at that), lambda 5e-4, readjust 0.5, matrices wider than 64 on both sides pulled (the authors' code); rate
5e-4 (theirs: 1e-3 exp(-350 tau)). The recipe's optimizer, AdamW: its decay shrinks what is small already.
Raises MethodError for a threshold below which nothing lies.
Differs from the authors' code in: the step of the second mask is made, there it is left out; of its two optimizers the
one whose pull acts is meant; a matrix with few masked entries is pulled too (there: with 100 at least).
Source: sjtuplayer/SaRA, optim/adamw2.py and optim/adamw.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Plan, State
from tunewright.errors import MethodError

HALVINGS = 60
"""Bisections of the threshold at most: fewer where the share is met before."""


def threshold_of(tensors: Mapping[str, Tensor], share: float) -> float:
    """The size below which `share` of all entries lie, to the entry where sizes differ. A tensor at a time."""
    total = sum(t.numel() for t in tensors.values())
    wanted = max(1, round(share * total))
    low, high = 0.0, 2.0 * max(float(t.detach().abs().max()) for t in tensors.values()) + 1e-30
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = sum(int((t.detach().abs() < middle).sum()) for t in tensors.values())
        if below == wanted:
            return middle
        low, high = (middle, high) if below < wanted else (low, middle)
    return high


def small(tensor: Tensor, tau: float) -> Tensor:
    """Sorted flat places of the entries smaller than tau."""
    return (tensor.detach().abs().flatten() < tau).nonzero()[:, 0]


def pull(values: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
    """The gradient [k] of the nuclear norm of a matrix that holds `values` [k] at `places` and zeros elsewhere."""
    matrix = torch.zeros(shape, device=values.device)
    matrix.view(-1)[places] = values.float()
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    there = S > S.amax() * 1e-6  # of a direction that is not there no sign is known
    return ((U * there) @ Vh).reshape(-1)[places]


class SaRA(Method):
    """Train the smallest entries of all."""

    share: float = Field(0.1, gt=0, le=1, description="share of all entries that train, the smallest", examples=[0.3])
    threshold: PositiveFloat | None = Field(
        None, description="size below which entries train; none: by `share`", examples=[0.02]
    )
    readjust: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the steps after which entries that outgrew the threshold stop; none: never",
        examples=[0.25, None],
    )
    low_rank: NonNegativeFloat = Field(
        5e-4, description="lambda, weight of the nuclear norm of the trained values", examples=[0.5]
    )
    min_side: PositiveInt = Field(64, description="matrices with both sides larger are pulled", examples=[1000])

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 5e-4}
    papers: ClassVar[tuple[str, ...]] = ("sara",)
    conformance: ClassVar[dict[str, object]] = {"low_rank": 0.1, "min_side": 8}

    def choose(self, candidates: Candidates, step: int, plan: Plan, state: State) -> Choice:
        adapted = candidates.adapted
        fresh = set(adapted.new)
        tensors = {n: p for n, p in candidates.base.items() if n not in fresh}
        rest = (*adapted.trainable_new(), *candidates.deltas)
        again = self._second(plan)
        if step == 0:
            tau = self.threshold or threshold_of(tensors, self.share)
            entries = {n: places for n, p in tensors.items() if len(places := small(p, tau))}
            if not entries:
                raise MethodError(
                    f"no entry is smaller than {tau}", where="sara.threshold", remedy="raise it, or leave it out"
                )
            state.data["threshold"] = tau
        else:
            tau, entries = state.data["threshold"], {}
            for name in list(state.data["masked"]):
                before = state.get(f"mask.{name}")
                assert before is not None
                kept = before[tensors[name].detach().flatten()[before].abs() < tau]
                if len(kept):
                    entries[name] = kept
        for name, places in entries.items():
            state.set_buffer(f"mask.{name}", places)
        state.data["masked"] = sorted(entries)
        wide = [n for n in sorted(entries) if tensors[n].dim() == 2 and min(tensors[n].shape) > self.min_side]
        state.data["shapes"] = {n: list(tensors[n].shape) for n in wide}
        return Choice(rest, entries, redraw_every=again if step == 0 else None)

    def caution(self, plan: Plan) -> str | None:
        if self.readjust is None or self._second(plan) is not None:
            return None
        return f"the mask is drawn once: {plan.steps} steps have no second half; write readjust: null to say so"

    def gradient(
        self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], state: State
    ) -> dict[str, Tensor] | None:
        wide = [n for n in state.data["shapes"] if n in gradients]
        if not self.low_rank or not wide:
            return None
        name = state.rng.choice(wide)
        places, (rows, columns) = state.get(f"mask.{name}"), state.data["shapes"][name]
        assert places is not None
        pulled = pull(parameters[name], places, (rows, columns)) * self.low_rank
        return {**gradients, name: gradients[name] + pulled.to(gradients[name].dtype)}

    def _second(self, plan: Plan) -> int | None:
        """The step before which the mask is drawn again."""
        step = 0 if self.readjust is None else round(self.readjust * plan.steps)
        return step if 0 < step < plan.steps else None
