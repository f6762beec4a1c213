"""SpIEL: sparse fine-tuning whose places move (Ansell et al. 2024, arXiv:2401.16405; papers: spiel).

Each targeted weight W [out, in] stays frozen and k of its entries get a trained difference:
y = x (W + scatter(delta, places))^T, with k = floor(K |W| / sum |W|), K = density x all parameters of the model.
Places start random and delta 0. At a redraw of rate p

    drop    the floor(p k) smallest |delta|: such an entry is W's own again, exactly
    grow    as many candidates with the largest |sum of gradients|, none that is still trained, with delta 0
    a place that is dropped and grown in one redraw keeps its delta and moments

The first redraw is after `first` steps with p = 1, later ones at multiples of `every` with p = rate (1 - t / T).
Candidates are the k entries of largest gradient in one micro-batch, summed over five (need `full_gradient`). Moments
move with their places; a newcomer's start as the gradient's mean and mean square would have left them. k is constant,
places are unique; memory for values, gradients kept and moments is k a layer (a dense gradient exists for one layer at
a time). Weight decay pulls delta to 0: towards the base.

Raises MethodError for `target_modules` that name no module.

Source: AlanAnsell/peft, src/peft/tuners/sft (trainer, optimizer, layer). Differs from the paper in: the
accumulated-gradient variant only (no SM3 momentum variant); gradients at a redraw come from fresh rows at the present
weights, not from the five training steps before it; Adam counts steps per layer, not an entry; redraws fall on
multiples of `every` (the authors': 5, 25, 45, ...); the newcomers' moments are not divided by micro-steps.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Need, Plan, Setup, State, torch_generator
from tunewright.methods.needs.full_gradient import FullGradient, Gathered
from tunewright.models.delta_names import DeltaName
from tunewright.models.deltas import Sparse
from tunewright.models.sites import Site
from tunewright.pieces.target_modules import TARGET_MODULES


def budgets(sizes: dict[str, int], total: float) -> dict[str, int]:
    """Entries of each weight when `total` are spread in proportion to the weights' sizes; at least one, at most all."""
    every = sum(sizes.values())
    return {n: max(1, min(size, int(total * size / every))) for n, size in sizes.items()}


def moved_places(places: Tensor, values: Tensor, grown: Gathered, count: int) -> Tensor:
    """New sorted places [k]: the `count` smallest |values| give way to the best candidates that are not still trained.

    `places`, `values` [k]; with fewer candidates than `count`, fewer move.
    """
    dropped = torch.zeros_like(values, dtype=torch.bool)
    leaving = torch.argsort(values.detach().abs(), stable=True)[:count]
    dropped[leaving] = True
    free = ~torch.isin(grown.places, places[~dropped])
    best_first = torch.argsort(grown.mean[free].abs(), descending=True, stable=True)
    incoming = grown.places[free][best_first[:count]]
    leaving = leaving[~torch.isin(places[leaving], incoming)]
    incoming = incoming[~torch.isin(incoming, places)]
    out = places.clone()
    out[leaving[: len(incoming)]] = incoming
    return torch.sort(out).values


class SpIEL(Method):
    """A fixed number of differences a layer, at places that follow the gradient."""

    density: float = Field(
        0.01, gt=0, le=1, description="trained entries as a share of the model's parameters", examples=[0.1]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES, examples=[["q_proj", "v_proj"], ["q_proj"]]
    )
    first: PositiveInt = Field(
        5, description="optimizer steps before the first redraw, which replaces all places it can", examples=[2]
    )
    every: PositiveInt = Field(20, description="optimizer steps between later redraws", examples=[3])
    rate: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the places that a redraw replaces at the start; falls to 0 with the stage",
        examples=[0.9],
    )
    batches: PositiveInt = Field(5, description="micro-batches whose gradients a redraw sums", examples=[1])
    rows: PositiveInt = Field(8, description="training rows in each of them", examples=[2])

    category: ClassVar[str] = "selective"
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules"}
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("spiel",)
    conformance: ClassVar[dict[str, object]] = {"first": 1, "every": 2, "rate": 0.5, "batches": 2, "rows": 2}

    def needs(self) -> Sequence[Need]:
        return (FullGradient(batches=self.batches, rows=self.rows),)

    def setup(self, run: Setup) -> State:
        sites = run.structure.match(self.target_modules)
        total = self.density * sum(p.numel() for p in run.adapted.base_parameters().values())
        return State(counts=budgets({s.name: s.weight.numel() for s in sites}, total))

    def caution(self, plan: Plan) -> str | None:
        if self.first >= plan.steps:
            return f"no place moves: {plan.steps} steps do not reach the first redraw at {self.first}"
        return None

    def attach(self, site: Site, state: State, rng: random.Random) -> Sparse | None:
        count = state.data["counts"].get(site.name)
        if count is None:
            return None
        places = torch.randperm(site.weight.numel(), generator=torch_generator(rng))[:count]
        return Sparse(torch.sort(places).values, torch.zeros(count), (site.out_features, site.in_features))

    def choose(self, candidates: Candidates, step: int, plan: Plan, needs: Any, state: State) -> Choice:
        names = tuple(sorted(candidates.deltas))
        if step == 0:
            return Choice(names, redraw_every=self.first)
        counts: dict[str, int] = state.data["counts"]
        share = 1.0 if step == self.first else self.rate * (1 - step / plan.steps)
        places, seeds = {}, {}
        grown: dict[str, Gathered] = needs.full_gradient(counts, step)
        for name in names:
            site = DeltaName.parse(name).site
            delta: Any = candidates.adapted.model.get_submodule(name.rsplit(".", 1)[0])
            if site in grown and isinstance(delta, Sparse):
                g = grown[site]
                places[name] = new = moved_places(delta.indices, delta.values, g, int(share * counts[site]))
                at = torch.searchsorted(g.places, new).clamp_(max=len(g.places) - 1)
                seeds[name] = (g.mean[at], g.square[at])
        return Choice(names, redraw_every=self.every, moments="preserve", places=places, seeds=seeds)
