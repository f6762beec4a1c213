"""A sparse change of a weight that a nonlinear kernel makes of two thin matrices: SNELLA's.

Shapes: W [out, in]; `inputs` a [2, in, k], `outputs` b [2, out, k], k = r / 2; scalars alpha, gamma, beta.

    K = c (|a1_i - b1_j| - |a2_i - b2_j|)                       [in, out], Euclidean distances of rows
    D = K + alpha softmax_out(K / gamma) + beta
    change = (D |D|)^T where |D| is among the `kept` largest of the layer, else 0;  |D| carries no gradient there

Between the passes a layer keeps its input and the thin matrices: D is made anew in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

CLOSE = 1e-12
"""Squared distance below which rows count as equal: their distance has no slope there, and its gradient is 0."""


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[h, n, m] Euclidean distances of the rows of a [h, n, k] and b [h, m, k]."""
    squared = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None] - 2 * (a @ b.transpose(1, 2))
    return squared.clamp_min(CLOSE).sqrt()


def largest(D: Tensor, count: int) -> Tensor:
    """D |D| at the `count` entries of largest |D|, 0 elsewhere (equal ones at the edge go too); |D| has no gradient."""
    size = D.detach().abs()
    if count >= D.numel():
        return D * size
    edge = size.flatten().kthvalue(D.numel() - count).values
    return D * torch.where(size > edge, size, 0.0)


class KernelSparse(Delta):
    """The largest entries of a kernel of two thin matrices; `kept` says how many."""

    form = "kernel-sparse"
    kept: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, kept: int, factor: float = 0.1):
        super().__init__()
        self.kernel_inputs, self.kernel_outputs = nn.Parameter(inputs), nn.Parameter(outputs)
        self.alpha, self.gamma, self.beta = (nn.Parameter(torch.tensor([v])) for v in (1.0, 1.0, 0.0))
        self.register_buffer("kept", torch.tensor(kept))
        self.factor = float(factor)

    @property
    def entries(self) -> int:
        return self.kernel_inputs.shape[1] * self.kernel_outputs.shape[1]  # it is multiplied as a whole matrix

    def change(self) -> Tensor:
        with torch.autocast(self.kernel_inputs.device.type, enabled=False):
            first, second = distances(self.kernel_inputs.float(), self.kernel_outputs.float())
            K = self.factor * (first - second)
            D = K + self.alpha * torch.softmax(K / self.gamma, -1) + self.beta
            return largest(D, int(self.kept)).t()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            made = checkpoint(self._product, x, use_reentrant=False, preserve_rng_state=False)
        else:
            made = self._product(x)
        return y + made.to(y.dtype) * self.strength

    def _product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.change().to(x.dtype))

    def settings(self) -> dict[str, Any]:
        _, inputs, k = self.kernel_inputs.shape
        return {"shape": [self.kernel_outputs.shape[1], inputs, k], "factor": self.factor}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> KernelSparse:
        out, inputs, k = settings["shape"]
        return cls(torch.zeros(2, inputs, k), torch.zeros(2, out, k), 0, settings["factor"])
