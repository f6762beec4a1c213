"""SPT: where a task is sensitive it gets an adapter, and elsewhere the sensitive entries train one by one (He et al.
2023, arXiv:2303.08566; papers: spt).

    s = sum over batches (dL / dw)^2                          of linear weights and vectors       need `sensitivity`
    c = how many of the tau largest s, over all tensors together, lie in a tensor
    matrix [out, in]:  c >= r (in + out) / alpha: a low-rank pair of rank r, scale 1; else its c entries train (sparse)
    vector [d]:        c >= d / beta: whole; else its c entries

tau is swept over a grid; of the allocations the one whose trained numbers are nearest to the budget, density x all of
the model's, is taken (of two as near, the larger). Pairs start as LoRA's (B = 0), sparse changes at 0, so that the
model starts as the base. A new head trains whole, beside the budget. Gradient and optimizer state exist for what trains
alone (a dense gradient of one sparse layer at a time).

Defaults: density 0.005, rank 8, alpha 10, beta 5, 16 batches of 32 rows, dropout 0.1 on a pair's input (the authors'
scripts: 0.2 to 1.0 million numbers of ViT-B/16's 86); grid: 79 steps of a fiftieth of the budget (theirs for a
million); rate 8e-4 (1e-3 at ViT-B's width of 768).
Raises MethodError where the model has no linear layers in blocks.
Differs from the authors' code in: fused queries, keys and values are one matrix; single entries of vectors train (there
they are counted and stay); sensitivities are taken in evaluation mode; no drop-path; LoRA's pair alone, no adapters.
Source: ziplab/SPT, engine.py and model/vision_transformer_timm.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Candidates, Choice, Method, Need, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.sensitivity import Sensitivity
from tunewright.models.deltas import LowRank, Sparse
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming

STEPS, PART = 79, 50
"""Steps of the grid, each a PART-th of the budget."""


@dataclass(frozen=True)
class Allocation:
    """What trains, by parameter name: matrices that get a pair, vectors that train whole, sorted flat places of others;
    how many numbers that are, and which share of all sensitivity lies in what tau names.
    """

    pairs: tuple[str, ...]
    vectors: tuple[str, ...]
    places: Mapping[str, Tensor]
    numbers: int
    share: float


def allocated(
    scores: Mapping[str, Tensor],
    budget: int,
    rank: int,
    alpha: float,
    beta: float,
    tau: int | None = None,
    sensitivity: Mapping[str, Tensor] | None = None,
) -> Allocation:
    """The allocation whose numbers are nearest to `budget` over the grid of tau, or that of one tau.

    `sensitivity`: what the share is of, where `scores` rank by something else.
    """
    names, sizes = list(scores), torch.tensor([s.numel() for s in scores.values()])
    ends = sizes.cumsum(0)
    flat = torch.cat([s.flatten().cpu() for s in scores.values()])
    most = tau or math.ceil(STEPS * budget / PART)
    top = flat.topk(min(most, len(flat)))
    owners = torch.searchsorted(ends, top.indices, right=True)
    whole = torch.tensor([rank * sum(s.shape) if s.dim() == 2 else s.numel() for s in scores.values()])
    least = whole / torch.tensor([alpha if s.dim() == 2 else beta for s in scores.values()])
    best: tuple[float, int, int] = (math.inf, 0, 0)
    chosen = torch.zeros(len(names), dtype=torch.bool)
    for t in [tau] if tau else [math.ceil(k * budget / PART) for k in range(1, STEPS + 1)]:
        counts = torch.bincount(owners[:t], minlength=len(names))
        dense = (counts >= least) & (counts > 0)
        total = int(torch.where(dense, whole, counts).sum())
        if abs(total - budget) <= best[0]:
            best, chosen = (abs(total - budget), total, t), dense
    inside, mine = top.indices[: best[2]], owners[: best[2]]
    places = {
        n: (inside[mine == i] - (ends[i] - sizes[i])).sort().values
        for i, n in enumerate(names)
        if not chosen[i] and bool((mine == i).any())
    }
    picked = [n for i, n in enumerate(names) if chosen[i]]
    true = flat if sensitivity is None else torch.cat([sensitivity[n].flatten().cpu() for n in names])
    share = float(true[inside].sum() / true.sum().clamp_min(1e-38))
    pairs, vectors = ([n for n in picked if scores[n].dim() == d] for d in (2, 1))
    return Allocation(tuple(pairs), tuple(vectors), places, best[1], share)


class SPT(Method):
    """Pairs where many entries are sensitive, single entries where few are."""

    density: float = Field(
        0.005, gt=0, le=1, description="trained numbers as a share of the model's parameters", examples=[0.05]
    )
    rank: PositiveInt = Field(8, description="rank r of a pair", examples=[2])
    alpha: PositiveFloat = Field(
        10.0, description="a matrix gets a pair from this part of the pair's numbers on", examples=[1.0]
    )
    beta: PositiveFloat = Field(
        5.0, description="a vector trains whole from this part of it on", examples=[1000.0, 1.0]
    )
    batches: PositiveInt = Field(16, description="batches that the sensitivity is summed over", examples=[1])
    rows: PositiveInt = Field(32, description="rows in each of them", examples=[1])
    dropout: NonNegativeFloat = Field(
        0.1, lt=1, description="share of a pair's input set to zero while training", examples=[0.5]
    )
    by: Literal["sensitivity", "chance"] = Field(
        "sensitivity", description="what ranks entries; chance: a draw, to compare with"
    )

    category: ClassVar[str] = "hybrid"
    also: ClassVar[Mapping[str, str]] = {"r": "rank", "lora_dropout": "dropout"}
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    papers: ClassVar[tuple[str, ...]] = ("spt",)
    conformance: ClassVar[dict[str, object]] = {"density": 0.1, "rank": 2, "batches": 2, "rows": 2, "dropout": 0.0}

    def needs(self) -> Sequence[Need]:
        return (Sensitivity(batches=self.batches, rows=self.rows),)

    def setup(self, run: Setup) -> State:
        if not run.structure.linear_sites():
            raise MethodError(
                "the model's blocks have no linear layer", where="spt", remedy="use a method that adapts other layers"
            )
        total = sum(p.numel() for n, p in run.adapted.base_parameters().items() if n not in run.adapted.new)
        return State(budget=max(1, round(self.density * total)))

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> LowRank | Sparse | None:
        if "numbers" not in state.data:
            self._allocate(needs.sensitivity, state, rng)
        if site.kind not in ("linear", "conv1d") or site.weight_name not in state.data["looked"]:
            return None
        if site.weight_name in state.data["pairs"]:
            return LowRank(*kaiming(site, self.rank, torch_generator(rng)), 1.0, dropout=self.dropout)
        places = state.get(f"places.{site.weight_name}")
        if places is None:
            return None
        if site.kind == "conv1d":  # stored [in, out]
            places = (places % site.out_features * site.in_features + places // site.out_features).sort().values
        return Sparse(places, torch.zeros(len(places)), (site.out_features, site.in_features))

    def choose(self, candidates: Candidates, state: State) -> Choice:
        vectors = [n for n in state.data["looked"] if candidates.base[n].dim() == 1]
        entries = {n: places for n in vectors if (places := state.get(f"places.{n}")) is not None}
        own = (*state.data["vectors"], *candidates.adapted.trainable_new(), *candidates.deltas)
        return Choice(own, entries)

    def found(self, state: State) -> Found | None:
        values = {k: state.data[k] for k in ("budget", "numbers", "sensitivity_share")}
        values |= {k: len(state.data[k]) for k in ("pairs", "vectors")}
        return Found(
            "Sensitive parameters",
            "numbers asked for; numbers that train; share of all sensitivity in the entries that were ranked first; "
            "matrices with a low-rank pair; vectors that train whole",
            values,
        )

    def _allocate(self, scores: Mapping[str, Tensor], state: State, rng: random.Random) -> None:
        ranked = scores
        if self.by == "chance":
            generator = torch_generator(rng)
            ranked = {n: torch.rand(s.shape, generator=generator) for n, s in scores.items()}
        made = allocated(ranked, state.data["budget"], self.rank, self.alpha, self.beta, sensitivity=scores)
        for name, places in made.places.items():
            state.set_buffer(f"places.{name}", places)
        state.data.update(
            looked=list(scores),
            pairs=list(made.pairs),
            vectors=list(made.vectors),
            numbers=made.numbers,
            sensitivity_share=made.share,
        )
