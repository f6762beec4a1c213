"""Boxes of what a picture shows: their formats, by the names that albumentations gives them, and an `objects` column.

    coco            x, y, width, height       pixels, from the left upper corner
    pascal_voc      left, top, right, bottom  pixels
    albumentations  left, top, right, bottom  shares of the picture's width and height
    yolo            x, y, width, height       shares, from the middle of the box

A picture is `size` = (width, height) pixels. N boxes [N, 4]; inside they are corners in pixels (pascal_voc), and what
models are given are shares from the middle (yolo), which no resize changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.tasks.base import is_missing, label_id

COLUMN = "objects"
FORMATS = ("coco", "pascal_voc", "albumentations", "yolo")
_PIXELS = FORMATS[:2]
_SHARES = (
    "if boxes are shares of the picture, write data.boxes: {format: yolo} (middle and size) or {format: albumentations}"
)
BOXED = "boxed"
"""The kind of rows with any number of boxes, which have one weight."""
KINDS = ("category", "categories", "category_id", "label", "labels", "class")
"""What people call the classes of boxes; the first that `objects` has is read."""
SLACK = 1.0
"""Pixels by which a box may reach out of its picture and is cut: annotation tools round."""
_SHAPE = "write {bbox: [[x, y, width, height], ...], category: [name, ...]}"

Corners = NDArray[np.float64]


def to_corners(boxes: Any, form: str, size: tuple[int, int]) -> Corners:
    """Boxes [N, 4] of a format as left, top, right, bottom in pixels."""
    out = np.array(boxes, np.float64).reshape(-1, 4)
    if form == "yolo":
        out[:, :2] -= out[:, 2:] / 2
    if form in ("coco", "yolo"):
        out[:, 2:] += out[:, :2]
    return out * np.array([*size, *size]) if form in ("yolo", "albumentations") else out


def from_corners(corners: Corners, form: str, size: tuple[int, int]) -> Corners:
    """The way back of `to_corners`."""
    out = np.array(corners, np.float64).reshape(-1, 4)
    if form in ("yolo", "albumentations"):
        out = out / np.array([*size, *size])
    if form in ("coco", "yolo"):
        out[:, 2:] -= out[:, :2]
    if form == "yolo":
        out[:, :2] += out[:, 2:] / 2
    return out


@dataclass(frozen=True)
class Objects:
    """What a picture shows: `corners` [N, 4] in pixels, `classes` [N], and whether a box is a `crowd` [N]: of many that
    nobody told apart, which is not learnt, and where what is found is neither right nor wrong.
    """

    corners: Corners
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]


def kinds_of(record: Record) -> Sequence[Any]:
    """The classes that a record's boxes have, as they stand there; none where they cannot be read."""
    try:
        return [kind for _, kind, _ in _listed(record.get(COLUMN))]
    except RowProblem:
        return ()


def read_objects(
    record: Record, size: tuple[int, int], labels: Sequence[str] | None, boxes: Mapping[str, Any] | None
) -> Objects:
    """The boxes of a record whose picture has `size`, as the recipe's `data.boxes` says (none: nothing).

    RowProblem for what is no box, lies outside of the picture, or is of no known class.
    """
    found, given = record.get(COLUMN), boxes or {}
    form = found.get("format") if isinstance(found, Mapping) and found.get("format") else given.get("format", "coco")
    if form not in FORMATS:
        raise RowProblem(COLUMN, f"'{form}' is no format of boxes", f"write one of {', '.join(FORMATS)}")
    _check_size(record, size)
    listed = _listed(found)
    corners = np.zeros((len(listed), 4))
    for i, (box, _, _) in enumerate(listed):
        corners[i] = _checked(box, i, form, size, clip=bool(given.get("clip")))
    classes = [label_id(kind, labels, field=COLUMN) for _, kind, _ in listed]
    crowd = [flag for _, _, flag in listed]
    return Objects(corners, np.array(classes, np.int64), np.array(crowd, bool))


def _check_size(record: Record, size: tuple[int, int]) -> None:
    """RowProblem where the file that drew the boxes knew a picture of another size."""
    told = record.get("width"), record.get("height")
    if not all(isinstance(n, int) for n in told) or told == size:
        return
    what = f"its boxes were drawn on {told[0]} x {told[1]} (width x height), and the picture is {size[0]} x {size[1]}"
    if told == size[::-1]:
        what += ": it is turned by its EXIF tag"
    raise RowProblem("image", what, "draw the boxes on the picture as it is shown, or put the size in the file right")


