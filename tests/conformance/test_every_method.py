"""Everything that a recipe may name holds what it declares. A new method file is covered here on arrival."""

from __future__ import annotations

import pytest

from tunewright.conformance import every_check
from tunewright.errors import MissingExtraError


@pytest.mark.parametrize("check", every_check(), ids=str)
def test_conformance(check):
    try:
        check()
    except MissingExtraError as missing:  # a selector whose library is an extra that is not installed here
        pytest.skip(str(missing))
