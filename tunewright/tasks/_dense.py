"""Tasks with a class a pixel: batches of pixels that count, and a forward whose logits are brought to the mask's size.

Shapes: R rows, [H, W] the picture as the model is given it, S pixels that count, V classes, D channels that the head
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.task import Task
from tunewright.errors import ModelError
from tunewright.models import context
from tunewright.tasks._masks import NO_TARGET, SEGMENTED
from tunewright.tasks.base import epochs_of, in_type
from tunewright.tasks.image_classification import pixel_values

PATCH = 16
"""Pixels a side of the patch that counts as a token, as in most transformers of pictures."""
SPREAD = 256
"""Pixels of a picture at which two models' predictions are compared: they are alike beside one another."""
BESIDE = "auxiliary_head"
"""What transformers calls a second head, which trains alone and answers nothing."""


def patches(height: int, width: int) -> int:
    """Tokens that a picture counts as."""
    return -(-height // PATCH) * -(-width // PATCH)


def dense_head(model: nn.Module) -> nn.Conv2d:
    """The convolution of one pixel with an output a class: channels [R, D, h, w] -> logits [R, V, h, w].

    ModelError where there is none.
    """
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    heads = [
        m
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.out_channels == classes and m.kernel_size == (1, 1) and m.groups == 1
        if not name.startswith(BESIDE)
    ]
    if not heads:
        what = f"the model has no head that gives {classes} classes a pixel"
        raise ModelError(what, remedy="use a model with one (a convolution of one pixel), such as a SegFormer")
    return heads[-1]


class Dense(Task):
    """Rows with `fields["pixels"]` [C, H, W] and `fields["targets"]` [H, W], NO_TARGET where a pixel does not count."""

    auto_class: ClassVar[str] = "AutoModelForSemanticSegmentation"
    labelled: ClassVar[bool] = True
    per_token: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per pixel"
    reads_files: ClassVar[bool] = True

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, C, H, W]; a target a pixel that counts, whose place in [R, H, W] is `fields["pixels"]`."""
        targets = torch.from_numpy(np.stack([r.fields["targets"] for r in rows])).long()
        places = (targets >= 0).flatten().nonzero()[:, 0]
        owner, labels = places // targets[0].numel(), targets.flatten()[places]
        weights = torch.tensor([r.weights[0] for r in rows], dtype=torch.float32)[owner]
        if any("class_weights" in r.fields for r in rows):
            each = [r.fields.get("class_weights", [1.0] * len(r.fields["names"])) for r in rows]
            weights = weights * torch.tensor(each, dtype=torch.float32)[owner, labels]
        return Batch(
            inputs={"pixel_values": pixel_values(rows)},
            labels=labels,
            weights=weights,
            rows=owner,
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            epochs=epochs_of(rows, epochs),
            fields={"pixels": places},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V], brought to the size of the mask as the models' own loss does (bilinear); `features` [R, D]
        are the means of what the head reads.
        """
        head, seen = dense_head(model), list[Tensor]()
        hook = head.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            now = context.of_batch(batch)
            with context.reading(now):
                how = {"output_hidden_states": True} if hidden else {}
                out = model(**in_type(model, batch.inputs), **how)
        finally:
            hook.remove()
        size = batch.inputs["pixel_values"].shape[-2:]
        logits = F.interpolate(out.logits.float(), size=size, mode="bilinear", align_corners=False)
        return Outputs(
            logits.permute(0, 2, 3, 1).flatten(0, 2)[batch.fields["pixels"]],
            batch.labels,
            hidden=out.hidden_states if hidden else None,
            features=seen[-1].flatten(2).mean(2),
            head=lambda features: F.linear(features, head.weight.flatten(1), head.bias),
            raw=out,
            present=now,
        )


def spread(row: Row) -> Row:
    """A row in which pixels here and there count: those of a grid of at most SPREAD places. Others are as they are."""
    targets = row.fields.get("targets")
    if row.fields.get("kind") != SEGMENTED or targets is None:
        return row
    step = max(1, -(-max(targets.shape) // int(SPREAD**0.5)))
    grid = np.full_like(targets, NO_TARGET)
    on = slice(step // 2, None, step)
    grid[on, on] = targets[on, on]
    return row.replace(fields={**row.fields, "targets": grid})
