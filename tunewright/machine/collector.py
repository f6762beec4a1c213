"""Python's collector of cycles, told to wait while many objects are made that hold none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 500_000
"""Objects that may come before the collector looks; by itself it looks every 700, again and again at the same ones."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Within it, the collector looks seldom. What it was told before holds afterwards."""
    before = gc.get_threshold()
    if not before[0]:  # somebody turned it off
        yield
        return
    gc.set_threshold(max(PATIENCE, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
