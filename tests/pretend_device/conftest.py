"""The device of these tests: the pretended one, or a real GPU where there is one: both are held to the same rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pretend_device import REAL, pretended


@pytest.fixture
def cuda() -> Iterator[str]:
    if REAL:
        yield "cuda"
        return
    with pretended():
        yield "cuda"
