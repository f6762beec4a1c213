"""LT-SFT: train everything, keep the places that moved most, begin again and train those alone (Ansell et al. 2021,
arXiv:2110.07560).

    stage 1 (search)    theta_1 = theta_0 trained whole; mask = the K largest |theta_1 - theta_0| of all tensors
    stage 2 (sparse)    theta_2 = theta_0 trained at the mask's places alone

Named in two stages that begin alike (`start`): the second begins where the first began, its new head included, with an
optimizer and a schedule of its own. A stage searches unless the stage of this method before it did; so a third stage
searches again, for the next task. K = keep x all maskable entries: those of every tensor of the base but norms; exactly
K, ties by torch's topk. A new head trains whole in both and is not counted. The weights that a stage ends with decide
the mask, the best ones where they are kept.

`l1` adds l1 / N x sum |theta - theta_0| to the loss, N maskable entries, once an optimizer step (by its gradient).
Decoupled weight decay does not reach places that do not train.

Sparse changes are added: a change of the task, trained on top of a language's, is the tuned model minus the
language's; `task-arithmetic` with weights [1, 1, -1] over (other language, task, its language) gives base + other
language + task. `recipes/lt-sft.yaml` shows it.

Defaults: keep 0.08 (14.2 of mBERT's 178 million, the authors' scripts), l1 0 (their tasks; their languages have 0.1).
Differs from the paper in: a stage a phase, so that each has its budget; K as a share; one iteration. The search holds
a copy of the start.
Source: cambridgeltl/composable-sft, src/sft/lt_sft.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted


def most_changed(changes: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Sorted flat places of the `count` largest |change| over all tensors together, by name; none: left out."""
    sizes = {n: c.numel() for n, c in changes.items()}
    best = torch.cat([c.detach().float().abs().flatten() for c in changes.values()]).topk(count).indices.sort().values
    found, at = {}, 0
    for name, size in sizes.items():
        mine = best[(best >= at) & (best < at + size)] - at
        if len(mine):
            found[name] = mine
        at += size
    return found


def maskable(candidates: Candidates) -> dict[str, Tensor]:
    """Every base tensor but norms and new heads."""
    sites = candidates.structure.sites
    norms = {n for s in sites if s.kind == "norm" for n in candidates.base if n.rpartition(".")[0] == s.name}
    return {n: p for n, p in candidates.base.items() if n not in norms and n not in candidates.adapted.new}


class LTSFT(Method):
    """Search the places that move most, then train them alone from the same start."""

    keep: float = Field(
        0.08, gt=0, le=1, description="share of all entries that the sparse stage trains", examples=[0.3]
    )
    l1: NonNegativeFloat = Field(0.0, description="weight of the mean distance from the start", examples=[50.0])

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    leaves: ClassVar[tuple[str, ...]] = ("mask", "phase")
    papers: ClassVar[tuple[str, ...]] = ("lt-sft",)
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        left = run.earlier.latest("lt-sft")
        sparse = left is not None and left.values["phase"] == "search"
        state = State(phase="sparse" if sparse else "search", entries=0)
        for name, places in (left.values["mask"] if left is not None and sparse else {}).items():
            state.set_buffer(f"mask.{name}", places)
        return state

    def choose(self, candidates: Candidates, state: State) -> Choice:
        found = maskable(candidates)
        if not found:
            raise MethodError("no tensor can be masked here", where="lt-sft", remedy="use it on a plain model")
        state.data["entries"] = sum(p.numel() for p in found.values())
        new = tuple(n for n in candidates.adapted.new if n in candidates.base)
        if state.data["phase"] == "search":
            for name, p in found.items():
                state.set_buffer(f"start.{name}", p.detach().clone())
            return Choice((*found, *new))
        return Choice(new, _parts(state, "mask."))

    def gradient(
        self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor], state: State
    ) -> dict[str, Tensor] | None:
        if not self.l1:
            return None
        changed = dict(gradients)
        masked = {*_parts(state, "mask."), *_parts(state, "start.")}
        for name in sorted(masked & gradients.keys()):
            start = state.get(f"from.{name}")
            if start is None:
                state.set_buffer(f"from.{name}", start := parameters[name].detach().clone())
            pull = (parameters[name].detach() - start).sign() * (self.l1 / state.data["entries"])
            changed[name] = gradients[name] + pull.to(gradients[name].dtype)
        return changed

    def end_task(self, adapted: Adapted, state: State) -> None:
        if state.data["phase"] != "search":
            return
        starts, now = _parts(state, "start."), adapted.base_parameters()
        count = max(1, round(self.keep * state.data["entries"]))
        places = most_changed({n: now[n].detach() - starts[n].to(now[n]) for n in sorted(starts)}, count)
        for name, found in places.items():
            state.set_buffer(f"mask.{name}", found)


def _parts(state: State, prefix: str) -> dict[str, Tensor]:
    held = {n.replace("/", "."): t for n, t in state.named_buffers()}
    return {n.removeprefix(prefix): t for n, t in held.items() if n.startswith(prefix)}
