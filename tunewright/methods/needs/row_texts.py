"""row_texts: what a stage's rows say in words, each text once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tunewright.contract.method import Need


@dataclass(frozen=True)
class Text:
    """A text of a stage's rows: its key in `batch.fields["keys"]`, its tokens, itself."""

    key: int
    ids: tuple[int, ...]
    words: str


class RowTexts(Need):
    """The texts of a stage's training rows in their first order, of a task whose rows pair pictures with texts."""

    name: ClassVar[str] = "row_texts"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"
    of_rows: ClassVar[bool] = True

    def check(self, run: Any) -> None:
        run.source("train")

    def compute(self, run: Any, batch: Any = None) -> list[Text]:
        found: dict[int, Text] = {}
        for row in run.source("train"):
            key = row.fields["keys"][1]
            found.setdefault(key, Text(key, tuple(row.input_ids), str(row.fields["reference"])))
        return list(found.values())
