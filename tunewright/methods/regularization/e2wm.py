"""E2WM: embodied experiences from world models (Xiang et al. 2023, arXiv:2305.10626; papers: e2wm): its EWC-on-LoRA
penalty.

The change of each adapted weight is held back where the base's loss on general text is sensitive to it:

    penalty = lambda sum_W sum F * D^2,   D = change of W since the stage began [out, in] (for LoRA: s B A)

F [out, in] is the diagonal empirical Fisher information: the mean over rows of the squared gradient of the row's mean
loss per token, on the model as the stage starts. No factor 1/2, as in the authors' code. Penalty and gradient are zero
where nothing has changed; F = 1 gives lambda ||D||_F^2. A layer with a change that folds into no weight is passed over.

F depends on model and rows, and is small: about 1e-5 in the mean, so that a lambda of 1 holds nothing. Without a
`coefficient` lambda is therefore 0.01 / mean F, over all entries that are held: then a change costs 0.01 ||D||_F^2
where sensitivity is even, more where the loss is sensitive and less elsewhere, whatever model and rows. A number that
is given is used as it is, on F as measured.

Differs from the paper in: it holds back any trained linear weight, not LoRA's alone; F is a true Fisher (the authors
read 8-bit codes without their row scales, so their lambda of 0.5 to 2 does not carry over). The paper's data from a
household simulator is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Need, Needs, State
from tunewright.methods.needs.fisher import Fisher

HELD = 0.01
"""What a unit of squared change costs, in nats, where the Fisher information has its mean; ours."""


def even_coefficient(fisher: Mapping[str, Tensor]) -> float:
    """lambda under which lambda F is `HELD` in the mean over all entries; 0 where F is 0 throughout."""
    total, count = (sum(float(f(F)) for F in fisher.values()) for f in (torch.sum, torch.numel))
    return HELD * count / total if total > 0 else 0.0


def elastic_penalty(changes: Mapping[str, Tensor], fisher: Mapping[str, Tensor], coefficient: float) -> Tensor:
    """lambda sum F * D^2 over the weights that have a Fisher; both [out, in] by name. A scalar."""
    total = torch.zeros(())
    for name, change in changes.items():
        total = total + (fisher[name].to(change.device) * change.square()).sum()
    return coefficient * total


class ElasticLoRA(Method):
    """Hold trained linear weights where the base's loss is sensitive to them."""

    coefficient: NonNegativeFloat | None = Field(
        None,
        description="lambda, weight of the penalty in the loss; none: 0.01 over the mean Fisher information, so that a "
        "change costs alike whatever model and rows",
        examples=[1000.0, 0.0],
    )
    data: str = Field(
        "keep",
        description="source of the rows for the Fisher information: keep, train, or another name of the recipe",
        examples=["train"],
    )
    samples: PositiveInt = Field(
        256, description="rows for the Fisher information, one backward pass each (the paper: 20,000)", examples=[1]
    )
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="weights to hold back: all-linear, or module names or endings", examples=[["q_proj"]]
    )

    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules"}
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("e2wm",)

    def needs(self) -> Sequence[Need]:
        return (Fisher(source=self.data, samples=self.samples, target_modules=self.target_modules),)

    def begin_task(self, needs: Needs, state: State) -> None:
        state.data["coefficient"] = even_coefficient(needs.fisher) if self.coefficient is None else self.coefficient

    def penalty(self, weights: Mapping[str, Any], needs: Needs, state: State) -> Tensor:
        by_site = {t.site.name: t for t in weights.values() if t.site.name in needs.fisher}
        changes = {n: t.change() for n, t in by_site.items() if t.foldable}
        return elastic_penalty(changes, needs.fisher, state.data["coefficient"])
