"""What a model's head gives: the classes of the data, or one number a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.errors import ModelError
from tunewright.loading.locate import Located
from tunewright.tasks._parts import DETECTION

if TYPE_CHECKING:
    from tunewright.contract.task import Task


def set_head(config: Any, task: Task, labels: list[str] | None, located: Located) -> None:
    """Give the config the outputs that the task's head has. ModelError where there is no such head and none is made."""
    if task.problem_types and (task.other_problem or getattr(config, "problem_type", None)):
        config.problem_type = task.problem_type
    if task.outputs:
        if config.num_labels != len(task.outputs):
            config.num_labels = len(task.outputs)
        return
    if not task.scores:
        set_labels(config, labels, located, least=1 if task.is_a(DETECTION) else 2)
        return
    kinds = config.architectures or []
    if labels is None and (config.num_labels != 1 or not any("SequenceClassification" in k for k in kinds)):
        raise ModelError(
            f"it has no head that gives one number: it is a {', '.join(kinds) or config.model_type}"
            + (f" of {config.num_labels} labels" if any("Classification" in k for k in kinds) else ""),
            where=str(located.folder),
            remedy="name a reward model: a run of `task: reward-modeling`, or a *ForSequenceClassification folder with "
            "num_labels 1",
        )
    if config.num_labels != 1:
        config.num_labels = 1


def set_labels(config: Any, labels: list[str] | None, located: Located, *, least: int = 2) -> None:
    """Set class names, of which there must be `least`. Equal names in another order keep the checkpoint's order, since
    its head is trained so.
    """
    if labels is None:
        return
    if twice := next((name for name in labels if labels.count(name) > 1), None):
        raise ModelError(
            f"the label '{twice}' stands {labels.count(twice)} times among the classes",
            where="data.labels",
            remedy="write each class once",
        )
    if len(labels) < least:
        raise ModelError(
            f"a classifier needs at least two different labels, got {labels[:5]}",
            remedy="check the data's label column",
        )
    own_labels = [config.id2label[i] for i in sorted(config.id2label)]
    if sorted(own_labels) == sorted(labels):
        if own_labels != labels:
            located.notes.append("labels keep the order of the checkpoint's head")
        return
    if len(own_labels) == len(labels) and not all(h.startswith("LABEL_") for h in own_labels):
        raise ModelError(
            f"the checkpoint's head knows {', '.join(own_labels[:3])}, the data {', '.join(labels[:3])}",
            where=str(located.folder),
            remedy="name the data's labels as the model does, or start from the model without that head",
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
