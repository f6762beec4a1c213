"""Object detection with a target at each of the model's proposals, where two models' predictions are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.task import Task
from tunewright.tasks import _detectors
from tunewright.tasks._parts import DETECTION


class Proposals(Task):
    """Each proposal is of a class or of none; of models that say of each class whether it is there, every class of a
    proposal is a target by itself. `task`: the task of boxes; `config`: the model's.
    """

    name: ClassVar[str] = DETECTION
    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    reads_files: ClassVar[bool] = True

    def __init__(self, task: Task, config: Any):
        self.task, self.each = task, _detectors.count_of(config)
        self.split = not _detectors.has_nothing(config)
        self.each *= config.num_labels if self.split else 1

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """As many targets a row as the model has proposals (times classes); what is right stands as zeros."""
        batch = self.task.collate(rows, packed, epochs=epochs, seed=seed)
        owner = batch.rows.repeat_interleave(self.each)
        return batch.replace(labels=torch.zeros_like(owner), weights=torch.ones(len(owner)), rows=owner)

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V]: of all classes and none, or of one class and none."""
        said, _ = _detectors.read(model, batch, hidden=hidden)
        logits = torch.stack([said.logits, torch.zeros_like(said.logits)], -1) if self.split else said.logits
        return Outputs(logits.flatten(0, -2), batch.labels, hidden=said.hidden)
