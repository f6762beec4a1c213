"""What a method on `synthesize` makes: a record with where it came from, or one that it threw away, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunewright.contract.records import Record
from tunewright.contract.writer import Written


@dataclass(frozen=True)
class Made:
    """One record that was made, in the columns of a row that can be trained on, all of them JSON values.

    `of`: the record that it was made from. `written`: the answer that it holds, which says who wrote it, after which
    prompt and with which draw; None where no model wrote it. `thrown`: why it is not trained on, "" where it is.
    `scores`: numbers by name that decided. `verdict`: what was decided of a record that is kept, in a few words that
    several records share ("replaced"); "" where there was nothing to decide. All of it is written into the run's
    folder; how many there are for each reason and verdict is told on the page.
    """

    values: Mapping[str, Any]
    of: Record
    written: Written | None = None
    thrown: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
