"""Hypter: a network that writes each task's adapters from its description (Ye & Ren 2021, arXiv:2101.00420; papers:
hypter).

The model stays frozen. For each attention a small network of its own reads the description of a task and gives a
bottleneck adapter on the attention's output h in R^d, before the residual is added:

    p = W2 gelu(W1 e),   e in R^D the description's vector, W1 [m, D], W2 [2 d a + a + d, m]
    p = down D [a, d], up U [d, a], biases b [a], c [d];        h <- h + U gelu(D h + b) + c

The networks alone train, end to end; a task's tensors are made once a forward for all its rows. When the stage ends,
what they make for every described task is kept as plain adapters (`models/generated.py`): also for tasks without a
single row to train on, whose description alone was given. Tasks are sources of the data (name those that are evaluated
as those that are trained on); a row of another source gets the adapter of the task `others`, by default of the only
task, or is left as the base. `form: low-rank` makes U D in the place of the adapter, on the layer's input: then one
task's change (`export --task`) folds.

e is the mean of the frozen model's last hidden states over the description's tokens, at a root mean square of 1. A
source without a description is described by its name. Start: biases of the last layer such that D is an adapter's usual
start (uniform in +-1/sqrt(d)) and everything else 0, so that the model starts as the base, and each W has a gradient
from the second step at the latest.

Defaults: a 8 (the authors' SQuAD set-up; ZEST 32), m = d / 4 at least 8. Does not fold.
Raises MethodError for a model whose attention is not found, and for descriptions of no source.

Differs from the paper in: descriptions are read by the model itself (there: RoBERTa-base's first token); W1 starts as
torch's linear layers do and W2 small (there both near 1e-7, a saddle in which only c moves at first); rows of several
tasks share a batch (there: one task a batch); fine-tuning the main model with descriptions first is a stage of the
recipe's own.
Source: INK-USC/hypter, growing_bart.py, bart_with_adapter.py, run_grouped.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Bottleneck, Delta, LowRank
from tunewright.models.generated import freeze
from tunewright.models.per_task import PerTask
from tunewright.models.sites import Site

SMALL = 1e-2
"""Times torch's usual bound: where W2 starts, so that descriptions tell at once and the start is near the base's."""


class Writer(nn.Module):
    """e [D] -> a delta's tensors: W2 gelu(W1 e) + start, cut into `shapes`."""

    def __init__(self, width: int, hidden: int, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.shapes = dict(shapes)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, sum(torch.Size(s).numel() for s in shapes.values()))

    def forward(self, e: Tensor) -> dict[str, Tensor]:
        out = self.second(nn.functional.gelu(self.first(e)))
        parts = out.split([torch.Size(s).numel() for s in self.shapes.values()])
        return {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}


def description_vector(adapted: Adapted, text: str) -> Tensor:
    """[D] fp32: the mean of the frozen base's last hidden states over the text's tokens, at a root mean square of 1.

    Without a tokenizer (tests) the text's bytes are ids.
    """
    model: Any = adapted.model
    size = int(model.get_input_embeddings().weight.shape[0])
    tokenizer = adapted.tokenizer
    ids = list(tokenizer(text)["input_ids"]) if tokenizer is not None else [b % size for b in text.encode()]
    with adapted.evaluating(), adapted.base(), torch.no_grad():
        tokens = torch.tensor([ids], device=adapted.device)
        with context.reading(context.whole(tokens, context.rows_of_prompts([len(ids)]))):
            hidden = model.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
    mean = hidden.float().mean(0)
    return mean / mean.pow(2).mean().sqrt().clamp_min(1e-12)  # type: ignore[no-any-return]


