"""Pictures that base and tuned model draw, beside those that were to be drawn: for a run's page, and as a file.

Both models draw from the same noise, which is keyed by the row, so that what differs is what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tunewright.contract.batch import Row
from tunewright.measure._mode import measuring
from tunewright.tasks._parts import CODED, NOISED

if TYPE_CHECKING:
    from tunewright.runs.meter import Meter

ROWS = 8
"""Rows that pictures are drawn of, at most."""
SIDE = 96
"""Longest side of a picture on the page, in pixels."""
FILE = "pictures.png"
_GAP = 4


def are_drawn(rows: Sequence[Row]) -> bool:
    """Whether the rows are of a task that draws pictures."""
    return any(r.fields.get("kind") in (NOISED, CODED) for r in rows[:1])


def drawn(meter: Meter) -> dict[str, NDArray[np.uint8]]:
    """Row id -> uint8 [3, H, W], the row's own picture, the base's and the tuned model's side by side, of the first
    rows.
    """
    rows, adapted = meter.rows[:ROWS], meter.session.adapted
    with adapted.base():
        base = _pictures(meter, rows)
    with adapted.at_strength(1.0):
        tuned = _pictures(meter, rows)
    given = [np.asarray(r.fields["pixels"]) for r in rows]
    return {r.id: side_by_side(panels) for r, *panels in zip(rows, given, base, tuned, strict=True)}


def side_by_side(panels: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """uint8 [3, H, W] of pictures [c, h, w] of one size, each enlarged by a whole number where it is small."""
    height, width = panels[0].shape[1:]
    times = max(1, SIDE // max(height, width))
    large = [np.broadcast_to(p, (3, height, width)).repeat(times, 1).repeat(times, 2) for p in panels]
    gap = np.full((3, height * times, _GAP), 255, np.uint8)
    return np.concatenate([x for part in large for x in (part, gap)][:-1], axis=2)


def write(pictures: Mapping[str, NDArray[np.uint8]], folder: Path) -> None:
    """A row of three for each, one below the other, as pictures.png."""
    each = list(pictures.values())
    gap = np.full((3, _GAP, each[0].shape[2]), 255, np.uint8)
    grid = np.concatenate([x for one in each for x in (one, gap)][:-1], axis=1)
    Image.fromarray(np.ascontiguousarray(grid.transpose(1, 2, 0))).save(folder / FILE)


def widths(picture: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height on the page, at most."""
    return 3 * SIDE + 2 * _GAP, max(SIDE, min(picture.shape[1], 2 * SIDE))


def in_short(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the page without features of its pictures, which no reader reads."""
    return {**row, **{side: "" for side in ("base", "tuned", "reference") if row.get(side)}}


def _pictures(meter: Meter, rows: Sequence[Row]) -> list[NDArray[np.uint8]]:
    task: Any = meter.session.task
    with measuring(meter.model):
        return list(task.drawn(meter.model, rows).cpu().numpy())
