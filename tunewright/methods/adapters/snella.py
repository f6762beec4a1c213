"""SNELLA: sparse changes made by a kernel of two thin matrices; layers compete for a shrinking budget of entries, and
entries within a layer (Shen et al. 2025, arXiv:2510.24037; papers: snella).

Each linear layer [out, in] gets a change of which only the entries of largest size stay (`models/kernel_sparse.py`):

    K = c (|a1_i - b1_j| - |a2_i - b2_j|),  a [2, in, r/2], b [2, out, r/2]
    D = K + alpha softmax_out(K / gamma) + beta
    change = (D |D|)^T at the V_l entries of largest |D| of layer l, else 0

D is nonlinear in a and b, so that its rank is not bound by r. How many entries stay is shared out anew `rounds` times,
by what the factors' gradients g say, smoothed from step to step:

    I <- b1 I + (1 - b1) |w g|,    U <- b2 U + (1 - b2) | |w g| - I |
    score of a layer: the mean of I U over a plus that over b
    V = V_T + (V_0 - V_T) (1 - t)^3,   t the share of the stage that is done;  V_l = V score_l / sum of scores

A layer gets at most its size, and what it cannot take goes to the others by their scores; V_l sum to V exactly.

Defaults: r 32, c 0.1, from no sparsity to 0.8 (the authors' VTAB script; 0.3 for CUB), both smoothings 0.85, 100 rounds
(each of their epochs); a and b uniform in +-1/sqrt(in r/2), +-1/sqrt(out r/2); rate 8e-4 (1e-3 at ViT-B's width of
768). The start is near the base and not at it: of an output, less than a thousandth.
Costs a matrix of the layer's size in each forward, made again in the backward pass; gradients and optimizer state are
the thin matrices'. Folds.
Raises MethodError for an odd rank, and where the end is less sparse than the start.

Differs from the paper in: no dropout, drop-path or average of weights beside (take another method); left-overs of
rounding go to the layers of highest score.
Source: ssfgunner/SNELL, model/vision_transformer_timm.py, sparse_allocator.py, train_alloc.py and its scripts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Plan, State, torch_generator
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Delta, deltas_of
from tunewright.models.kernel_sparse import KernelSparse
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers

FACTORS = ("kernel_inputs", "kernel_outputs")


def smoothed(
    importance: Tensor, wavering: Tensor, weight: Tensor, gradient: Tensor, first: float, second: float
) -> tuple[Tensor, Tensor]:
    """(I, U) after one step, of a factor's shape."""
    now = (weight * gradient).abs()
    importance = first * importance + (1 - first) * now
    return importance, second * wavering + (1 - second) * (now - importance).abs()


def budget_at(done: float, start: int, end: int) -> int:
    """V at a share of the stage: falls from `start` to `end` by the cube."""
    return int(end + (start - end) * (1 - done) ** 3)


def shared_out(scores: Sequence[float], budget: int, sizes: Sequence[int]) -> list[int]:
    """Entries of each layer: `budget` by scores, at most a layer's size; equal shares where no score is above 0."""
    given = [0] * len(sizes)
    left = min(budget, sum(sizes))
    while left:
        open_ = [i for i, size in enumerate(sizes) if given[i] < size]
        total = sum(scores[i] for i in open_)
        shares = {i: scores[i] / total if total > 0 else 1 / len(open_) for i in open_}
        more = {i: min(sizes[i] - given[i], int(left * shares[i])) for i in open_}
        if not any(more.values()):  # less than an entry each: to the highest, one by one
            best = sorted(open_, key=lambda i: -scores[i])[:left]
            more = dict.fromkeys(best, 1)
        for i, count in more.items():
            given[i] += count
            left -= count
    return given


