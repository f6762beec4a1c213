"""PVP: modules that were trained upstream are where few-shot tuning starts (Song et al. 2023; papers: pvp).

The model stays frozen throughout. Upstream, modules m and a head train on plentiful data of other classes; a new task
starts from these modules and a head of its own,

    m* , h_up = argmin L_up(base, m, h);        m <- m*,  h new;        m and h train on the task

Here m is a low-rank change of each layer, W + B A, of which A and B both start where upstream left them (B at the
scale that the change had). Upstream is a run, a finished stage or a LoRA adapter of the same base: the plain recipe
is a stage that trains lora on the upstream rows and another, from the base, with this method. Of several upstream
tasks the mean change is taken, [A_1; A_2; ..] and [B_1, B_2, ..] / count, at the sum of their ranks.

The base is still the base that a change is measured from: what was learnt upstream counts as drift. Parameters and what
folds are LoRA's. The rate is lora's, there being no better one known.
Raises MethodError for upstream changes of another base, of other layers, or that are not low-rank.

Differs from the paper in: what is known of it is its abstract; prompts (VPT), its other modules, are not carried on
this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.change import Change
from tunewright.contract.method import Method, Need, Needs
from tunewright.methods.needs.upstream_modules import UpstreamModules
from tunewright.models.deltas import LowRank
from tunewright.models.sites import Site


def mean_of(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(A, B) of the mean of changes B_i A_i; zeros of these shapes where upstream has yet to train."""
    A, B = torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1) / len(pairs)
    both = [torch.zeros(t.shape) if t.is_meta else t.detach().float().clone() for t in (A, B)]
    return both[0], both[1]


class PVP(Method):
    """A low-rank change that starts where other tasks' training left it."""

    upstream: tuple[str, ...] = Field(
        min_length=1,
        description="what the modules were trained by: stages (every earlier one), stages.NAME, or folders "
        "of runs, finished stages or adapters",
        examples=[["./others"]],
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the input's entries set to zero while training", examples=[0.3]
    )

    category: ClassVar[str] = "reparameterised"
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    papers: ClassVar[tuple[str, ...]] = ("pvp",)
    conformance: ClassVar[dict[str, object]] = {"upstream": ["./tasks"]}

    def needs(self) -> Sequence[Need]:
        return (UpstreamModules(names=self.upstream),)

    def attach(self, site: Site, needs: Needs) -> LowRank | None:
        changes: list[Change] = needs.upstream_modules
        pairs = [c.pairs[site.name] for c in changes if site.name in c.pairs]
        return LowRank(*mean_of(pairs), 1.0, dropout=self.dropout) if pairs else None
