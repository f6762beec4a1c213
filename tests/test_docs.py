"""Pages that are made from the source say what the source says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tunewright import catalogue
from tunewright.catalogue import folders
from tunewright.commands import docs
from tunewright.errors import MethodError

FOLDER = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", sorted(docs.PAGES))
def test_the_pages_say_what_the_types_say(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run `make docs`"


def test_every_method_has_a_line_under_its_rooms_question() -> None:
    sections = dict(part.split("\n", 1) for part in docs.PAGES["methods.md"]().split("\n## ")[1:])
    for entry in catalogue.entries().values():
        if entry.room != catalogue.THIRD_PARTY:
            assert f"| [`{entry.name}`](../tunewright/{entry.room}/" in sections[folders.question(entry.room)]


def test_a_room_without_a_question_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = tmp_path / "methods" / "adapters"
    room.mkdir(parents=True)
    shutil.copy(folders.PACKAGE / "methods" / "adapters" / "__init__.py", room)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path)
    assert folders.question("methods/adapters").endswith("?")
    (room / "__init__.py").write_text("")
    with pytest.raises(MethodError, match="which question") as raised:
        folders.question("methods/adapters")
    assert raised.value.where == str(room / "__init__.py")
