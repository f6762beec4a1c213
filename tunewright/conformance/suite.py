"""The suite as a test file, for `pytest -p tunewright.conformance --pyargs tunewright.conformance.suite`."""

from __future__ import annotations

from collections.abc import Callable


def test_method(conformance_check: Callable[[], None]) -> None:
    """One check of one method."""
    conformance_check()
