"""GRAPE: of several answers to a prompt, keep the one that the model finds likeliest itself (Zhang et al. 2025,
arXiv:2502.04194; papers: grape).

Records that ask the same (prompt, or the turns before the last answer, and system text) are answers to one prompt, from
whatever models or people. With l the mean loss of an answer's tokens behind the prompt under the model that is to be
trained, in nats, the `count` answers of smallest l are kept (of equal ones the earlier), in the order in which records
stood: a mean over tokens, so that long answers are not held against their length. Fine-tuning then moves the model less
far from what it knew.

`count` 1 is the paper's. Prompts with one answer keep it.

Differs from the paper in: written after its abstract and method, its authors' code was not run beside it. Answers are
the user's; the paper collects them from many models and data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import smallest
from tunewright.data.select._text import asked
from tunewright.errors import DataError


class GRAPE(Method):
    """Keeps the answers that the model finds likeliest among those to one prompt."""

    count: PositiveInt = Field(1, description="answers that are kept of each prompt", examples=[2])
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("grape",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        answers: dict[str, list[int]] = {}
        for i, record in enumerate(records):
            answers.setdefault(asked(record), []).append(i)
        if "" in answers:
            raise DataError(
                "the row has no prompt, and grape chooses among the answers to one",
                where=records[answers[""][0]].where,
                remedy="give rows with prompt and completion, or messages",
            )
        if max(map(len, answers.values())) <= self.count:
            raise DataError(
                f"no prompt has more than {self.count} {'answer' if self.count == 1 else 'answers'} to choose among",
                where="data.select",
                remedy="give several rows of the same prompt, each with an answer of its own",
            )
        losses = readers[self.model].losses(records).tolist()
        kept = {some[k] for some in answers.values() for k in smallest([losses[i] for i in some], self.count)}
        reasons = ["" if i in kept else "another answer to the prompt is likelier" for i in range(len(records))]
        return Selected(sorted(kept), scores={"loss": losses}, reasons=reasons)
