"""The device of these tests: the pretended one, or a real GPU where there is one: both are held to the same rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.pretend_device import pretended


@pytest.fixture
def cuda() -> Iterator[str]:
    if torch.cuda.is_available():
        yield "cuda"
        return
    with pretended():
        yield "cuda"
