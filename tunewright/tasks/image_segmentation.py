"""image-segmentation: a class a pixel (semantic), of pictures with masks. Both are resized once, when encoded.

A row has `image` and its mask, as `mask`, `annotation` or `label`: a whole number a pixel (`_masks`). What the model's
processor does to the picture is done to the mask, by the nearest pixel. Each pixel that counts weighs the same in the
loss, as in transformers' own; predictions and masks are compared at the size that the model is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError
from tunewright.tasks._dense import Dense, patches
from tunewright.tasks._masks import (
    COLUMNS,
    IGNORED,
    NO_TARGET,
    SEGMENTED,
    classes_in,
    coloured_by,
    mask_column,
    read_mask,
)
from tunewright.tasks._pictures import read_image
from tunewright.tasks._processor import pixels_of, placed_as
from tunewright.tasks.image_classification import image_options


class ImageSegmentation(Dense):
    """`fields`: `pixels` [C, H, W], `targets` [H, W] (-100: does not count), `names` of the classes, `reference`: how
    many pixels are of each.
    """

    name: ClassVar[str] = "image-segmentation"

    def label_values(self, record: Record) -> Sequence[Any]:
        """The numbers of a row's mask; none where it cannot be read, which `encode` says."""
        column = mask_column(record)
        try:
            found = np.unique(read_mask(record[column], record.base)) if column else ()
        except RowProblem:
            return ()
        numbers = [int(value) for value in found]
        return numbers if numbers == [0, IGNORED] else [n for n in numbers if n != IGNORED]

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize picture and mask. `tokenizer` is not used: what it would tell is in `options.image`."""
        image, column = options.image or image_options(), mask_column(record)
        if "image" not in record:
            raise _absent("image", "")
        if column is None:
            raise _absent("mask", f" ({', '.join(COLUMNS)})")
        picture = read_image(record["image"], record.base, image["channels"])
        masks = image.get("masks")
        if image.get("reduces") and (masks or {}).get("reduce_labels") is None:
            raise DataError(
                "the model's processor takes 0 for no class and 1 for the first one (do_reduce_labels), and the recipe "
                "does not say whether these masks are like that",
                where="data.masks",
                remedy="write masks: {reduce_labels: true}, or false where 0 is the first class",
            )
        drawn = read_mask(record[column], record.base, coloured=coloured_by(masks))
        classes = classes_in(drawn, picture.size, options.labels or (), masks)
        pixels, targets = pixels_of(picture, image), placed_as(classes, image, NO_TARGET)
        if not (targets >= 0).any():
            what = "no pixel of it counts"
            if (classes >= 0).any():
                what = (
                    "no pixel of it counts where the model is shown it: what does is cut off, or lost as it is resized"
                )
            raise RowProblem("mask", what, "take the row out, or give some pixel a class (see data.masks)")
        numbers = {k: image[k] for k in ("mean", "std", "scale")} if pixels.dtype == np.uint8 else {}
        names = called(options.labels or ())
        fields = {"kind": SEGMENTED, "pixels": pixels, "targets": targets, "names": names, **numbers}
        if weights := (masks or {}).get("weights"):
            fields["class_weights"] = [float(weights.get(label, 1.0)) for label in options.labels or ()]
        fields["size"] = np.array(patches(*targets.shape), np.int32)
        fields["reference"] = told(targets[targets >= 0], targets[targets >= 0], names)
        return Row(record.id, record.source, (), [1.0], fields=fields)

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Pixels of each class that are said to be of it, and of each taken for another ("road>sky:12": road that is
        said to be sky); and pixels of each class.
        """
        said, owner = outputs.logits.argmax(-1).cpu().numpy(), batch.rows.cpu().numpy()
        labels = batch.labels.cpu().numpy()
        of = [owner == k for k in range(len(rows))]
        answers = [told(labels[on], said[on], row.fields["names"]) for on, row in zip(of, rows, strict=True)]
        return [(answer, str(row.fields["reference"])) for answer, row in zip(answers, rows, strict=True)]

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "mean_iou"


def _absent(field: str, columns: str) -> RowProblem:
    remedy = f"add it{columns}, or name its column: data.columns: {{{field}: your_column}}"
    return RowProblem(field, f"the row has no {field}", remedy)


def called(labels: Sequence[str]) -> list[str]:
    """Names of classes as `told` writes them: without what stands between two, and each of them once."""
    names = [re.sub(r"[\s:>]+", "_", label) for label in labels]
    return [f"{n}#{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def told(right: NDArray[Any], said: NDArray[Any], names: Sequence[str]) -> str:
    """How many pixels of each class [S] are said to be of which, in the order of the classes."""
    pairs, counts = np.unique(right.astype(np.int64) * len(names) + said, return_counts=True)
    both = [divmod(int(pair), len(names)) for pair in pairs]
    words = (names[a] if a == b else f"{names[a]}>{names[b]}" for a, b in both)
    return " ".join(f"{word}:{n}" for word, n in zip(words, counts.tolist(), strict=True))
