"""segment_scores: what a reward model says of the segments of each training row that a control token begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import Need
from tunewright.contract.reader import Reader, Reading
from tunewright.contract.records import Record, RowProblem
from tunewright.tasks.reward_modeling import RewardModeling


def scored(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, 1] the score of each row, [R] ones)."""
    assert outputs.scores is not None
    return outputs.scores[:, None], torch.ones(len(batch.row_ids))


SCORES = Reading("score", scored)


def token_id(tokenizer: Any, token: str) -> int | None:
    """A token's id, None where the tokenizer has no such token; without a tokenizer a text is its tokens' numbers."""
    if tokenizer is None:
        return int(token)
    found: int | None = tokenizer.get_vocab().get(token)
    return found


def segments_of(ids: Sequence[int], begins: int) -> list[list[int]]:
    """The tokens behind each `begins`, up to the next."""
    places = [i for i, token in enumerate(ids) if token == begins]
    return [list(ids[a + 1 : b]) for a, b in zip(places, [*places, len(ids)][1:], strict=True)]


class SegmentScores(Need):
    """dict: row id -> a score for each of its segments, in order.

    The frozen reward model `model` of the recipe's `models` reads each segment as a text of its own, in windows that
    are kept on disk: a resumed run, and another run of the same rows, reads none again.
    """

    name: ClassVar[str] = "segment_scores"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "once"

    model: str = Field(description="which of the recipe's `models`")
    token: str = Field(description="the control token that begins a segment")

    def check(self, run: Any) -> None:
        run.judge(self.model)

    def compute(self, run: Any, batch: Any = None) -> dict[str, list[float]]:
        judge, begins = run.judge(self.model), token_id(run.adapted.tokenizer, self.token)
        assert begins is not None
        task, records, rows = RewardModeling(), list[Record](), dict[int, Row]()
        owners: list[str] = []
        for row in run.source("train"):
            for k, ids in enumerate(segments_of(row.input_ids, begins)):
                record = Record({"score": 0.0}, id=f"{row.id}/{k}", source=row.source)
                rows[id(record)] = _row(task, judge, record, ids, run.adapted.tokenizer)
                records.append(record)
                owners.append(row.id)
        reader = Reader(
            self.model,
            judge.adapted,
            task,
            lambda record: [rows[id(record)]],
            device=run.device,
            cache=run.cache,
        )
        scores: dict[str, list[float]] = {}
        given = reader.read(records, SCORES)[:, 0].tolist() if records else []
        for owner, score in zip(owners, given, strict=True):
            scores.setdefault(owner, []).append(score)
        return scores


def _row(task: RewardModeling, judge: Any, record: Record, ids: list[int], tokenizer: Any) -> Row:
    if tokenizer is None or judge.adapted.tokenizer is None:
        return task.ends(record.id, ids or [0], (), None, each=False)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    try:
        return task.encode(record.replace(text=text), judge.adapted.tokenizer, judge.options)
    except RowProblem:  # nothing stands there that can be read
        return task.ends(record.id, ids or [0], (), judge.adapted.tokenizer, each=False)
