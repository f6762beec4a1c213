"""MHR: multi-head routing of an inventory of low-rank changes that all tasks share (Caccia et al. 2022,
arXiv:2211.03831; papers: mhr), and with one head Polytropon (Poly, Ponti et al. 2022, arXiv:2202.13914).

Every targeted layer holds K pairs A_k [r, in], B_k [out, r], whose input and output sides are cut into h blocks, and
logits Z [T, h, K] of T tasks. A task's change mixes the factors, block by block, by weights that sum to 1:

    w = sigmoid(Z_t) / (sum_k sigmoid(Z_t) + 1e-12)                  [h, K]
    A_t = [ sum_k w[q, k] A_k[:, block q] ]_q                        [r, in], blocks side by side
    B_t = [ sum_k w[q, k] B_k[block q, :] ]_q                        [out, r], blocks one above the other
    y = x (W + s B_t A_t)^T,  s = alpha / r

Factors are mixed and not products; both sides of a block have the same weights. `heads: 1` is Poly. Tasks are sources
of the data. A row of another source gets the change of the task `others`, by default of the only task, or is left as
the base. When the stage ends each task's change is kept as a plain low-rank one (`tunewright export --task`), and
the inventory is left to stages that start from it. There `tune` says what trains:

    all       factors and logits                  (few-shot Poly and MHR)
    routing   logits alone                        (MHR-z): h K numbers a layer
    average   mean over k of A_k and of B_k, a plain LoRA without routing that folds   (MHR-mu)

Tasks that such a stage knows from before keep their logits, new ones draw theirs. Its recipe says `carry: drop`,
`frozen` or `training`, which is the same here: the earlier stage's changes are replaced by those of the inventory.

Start: A_k uniform in +-1/sqrt(3 in), B_k zero, Z uniform in +-1e-3, so that the model starts as the base and all tasks
nearly alike. Z has a learning rate of its own.

Defaults: K 8, r 1, alpha 1, a rate of 0.1 of logits and 1e-3 of factors: the authors' T0 runs (with Adafactor; new
tasks there: 1,000 steps at 3e-3). h 8 is ours: theirs is 64 on T5-XL. Targets are all linear layers, as theirs.
Raises MethodError where h does not divide both sides of a layer, for a task `others` that is none, for an inventory of
another shape than the fields say, and for a layer in 4 bits.

Differs from the paper in: MHR-mu holds one mean pair, where the authors' code trains all K at fixed weights 1 / K
(which moves the mean as far under Adam); tasks of before keep their logits (there: all are drawn anew); causal models,
encoders and pictures, no T5; no noise, dropout or norm on logits, which the authors' T0 configs turn off too.
Source: microsoft/mttl (commit c66b20d6): mttl/models/modifiers/poly.py, mttl/models/modifiers/lora.py,
projects/mhr/configs/t0 (read, not run; its einsums are the oracle of the tests).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Plan, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Delta, LowRank, PerTask, deltas_of, detach
from tunewright.models.generated import freeze
from tunewright.models.sites import Site
from tunewright.pieces.on_layers import OnLayers

NAME = "mhr"
NEAR = 1e-3
"""Logits start this near to 0 at most."""


def routing(logits: Tensor) -> Tensor:
    """[h, K] weights of logits [h, K], each block's summing to 1."""
    open_ = torch.sigmoid(logits)
    weights: Tensor = open_ / (open_.sum(-1, keepdim=True) + 1e-12)
    return weights


