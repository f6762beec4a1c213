"""The head of a classifier, and the pooled features that it reads. R rows, D size of the features, V classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tunewright.contract.batch import Outputs
from tunewright.errors import MethodError, ModelError


def classifier_head(model: nn.Module) -> nn.Linear:
    """The last linear with one output per class (`config.num_labels`): features [.., D] -> logits [.., V].

    ModelError where there is none.
    """
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not heads:
        raise ModelError(
            f"the model has no linear head of {classes} classes", remedy="load it with its task, so that a head is made"
        )
    return heads[-1]


def classifier_head_name(model: nn.Module) -> str:
    """The name of `classifier_head(model)`: its weight [V, D] is the parameter "<name>.weight"."""
    head = classifier_head(model)
    return next(name for name, module in model.named_modules() if module is head)


def pooled_features(outputs: Outputs) -> Tensor:
    """[R, D]: what the classifier's head reads of each row, with its gradient.

    MethodError where the task pools none: declare `tasks = ("text-classification", "image-classification")`.
    """
    if outputs.features is None:
        raise MethodError(
            "this task's model has no pooled features", remedy="use a classification task, or say `tasks` in the class"
        )
    return outputs.features


def pooled_head(outputs: Outputs) -> Callable[[Tensor], Tensor]:
    """The head itself, features [N, D] -> logits [N, V]; MethodError as in `pooled_features`."""
    pooled_features(outputs)
    assert outputs.head is not None
    return outputs.head
