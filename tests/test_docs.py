from __future__ import annotations

from pathlib import Path

import pytest

from tunewright.commands import docs

FOLDER = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", sorted(docs.pages()))
def test_the_pages_say_what_the_types_say(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == docs.pages()[name], "run `make docs`"
