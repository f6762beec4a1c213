"""Every task of this package holds what tasks promise. A new task file is covered here once it has its example."""

from __future__ import annotations

import pytest

from tunewright.conformance import checks_of_task
from tunewright.tasks import own_names


@pytest.mark.parametrize("check", [c for name in own_names() for c in checks_of_task(name)], ids=str)
def test_conformance(check):
    check()
