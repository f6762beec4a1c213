"""Flexora: find the layers that low-rank tuning is worth in, by validation loss, and tune those alone (Wei et al. 2024,
arXiv:2408.10774; papers: flexora).

A first stage searches. Every block l of N has a gate g_l = N softmax(alpha)_l on its low-rank changes, alpha = 0 at
first, so that all gates are 1. In every step the pairs learn from the training rows with the gates held, and then alpha
takes a step of Adam on the validation loss with the pairs held (first order: nothing is differentiated through a step):

    dL/dg_l = sum over the block's layers of <dL/dB, B> / g_l;   dL/dalpha_j = g_j (dL/dg_j - mean_i g_i dL/dg_i)

When the stage ends, the blocks with alpha above 0 are left to later stages; in the next stage the same method is plain
LoRA on those blocks alone:

    stages:
      - {name: search, methods: [flexora], budget: {epochs: 1}}
      - {name: tune, start: base, methods: [flexora]}

Validation rows come from `data.validation`. Gates act through the changes' strength, so that what a search leaves folds
as it stands.

Defaults: Adam at 0.01 on alpha and 8 validation batches a step (the authors' code), rank 8, every linear layer of a
block (theirs: query and value).
Differs from the authors' code in: there the hook that holds the gate fires on dropout, A and B too, so that a change is
scaled by the cube of its gate; and the moments of the pairs are wiped in every step. The mean of alpha is taken off,
without which the rule "above 0" would hang on a drift that changes no gate. Where none is above 0, the largest stays.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Setup, State
from tunewright.models.adapted import Adapted
from tunewright.models.sites import Site, Structure
from tunewright.pieces.low_rank import LowRankMethod

NAME = "flexora"


def gates(alpha: Tensor) -> Tensor:
    """g [N]: N softmax(alpha), whose mean is 1."""
    return torch.softmax(alpha, 0) * alpha.numel()


def alpha_gradient(g: Tensor, by_gate: Tensor) -> Tensor:
    """dL/dalpha [N] from the gates g and dL/dg, both [N]."""
    return g * (by_gate - (g * by_gate).mean())


class Flexora(LowRankMethod):
    """LoRA in the blocks that a search on validation rows found worth it."""

    rank: PositiveInt = Field(8, description="rank r of the change", examples=[4])
    gate_rate: PositiveFloat = Field(0.01, description="learning rate of alpha", examples=[0.1])
    validation_batches: PositiveInt = Field(8, description="validation batches a step of alpha", examples=[1])

    category: ClassVar[str] = "reparameterised"
    leaves: ClassVar[tuple[str, ...]] = ("kept",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "validation_batches": 2}

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.latest(NAME)
        blocks = sorted({b for s in self.sites(run.structure) if (b := s.block) is not None})
        state.data["blocks"] = blocks
        state.data["kept"] = before.values["kept"] if before else []
        for name in ("alpha", "mean", "square"):
            state.set_buffer(name, torch.zeros(len(blocks)))
        state.data["steps"] = 0
        return state

    def attach(self, site: Site, needs: Any, state: State, rng: Any) -> Any:
        kept = state.data["kept"]
        if kept and site.block not in kept:
            return None
        return super().attach(site, needs, state, rng)

    def step(self, inner: Any, adapted: Adapted, validation: Any, state: State) -> None:
        if not state.data["kept"]:  # a stage after the search has nothing to search
            self._turn(adapted, validation, state)
        inner.gradients()

    def _turn(self, adapted: Adapted, validation: Any, state: State) -> None:
        """One step of alpha on validation rows, with the pairs held."""
        deltas = _by_block(adapted.structure, adapted, state.data["blocks"])
        alpha = state.get("alpha")
        assert alpha is not None
        g = gates(alpha)
        for block, of in enumerate(deltas):
            for _, delta in of:
                delta.strength = float(g[block])
        batches = [b for _ in range(self.validation_batches) for b in validation.next_batch()]
        found = validation.gradients(batches)
        by_gate = torch.stack(
            [
                sum((found[n] * d.lora_B.detach()).sum() for n, d in of if n in found) / g[block]
                for block, of in enumerate(deltas)
            ]
        )
        self._adam(alpha, alpha_gradient(g, by_gate), state)
        g = gates(alpha)
        for block, of in enumerate(deltas):
            for _, delta in of:
                delta.strength = float(g[block])

    def _adam(self, alpha: Tensor, gradient: Tensor, state: State) -> None:
        mean, square = state.get("mean"), state.get("square")
        assert mean is not None and square is not None
        state.data["steps"] += 1
        t = state.data["steps"]
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        alpha.sub_(self.gate_rate * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8))
        alpha.sub_(alpha.mean())

    def end_task(self, state: State) -> None:
        alpha = state.get("alpha")
        if state.data["kept"] or alpha is None or not state.data["steps"]:
            return
        above = [b for b, a in zip(state.data["blocks"], alpha.tolist(), strict=True) if a > 0]
        state.data["kept"] = above or [state.data["blocks"][int(alpha.argmax())]]

    def found(self, state: State) -> Found | None:
        alpha = state.get("alpha")
        if alpha is None or not state.data["steps"]:  # a stage after the search, or none of its steps yet
            return None
        kept = state.data["kept"]
        told = zip(state.data["blocks"], alpha.tolist(), gates(alpha).tolist(), strict=True)
        return Found(
            title="Blocks that are kept",
            description="This stage searched; a later one with `start: base` tunes the blocks that are kept, alone. "
            "alpha is above 0 where more of the changes lowers the validation loss more than in other blocks, and the "
            "gate is what the changes were multiplied by at the end.",
            values={"kept": len(kept), "blocks": len(state.data["blocks"])},
            columns=["block", "alpha", "gate", "kept"],
            rows=[[b, round(a, 4), round(g, 4), b in kept] for b, a, g in told],
        )


def _by_block(structure: Structure, adapted: Adapted, blocks: list[int]) -> list[list[tuple[str, Any]]]:
    """For each block the (name of B, change) of this method's pairs in it."""
    found: list[list[tuple[str, Any]]] = [[] for _ in blocks]
    places = {b: i for i, b in enumerate(blocks)}
    for site in structure.sites:
        for name, delta in adapted.deltas().get(site.name, {}).items():
            if name == NAME and site.block in places:
                found[places[site.block]].append((f"{site.name}.delta.{name}.lora_B", delta))
    return found
