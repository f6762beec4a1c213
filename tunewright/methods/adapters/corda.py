"""CorDA: context-oriented decomposition adaptation (Yang et al. 2024, arXiv:2406.05223; papers: corda).

LoRA that starts from the part of each weight that matters most to the inputs of a few samples (`preview`: learn the new
task faster), or least (`keep`: leave alone what the samples, say of general knowledge, depend on). With C [in, in] the
mean over samples of X^T X, damped as below, and W C = U S V^T [out, in]:

    B = U_r (S_r / s)^1/2 [out, r]     A = (S_r / s)^1/2 V_r^T C^-1 [r, in]     s = alpha / r

for the first r components (preview) or the last r (keep). What trains is A and B; W - s B0 A0 stays frozen, written as
the offset of the delta, so that the base itself is never edited. Damping: C + delta mean(diag C) I, delta = 0.01,
doubled until ||C C^-1 - I||_F < 0.05.

Raises MethodError when the rank exceeds a layer's width, when a layer saw no input, or when no damping helps.
Differs from the paper in: C is the plain X^T X without padding (the authors divide each input by its signed maximum);
the bias of a layer stays frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.methods.needs.input_covariance import InputCovariance
from tunewright.pieces.low_rank import LowRankMethod, Start

TOLERANCE = 0.05


def damped(C: Tensor, delta: float = 0.01, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """(C + d mean(diag C) I, its inverse) [in, in] with the first d of delta, 2 delta, 4 delta ... that inverts
    well.
    """
    mean, eye = C.diagonal().mean(), torch.eye(len(C), dtype=C.dtype, device=C.device)
    for _ in range(40):
        raised = C + delta * mean * eye
        inverse, info = torch.linalg.inv_ex(raised)
        if not info.any() and float(torch.linalg.norm(raised @ inverse - eye)) < tolerance:
            return raised, inverse
        delta *= 2
    raise MethodError(
        "the input covariance of a layer cannot be inverted",
        remedy="calibrate on more samples, or leave the layer out of target_modules",
    )


def decompose(
    W: Tensor, C: Tensor, C_inverse: Tensor, rank: int, scale: float, mode: Literal["preview", "keep"]
) -> tuple[Tensor, Tensor]:
    """(A [r, in], B [out, r]) with scale B A = the first (preview) or last (keep) r components of W C, times C^-1."""
    U, S, Vt = torch.linalg.svd(W @ C, full_matrices=False)
    part = slice(0, rank) if mode == "preview" else slice(len(S) - rank, len(S))
    root = (S[part] / scale).sqrt()
    return root[:, None] * Vt[part] @ C_inverse, U[:, part] * root


class CorDA(LowRankMethod):
    """LoRA initialised from each weight's components under the inputs of chosen samples."""

    rank: PositiveInt = Field(
        128, description="rank r, at most the narrower side of every targeted layer", examples=[8]
    )
    alpha: PositiveFloat | None = Field(
        None, description="numerator of the scale s = alpha / r; none: the rank, s = 1", examples=[8]
    )
    mode: Literal["preview", "keep"] = Field(
        "keep", description="train what the samples use most (preview) or least (keep)", examples=["preview"]
    )
    data: str = Field(
        "keep", description="source of the samples: keep, train, or another name of the recipe", examples=["train"]
    )
    samples: PositiveInt = Field(256, description="rows to calibrate on", examples=[1])

    category: ClassVar[str] = "reparameterised"
    dropout: ClassVar[float] = 0.0  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    offset: ClassVar[bool] = True
    full_rank_at_most: ClassVar[bool] = True
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("corda",)
    conformance: ClassVar[dict[str, object]] = {"rank": 4}

    def needs(self) -> Sequence[Need]:
        return (InputCovariance(source=self.data, samples=self.samples, target_modules=self.target_modules),)

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        site, C = start.site, start.needs.input_covariance.get(start.site.name)
        if C is None:
            what = f"no input reached '{site.name}' while calibrating"
            remedy = "leave it out of target_modules, or calibrate on more samples"
            raise MethodError(what, where="target_modules", remedy=remedy)
        return decompose(site.matrix().detach().float(), *damped(C), start.rank, start.scale, self.mode)
