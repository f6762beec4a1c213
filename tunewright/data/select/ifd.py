"""IFD: keep the records whose answers the prompt helps least to foresee, short of those that it misleads (Cherry LLM,
Li et al. 2023, arXiv:2308.12032; papers: ifd).

With L(A | Q) the mean loss of an answer's tokens behind its prompt under the model, and L(A) the same behind none, the
instruction-following difficulty is

    IFD(Q, A) = L(A | Q) / L(A)

Records of IFD above `most` are left out (the prompt does not help: question and answer do not fit), and of the others
those of highest IFD are kept, in the order in which they stood.

Behind none: a prompt that is one text becomes the authors' header, "### Response:"; turns of a chat that are not the
assistant's stay with nothing in them, and a system text goes.

Defaults: `most` 1 and `keep` 10% (authors' code: 5 to 15 % in the paper). The authors first tune the model on 1,000
records, ten each of 100 clusters of embeddings ("brief experience"): a first stage with `k-center: {keep: 1000}` does
about that, and a second one's `start` then reads. A later work of theirs reads with a small model as it is
(Superfiltering, arXiv:2402.00530): `model:` one of the recipe's `models`.

Differs from the paper in: `keep` is a share of all records that are offered (there of those below `most`). Records of
several turns are read whole: L(A | Q) is the mean over all the assistant's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveFloat

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, below, how_many, smallest
from tunewright.data.select._text import asked, without_prompt
from tunewright.errors import DataError


class IFD(Method):
    """Keeps records whose answers do not follow easily from their prompts."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    most: PositiveFloat = Field(1.0, description="difficulty above which prompt and answer do not fit", examples=[0.98])
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("ifd",)
    conformance: ClassVar[dict[str, object]] = {"keep": 0.5, "most": 1.02}

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        bare = next((r for r in records if not asked(r)), None)
        if bare is not None:
            raise DataError(
                "the row has no prompt, and ifd compares an answer with and without one",
                where=bare.where,
                remedy="give rows with prompt and completion, or messages; plain text: perplexity",
            )
        reader = readers[self.model]
        behind = reader.losses(records).double()
        alone = reader.losses([without_prompt(r) for r in records]).double()
        ratio = (behind / alone.clamp_min(1e-12)).tolist()
        fitting = [i for i, x in enumerate(ratio) if x <= self.most]
        if not fitting:
            raise DataError(
                f"no record has a difficulty of {self.most:g} or less: its prompt helps the model nowhere",
                where="data.select",
                remedy="look at the rows' prompts, or read with a model that follows instructions",
            )
        k = min(how_many(self.keep, len(records)), len(fitting))
        hardest = [fitting[i] for i in smallest([-ratio[i] for i in fitting], k)]
        least, inside = min(ratio[i] for i in hardest), set(hardest)
        reasons = [
            ""
            if i in inside
            else f"difficulty above {self.most:g}: the prompt does not help"
            if x > self.most
            else below("difficulty", x, least)
            for i, x in enumerate(ratio)
        ]
        scores = {"difficulty": ratio, "loss": behind.tolist(), "loss_alone": alone.tolist()}
        return Selected(sorted(hardest), scores=scores, reasons=reasons)
