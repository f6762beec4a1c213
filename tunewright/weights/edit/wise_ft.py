"""WiSE-FT: weights between the pre-trained and the fine-tuned model (Wortsman et al. 2022, arXiv:2109.01903; papers:
wise-ft, bang).

theta = (1 - lambda) theta0 + lambda theta1 = theta0 + lambda (theta1 - theta0), for every tensor, the head included. So
a classifier's pre-trained head must be a real one (of a zero-shot or an earlier task). lambda 0 is the base, 1 the
tuned model. Choose lambda on rows like the training rows: on shifted ones it would be tuned to the shift. The report's
dial measures the same line; this step writes one point of it as the run's model. With `bang` in training it is BANG.

Differs from the paper in: nothing; lambda 0.5 is its usual value, 0.75 that of its example code.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method


class WiseFT(Method):
    """Go part of the way from the base to the tuned model."""

    amount: float = Field(0.5, ge=0, le=1, description="lambda, share of the change that is kept", examples=[0.75])

    papers: ClassVar[tuple[str, ...]] = ("wise-ft", "bang")

    def edit(self, change: Tensor) -> Tensor:
        return change if self.amount == 1 else self.amount * change