class SNELLA(OnLayers):
    """Kernels of thin matrices whose largest entries change the weights, under a shrinking budget."""

    rank: PositiveInt = Field(32, description="r, width of both pairs of thin matrices together; even", examples=[4])
    factor: PositiveFloat = Field(0.1, description="c, scale of the distances", examples=[1.0])
    start_sparsity: float = Field(0.0, ge=0, lt=1, description="share of the entries without a change at the start",
                                  examples=[0.5])  # fmt: skip
    sparsity: float = Field(0.8, ge=0, lt=1, description="share of them at the end", examples=[0.9])
    rounds: int = Field(100, ge=2, description="times that the budget is shared out anew in a stage", examples=[2])
    importance_smoothing: float = Field(0.85, gt=0, lt=1, description="b1, what I keeps a step", examples=[0.1])
    wavering_smoothing: float = Field(0.85, gt=0, lt=1, description="b2, what U keeps a step", examples=[0.1])

    category: ClassVar[str] = "hybrid"
    form: ClassVar[type[Delta]] = KernelSparse
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    also: ClassVar[Mapping[str, str]] = {
        "targets": "target_modules",
        "target_ratio": "sparsity",
        "init_thres": "start_sparsity",
    }
    papers: ClassVar[tuple[str, ...]] = ("snella",)
    conformance: ClassVar[dict[str, object]] = {"rank": 8, "rounds": 3}

    @model_validator(mode="after")
    def _checked(self) -> SNELLA:
        if self.rank % 2:
            raise ValueError(f"rank {self.rank} is odd: it is shared by two pairs of matrices, write {self.rank + 1}")
        if self.sparsity < self.start_sparsity:
            raise ValueError(
                f"the budget shrinks, and sparsity {self.sparsity} is below start_sparsity {self.start_sparsity}"
            )
        return self

    def start(self, site: Site, state: State, rng: random.Random) -> KernelSparse:
        generator, k = torch_generator(rng), self.rank // 2
        thin = []
        for rows in (site.in_features, site.out_features):
            bound = 1 / math.sqrt(rows * k)
            thin.append(torch.empty(2, rows, k).uniform_(-bound, bound, generator=generator))
        size = site.in_features * site.out_features
        return KernelSparse(thin[0], thin[1], size - int(self.start_sparsity * size), self.factor)

    def gradient(self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], state: State) -> None:
        for name, g in gradients.items():
            if name.rpartition(".")[2] not in FACTORS:
                continue
            before = [state.get(f"{kind}/{name}") for kind in ("importance", "wavering")]
            I, U = (torch.zeros_like(g) if t is None else t for t in before)  # noqa: E741
            I, U = smoothed(  # noqa: E741
                I, U, parameters[name].detach(), g.detach(), self.importance_smoothing, self.wavering_smoothing
            )
            state.set_buffer(f"importance/{name}", I)
            state.set_buffer(f"wavering/{name}", U)

    def after_step(self, step: int, plan: Plan, adapted: Adapted, state: State) -> None:
        turn, before = (min(s, plan.steps) * self.rounds // plan.steps for s in (step, step - 1))
        if turn == before or turn >= self.rounds:  # what stays at the end has trained
            return
        found = kernels(adapted)
        sizes = [d.entries for d in found.values()]
        scores = [self._score(name, state) for name in found]
        start = sum(size - int(self.start_sparsity * size) for size in sizes)
        end = sum(size - int(self.sparsity * size) for size in sizes)
        budget = budget_at(turn / self.rounds, start, end)
        for delta, count in zip(found.values(), shared_out(scores, budget, sizes), strict=True):
            delta.kept.fill_(count)
        state.data["kept"] = {n: int(d.kept) / d.entries for n, d in found.items()}

    def found(self, state: State) -> Found | None:
        kept: dict[str, float] = state.data.get("kept", {})
        rows: list[list[Any]] = [[n.partition(".delta.")[0], round(share, 4)] for n, share in kept.items()]
        shares = {"smallest": min(kept.values()), "largest": max(kept.values())} if kept else {}
        return Found("Budget of entries", "share of a layer's entries that change", shares, ("layer", "share"), rows)

    def _score(self, name: str, state: State) -> float:
        total = 0.0
        for part in FACTORS:
            I, U = (state.get(f"{kind}/{name}.{part}") for kind in ("importance", "wavering"))  # noqa: E741
            if I is not None and U is not None:
                total += float((I * U).mean())
        return total


def kernels(adapted: Adapted) -> dict[str, KernelSparse]:
    """The deltas of this form by "<site>.delta.<name>"."""
    return {
        f"{site.name}.delta.{name}": delta
        for site in adapted.structure.sites
        for name, delta in deltas_of(site).items()
        if isinstance(delta, KernelSparse)
    }