def mixed(A: Tensor, B: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(A_t [r, in], B_t [out, r]) of an inventory A [K, r, in], B [K, out, r] by weights [h, K]."""
    h, r = len(weights), A.shape[1]
    first = torch.einsum("hk,krhi->rhi", weights, A.view(len(A), r, h, -1))
    last = torch.einsum("hk,khor->hor", weights, B.view(len(B), h, -1, r))
    return first.reshape(r, -1), last.reshape(-1, r)


class MHR(OnLayers):
    """Low-rank changes of each task, mixed block by block from an inventory that all tasks share."""

    inventory: PositiveInt = Field(8, description="K, how many pairs of factors a layer holds", examples=[2])
    heads: PositiveInt = Field(
        8, description="h, blocks of a layer's input and output with weights of their own; 1: Poly", examples=[1]
    )
    rank: PositiveInt = Field(1, description="rank r of each pair", examples=[2, 3])
    alpha: PositiveFloat = Field(1.0, description="numerator of the scale s = alpha / r", examples=[4.0])
    routing_rate: PositiveFloat = Field(0.1, description="learning rate of the tasks' logits", examples=[0.01])
    tune: Literal["all", "routing", "average"] = Field(
        "all",
        description="what trains of an inventory that an earlier stage left: all of it, the tasks' logits alone "
        "(MHR-z), or the mean of its factors (MHR-mu); a first stage trains all",
    )
    others: str | None = Field(
        None, description="task of rows of other sources; none: the only task, or no change", examples=["large"]
    )

    category: ClassVar[str] = "reparameterised"
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank", "lora_alpha": "alpha"}
    form: ClassVar[type[Delta]] = PerTask
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    leaves: ClassVar[tuple[str, ...]] = ("A", "B", "Z", "known", "sites")
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-generation",
        "text-classification",
        "fill-mask",
        "image-classification",
    )
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"inventory": 3, "heads": 2, "rank": 2}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        state = super().setup(run)
        sites = [run.structure.site(n) for n in state.data["sites"]]
        for site in sites:
            self._check_blocks(site)
        tasks = [s for s in run.plan.sources if s not in run.plan.replay] or ["all"]
        if self.others is not None and self.others not in tasks:
            raise MethodError(
                f"rows of other sources would get the change of '{self.others}', which is no task",
                where="others",
                remedy=did_you_mean(self.others, tasks),
            )
        left = run.earlier.inherited(NAME)
        before: list[str] = [] if left is None else list(left.values["known"])
        state.data["known"] = [*before, *(t for t in tasks if t not in before)]
        state.data["others"] = self.others or (tasks[0] if len(tasks) == 1 else None)
        state.data["tune"] = "all" if left is None else self.tune
        made = self._drawn(sites, torch_generator(run.rng)) if left is None else self._taken(left.values, sites)
        self._add_tasks(made["Z"], len(state.data["known"]), torch_generator(run.rng))
        for name, tensors in made.items():
            if state.data["tune"] == "all" or (state.data["tune"] == "routing" and name == "Z"):
                state.add_module(name, nn.ParameterDict({k: nn.Parameter(t) for k, t in tensors.items()}))
            else:
                for key, tensor in tensors.items():
                    state.set_buffer(f"{name}.{key}", tensor)
        return state

    def _check_blocks(self, site: Site) -> None:
        sides = (site.in_features, site.out_features)
        if any(side % self.heads for side in sides):
            fit = max(h for h in range(1, self.heads) if not any(side % h for side in sides))
            raise MethodError(
                f"'{site.name}' reads {sides[0]} features and gives {sides[1]}: they have no {self.heads} blocks",
                where="heads",
                remedy=f"write heads: {fit}, or name layers in target_modules",
            )

    def _drawn(self, sites: list[Site], generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
        made: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}, "Z": {}}
        for i, site in enumerate(sites):
            bound = (3 * site.in_features) ** -0.5
            A = torch.empty(self.inventory, self.rank, site.in_features).uniform_(-bound, bound, generator=generator)
            made["A"][f"{i}"], made["B"][f"{i}"] = A, torch.zeros(self.inventory, site.out_features, self.rank)
            made["Z"][f"{i}"] = torch.zeros(0, self.heads, self.inventory)
        return made

    def _taken(self, left: Mapping[str, Any], sites: list[Site]) -> dict[str, dict[str, Tensor]]:
        """Copies of the inventory that an earlier stage left."""
        first, Z = left["A"]["0"], left["Z"]["0"]
        there, here = (len(first), Z.shape[1], first.shape[1]), (self.inventory, self.heads, self.rank)
        if there != here:
            raise MethodError(
                f"the earlier stage left {there[0]} pairs of rank {there[2]} in {there[1]} blocks, and this stage says "
                f"{here[0]} of rank {here[2]} in {here[1]}",
                where="inventory, heads, rank",
                remedy=f"write inventory: {there[0]}, heads: {there[1]} and rank: {there[2]} here too",
            )
        if left["sites"] != [s.name for s in sites]:
            raise MethodError(
                f"the earlier stage left changes of {len(left['sites'])} layers, this stage names {len(sites)} others",
                where="target_modules",
                remedy="write the same target_modules in both stages",
            )
        return {n: {k: t.detach().cpu().clone() for k, t in left[n].items()} for n in ("A", "B", "Z")}

    @staticmethod
    def _add_tasks(logits: dict[str, Tensor], count: int, generator: torch.Generator) -> None:
        for key, Z in logits.items():
            new = torch.empty(count - len(Z), *Z.shape[1:]).uniform_(-NEAR, NEAR, generator=generator)
            logits[key] = torch.cat([Z, new])

    def caution(self, plan: Plan) -> str | None:
        if self.tune == "all" or plan.index > 0:
            return None
        return f"there is no inventory yet of which tune: {self.tune} would train a part: a first stage trains all"

    def rates(self, parameters: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
        logits = [n for n in parameters if n.startswith(f"{NAME}.Z.")]
        return dict.fromkeys(logits, self.routing_rate / plan.learning_rate)

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        if site.name not in state.data["sites"]:
            return None
        for name, delta in deltas_of(site).items():
            if isinstance(delta, PerTask) and name.endswith(f"-{NAME}"):
                detach(site, name)  # of the earlier stage: the inventory makes it anew
        key, known, scale = state.data["sites"].index(site.name), state.data["known"], self.alpha / self.rank
        if state.data["tune"] == "average":
            A, B = (_held(state, n, key).mean(0) for n in "AB")
            return LowRank(A.clone(), B.clone(), scale)

        def make(task: str) -> Mapping[str, Tensor]:
            A, B, Z = (_held(state, n, key) for n in "ABZ")
            first, last = mixed(A, B, routing(Z[known.index(task)]))
            return {"lora_A": first, "lora_B": last}

        template = LowRank(torch.zeros(self.rank, site.in_features), torch.zeros(site.out_features, self.rank), scale)
        return PerTask(template, known, make, state.data["others"])

    def end_task(self, adapted: Adapted) -> None:
        freeze(adapted, NAME)


def _held(state: State, name: str, key: int) -> Tensor:
    """A layer's tensor of the inventory, whether it trains or not."""
    kept = state.get(f"{name}.{key}")
    return state.get_parameter(f"{name}.{key}") if kept is None else kept
