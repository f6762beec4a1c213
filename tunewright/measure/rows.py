"""Every evaluated row, kept: what a model answered, and the run's rows.jsonl with both answers beside the reference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.errors import DataError


class RowResult(BaseModel):
    """One row as one model answered it. `score` is the metric's value on this row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="the row's stable id, such as test.jsonl:12")
    source: str = Field("", description="the source that the row came from")
    prompt: str = Field("", description="what the model was given, as text")
    answer: str = Field("", description="what it answered, as text")
    reference: str = Field("", description="what was expected, as text")
    score: float = Field(description="the metric on this row")
    weight: float = Field(1.0, ge=0, description="what the row counts in the mean: tokens for a loss, else 1")
    confidence: float | None = Field(
        None, description="probability that the model gave its own answer among the choices"
    )
    likelihood: float | None = Field(None, description="probability that the model gave the expected class")
    notes: dict[str, float] = Field(
        default_factory=dict, description="what the model noted of the row while it answered, such as blocks run"
    )


class PairedRow(BaseModel):
    """A line of rows.jsonl: base and tuned answer beside the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    prompt: str
    base: str
    tuned: str
    reference: str
    base_score: float
    tuned_score: float
    weight: float = 1.0


def pair(base: Sequence[RowResult], tuned: Sequence[RowResult]) -> list[PairedRow]:
    """Put both answers to each row side by side. Raises ValueError when the rows are not the same."""
    if [r.id for r in base] != [r.id for r in tuned]:
        raise ValueError(
            f"base answered {len(base)} rows and tuned {len(tuned)}, or in another order: pairs need the same rows"
        )
    return [
        PairedRow(
            id=b.id,
            source=b.source,
            prompt=b.prompt,
            base=b.answer,
            tuned=t.answer,
            reference=b.reference,
            base_score=b.score,
            tuned_score=t.score,
            weight=b.weight,
        )
        for b, t in zip(base, tuned, strict=True)
    ]


def write_rows(path: Path, rows: Sequence[PairedRow]) -> None:
    """Write rows.jsonl beside its place, then rename, so that a reader never sees half a file."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row.model_dump(), ensure_ascii=False) + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(aside, path)


def read_rows(path: Path) -> Iterator[PairedRow]:
    """Read rows.jsonl. Raises DataError naming the line that is no such row."""
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                yield PairedRow.model_validate_json(line)
            except ValidationError as e:
                what = "; ".join(f"{'.'.join(map(str, x['loc'])) or 'line'}: {x['msg']}" for x in e.errors()[:3])
                raise DataError(
                    f"not a row of answers ({what})",
                    where=f"{path}:{number}",
                    remedy="run the evaluation again; the file was altered",
                ) from None
