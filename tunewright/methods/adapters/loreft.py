"""LoReFT: low-rank linear subspace representation fine-tuning (Wu et al. 2024, arXiv:2404.03592; papers: loreft).

No weight changes: at the first f and the last l tokens of each prompt, the output h in R^D of a block is edited in a
subspace of r directions,

    h <- h + R^T (W h + b - R h),   R [r, D] with orthonormal rows, W [r, D], b [r]

so that its r coordinates R h become what W h + b says, and everything orthogonal to R stays. Nothing runs while the
answer is written: its tokens are not edited, and read the edited prompt through keys and values. A prompt shorter than
f + l gives each end at most half of it. Rows that are read to be judged whole (a text to classify, a picture) are all
prompt; rows of plain text have none, and training on nothing else is refused.

Start: R from the QR of a normal draw; W and b uniform in +-1/sqrt(D), as the authors' linear layer starts, so the model
does not start as the base; `start: identity` is their variant W = R, b = 0, which does. R stays orthonormal since it is
the Q of a free matrix's QR. Parameters: 2 r D + r per block, twice that where the ends do not share them (`shared`).

Defaults: rank 8, 7 + 7 tokens, every block, shared ends: the authors' commonsense set-up (learning rate 9e-4).
Differs from the paper in: R is made by QR (there: torch's Householder products); the last l tokens end with the
prompt's last one; dropout is off (there 0 to 0.05), and as there it acts on the whole edited state.
Source: stanfordnlp/pyreft, pyreft/interventions.py and dataset.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.prompted import Prompted
from tunewright.models.context import check_one_text
from tunewright.models.deltas import PositionEdit
from tunewright.models.sites import Site
from tunewright.tasks._parts import PLAYING, TO_IMAGE, UNCONDITIONAL

UNPROMPTED = (PLAYING, TO_IMAGE, UNCONDITIONAL)
"""Tasks whose models read no tokens of a row."""


def orthonormal(groups: int, rank: int, width: int, generator: torch.Generator) -> Tensor:
    """[groups, rank, width] fp32 with orthonormal rows, evenly drawn."""
    q, triangle = torch.linalg.qr(torch.randn(groups, width, rank, generator=generator))
    return (q * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]).transpose(1, 2).contiguous()


class LoReFT(Method):
    """An edit of a few directions of blocks' outputs, at the first and last tokens of each prompt."""

    rank: PositiveInt = Field(8, description="directions that are edited, r", examples=[3])
    first: NonNegativeInt = Field(7, description="tokens at a prompt's start that are edited", examples=[2])
    last: NonNegativeInt = Field(7, description="tokens at a prompt's end that are edited", examples=[0])
    blocks: tuple[NonNegativeInt, ...] | Literal["all"] = Field(
        "all", description="blocks whose outputs are edited, from 0, or all", examples=[[0]]
    )
    shared: bool = Field(True, description="the first and the last tokens share R, W and b")
    start: Literal["random", "identity"] = Field("random", description="W and b random, or W = R and b = 0")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the edited states' entries set to zero while training", examples=[0.3]
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("loreft",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "first": 1, "last": 2}

    def needs(self) -> Sequence[Need]:
        return (Prompted(),)

    def setup(self, run: Setup) -> State:
        check_one_text(run.adapted.model, "loreft")
        if run.task in UNPROMPTED:
            raise MethodError(
                f"loreft edits tokens at the ends of prompts, and rows of {run.task} have none",
                where="methods",
                remedy="take lora here, or another method that adds to the model's layers",
            )
        whole, count = run.structure.whole, len(run.structure.blocks)
        if not whole:
            raise MethodError(
                "loreft edits states of tokens, and this model's blocks are convolutions",
                where="methods",
                remedy="use a method that trains weights, or a transformer",
            )
        if not self.first + self.last:
            raise MethodError("loreft edits no token", where="first, last", remedy="write last: 1 or more")
        if self.blocks != "all" and (odd := [b for b in self.blocks if b >= count]):
            raise MethodError(
                f"there is no block {odd[0]}: the model has {count}",
                where="blocks",
                remedy=f"write numbers from 0 to {count - 1}",
            )
        if narrow := [s for s in whole if s.size < self.rank]:
            raise MethodError(
                f"loreft's rank {self.rank} exceeds the width {narrow[0].size} of '{narrow[0].name}'",
                where="rank",
                remedy=f"write rank: {narrow[0].size} or less",
            )
        return State()

    def attach(self, site: Site, rng: random.Random) -> PositionEdit | None:
        if site.kind != "block" or (self.blocks != "all" and site.block not in self.blocks):
            return None
        groups, generator = 1 if self.shared else 2, torch_generator(rng)
        R = orthonormal(groups, self.rank, site.size, generator)
        if self.start == "identity":
            W, b = R.clone(), torch.zeros(groups, self.rank)
        else:
            bound = site.size**-0.5
            W = torch.empty_like(R).uniform_(-bound, bound, generator=generator)
            b = torch.empty(groups, self.rank).uniform_(-bound, bound, generator=generator)
        return PositionEdit(R, W, b, first=self.first, last=self.last, dropout=self.dropout)
