"""Perplexity filter: keep the records whose perplexity under a model lies between two quantiles (papers: points).

With l_i the mean loss of record i's trained tokens under the model, in nats, its perplexity is exp(l_i). The n records
are ranked by it, lowest first (of equal ones the earlier), and those of ranks from round(low n) up to round(high n) are
kept, in the order in which they stood. The model is the one that the stage starts from, or one of the recipe's
`models`: a small one may choose for a large one.

`low` 0 and `high` 0.2 are POINTS's: the fifth of lowest perplexity of five million pre-training pairs. Others keep
the middle (low 0.25, high 0.75) or what the model finds hard (low 0.5, high 1): which is best depends on what the pool
has at its ends, so look at the scores in the run's folder, `selection/<stage>.jsonl`.

Differs from the paper in: POINTS reads captions of pictures with its own vision-language model after pre-training;
here it is any text, of which prompts that are not trained count nothing. A record that was cut into pieces has the mean
over all tokens of its pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import smallest


def between(losses: Sequence[float], low: float, high: float) -> list[int]:
    """Indices, rising, of the losses whose ranks lie from round(low n) up to round(high n); at least one."""
    n = len(losses)
    first = min(round(low * n), n - 1)
    return sorted(smallest(losses, n)[first : max(first + 1, round(high * n))])


class Perplexity(Method):
    """Keeps records of a band of perplexity."""

    low: float = Field(0.0, ge=0, lt=1, description="share of the records of lowest perplexity that is left out")
    high: float = Field(
        0.2, gt=0, le=1, description="share of the records, lowest perplexity first, up to which they are kept"
    )
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("points",)

    @model_validator(mode="after")
    def _ordered(self) -> Perplexity:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        losses = readers[self.model].losses(records).tolist()
        kept = between(losses, self.low, self.high)
        ends = [min(losses[i] for i in kept), max(losses[i] for i in kept)]
        inside = set(kept)
        reasons = ["" if i in inside else _outside(x, ends) for i, x in enumerate(losses)]
        return Selected(kept, scores={"loss": losses}, reasons=reasons)


def _outside(loss: float, ends: Sequence[float]) -> str:
    """Why a row is left out, whose loss is none of the band's or, as others' that fill it, on its very end."""
    low, high = (f"{math.exp(min(x, 700.0)):.4g}" for x in ends)
    if loss in ends:
        return f"perplexity {low if loss == ends[0] else high}, as of rows that fill the band from {low} to {high}"
    return f"perplexity {'below' if loss < ends[0] else 'above'} the band from {low} to {high}"
