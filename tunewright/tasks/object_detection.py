"""object-detection: boxes and classes of what a picture shows, any number of them.

A row has `image` and `objects`: boxes and their classes (`_boxes`), which may be none. The model proposes as many boxes
as it has, each with a class or none. Training matches them with what is there, by the model's own loss in transformers
(DETR: cross-entropy, L1 and generalised intersection over union; RT-DETR and Deformable DETR: focal), a loss a picture.

Differs from transformers' Trainer in: each picture's loss is divided by its own number of boxes, where a whole batch's
is there divided by the batch's, which would hang on how a step is split; they are the same where all pictures have as
many. Pictures are not padded, whatever lies beside them. Boxes of crowds are not learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.tasks import _detections, _detectors
from tunewright.tasks._boxes import BOXED, COLUMN, from_corners, has_boxes, kinds_of, read_objects, shown, to_corners
from tunewright.tasks._dense import patches
from tunewright.tasks._parts import DETECTION
from tunewright.tasks._pictures import read_image
from tunewright.tasks._proposals import Proposals
from tunewright.tasks.base import epochs_of
from tunewright.tasks.image_classification import image_options


class ObjectDetection(Task):
    """`fields`: `flat` (pixels of `shape` [C, H, W], end to end: pictures differ in size), `boxes` [N, 4] (middle and
    size, in shares of the picture) and `classes` [N] of what is learnt, `side` (width and height of the picture
    itself), `names` of the classes, `reference`.
    """

    name: ClassVar[str] = DETECTION
    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    labelled: ClassVar[bool] = True
    per_token: ClassVar[bool] = True
    unit: ClassVar[str] = "loss per picture"
    reads_files: ClassVar[bool] = True

    @property
    def likelihoods(self) -> bool:
        """What is right of a proposal is known once all are matched, and no sooner."""
        return False

    def label_values(self, record: Record) -> Sequence[Any]:
        """The classes of a row's boxes."""
        return kinds_of(record)

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture. `tokenizer` is not used: what it would tell is in `options.image`."""
        image = options.image or image_options()
        if "image" not in record:
            raise _absent("image")
        if not has_boxes(record):
            raise _absent(COLUMN)
        picture = read_image(record["image"], record.base, image["channels"])
        found = read_objects(record, picture.size, options.labels, image.get("boxes"))
        pixels = _detectors.pixels_of(picture, image)
        numbers = {k: image[k] for k in ("mean", "std", "scale")} if pixels.dtype == np.uint8 else {}
        names, learnt = list(options.labels or ()), ~found.crowd
        fields = {
            "kind": BOXED,
            "flat": pixels.reshape(-1),
            "shape": list(pixels.shape),
            "boxes": from_corners(found.corners[learnt], "yolo", picture.size).tolist(),
            "classes": found.classes[learnt].tolist(),
            "side": list(picture.size),
            "names": names,
            "size": np.array(patches(*pixels.shape[1:]), np.int32),
            "reference": _detections.right(names, found.classes.tolist(), found.corners, found.crowd.tolist()),
            **numbers,
        }
        return Row(record.id, record.source, (), [1.0], fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, C, H, W], with zeros behind smaller ones. One target a row; `fields`: `sides` [R, 2]
        (height and width of each), `boxes` [R, N, 4] and `classes` [R, N] (-1: none).
        """
        most = max(1, *(len(r.fields["classes"]) for r in rows))
        boxes, classes = torch.zeros(len(rows), most, 4), torch.full((len(rows), most), -1)
        for k, row in enumerate(rows):
            count = len(row.fields["classes"])
            boxes[k, :count] = torch.tensor(row.fields["boxes"], dtype=torch.float32).reshape(-1, 4)
            classes[k, :count] = torch.tensor(row.fields["classes"], dtype=torch.long)
        pixels = [_pixels(row) for row in rows]
        sides = torch.tensor([p.shape[1:] for p in pixels])
        laid = torch.zeros(len(rows), pixels[0].shape[0], *sides.max(0).values.tolist())
        for k, own in enumerate(pixels):
            laid[k, :, : own.shape[1], : own.shape[2]] = own
        return Batch(
            inputs={"pixel_values": laid},
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            epochs=epochs_of(rows, epochs),
            fields={"sides": sides, "boxes": boxes, "classes": classes},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, Q V] of all proposals, `features` [R, D] the means of what the heads read of them; `raw` is what
        the model says (`_detectors.Said`).
        """
        said, now = _detectors.read(model, batch, hidden=hidden)
        return Outputs(
            said.logits.flatten(1),
            batch.labels,
            log_probs=_none,
            hidden=said.hidden,
            features=said.states.mean(1),
            raw=said,
            present=now,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R] the model's own loss of each picture."""
        return Loss(outputs.raw.losses)

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(what is found, what is there) of each row, see `_detections`."""
        out = []
        names = [row.fields["names"] for row in rows]
        told = _detectors.answers(outputs.raw, len(names[0]))
        for row, own, (classes, scores, boxes) in zip(rows, names, told, strict=True):
            width, height = row.fields["side"]
            corners = to_corners(boxes.double().cpu().numpy(), "yolo", (width, height))
            answer = _detections.said(own, classes.tolist(), scores.double().cpu().numpy(), corners)
            out.append((answer, str(row.fields["reference"])))
        return out

    def compared(self, config: Any) -> Task:
        """Proposals one by one, where a model learns a vector for each; else the task itself, whose features are."""
        return Proposals(self, config) if _detectors.learns_proposals(config) else self

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "map"


def _pixels(row: Row) -> Tensor:
    """[C, H, W] as the model takes them."""
    fields = row.fields
    pixels = torch.from_numpy(np.array(shown(row))).float()
    if "scale" not in fields:
        return pixels
    mean, std = (torch.tensor(fields[n])[:, None, None] for n in ("mean", "std"))
    return (pixels * fields["scale"] - mean) / std


def _absent(field: str) -> RowProblem:
    remedy = f"add it, or name its column in the source: columns: {{{field}: your_column}}"
    return RowProblem(field, f"the row has no {field}", remedy)


def _none() -> Tensor:
    raise MethodError(
        "boxes have no likelihoods", remedy="take a method that serves this task, or none: the task has a loss"
    )
