"""PEGO: a group of low-rank changes, held away from the weight and from one another (Hu et al. 2024, arXiv:2407.15085;
papers: pego).

Each targeted layer has N low-rank changes side by side, all added to its frozen weight W [out, in]:

    y = x (W + s sum_i B_i A_i)^T      A_i [r, in], B_i [out, r], i = 1..N, s = alpha / r

and beside the loss their overlap with W ("preserve") and with each other ("diversify") is held down:

    penalty = sum over layers of  preserve  sum_i     sum |W D_i^T|      D_i = s B_i A_i
                                + diversify sum_{i<j} sum |D_i D_j^T|

sums of absolute entries of [out, out] matrices, not squares and not means. A term is 0 exactly where the rows of its
two matrices are orthogonal: what is learnt reads directions of the input that W does not, and each member of the group
others than the rest. The penalty and its gradient are 0 while all B are 0. Where W reads every direction (its rank is
`in`, as of a square matrix) only D = 0 is orthogonal to it, and the first term is a pull to 0 along W.

A_i starts uniform in +-1/sqrt(in) and B_i at zero, so that the model starts as the base. The group is one low-rank
change of rank N r to whatever reads it: it folds, and is saved as PEFT's LoRA of that rank.

Defaults: r 4, N 4, one lambda of 1e-3 for both terms, and no scale (s = 1), as the paper's on CLIP ViT-B/16, where the
layers are attention's query and value; these are found by the names that such layers have. Where queries, keys and
values are one layer, that whole layer is changed. lambda counts with out^2, layers and N^2: it has to be chosen anew on
a model of another width or for other targets. The learning rate is LoRA's (the authors': 5e-4 with Adam).

The sums are formed in float32 one matrix at a time, as (W A_i^T) B_i^T, so that a layer costs out^2 numbers for the
moment and keeps none of them for the backward pass.

Raises MethodError where no layer has a query's or value's name, for `target_modules` that name none, and for a layer
that takes no low-rank change.
Differs from the paper in: a weight for each of the two terms; of a fused layer keys are changed too, and products
between queries and values count; a head that is drawn anew trains as it does for every method here (there: a linear
classifier); other models than vision transformers.
Source: JudgingH/PEGO, domainbed/algorithms/algorithms.py and domainbed/networks/lora.py (read, not run; its penalty as
written there is the oracle of the tests).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.models.sites import Site, Structure
from tunewright.pieces.low_rank import LowRankMethod

NAME = "pego"
QUERIES_AND_VALUES = frozenset(
    "q_proj v_proj query value query_proj value_proj q_lin v_lin q v c_attn query_key_value qkv_proj Wqkv qkv".split()
)
"""Endings of the names of layers that make an attention's queries or values, alone or together with its keys."""


class _AbsoluteSum(torch.autograd.Function):
    """sum |L R^T| whose backward makes the product anew: only L and R wait for it."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return (left @ right.t()).abs_().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        sign = (left @ right.t()).sign_()
        return gradient * (sign @ right), gradient * (sign.t() @ left)


def absolute_sum(left: Tensor, right: Tensor) -> Tensor:
    """sum |L R^T|, a scalar: L [m, r], R [n, r]. Differentiable once."""
    total: Tensor = _AbsoluteSum.apply(left, right)
    return total


def overlap(weight: Tensor, A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(with W, among one another): sum_i sum |W D_i^T| and sum_{i<j} sum |D_i D_j^T| of D_i = B_i A_i.

    W [out, in], A [N r, in], B [out, N r]: members of rank r one after the other.
    """
    members = list(zip(A.split(rank), B.split(rank, dim=1), strict=True))
    zero = A.new_zeros(())
    own = sum((absolute_sum(weight @ a.t(), b) for a, b in members), zero)
    pairs = itertools.combinations(members, 2)
    return own, sum((absolute_sum(b @ (a @ other.t()), c) for (a, b), (other, c) in pairs), zero)


class PEGO(LowRankMethod):
    """Several low-rank changes a layer, with a penalty on their overlap with the weight and each other."""

    rank: PositiveInt = Field(4, description="rank r of each member of the group", examples=[2])
    members: PositiveInt = Field(4, description="N, how many low-rank changes a layer has", examples=[2, 1])
    preserve: NonNegativeFloat = Field(
        1e-3, description="weight of the overlap of each member with the frozen weight", examples=[1.0, 0.0]
    )
    diversify: NonNegativeFloat = Field(
        1e-3, description="weight of the overlap of each two members of a layer", examples=[1.0, 0.0]
    )
    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: r, so that s = 1", examples=[8]
    )
    target_modules: str | tuple[str, ...] | None = Field(  # type: ignore[assignment]
        None,
        description="which linear layers: all-linear, or module names or endings of them; none: attention's queries "
        "and values",
        examples=[["q_proj", "v_proj"], ["q_proj"]],
    )

    category: ClassVar[str] = "reparameterised"
    default_scale: ClassVar[float] = 1.0
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "members": 3}

    def sites(self, structure: Structure) -> list[Site]:
        """Attention's queries and values, or what is named."""
        if self.target_modules is not None:
            return super().sites(structure)
        named = [s.name for s in structure.linear_sites() if s.role == "attention" and _query_or_value(s)]
        if not named:
            raise MethodError(
                "no layer of an attention is named as queries or values are",
                where="target_modules",
                remedy="name the layers: target_modules: all-linear, or names or endings of names",
            )
        return self.model_copy(update={"target_modules": tuple(named)}).sites(structure)

    def rank_at(self, site: Site) -> int:
        return self.rank * self.members

    def scale_at(self, site: Site, rank: int) -> float:
        return self.alpha_at(site) / self.rank

    def penalty(self, weights: Mapping[str, Any]) -> Tensor:
        total = torch.zeros(())
        for trained in (t for t in weights.values() if NAME in t.deltas):
            change = trained.deltas[NAME]
            A, B = change.lora_A.float(), change.lora_B.float() * change.scale
            own, among = overlap(trained.site.matrix().detach().float(), A, B, self.rank)
            total = total + self.preserve * own + self.diversify * among
        return total


def _query_or_value(site: Site) -> bool:
    return site.name.rsplit(".", 1)[-1] in QUERIES_AND_VALUES
