"""image-classification: one class a picture. Pictures are resized once, when encoded; normalised when collated.

Pixels are kept as uint8 [C, H, W] until a batch is made, a quarter of the float's size; as float32, normalised, only
where a model's processor does more to them than scale and normalise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, EncodeOptions, Task
from tunewright.tasks._pictures import read_image
from tunewright.tasks._pooled import classifier_outputs
from tunewright.tasks._processor import pixels_of
from tunewright.tasks.base import epochs_of, in_type, label_id


def image_options(processor: Any = None, config: Any = None) -> dict[str, Any]:
    """How a model wants pictures, as plain numbers: from its image processor, else from its config.

    Keys: `height`, `width`, `shortest` (resize the short edge to it before the crop to height x width; None: stretch),
    `channels`, `mean`, `std` (a channel, of pixels scaled by `scale`), `resample` (PIL's number). Whether these are all
    that the processor does is for `_processor.followed` to say.
    """
    config = getattr(config, "vision_config", None) or config  # a model of two towers says it of each
    side = getattr(config, "image_size", None) or 224
    height, width = side if isinstance(side, tuple | list) else (side, side)
    channels = int(getattr(config, "num_channels", 3) or 3)
    out: dict[str, Any] = {
        "height": height,
        "width": width,
        "shortest": None,
        "channels": channels,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
    }
    out |= {"scale": 1 / 255, "resample": int(Image.Resampling.BILINEAR)}
    if processor is None:
        return out
    size = dict(getattr(processor, "size", None) or {})
    if "shortest_edge" in size:
        crop = dict(getattr(processor, "crop_size", None) or {}) if getattr(processor, "do_center_crop", False) else {}
        short = int(size["shortest_edge"])
        out |= {"shortest": short, "height": int(crop.get("height", short)), "width": int(crop.get("width", short))}
    elif "height" in size:
        out |= {"height": int(size["height"]), "width": int(size["width"])}
    if getattr(processor, "do_normalize", True) and getattr(processor, "image_mean", None) is not None:
        out |= {"mean": [float(x) for x in processor.image_mean], "std": [float(x) for x in processor.image_std]}
    elif not getattr(processor, "do_normalize", True):
        out |= {"mean": [0.0] * channels, "std": [1.0] * channels}
    out["scale"] = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    resample = getattr(processor, "resample", None)
    if resample is not None:
        out["resample"] = int(getattr(resample, "value", resample))
    return out


def pixel_values(rows: Sequence[Row]) -> torch.Tensor:
    """[R, C, H, W] fp32, scaled and normalised, of rows whose pictures are in `fields["pixels"]`."""
    pixels = torch.from_numpy(np.stack([r.fields["pixels"] for r in rows])).float()
    first = rows[0].fields
    if "scale" not in first:
        return pixels
    mean, std = torch.tensor(first["mean"])[:, None, None], torch.tensor(first["std"])[:, None, None]
    return (pixels * first["scale"] - mean) / std


class ImageClassification(Task):
    """`image` is a path relative to the data file, bytes, or pixels; `label` a name or id of `options.labels`."""

    name: ClassVar[str] = "image-classification"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    labelled: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per image"
    reads_files: ClassVar[bool] = True
    problem_type: ClassVar[str] = SINGLE_LABEL
    problem_types: ClassVar[tuple[str, ...]] = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture. `tokenizer` is not used: what it would tell is in `options.image`."""
        image = options.image or image_options()
        if "image" not in record:
            raise _absent("image")
        label, fields = self.target(record, options)
        pixels = pixels_of(read_image(record["image"], record.base, image["channels"]), image)
        numbers = {k: image[k] for k in ("mean", "std", "scale")} if pixels.dtype == np.uint8 else {}
        return Row(record.id, record.source, (), [1.0], label, {**fields, "pixels": pixels, **numbers})

    def target(self, record: Record, options: EncodeOptions) -> tuple[int | None, dict[str, Any]]:
        """What is right of a record: its class (none where a row has none), and what its row's fields say of it."""
        if "label" not in record:
            raise _absent("label")
        label = label_id(record["label"], options.labels)
        assert options.labels is not None
        return label, {"kind": "label", "reference": options.labels[label]}

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, C, H, W] fp32, one target a row."""
        return Batch(
            inputs={"pixel_values": pixel_values(rows)},
            labels=torch.tensor([r.label or 0 for r in rows]),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=len(rows),
            epochs=epochs_of(rows, epochs),
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, V]; `features` [R, D] are what the head reads."""
        return classifier_outputs(model, batch, in_type(model, batch.inputs), hidden=hidden)

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "accuracy"


def _absent(field: str) -> RowProblem:
    remedy = f"add it, or name its column in the source: columns: {{{field}: your_column}}"
    return RowProblem(field, f"the row has no {field}", remedy)
