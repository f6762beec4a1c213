"""perpGrad: gradients lose their part along the weights (Prieto et al. 2025, arXiv:2501.04697; papers: stablemax).

Once a network fits its training rows, the gradient points more and more along the weights themselves: it scales the
logits up, which lowers the loss and changes no answer, until the softmax cannot tell them apart in floating point. Of
each tensor's gradient G the part along the weight W is taken out, and what is left gets the old length:

    G' = G - (<W, G> / <W, W>) W,    G'' = G' ||G|| / ||G'||        sums over all entries of the tensor

Only what trains as a whole tensor of two or more dimensions is changed by default (`matrices_only`); where entries of a
tensor train, the product runs over those. No state. Made for full fine-tuning: a low-rank pair that starts at B = 0 has
no direction to lose at first.
Differs from the authors' code in: there every tensor is changed, biases and norms too (`matrices_only: false`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method

TINY = 1e-30  # the authors' code's, against a division by zero


def across(gradient: Tensor, weight: Tensor) -> Tensor:
    """`gradient` without its part along `weight`, at its old length; both of any one shape."""
    g, w = gradient.float(), weight.float()
    left = g - (torch.sum(w * g) / (torch.sum(w * w) + TINY)) * w
    return (left * (g.norm() / (left.norm() + TINY))).to(gradient.dtype)


class PerpGrad(Method):
    """Gradients at right angles to the weights."""

    matrices_only: bool = Field(True, description="leave biases, norms and gates as they are", examples=[False])

    papers: ClassVar[tuple[str, ...]] = ("stablemax",)

    def gradient(self, gradients: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: g if self.matrices_only and parameters[n].dim() < 2 else across(g, parameters[n])
            for n, g in gradients.items()
        }
