"""image-classification: one class a picture. Pictures are resized once, when encoded; normalised when collated.

Pixels are kept as uint8 [C, H, W] until a batch is made, a quarter of the float's size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.tasks._pooled import classifier_outputs
from tunewright.tasks.base import epochs_of, label_id


def image_options(processor: Any = None, config: Any = None) -> dict[str, Any]:
    """How a model wants pictures, as plain numbers: from its image processor, else from its config.

    Keys: `height`, `width`, `shortest` (resize the short edge to it before the crop to height x width; None: stretch),
    `channels`, `mean`, `std` (a channel, of pixels scaled by `scale`), `resample` (PIL's number).
    """
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


def read_image(value: Any, base: str, channels: int) -> Image.Image:
    """A picture from a path, encoded bytes, or an array [H, W] or [H, W, C] of 0..255. RowProblem for what is none."""
    picture: Image.Image
    try:
        if isinstance(value, dict):  # the datasets library's own way
            value = value["bytes"] if value.get("bytes") is not None else value["path"]
        if isinstance(value, str):
            picture = Image.open(Path(base) / value)
            picture.load()
        elif isinstance(value, bytes):
            picture = Image.open(io.BytesIO(value))
            picture.load()
        elif isinstance(value, Image.Image):
            picture = value
        else:
            picture = Image.fromarray(_array(value))
    except FileNotFoundError:
        raise RowProblem("image", f"no file '{value}'", "write the path relative to the data file") from None
    except (UnidentifiedImageError, OSError, KeyError) as error:
        raise RowProblem("image", f"cannot be read as a picture: {error}", "write a PNG or JPEG") from None
    return picture.convert("L" if channels == 1 else "RGB")


def _array(value: Any) -> np.ndarray:
    try:
        pixels = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise RowProblem(
            "image",
            "a path or a list of rows of pixels is needed",
            "write [[0, 255, ...], ...] with rows of equal length",
        ) from None
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or pixels.ndim == 3 and pixels.shape[2] != 3 or not pixels.size:
        raise RowProblem(
            "image", f"pixels of shape {pixels.shape} are no picture", "write [height][width] or [height][width][3]"
        )
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise RowProblem("image", "pixels must lie in 0..255", "write whole numbers from 0 to 255")
    return pixels.astype(np.uint8)


def fit(picture: Image.Image, options: dict[str, Any]) -> np.ndarray:
    """Resize (and crop) a picture: uint8 [C, H, W]."""
    height, width, resample = options["height"], options["width"], Image.Resampling(options["resample"])
    if options["shortest"]:
        short, long = options["shortest"], int(options["shortest"] * max(picture.size) / min(picture.size))
        size = (short, long) if picture.width <= picture.height else (long, short)
        picture = picture.resize(size, resample)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    elif picture.size != (width, height):
        picture = picture.resize((width, height), resample)
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


class ImageClassification(Task):
    """`image` is a path relative to the data file, bytes, or pixels; `label` a name or id of `options.labels`."""

    name: ClassVar[str] = "image-classification"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    labelled: ClassVar[bool] = True
    reads_files: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture. `tokenizer` is not used: what it would tell is in `options.image`."""
        image = options.image or image_options()
        for field in ("image", "label"):
            if field not in record:
                raise RowProblem(
                    field,
                    f"the row has no {field}",
                    f"add it, or name its column: data.columns: {{{field}: your_column}}",
                )
        pixels = fit(read_image(record["image"], record.base, image["channels"]), image)
        label = label_id(record["label"], options.labels)
        assert options.labels is not None
        numbers = {k: image[k] for k in ("mean", "std", "scale")}
        return Row(
            record.id,
            record.source,
            (),
            [1.0],
            label,
            {"kind": "label", "reference": options.labels[label], "pixels": pixels, **numbers},
        )

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, C, H, W] fp32, one target a row."""
        pixels = torch.from_numpy(np.stack([r.fields["pixels"] for r in rows])).float()
        first = rows[0].fields
        mean, std = torch.tensor(first["mean"])[:, None, None], torch.tensor(first["std"])[:, None, None]
        return Batch(
            inputs={"pixel_values": (pixels * first["scale"] - mean) / std},
            labels=torch.tensor([r.label for r in rows]),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=len(rows),
            epochs=epochs_of(rows, epochs),
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, V]; `features` [R, D] are what the head reads."""
        return classifier_outputs(model, batch, dict(batch.inputs), hidden=hidden)

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "accuracy"
