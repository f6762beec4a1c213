"""Trackers: what metrics.jsonl gets, sent to a tool that draws it (extra `track`). A tracker never fails a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

_LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a tracker does: one call a record, and one at the end."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder under tensorboard/.

    A resumed run goes on from its step: what came after is hidden.
    """

    def __init__(self, folder: Path, first_step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)  # type: ignore[no-untyped-call]

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
        self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {"tensorboard": TensorBoard}


def numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a record; those of a mapping inside are named "outer/inner"."""
    by_name: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            by_name.update(numbers(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            by_name[prefix + name] = float(value)
    return by_name


class Trackers:
    """The trackers of one run. The first error of one is logged and the tracker dropped; the run goes on.

    `names`: `train.report_to`. `first_step`: the step that a resumed run goes on from.
    """

    def __init__(self, names: Sequence[str], folder: Path, first_step: int = 0):
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._guard(name, lambda name=name: self._open.__setitem__(name, TRACKERS[name](folder, first_step)))  # type: ignore[misc]

    def log(self, record: Mapping[str, Any]) -> None:
        """Send one record of metrics.jsonl; its "step" is the x axis, and records without one are left out."""
        step = record.get("step")
        if not isinstance(step, int):
            return
        values = numbers({k: v for k, v in record.items() if k != "step"})
        for name, tracker in list(self._open.items()):
            self._guard(name, lambda tracker=tracker: tracker.log(values, step))  # type: ignore[misc]

    def close(self) -> None:
        """Let every tracker write what it holds."""
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)
        self._open.clear()

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises, the run is worth more
            self._open.pop(name, None)
            _LOG.warning(
                "the tracker '%s' stopped (%s: %s); the run goes on, metrics.jsonl has every record",
                name,
                type(error).__name__,
                error,
            )