def _listed(found: Any) -> list[tuple[Any, Any, bool]]:
    """(box, class, whether it is a crowd) of each, of a mapping of lists or a list of mappings."""
    if isinstance(found, Mapping):
        name = next((k for k in KINDS if found.get(k) is not None), None)
        boxes = found.get("bbox", found.get("boxes"))
        kinds = [] if name is None else found[name]
        lists = [boxes, kinds, found.get("iscrowd")]
        boxes, kinds, crowd = (x.tolist() if isinstance(x, np.ndarray) else x for x in lists)
        crowd = [0] * len(boxes) if crowd is None and isinstance(boxes, list | tuple) else crowd
        if isinstance(boxes, list | tuple) and boxes and all(map(_is_number, boxes)):
            raise RowProblem(COLUMN, f"bbox holds numbers and no boxes: {str(boxes)[:60]}", _SHAPE)
        if not all(isinstance(x, list | tuple) for x in (boxes, kinds, crowd)):
            raise RowProblem(COLUMN, "it has no list of boxes and of their classes", _SHAPE)
        if not len(boxes) == len(kinds) == len(crowd):
            raise RowProblem(COLUMN, f"{len(boxes)} boxes have {len(kinds)} classes", "give each box one class")
        return [(b, k, bool(c)) for b, k, c in zip(boxes, kinds, crowd, strict=True)]
    if isinstance(found, list | tuple) and all(isinstance(one, Mapping) for one in found):
        out = list[tuple[Any, Any, bool]]()
        for one in found:
            kind = next((one[k] for k in KINDS if one.get(k) is not None), None)
            out.append((one.get("bbox", one.get("box")), kind, bool(one.get("iscrowd"))))
        return out
    raise RowProblem(COLUMN, f"boxes and their classes are needed, not {_called(found)}", _SHAPE)


def _called(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _checked(box: Any, i: int, form: str, size: tuple[int, int], *, clip: bool) -> Corners:
    """One box as corners in its picture."""
    values = box.tolist() if isinstance(box, np.ndarray) else box
    if not isinstance(values, list | tuple) or len(values) != 4 or not all(_is_number(v) for v in values):
        raise RowProblem(COLUMN, f"box {i + 1} is no four numbers: {str(box)[:60]}", _SHAPE)
    if not all(math.isfinite(v) for v in values):
        raise RowProblem(COLUMN, f"box {i + 1} is not finite: {_shown(values)}", "draw it again, or take it out")
    if form in _PIXELS and max(size) > 1 and 0 < max(values) <= 1:
        what = f"box {i + 1} lies within one pixel: {_shown(values)} as {form}"
        raise RowProblem(COLUMN, what, _other(values, form, size) or _SHARES)
    (corners,) = to_corners([values], form, size)
    if not (corners[2] > corners[0] and corners[3] > corners[1]):
        what = f"box {i + 1} has no area: {_shown(values)} as {form}"
        raise RowProblem(COLUMN, what, _other(values, form, size) or "draw it again, or take it out")
    cut = corners.clip(0, [*size, *size])
    kept = cut[2] > cut[0] and cut[3] > cut[1]
    if not kept or not clip and np.abs(cut - corners).max() > SLACK:
        what = f"box {i + 1} lies outside of the picture of {size[0]} x {size[1]}: {_shown(values)} as {form}"
        mend = "put it right, or write data.boxes: {clip: true}" if kept else "put it right, or take it out"
        raise RowProblem(COLUMN, what, _other(values, form, size) or mend)
    return cut


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"


def _other(values: Sequence[float], form: str, size: tuple[int, int]) -> str:
    """The one other format in which a box lies inside its picture, as what to write; "" where there is none."""
    fits = list[str]()
    for other in (f for f in FORMATS if f != form):
        (c,) = to_corners([values], other, size)
        in_shares = other in ("yolo", "albumentations")
        if c.min() >= 0 and c[0] < c[2] <= size[0] and c[1] < c[3] <= size[1] and in_shares == (max(values) <= 1):
            fits.append(other)
    return f"if it is {fits[0]}, write data.boxes: {{format: {fits[0]}}}" if len(fits) == 1 else ""


def shown(row: Row) -> NDArray[Any]:
    """[C, H, W] the pixels of an encoded row, as its model is given them."""
    pixels: NDArray[Any] = np.asarray(row.fields["flat"]).reshape(row.fields["shape"])
    return pixels


def has_boxes(record: Record) -> bool:
    """Whether a record says what its picture shows and where."""
    return not is_missing(record.get(COLUMN))
