"""Polyhistor: small shared networks write every task's adapters, sized to every layer by kernels (Liu et al. 2022,
arXiv:2210.03265; papers: polyhistor).

The model stays frozen. Behind the attention and the feed-forward part of every block stands an adapter of each task t
on the part's output h in R^d, before the residual is added:

    h <- h + U gelu(D h + b) + c,        D = K_D x T_D [a, d],   U = K_U x T_U [d, a]        (x: Kronecker product)

    T_D = A B / sqrt(q),   A = h_A(e_t) [n, q],   B = h_B(e_t) [q, m];     T_U [m, n] alike   templates of task t
    K_D [a / n, d / m],    K_U [d / m, a / n]                                                 kernels of one layer

e_t in R^k is the task's trained embedding; h_A and h_B are linear, one pair for D and one for U, the same for every
layer (decomposed hypernetworks: k (n + m) q numbers in the place of k n m). The kernels are the layer's own and the
same for every task (layer-wise scaling kernels). So a task more costs k numbers, and a wide layer costs its kernels:
no network has an output as large as a weight. What is made is kept as plain adapters when the stage ends.

Tasks are sources of the data; a row of another source gets the adapter of the task `others`, by default of the only
task, or is left as the base. a = width at the narrowest layer, and in proportion at wider ones. Start: kernels of U, b
and c at zero, so that the model starts as the base; entries of T near deviation 1, of K_D 1/sqrt(d).

Defaults, all ours: k 64, q 4, width 8, template n = width and m = a quarter of the narrowest layer. Does not fold.
Raises MethodError for blocks whose parts are not found, sizes that m or n do not divide, and a layer in 4 bits.

Differs from the paper in: what is known of it is its abstract, so that formulas and sizes were made from it and from
its relatives (HyperFormer, Compacter); its decoders of dense tasks are the task's own head here; biases are shared by
tasks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Bottleneck
from tunewright.models.generated import freeze
from tunewright.models.per_task import PerTask
from tunewright.models.sites import Site
from tunewright.pieces.insertion import planned
from tunewright.pieces.sublayers import check_parts, parts_of

SIDES = ("down", "up")


class Template(nn.Module):
    """e [k] -> T = A B / sqrt(q) [rows, columns], A = h_A(e) [rows, q], B = h_B(e) [q, columns]."""

    def __init__(self, size: int, rank: int, rows: int, columns: int, generator: torch.Generator):
        super().__init__()
        self.rank = rank
        self.first = nn.Parameter(torch.randn(rows * rank, size, generator=generator) / size**0.5)
        self.second = nn.Parameter(torch.randn(rank * columns, size, generator=generator) / size**0.5)

    def forward(self, e: Tensor) -> Tensor:
        A, B = (self.first @ e).view(-1, self.rank), (self.second @ e).view(self.rank, -1)
        return A @ B / self.rank**0.5


class Polyhistor(Method):
    """Each task's adapters, written by small networks that all layers share and sized by each layer's kernels."""

    width: PositiveInt = Field(8, description="width a of an adapter at the narrowest layer", examples=[6])
    embedding: PositiveInt = Field(64, description="size k of a task's embedding", examples=[5])
    rank: PositiveInt = Field(4, description="rank q of a template", examples=[1])
    template: PositiveInt | None = Field(
        None,
        description="side m of a template, along a layer's width; none: a quarter of the narrowest layer",
        examples=[16],
    )
    others: str | None = Field(
        None, description="task of rows of other sources; none: the only task, or no change", examples=["large"]
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-generation",
        "text-classification",
        "fill-mask",
        "image-classification",
    )
    papers: ClassVar[tuple[str, ...]] = ("polyhistor",)
    conformance: ClassVar[dict[str, object]] = {"width": 2, "embedding": 4, "rank": 2}

    def setup(self, run: Setup) -> State:
        found = parts_of(run.adapted.model, run.structure)
        check_parts(found, "polyhistor", True, True)
        sites = [run.structure.site(n) for n in planned(found, ("attention", "mlp"), "sequential").bottlenecks]
        tasks = [s for s in run.plan.sources if s not in run.plan.replay] or ["all"]
        if self.others is not None and self.others not in tasks:
            raise MethodError(
                f"rows of other sources would get the adapter of '{self.others}', which is no task",
                where="others",
                remedy=did_you_mean(self.others, tasks),
            )
        narrow = min(s.out_features for s in sites)
        side = self.template or max(1, narrow // 4)
        if odd := [s for s in sites if s.out_features % side or (self.width * s.out_features) % narrow]:
            raise MethodError(
                f"a template of side {side} does not fit '{odd[0].name}', which is {odd[0].out_features} wide",
                where="template",
                remedy=f"write a number that divides {odd[0].out_features} and {narrow}",
            )
        state = State(tasks=tasks, others=self.others or (tasks[0] if len(tasks) == 1 else None))
        generator = torch_generator(run.rng)
        state.embeddings = nn.Parameter(torch.randn(len(tasks), self.embedding, generator=generator))
        shapes = {"down": (self.width, side), "up": (side, self.width)}
        state.templates = nn.ModuleDict({n: Template(self.embedding, self.rank, *shapes[n], generator) for n in SIDES})
        state.kernels = nn.ModuleDict()
        for i, site in enumerate(sites):
            width = self.width * site.out_features // narrow
            state.kernels[f"{i}"] = _kernels(site, width, side, self.width, generator)
        state.data["sites"] = {s.name: f"{i}" for i, s in enumerate(sites)}
        return state

    def attach(self, site: Site, state: State, rng: random.Random) -> PerTask | None:
        key = state.data["sites"].get(site.name)
        if key is None:
            return None
        tasks, kernels = state.data["tasks"], state.get_submodule(f"kernels.{key}")
        template = Bottleneck.rebuild({"width": kernels.get_parameter("down_bias").numel()}, site)

        def make(task: str) -> Mapping[str, Tensor]:
            e = state.get_parameter("embeddings")[tasks.index(task)]
            return written(e, state.get_submodule("templates"), kernels)

        return PerTask(template, tasks, make, state.data["others"])

    def end_task(self, adapted: Adapted, state: State) -> None:
        for name in {n for by_name in adapted.deltas().values() for n in by_name}:
            freeze(adapted, name)


def _kernels(site: Site, width: int, side: int, unit: int, generator: torch.Generator) -> nn.ParameterDict:
    d = site.out_features
    down = torch.randn(width // unit, d // side, generator=generator) / d**0.5
    up = torch.zeros(d // side, width // unit)
    parts = {"down": down, "up": up, "down_bias": torch.zeros(width), "up_bias": torch.zeros(d)}
    return nn.ParameterDict({n: nn.Parameter(t) for n, t in parts.items()})


def written(e: Tensor, templates: Any, kernels: Any) -> dict[str, Tensor]:
    """An adapter's tensors for a task's embedding e [k] at one layer: D [a, d], U [d, a], b [a], c [d]."""
    made = {n: torch.kron(kernels[n], templates[n](e)) for n in SIDES}
    return {**made, "down_bias": kernels["down_bias"], "up_bias": kernels["up_bias"]}
