"""Masks: a whole number a pixel of a picture, which says what is seen there.

A mask is a file of whole numbers (a PNG of 8 or 16 bits, or one with a palette, whose places are the numbers), bytes,
or rows of numbers. 255 stands for pixels that do not count, as in PASCAL VOC, unless `data.masks` of the recipe says
otherwise. Colours mean nothing by themselves: a mask in colour is refused where `data.masks.classes` says none. What is
done to the picture is done to the mask, by the nearest pixel: a class between two others would be none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
SEGMENTED = "segmented"
"""The kind of rows with a class a pixel (`fields["targets"]` [H, W], less than 0 where it does not count), which have
one weight.
"""
ENDINGS = (".png", ".tif", ".tiff", ".bmp")
"""How files of masks end."""
_PLAIN = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


def mask_column(record: Record) -> str | None:
    """The column of a record's mask; None where it has none."""
    return next((c for c in COLUMNS if record.get(c) is not None), None)


def is_drawn(record: Record) -> bool:
    """Whether a record's label is a picture, as masks are in some data sets."""
    label = record.get("label") if "image" in record else None
    path = label.get("path") if isinstance(label, dict) else label
    return isinstance(label, dict | Image.Image) or isinstance(path, str) and path.lower().endswith(ENDINGS)


def read_mask(value: Any, base: str, *, coloured: bool = False) -> NDArray[np.int64]:
    """[H, W] numbers of a mask: a path, encoded bytes, a mapping with `bytes` or `path`, a PIL picture or rows of whole
    numbers. `coloured`: what stands there are colours, and a number is red x 65536 + green x 256 + blue.

    RowProblem for what is none.
    """
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, str | bytes | bytearray | memoryview | Image.Image):
        return _numbers(value)
    with said_of("mask", value):
        picture = opened(value, base)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        colours = np.asarray(upright.convert("RGB")).astype(np.int64) if coloured else None
        numbers = np.asarray(upright).astype(np.int64)
    if picture.format == "JPEG":
        what = "it is a JPEG, which does not keep the numbers that were written"
        raise RowProblem("mask", what, "write it as a PNG, from where it was made")
    if colours is not None:
        return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    if picture.mode not in _PLAIN:
        what = f"it is a picture in colour ({picture.mode}), and a mask has one number a pixel"
        remedy = 'say what its colours are: data.masks: {classes: {"#ff0000": road, "#000000": null}}'
        raise RowProblem("mask", what, remedy)
    return numbers


def _numbers(value: Any) -> NDArray[np.int64]:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if found.dtype.kind not in "biu" or found.ndim != 2 or not found.size:
        what = "a path, or rows of whole numbers of equal length, are needed"
        raise RowProblem("mask", what, 'write "masks/1.png", or [[0, 0, 1], [0, 2, 1]]')
    return found.astype(np.int64)


def classes_in(
    mask: NDArray[np.int64], size: tuple[int, int], labels: Sequence[str], masks: Mapping[str, Any] | None
) -> NDArray[np.int16]:
    """[H, W] classes of a mask, NO_TARGET where a pixel does not count.

    `size`: width and height of its picture; `masks`: what the recipe's `data.masks` says, none: nothing. RowProblem for
    a mask of another size, and for a number that is no class.
    """
    if mask.shape[::-1] != size:
        what = f"it is {mask.shape[1]} x {mask.shape[0]}, and its picture {size[0]} x {size[1]} (width x height)"
        raise RowProblem("mask", what, "draw it on the picture as it is, or resize both alike (a mask by the nearest)")
    if masks is None and len(labels) == 2 and set(np.unique(mask)) == {0, IGNORED}:
        what = f"its numbers are 0 and {IGNORED}, and {IGNORED} stands for a pixel without a class"
        remedy = f"say which they are: data.masks: {{classes: {{0: {labels[0]}, {IGNORED}: {labels[1]}}}}}, or "
        raise RowProblem("mask", what, remedy + f"{{ignore: {IGNORED}}}")
    found, told = (masks or {}), (masks or {}).get("classes") or {}
    if told:
        known = {number_of(key): NO_TARGET if name is None else list(labels).index(name) for key, name in told.items()}
        if (ignore := found.get("ignore")) is not None and not coloured_by(masks):
            known.setdefault(ignore, NO_TARGET)
    else:
        start = int(bool(found.get("reduce_labels")))
        known = {k + start: k for k in range(len(labels))} | ({0: NO_TARGET} if start else {})
        known |= {ignore: NO_TARGET} if (ignore := found.get("ignore", IGNORED)) is not None else {}
    numbers, places = np.unique(mask, return_inverse=True)
    if bad := [n for n in numbers.tolist() if n not in known]:
        y, x = np.argwhere(mask == bad[0])[0]
        value = f"#{bad[0]:06x}" if coloured_by(masks) else str(bad[0])
        what = f"{value} at column {x}, line {y} is no class: there are {len(labels)}, {_named(known)}"
        remedy = "name all classes in data.labels, in the order of their numbers, or write data.masks: {classes: ...}"
        raise RowProblem("mask", what, remedy)
    of = np.array([known[n] for n in numbers.tolist()], np.int16)
    return of[places.reshape(mask.shape)]


def number_of(key: str) -> int:
    """The number of a key of `data.masks.classes`: a whole number, or a colour #rrggbb. ValueError for neither."""
    return int(key[1:], 16) if key.startswith("#") and len(key) == 7 else int(key)


def coloured_by(masks: Mapping[str, Any] | None) -> bool:
    """Whether a recipe's `data.masks` speaks of colours."""
    return any(key.startswith("#") for key in (masks or {}).get("classes") or {})


def _named(known: Mapping[int, int]) -> str:
    of = sorted(number for number, place in known.items() if place != NO_TARGET)
    if of == list(range(of[0], of[-1] + 1)):
        return f"from {of[0]} to {of[-1]}"
    return f"such as {of[0]}"
