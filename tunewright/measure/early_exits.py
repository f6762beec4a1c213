"""Early exits: after how many blocks was each evaluated row answered, and how right were the answers there?

It reads what a model with exits notes of each row (`RowResult.notes["blocks"]`): `jei-dnn` does.
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.measure.intervals import SHARE, bootstrap_mean, wilson
from tunewright.measure.probe import ProbeResult, Side, Value
from tunewright.models.sites import Structure

NOTE = "blocks"


class EarlyExits(Method):
    """Rows, accuracy and confidence by the block after which a row was answered."""

    papers: ClassVar[tuple[str, ...]] = ("jei-dnn",)

    def probe(self, tuned: Side, structure: Structure) -> ProbeResult:
        """MethodError where the tuned model has no exits."""
        answers = [a for a in tuned.answers.get("target", ()) if NOTE in a.notes]
        if not answers:
            raise MethodError(
                "the tuned model notes of no row where it was answered",
                where="early-exits",
                remedy="use it beside a method with exits, such as jei-dnn",
            )
        count = len(structure.blocks)
        rows: list[list[Value]] = []
        for block in sorted({int(a.notes[NOTE]) for a in answers}):
            here = [a for a in answers if a.notes[NOTE] == block]
            sure = [a.confidence for a in here if a.confidence is not None]
            rows.append(
                [
                    block,
                    len(here),
                    len(here) / len(answers),
                    sum(a.score for a in here) / len(here),
                    sum(sure) / len(sure) if sure else None,
                ]
            )
        early = sum(a.notes[NOTE] < count for a in answers)
        return ProbeResult(
            title="Early exits",
            description=f"Blocks of the model's {count} that ran until a row was answered (mean, as a share), the "
            "share of rows that were answered before the last, and how right answers were after each block.",
            values={
                "share_of_blocks": bootstrap_mean([a.notes[NOTE] / count for a in answers], bounds=SHARE),
                "answered_early": wilson(early, len(answers)),
                "score": bootstrap_mean([a.score for a in answers]),
            },
            columns=["block", "rows", "share of rows", "score", "mean confidence"],
            rows=rows,
        )
