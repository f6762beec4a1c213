"""Fusing fine-tuned models: their average as a new start for fine-tuning (Choshen et al. 2022, arXiv:2204.03044;
papers: fusing-finetuned-models).

theta = (1/n) sum_i theta_i over the body; n models tuned from one pre-trained parent, each on a task of its own. The
tasks' heads (a tensor under a name of `heads`, or one whose shape differs from the parent's) are thrown away: there the
result is the parent's, and a run on it draws a new head for its classes. One model is its own body (intertraining);
equal models, and models equal to the parent, are themselves to rounding. A language model's own head belongs to the
body. A pooler is part of the body, though tasks train it; name it in `heads` to leave it out.

Formed in fp32 in the models' order. Use the folder as `model:` of the next recipe. Not seen: the paper's settings;
unlike a soup nothing is held out to select by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tunewright.weights.operator import Merge

HEADS = ("classifier", "score", "qa_outputs", "classification_head")


def is_head(name: str, heads: Sequence[str]) -> bool:
    """Whether a tensor's name goes through a module of one of these names ("classifier.weight", "model.score.bias")."""
    return not set(name.split(".")[:-1]).isdisjoint(heads)


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """The plain mean; one tensor is itself."""
    total = tensors[0]
    for t in tensors[1:]:
        total = total + t
    return total / len(tensors) if len(tensors) > 1 else total.clone()


class FusingFinetunedModels(Merge):
    """Average bodies, and leave the tasks' heads out."""

    heads: tuple[str, ...] = Field(
        HEADS, description="modules that belong to a task: the result takes the parent's", examples=[["blocks"]]
    )

    papers: ClassVar[tuple[str, ...]] = ("fusing-finetuned-models",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True

    def merge(self, name: str, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        return base.clone() if is_head(name, self.heads) else mean(tensors)
