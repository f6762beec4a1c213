"""Pictures with boxes drawn on them, for a run's page: what is there, what the base finds, what the tuned model finds.

Boxes are as wide on the page whatever the picture's size, in a colour a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tunewright.contract.batch import Row
from tunewright.measure._mode import device_of, measuring
from tunewright.tasks._boxes import BOXED, shown
from tunewright.tasks._detections import read_right, read_said

if TYPE_CHECKING:
    from tunewright.runs.meter import Meter

SIDE = 150
"""Longest side of a picture on the page, in pixels."""
SURE = 0.3
"""Score from which a box that is found is drawn and named."""
_GAP, _LINE, _EDGE = 6, 2, (240, 240, 240)  # a light edge: the colours of classes are dark, as many pictures are

Colour = tuple[int, int, int]


def is_boxed(rows: Sequence[Row]) -> bool:
    """Whether rows have boxes."""
    return any(r.fields.get("kind") == BOXED for r in rows[:1])


def three(meter: Meter, row: Row, colour: Callable[[str], Colour]) -> NDArray[np.uint8]:
    """[3, H, W]: what is there, the base's answer and the tuned model's, side by side."""
    adapted = meter.session.adapted
    with adapted.base():
        base = _answer(meter, row)
    with adapted.at_strength(1.0):
        tuned = _answer(meter, row)
    names, corners, _ = read_right(str(row.fields["reference"]))
    return side_by_side(row, [(names, corners), _sure(base), _sure(tuned)], colour)


def side_by_side(
    row: Row, boxes: Sequence[tuple[Sequence[str], NDArray[Any]]], colour: Callable[[str], Colour]
) -> NDArray[np.uint8]:
    """[3, H, W]: the row's picture once for each set of boxes (their classes and corners in its own pixels)."""
    seen, (width, height) = _seen(row), row.fields["side"]
    scale = SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = Image.new("RGB", (len(boxes) * size[0] + (len(boxes) - 1) * _GAP, size[1]), (255, 255, 255))
    for k, (names, corners) in enumerate(boxes):
        panel = seen.resize(size, Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(panel)
        for name, box in zip(names, corners, strict=True):
            left, top, right, bottom = (float(v) * scale for v in box)
            lower = max(right - 1, left), max(bottom - 1, top)
            pen.rectangle((left - 1, top - 1, lower[0] + 1, lower[1] + 1), outline=_EDGE, width=_LINE + 2)
            pen.rectangle((left, top, *lower), outline=colour(name), width=_LINE)
        out.paste(panel, (k * (size[0] + _GAP), 0))
    return np.asarray(out).transpose(2, 0, 1)


def widths() -> tuple[int, int]:
    """Width and height of three pictures side by side, at most."""
    return 3 * SIDE + 2 * _GAP, SIDE


def _seen(row: Row) -> Image.Image:
    """The picture as the model is given it; of floats that a processor made, brought to what can be seen."""
    pixels = np.asarray(shown(row))
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)))


def _answer(meter: Meter, row: Row) -> str:
    """What the model as it is now says of a row."""
    task = meter.session.task
    with measuring(meter.model):
        batch = task.collate([row]).to(device_of(meter.model))
        return task.predict(task.forward(meter.model, batch), batch, [row])[0][0]


def _sure(answer: str) -> tuple[list[str], NDArray[Any]]:
    names, scores, corners = read_said(answer)
    kept = scores >= SURE
    return [n for n, keep in zip(names, kept, strict=True) if keep], corners[kept]


def in_short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the page with its boxes in words: what is found surely, and how many more boxes are unsure."""
    out = dict(row)
    for side in ("base", "tuned"):
        if out.get(side):
            names, scores, _ = read_said(out[side])
            sure = [f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True) if s >= SURE]
            rest = len(names) - len(sure)
            out[side] = "\n".join([*(sure or ["nothing"]), *([f"({rest} boxes below {SURE:g})"] if rest else [])])
    if out.get("reference"):
        names, _, crowd = read_right(out["reference"])
        told = [f"{n} (a crowd)" if many else n for n, many in zip(names, crowd, strict=True)]
        out["reference"] = "\n".join(told) or "nothing"
    return out
