"""Thumbnails of evaluated pictures, small enough to stand in a page: as the model saw them, resized and cropped. Of a
picture with a mask, what is right, the base's answer and the tuned model's stand beside it; of one with boxes, these
three are drawn on it (`runs.boxed_pictures`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tunewright.contract.batch import Row
from tunewright.measure._mode import device_of, measuring
from tunewright.runs import boxed_pictures, drawn_pictures
from tunewright.tasks._boxes import BOXED
from tunewright.tasks._masks import NO_TARGET, SEGMENTED
from tunewright.tasks._pictures import read_image
from tunewright.tasks._shown import unpacked

if TYPE_CHECKING:
    from tunewright.runs.meter import Meter

SIDE = 72
"""Longest side in pixels."""
MASKS = 24
"""Rows whose masks are drawn, at most: each is read again by both models."""
_GAP, _OUTSIDE = 4, (224, 224, 224)


def beside(meter: Meter) -> Callable[[str], str]:
    """As `thumbnails` of the evaluated rows; of the first MASKS that are asked for and have a mask, four pictures in
    one: picture, mask, base, tuned. Pixels that do not count are grey.
    """
    plain = thumbnails(meter.rows)
    rows = {r.id: r for r in meter.rows if r.fields.get("kind") in (SEGMENTED, BOXED)}
    drawn: list[str] = []

    def shown(row: str) -> str:
        if row not in rows or len(drawn) >= MASKS:
            return plain(row)
        drawn.append(row)
        if rows[row].fields["kind"] == BOXED:
            return data_uri(boxed_pictures.three(meter, rows[row], _colours(meter)), boxed_pictures.widths())
        return data_uri(_four(meter, rows[row]), (4 * SIDE + 3 * _GAP, SIDE))

    return shown


def of(made: Mapping[str, np.ndarray], others: Callable[[str], str]) -> Callable[[str], str]:
    """Row id -> the picture that was made of it as a data URI; of the others what `others` says."""

    def shown(row: str) -> str:
        return data_uri(made[row], drawn_pictures.widths(made[row])) if row in made else others(row)

    return shown


def legend(meter: Meter) -> list[tuple[str, str]]:
    """(name, its colour as a picture) of each class that masks are drawn in; none where rows have none."""
    if boxed_pictures.is_boxed(meter.rows):
        colour = _colours(meter)
        blocks = [(n, np.broadcast_to(np.array(colour(n))[:, None, None], (3, 4, 4))) for n in _names(meter)]
        return [(n, data_uri(block)) for n, block in blocks]
    if not any(r.fields.get("kind") == SEGMENTED for r in meter.rows[:1]):
        return []
    names = [*(meter.session.options.labels or ()), "does not count"]
    classes = [*range(len(names) - 1), NO_TARGET]
    return [(n, data_uri(coloured(np.full((4, 4), k)))) for n, k in zip(names, classes, strict=True)]


def _names(meter: Meter) -> list[str]:
    return list(meter.session.options.labels or ())


def _colours(meter: Meter) -> Callable[[str], tuple[int, int, int]]:
    """The colour of a class's boxes: the first is no black, which is what lies behind others in masks."""
    names = _names(meter)
    palette = coloured(np.arange(1, len(names) + 1)[None])[:, 0].T

    def colour(name: str) -> tuple[int, int, int]:
        red, green, blue = palette[names.index(name)].tolist()
        return red, green, blue

    return colour


def _four(meter: Meter, row: Row) -> np.ndarray:
    """uint8 [3, H, W]: picture, mask, and both models' answers side by side."""
    right, adapted = row.fields["targets"], meter.session.adapted
    with adapted.base():
        base = _answer(meter, row)
    with adapted.at_strength(1.0):
        tuned = _answer(meter, row)
    parts = [_picture(row), *(coloured(np.where(right < 0, right, said)) for said in (right, base, tuned))]
    gap = np.full((3, right.shape[0], max(1, right.shape[1] * _GAP // SIDE)), 255, np.uint8)
    return np.concatenate([x for part in parts for x in (part, gap)][:-1], axis=2)


def _answer(meter: Meter, row: Row) -> np.ndarray:
    """[H, W] the likeliest class of each pixel, of the model as it is now."""
    whole = row.replace(fields={**row.fields, "targets": np.zeros_like(row.fields["targets"])})  # so that all count
    task = meter.session.task
    with measuring(meter.model):
        out = task.forward(meter.model, task.collate([whole]).to(device_of(meter.model)))
    return out.logits.argmax(-1).reshape(row.fields["targets"].shape).cpu().numpy()


def _picture(row: Row) -> np.ndarray:
    """uint8 [3, H, W]; of floats that a processor made, brought to what can be seen."""
    pixels = np.asarray(row.fields["pixels"])
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return np.broadcast_to(pixels, (3, *pixels.shape[1:]))


def coloured(classes: np.ndarray) -> np.ndarray:
    """uint8 [3, H, W] of classes [H, W], each in a colour of its own, as PASCAL VOC colours them: 0 is black."""
    codes = np.maximum(classes, 0).astype(np.int64)
    channels = [sum((codes >> (3 * bit + c) & 1) << (7 - bit) for bit in range(5)) for c in range(3)]
    out = np.stack(channels).astype(np.uint8)
    out[:, classes < 0] = np.array(_OUTSIDE, np.uint8)[:, None]
    return out


def thumbnails(rows: Sequence[Row]) -> Callable[[str], str]:
    """Row id -> its picture as a data URI, made when it is asked for; "" for a row without one."""
    pixels = {r.id: r.fields["pixels"] for r in rows if "pixels" in r.fields}
    boxed = {r.id: r for r in rows if r.fields.get("kind") == BOXED}
    files = {r.id: r.fields["pictures"] for r in rows if r.fields.get("picture_tokens")}

    def shown(row: str) -> str:
        if row in files:  # the first of those that a row of pictures in texts has
            picture = read_image(unpacked(files[row])[0], "", 3)
            picture.thumbnail((SIDE, SIDE))
            return data_uri(np.asarray(picture).transpose(2, 0, 1))
        if row in boxed:
            return data_uri(boxed_pictures.side_by_side(boxed[row], [([], np.zeros((0, 4)))], lambda name: (0, 0, 0)))
        return data_uri(pixels[row]) if row in pixels else ""

    return shown


def data_uri(pixels: np.ndarray, size: tuple[int, int] = (SIDE, SIDE)) -> str:
    """uint8 [C, H, W] as a PNG or a JPEG, whichever is smaller, of `size` (width and height) at most."""
    channels = np.asarray(pixels, dtype=np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(channels[..., 0] if channels.shape[-1] != 3 else channels)
    picture.thumbnail(size)
    forms = [("png", _bytes(picture, "PNG", optimize=True)), ("jpeg", _bytes(picture, "JPEG", quality=80))]
    kind, data = min(forms, key=lambda form: len(form[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _bytes(picture: Image.Image, form: str, **how: int | bool) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **how)
    return out.getvalue()