class Hypter(Method):
    """A small network for each attention that writes a task's adapter from the task's description."""

    descriptions: dict[str, str] = Field(
        {},
        description="source of the data -> what its task is, in words; also of tasks without rows. None: their names",
        examples=[{"small": "answer in one word", "large": "go on with the list"}],
    )
    width: PositiveInt = Field(8, description="width a of an adapter, or rank of a low-rank change", examples=[3])
    hidden: PositiveInt | None = Field(
        None,
        description="hidden width m of a writing network; none: a quarter of the model's, 8 at least",
        examples=[5],
    )
    others: str | None = Field(
        None, description="task of rows of other sources; none: the only task, or no change", examples=["large"]
    )
    form: Literal["adapter", "low-rank"] = Field(
        "adapter", description="what is written: the paper's adapter on the output, or a change of the layer's weight"
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation", "text-classification", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("hypter",)
    conformance: ClassVar[dict[str, object]] = {"width": 2, "hidden": 4}

    def setup(self, run: Setup) -> State:
        sites = run.structure.head_outputs()
        if not sites:
            raise MethodError(
                "no layer that reads the outputs of attention heads is found in this model",
                where="model",
                remedy="use a model whose attention ends in one linear layer",
            )
        sources = [s for s in run.plan.sources if s not in run.plan.replay]
        described = {**{s: s for s in sources}, **self.descriptions}
        if self.descriptions and sources and not set(sources) & set(self.descriptions):
            raise MethodError(
                f"no source of this stage is described: it reads {', '.join(sources)}",
                where="descriptions",
                remedy=f"write descriptions: {{{sources[0]}: '...'}}",
            )
        if not described:
            raise MethodError("there is no task", where="descriptions", remedy="name sources of the data")
        if self.others is not None and self.others not in described:
            raise MethodError(
                f"rows of other sources would get the adapter of '{self.others}', which is no task",
                where="others",
                remedy=did_you_mean(self.others, described),
            )
        only = next(iter(described)) if len(described) == 1 else None
        state = State(tasks=list(described), others=self.others or only)
        vectors = torch.stack([description_vector(run.adapted, text) for text in described.values()])
        state.set_buffer("vectors", vectors)
        state.writers = nn.ModuleDict()
        generator = torch_generator(run.rng)
        for i, site in enumerate(sites):
            state.writers[f"{i}"] = self._writer(site, vectors.shape[1], generator)
        state.data["sites"] = {s.name: f"{i}" for i, s in enumerate(sites)}
        return state

    def _template(self, site: Site) -> Delta:
        if self.form == "adapter":
            return Bottleneck.rebuild({"width": self.width}, site)
        A, B = torch.zeros(self.width, site.in_features), torch.zeros(site.out_features, self.width)
        return LowRank(A, B, 1.0)

    def _writer(self, site: Site, width: int, generator: torch.Generator) -> Writer:
        shapes = {n: tuple(p.shape) for n, p in self._template(site).named_parameters()}
        entry = next(iter(shapes))  # D, or A: the factor that does not start at zero
        start = {n: torch.zeros(s).flatten() for n, s in shapes.items()}
        bound = shapes[entry][1] ** -0.5
        start[entry] = torch.empty(start[entry].shape).uniform_(-bound, bound, generator=generator)
        live = torch.cat([torch.full_like(v, float(n == entry)) for n, v in start.items()])
        with torch.device("meta"):  # its own start would draw from torch's generator
            hidden = self.hidden or max(8, site.out_features // 4)
            writer = Writer(width, hidden, shapes)
        writer.to_empty(device="cpu")
        with torch.no_grad():
            for layer, scale in ((writer.first, 1.0), (writer.second, SMALL)):
                near = scale * layer.in_features**-0.5
                layer.weight.uniform_(-near, near, generator=generator)
                layer.bias.zero_()
            writer.second.weight.mul_(live[:, None])
            writer.second.bias.copy_(torch.cat(list(start.values())))
        return writer

    def attach(self, site: Site, state: State, rng: random.Random) -> PerTask | None:
        key = state.data["sites"].get(site.name)
        if key is None:
            return None
        tasks = state.data["tasks"]

        def make(task: str) -> Mapping[str, Tensor]:
            writer: Any = state.get_submodule(f"writers.{key}")
            made: Mapping[str, Tensor] = writer(state.get_buffer("vectors")[tasks.index(task)])
            return made

        return PerTask(self._template(site), tasks, make, state.data["others"])

    def end_task(self, adapted: Adapted, state: State) -> None:
        for name in {n for by_name in adapted.deltas().values() for n in by_name}:
            freeze(adapted, name)
