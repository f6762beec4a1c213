"""SPDF: pre-train with most weights held at zero at random places, then train all of them (Thangarasa et al. 2023,
arXiv:2303.10464; papers: spdf).

    stage 1 (spdf)    W <- m * W before the first step;  m [out, in] of zeros and ones, drawn once; W trains where m = 1
    stage 2 (full)    W trains whole; what was held begins at exactly 0, with an optimizer of its own

m has round(s x size) zeros in every targeted layer, drawn by the method's generator. What is held is no part of what
trains: gradient and optimizer state are those of the other entries, and zeros stay zeros to the bit. Whatever stands
beside the targeted layers (embeddings, norms, biases, head) trains whole. The dense stage is any method on the model's
own weights; a later stage of this method goes on with the places of the one before it, so that a task can be learnt
sparse, to compare with.

    model: {config: {...}, tokenizer: train}
    stages: [{name: pretraining, methods: [spdf]}, {name: tuning, start: stages.pretraining, methods: [full]}]

The share s of the targeted layers' operations could be left out by hardware that skips zeros; none are left out here,
and counted operations are those that were done. On a pre-trained base it throws the held weights away.

Defaults: s 0.75 (the paper's sparsest; it also tries 0.5), every linear layer inside the blocks, in each the same share
(ours).
Raises MethodError for `target_modules` that name no layer.
Differs from the paper in: nothing that its abstract says; neither its text nor its authors' code was seen.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Candidates, Choice, Method, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.pieces.target_modules import TARGET_MODULES

MASK = "mask."


def drawn(size: int, sparsity: float, generator: torch.Generator) -> Tensor:
    """[size] bool: False at round(s size) places."""
    kept = torch.ones(size, dtype=torch.bool)
    kept[torch.randperm(size, generator=generator)[: round(sparsity * size)]] = False
    return kept


def masks(state: State) -> dict[str, Tensor]:
    """What trains of each held weight, by parameter name: bool, of its stored shape."""
    held = {n.replace("/", "."): t for n, t in state.named_buffers()}
    return {n.removeprefix(MASK): t for n, t in held.items() if n.startswith(MASK)}


class SPDF(Method):
    """Train with random places of the weights held at zero."""

    sparsity: float = Field(
        0.75, ge=0, lt=1, description="s, share of each targeted layer's weights that is held at zero", examples=[0.5]
    )
    target_modules: str | tuple[str, ...] = Field("all-linear", description=TARGET_MODULES, examples=[["q_proj"]])

    category: ClassVar[str] = "whole"
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = (MASK.rstrip("."),)
    papers: ClassVar[tuple[str, ...]] = ("spdf",)

    def setup(self, run: Setup) -> State:
        sites = run.structure.match(self.target_modules)
        if not sites:
            raise MethodError(
                "the model's blocks have no linear layer", where="spdf", remedy="use it on a model of linear layers"
            )
        left = run.earlier.inherited("spdf")
        before = left.values["mask"] if left is not None else {}
        generator, state = torch_generator(run.rng), State()
        for site in sites:
            shape = site.weight.shape
            if site.weight_name in before and before[site.weight_name].shape == shape:
                mask = before[site.weight_name]
            else:
                mask = drawn(shape.numel(), self.sparsity, generator).view(shape)
            state.set_buffer(MASK + site.weight_name, mask)
        return state

    def choose(self, candidates: Candidates, state: State) -> Choice:
        held = {n: m.flatten().nonzero()[:, 0] for n, m in masks(state).items()}
        return Choice((*(n for n in candidates.base if n not in held), *candidates.deltas), held)

    def begin_task(self, adapted: Adapted, state: State) -> None:
        parameters = adapted.base_parameters()
        for name, mask in masks(state).items():
            adapted.remember(name)
            parameters[name].data.masked_fill_(~mask.to(parameters[name].device), 0.0)

    def found(self, state: State) -> Found | None:
        held = masks(state).values()
        zeros, size = sum(int((~m).sum()) for m in held), sum(m.numel() for m in held)
        return Found(
            "Held weights",
            "weights at zero; weights of the targeted layers",
            {"zeros": zeros, "weights": size, "share": round(zeros / size, 6)},
        )
