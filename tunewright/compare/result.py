"""What a comparison gives back: the figures of compare.json and its folder, to be printed or shown in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import PrivateAttr

from tunewright.report import compare as compare_page
from tunewright.report import compare_schema, notebook


class Comparison(compare_schema.Comparison):
    """A finished comparison: the figures of compare.json. `print(comparison)` gives the table of the command line."""

    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def folder(self) -> Path:
        """Where compare.json, compare.html, winner.yaml and the trials are."""
        return self._folder

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read compare.json, or the one in a folder. FolderError naming the file and the field."""
        loaded = super().load(path)
        loaded._folder = Path(path) if Path(path).is_dir() else Path(path).parent
        return loaded

    def __str__(self) -> str:
        return notebook.plain(lambda console: compare_page.show(self, self.folder, console))

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(a.name for a in self.arms)}: {compare_page.headline(self)[-1]}>"

    def _repr_html_(self) -> str:
        shown = notebook.recorded(lambda console: compare_page.show(self, self.folder, console))
        return shown + notebook.framed(self.folder / "compare.html", "The whole comparison")
