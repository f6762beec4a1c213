"""LiNeS: layer-increasing network scaling (Wang et al. 2024, arXiv:2410.17146; papers: lines).

Scale a fine-tuned or merged change with depth: little in shallow blocks, which hold what is general, fully in deep
ones. With the change tau of a tensor in block l of L: theta = theta0 + (alpha + beta l / (L - 1)) tau. Tensors outside
blocks (embeddings, final norm, head) get alpha. One model: beta = 1 - alpha, so the last block moves in full.
alpha = 1, beta = 0 gives the tuned model back, bit for bit. A merge of T models: alpha: merge is ||sum_t tau_t||_1 /
||tau||_1 / T, beta is tuned. No data, no state, one pass (two for alpha: merge).

Blocks are found by structure, not by a text in a tensor's name; an encoder and a decoder are two depths; a model of
one block has depth 0. Differs from the paper in: nothing; its notebook's alpha is 0.1.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from tunewright.errors import MethodError
from tunewright.weights.operator import Edit


def factor_at(depth: float | None, alpha: float, beta: float) -> float:
    """alpha + beta depth; `depth` runs from 0 (first block) to 1 (last), None outside blocks, which get alpha."""
    return alpha if depth is None else alpha + beta * depth


def fitted_alpha(plain: float, merged: float, count: int) -> float:
    """The paper's alpha for a merge of T models: (||sum of their changes||_1 / ||merged change||_1) / T.

    `plain`, `merged`: these norms over all tensors. A plain sum gives 1 / T, and so does a merge that changes nothing.
    """
    return (plain / merged if merged else 1.0) / count


class LiNeS(Edit):
    """Scale the change by depth."""

    alpha: NonNegativeFloat | Literal["merge"] = Field(
        0.1,
        description=(
            "factor of the first block's change, and of what belongs to no block; merge: the paper's for a "
            "merge (tunewright merge --then)"
        ),
        examples=[0.3],
    )
    beta: float | None = Field(
        None, description="how much the factor rises from the first block to the last; none: 1 - alpha", examples=[0.5]
    )

    papers: ClassVar[tuple[str, ...]] = ("lines",)

    def edit(self, change: Tensor, depth: float | None) -> Tensor:
        if self.alpha == "merge":
            raise MethodError(
                "alpha: merge is for an edit of a merge",
                where="lines.alpha",
                remedy="write a number, or tunewright merge ... --then",
            )
        beta = 1 - self.alpha if self.beta is None else self.beta
        factor = factor_at(depth, self.alpha, beta)
        return change if factor == 1 else change * factor

    @property
    def fits_merge(self) -> bool:
        return self.alpha == "merge"

    def fitted(self, plain: float, merged: float, count: int) -> LiNeS:
        """With the merge's alpha, from ||sum of changes||_1, ||merged change||_1 and the number of models."""
        return self.model_copy(update={"alpha": fitted_alpha(plain, merged, count)})
