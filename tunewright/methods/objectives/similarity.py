"""similarity: the loss of sentence-similarity with another scale, or of scored pairs with another loss.

    loss = in-batch negatives of rows with a positive; CoSENT, or (cos - score)^2, of rows with a score     [a row]

Without it the task trains the same with scale 20 and CoSENT. The whole optimizer step is one batch, however it is
split into micro-batches. See `pieces/similarity.py` for the formulas and their sources. The scale is 1 / temperature:
20 is a temperature of 0.05.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method
from tunewright.contract.records import Record, RowProblem, finite
from tunewright.pieces.similarity import SCALE
from tunewright.tasks.sentence_similarity import similarity_loss


class Similarity(Method):
    """Which loss brings vectors of texts together, and how sharply cosines are told apart."""

    scale: PositiveFloat = Field(
        SCALE, description="what cosines are multiplied by, 1 / temperature (not of the squared error)", examples=[50.0]
    )
    scored: Literal["cosent", "cosine"] = Field(
        "cosent",
        description="loss of rows with a score: CoSENT, which reads their order, or the cosine's squared error, which "
        "wants scores from -1 to 1",
        examples=["cosine"],
    )
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    couples: ClassVar[Literal["token", "row", "batch"]] = "batch"
    tasks: ClassVar[tuple[str, ...] | None] = ("sentence-similarity",)

    def example(self, record: Record) -> None:
        """Change nothing. RowProblem for a score that is no cosine, where cosines are to be scores."""
        score = finite(record.get("score"))
        if self.scored == "cosine" and score is not None and not -1 <= score <= 1:
            raise RowProblem(
                "score",
                f"{score:g} is no cosine, and `scored: cosine` brings cosines to scores",
                "bring scores to 0..1 (divide by the largest), or take `scored: cosent`, which reads their order",
            )

    def objective(self, outputs: Outputs, batch: Batch) -> Loss:
        return similarity_loss(outputs, batch, self.scale, self.scored)
