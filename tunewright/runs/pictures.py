"""Thumbnails of evaluated pictures, small enough to stand in a page: as the model saw them, resized and cropped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from tunewright.contract.batch import Row
from tunewright.tasks._pictures import read_image
from tunewright.tasks._shown import unpacked

SIDE = 72
"""Longest side in pixels."""


def thumbnails(rows: Sequence[Row]) -> Callable[[str], str]:
    """Row id -> its picture as a data URI, made when it is asked for; "" for a row without one."""
    pixels = {r.id: r.fields["pixels"] for r in rows if "pixels" in r.fields}
    files = {r.id: r.fields["pictures"] for r in rows if r.fields.get("picture_tokens")}

    def shown(row: str) -> str:
        if row in files:  # the first of those that a row of pictures in texts has
            picture = read_image(unpacked(files[row])[0], "", 3)
            picture.thumbnail((SIDE, SIDE))
            return data_uri(np.asarray(picture).transpose(2, 0, 1))
        return data_uri(pixels[row]) if row in pixels else ""

    return shown


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [C, H, W] as a PNG or a JPEG, whichever is smaller."""
    channels = np.asarray(pixels, dtype=np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(channels[..., 0] if channels.shape[-1] != 3 else channels)
    picture.thumbnail((SIDE, SIDE))
    forms = [("png", _bytes(picture, "PNG", optimize=True)), ("jpeg", _bytes(picture, "JPEG", quality=80))]
    kind, data = min(forms, key=lambda form: len(form[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _bytes(picture: Image.Image, form: str, **how: int | bool) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **how)
    return out.getvalue()
