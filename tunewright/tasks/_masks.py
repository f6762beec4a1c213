"""Masks: a whole number a pixel of a picture, which says what is seen there.

A mask is a file of whole numbers (a PNG of 8 or 16 bits, or one with a palette, whose places are the numbers), bytes,
or rows of numbers. 255 stands for pixels that do not count, as in PASCAL VOC. Colours mean nothing by themselves, so
that a mask in colour is refused. What is done to the picture is done to the mask, by the nearest pixel: a class
between two others would be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tunewright.contract.records import Record, RowProblem
from tunewright.tasks._pictures import opened, said_of

COLUMNS = ("mask", "annotation", "label")
"""Columns of masks; the first that a row has is read."""
IGNORED = 255
"""The number of a pixel that does not count."""
NO_TARGET = -100
_PLAIN = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


def mask_column(record: Record) -> str | None:
    """The column of a record's mask; None where it has none."""
    return next((c for c in COLUMNS if record.get(c) is not None), None)


def read_mask(value: Any, base: str) -> NDArray[np.int64]:
    """[H, W] numbers of a mask: a path, encoded bytes, a mapping with `bytes` or `path`, a PIL picture or rows of whole
    numbers. RowProblem for what is none.
    """
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, str | bytes | bytearray | memoryview | Image.Image):
        return _numbers(value)
    with said_of("mask", value):
        picture = opened(value, base)
        picture.load()
        if picture.format == "JPEG":
            what = "it is a JPEG, which does not keep the numbers that were written"
            raise RowProblem("mask", what, "write it as a PNG, from where it was made")
        if picture.mode not in _PLAIN:
            what = f"it is a picture in colour ({picture.mode}), and a mask has one number a pixel"
            raise RowProblem("mask", what, "write the class's number in a grey PNG, or in one with a palette")
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(upright).astype(np.int64)


def _numbers(value: Any) -> NDArray[np.int64]:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if found.dtype.kind not in "biu" or found.ndim != 2 or not found.size:
        what = "a path, or rows of whole numbers of equal length, are needed"
        raise RowProblem("mask", what, 'write "masks/1.png", or [[0, 0, 1], [0, 2, 1]]')
    return found.astype(np.int64)


def classes_in(mask: NDArray[np.int64], size: tuple[int, int], labels: Sequence[str]) -> NDArray[np.int16]:
    """[H, W] classes of a mask, NO_TARGET where a pixel does not count.

    `size`: width and height of its picture. RowProblem for a mask of another size, and for a number that is no class.
    """
    if mask.shape[::-1] != size:
        what = f"it is {mask.shape[1]} x {mask.shape[0]}, and its picture {size[0]} x {size[1]} (width x height)"
        raise RowProblem("mask", what, "draw it on the picture as it is, or resize both alike (a mask by the nearest)")
    wrong = (mask != IGNORED) & ((mask < 0) | (mask >= len(labels)))
    if wrong.any():
        value, (y, x) = int(mask[wrong][0]), np.argwhere(wrong)[0]
        what = f"{value} at column {x}, line {y} is no class: there are {len(labels)}, from 0 to {len(labels) - 1}"
        remedy = f"name all classes in data.labels, in the order of their numbers; {IGNORED} is a pixel without a class"
        raise RowProblem("mask", what, remedy)
    return np.where(mask == IGNORED, NO_TARGET, mask).astype(np.int16)
