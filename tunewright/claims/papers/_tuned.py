"""A rate for an arm of a claim whose own rows are not the lab task's: the best of a few on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def rate(rates: Sequence[float], trial: Callable[[float], Any]) -> float:
    """The rate whose run, judged on validation rows, has the highest target; the first of equals."""
    return max(rates, key=lambda r: float(trial(r).tuned.target))
