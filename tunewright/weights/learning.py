"""What merges that learn from rows are given: models loaded, calibration batches, the task's loss."""

from __future__ import annotations

from typing import NoReturn

from tunewright.errors import MethodError


def needs_rows(name: str) -> NoReturn:
    """MethodError: this merge learns, and there is nothing to learn from."""
    raise MethodError(f"'{name}' learns from rows, and none are given", remedy="give rows and their task: --data FILE --task text-generation")
