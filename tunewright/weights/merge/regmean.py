"""RegMean: each linear is the one nearest to all models' own outputs (Jin et al. 2023, arXiv:2212.09849; no row of the
catalogue).

W = (sum_i W_i G_i) (sum_i G_i)^-1 with G_i = X_i^T X_i [in, in], the inputs that model i gives the layer on the
calibration rows; off-diagonal entries are first multiplied by `scale`. Biases, norms and embeddings take the mean. One
model, or equal ones: the model itself. Memory: one layer's states and one block's matrices for each model, and the
result.

Differs from the paper in: all models see the same rows, those of the run, not each its own task's. So a model that was
tuned for something else counts by what it makes of rows that are not its own, and the result leans to the task that the
rows are of: calibrate on rows of all the models' tasks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.method import Needs
from tunewright.weights.blocks import Learning, real_tokens, walk, watching
from tunewright.weights.merge._least_squares import regmean
from tunewright.weights.operator import Merge


class RegMean(Merge):
    """Average linears weighted by what flows into them."""

    samples: PositiveInt = Field(128, description="calibration rows", examples=[4])
    scale: float = Field(
        0.9,
        ge=0,
        le=1,
        description="factor of the off-diagonal entries of X^T X; 0: a mean weighted by each input's energy",
        examples=[0.5],
    )

    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    symmetric: ClassVar[bool] = True
    models: ClassVar[tuple[int, int | None]] = (1, None)
    learns: ClassVar[bool] = True

    def learn(self, learning: Learning) -> dict[str, Any]:
        batches = list(learning.batches(self.samples))
        masks = [real_tokens(b) for b in batches]
        solved: dict[str, Tensor] = {}
        for steps in zip(
            *(walk(m, learning.structure, learning.forward, batches) for m in learning.models), strict=True
        ):
            sites = [s for s in steps[0].block.sites if s.kind in ("linear", "conv1d")]
            grams = [dict[str, Tensor]() for _ in steps]
            for model, step, sums in zip(learning.models, steps, grams, strict=True):
                for i, mask in enumerate(masks):
                    with watching(sites, model, mask) as seen:
                        step.only(i)
                    for name, (x, _) in seen.items():
                        sums[name] = sums.get(name, torch.zeros(())) + (x.T @ x).double()
            for s in sites:
                matrices = [m.get_submodule(s.name).weight.detach().float() for m in learning.models]  # type: ignore[union-attr, operator]
                turned = [w.T if s.kind == "conv1d" else w for w in matrices]
                solution = regmean(turned, [g[s.name] for g in grams], self.scale).float()
                solved[s.weight_name] = (solution.T if s.kind == "conv1d" else solution).contiguous()
        return {"solved": solved}

    def merge(self, name: str, tensors: Sequence[Tensor], needs: Needs) -> Tensor:
        return needs.solved[name] if name in needs.solved else torch.stack(list(tensors)).mean(0)
