"""The key lines of methods, merges and edits, read from `lines/*.toml`: what each becomes, and which tests must notice.

A table per method: `file`, `tests`, `only` where files of tests are shared (pytest's -k), and `lines`, a list of
[line, what it becomes, what that breaks], with a fourth text where the line stands in another file (a shared piece). A
line is written without its indentation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = Path(__file__).with_name("lines")
ROOMS = ("methods/", "weights/merge", "weights/edit", "data/select", "data/synthesize")
"""Rooms of the catalogue whose entries must have lines here."""


@dataclass(frozen=True)
class Mutant:
    """One line of a method's code, changed on purpose."""

    method: str
    file: str
    line: str
    becomes: str
    breaks: str
    tests: tuple[str, ...]
    only: str

    @property
    def key(self) -> str:
        """What the results know it by: unique, and another one when the line or its change is."""
        return f"{self.method}: {self.line} -> {self.becomes}"

    def places(self, root: Path = ROOT) -> list[int]:
        """Where the line stands in its file, from 0."""
        text = (root / self.file).read_text(encoding="utf-8")
        return [i for i, line in enumerate(text.splitlines()) if line.strip() == self.line]

    def mutated(self, root: Path = ROOT) -> str:
        """The file's text with the line changed. ValueError where it does not stand there exactly once."""
        lines, places = (root / self.file).read_text(encoding="utf-8").splitlines(), self.places(root)
        if len(places) != 1:
            raise ValueError(f"{self.file} has {len(places)} lines {self.line!r} ({self.method})")
        old = lines[places[0]]
        lines[places[0]] = old[: len(old) - len(old.lstrip())] + self.becomes
        return "\n".join(lines) + "\n"


def listed() -> Iterator[Mutant]:
    """Every mutant, in the order of the files."""
    for file in sorted(LINES.glob("*.toml")):
        for method, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
            for line, becomes, breaks, *elsewhere in table["lines"]:
                where = elsewhere[0] if elsewhere else table["file"]
                yield Mutant(method, where, line, becomes, breaks, tuple(table["tests"]), table.get("only", ""))
