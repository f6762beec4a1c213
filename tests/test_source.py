from __future__ import annotations

import ast

import pytest

from tunewright.files import source
from tunewright.trials import trial_key

WHOLE = '''
"""What it is for."""
from __future__ import annotations
from typing import TYPE_CHECKING
from pydantic import Field

if TYPE_CHECKING:
    from elsewhere import Thing

class Method:
    """A method."""
    rank: int = Field(8, gt=0, description="how many directions")

    def scale(self, thing: Thing) -> float:
        """Twice."""
        factor: float = 2.0
        if thing is None:
            raise ValueError(f"nothing to scale in {self.rank}")
        return factor * self.rank  # a remark
'''
SAME = {
    "layout": WHOLE.replace("2.0", "(\n    2.0\n)"),
    "comments": WHOLE.replace("# a remark", "# another"),
    "docstrings": WHOLE.replace('"""Twice."""', '"""Two times."""').replace('    """A method."""\n', ""),
    "imports": WHOLE.replace("from pydantic import Field", "from pydantic.fields import Field"),
    "imports for types": WHOLE.replace("from elsewhere import Thing", "from nearby import Thing"),
    "annotations of functions": WHOLE.replace("-> float", "").replace("factor: float", "factor"),
    "descriptions": WHOLE.replace("how many directions", "width"),
    "the category of a method": WHOLE.replace("    rank:", '    category: ClassVar[Category] = "prompt"\n    rank:'),
    "errors' words": WHOLE.replace("nothing to scale in", "there is nothing in"),
}
OTHER = {
    "a number": WHOLE.replace("2.0", "2.5"),
    "a default": WHOLE.replace("Field(8", "Field(4"),
    "a bound": WHOLE.replace("gt=0", "ge=0"),
    "a field that is called category": WHOLE.replace("    rank:", '    category: str = "prompt"\n    rank:'),
    "a field's type": WHOLE.replace("rank: int", "rank: float"),
    "an operation": WHOLE.replace("factor * self", "factor + self"),
    "an error's class": WHOLE.replace("ValueError(", "KeyError("),
    "a condition": WHOLE.replace("is None", "is not None"),
    "a name": WHOLE.replace("rank:", "width:"),
}


@pytest.mark.parametrize("what", SAME)
def test_layout_words_and_places_do_not_count(what):
    assert SAME[what] != WHOLE and source.plain_text(SAME[what]) == source.plain_text(WHOLE)


@pytest.mark.parametrize("what", OTHER)
def test_what_the_code_does_counts(what):
    assert OTHER[what] != WHOLE and source.plain_text(OTHER[what]) != source.plain_text(WHOLE)


def test_files_are_called_by_what_they_do_alone(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "folder" / "b.py"
    second.parent.mkdir()
    first.write_text(WHOLE)
    second.write_text(ast.unparse(ast.parse(WHOLE)))
    assert source.plain_of([first]) == source.plain_of([second]) != source.plain_of([])
    second.write_text(OTHER["a number"])
    assert source.plain_of([first]) != source.plain_of([second])


def test_a_closure_follows_imports_that_run_wherever_they_stand(tmp_path):
    entry = tmp_path / "entry.py"
    entry.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from tunewright.report import page\n"
        "else:\n    from tunewright.measure import drift\n"
        "def f():\n    try:\n        from tunewright.models.deltas import LowRank\n"
        "    except ImportError:\n        pass\n"
    )
    names = {str(f.relative_to(source.PACKAGE)) for f in source.closure([entry]) if f != entry}
    assert {"measure/drift.py", "measure/__init__.py", "models/deltas.py"} <= names
    assert "report/page.py" not in names
    inside = source.closure([entry], lambda module: not module.startswith("tunewright.measure"))
    assert source.PACKAGE / "measure" / "drift.py" not in inside


def test_what_was_read_is_found_by_later_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.py"
    file.write_text(WHOLE)
    try:
        for cached in (source._known, source._kept, source._read_at):
            cached.cache_clear()
        first = source.plain(file)
        source.keep()
        for cached in (source._known, source._kept, source._read_at):
            cached.cache_clear()
        monkeypatch.setattr(source, "_walk", None)  # read again, its tree would be walked
        assert source.plain(file) == first
    finally:
        for cached in (source._known, source._kept, source._read_at):
            cached.cache_clear()


def test_what_other_processes_have_read_is_kept_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_kept", lambda: tmp_path / "kept.json")
    monkeypatch.setattr(source, "_known", lambda: {"own": ("hash", ["module"])})
    (tmp_path / "kept.json").write_text('{"other": ["hash", []]}')
    source.keep()
    assert source._written() == {"own": ("hash", ["module"]), "other": ("hash", [])}


def test_the_code_of_a_run_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    named = (trial_key.core_files, trial_key._code, trial_key.method_source)
    held = (source._known, source._kept, source._read_at, *named)

    def name_all():
        return [trial_key._code("text-generation"), *(trial_key.method_source(n) for n in ("lora", "corda", "ties"))]

    try:
        for cached in held:
            cached.cache_clear()
        first = name_all()
        source.keep()
        for cached in held:
            cached.cache_clear()
        monkeypatch.setattr(source, "_walk", None)  # read again, its tree would be walked
        assert name_all() == first
    finally:
        for cached in held:
            cached.cache_clear()
