"""The head of a classifier, and the pooled features that it reads. R rows, D size of the features, V classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Outputs
from tunewright.errors import MethodError, ModelError
from tunewright.pieces.means import last_tokens


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


def head_rows(parameters: Mapping[str, Tensor], head: str, classes: Sequence[int]) -> dict[str, Tensor]:
    """Sorted flat places of some classes' rows, by name of the head's own parameters: weight [V, D], and bias [V]."""
    rows, places = torch.tensor(sorted(classes)), {}
    for name in (n for n in parameters if n.rpartition(".")[0] == head):
        width = parameters[name][0].numel()
        places[name] = (rows[:, None] * width + torch.arange(width)).flatten()
    return places


@contextmanager
def read_by_head(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what the classifier's head is given at each call, the last one last: [R, D], or [R, L, D] where it scores
    every token of a row.
    """
    seen: list[Tensor] = []
    hook = classifier_head(model).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()


def pooled_read(read: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """[R, D] of what the head read (`read_by_head`): where it scores every token, a row's last one."""
    return last_tokens(read, inputs["attention_mask"]) if read.dim() == 3 else read


def loss_among(logits: Tensor, labels: Tensor, classes: Sequence[int], *, method: str) -> Tensor:
    """[R] cross-entropy of logits [R, V] over some classes alone (ascending), as where a task trains its own.

    MethodError for a label [R] that is none of them, as replayed rows have: `method` keeps no old rows.
    """
    own = torch.tensor(list(classes), device=labels.device)
    if not bool(torch.isin(labels, own).all()):
        raise MethodError(
            "there are rows of classes that are not the task's own",
            where="data.replay",
            remedy=f"take replay out: {method} keeps no old rows",
        )
    return F.cross_entropy(logits[:, own].float(), torch.searchsorted(own, labels), reduction="none")
