"""Conditional training: a control token before each segment says whether it is as people want it (Korbak et al. 2023,
"Pretraining Language Models with Human Preferences", arXiv:2302.08582).

    x -> c_1 x_1 c_2 x_2 ...      c_i = good where R(x_i) >= threshold, else bad; left out with probability `untagged`

The loss is the plain one, over control tokens too. Who asks for `<|good|>` first then gets what the model learnt of
good text, and the bad text has taught it all the same. The tokens must be of the vocabulary: `new_tokens: ["<|good|>",
"<|bad|>"]`, whose rows train with every method.

R, where higher is better, is all that is there of: the row's own `score`, or `scores` of its `texts` (a list of
segments); `avoid`, patterns that make a segment bad; `model`, one of the recipe's `models` as a reward model. A segment
is good where every one of them says so. Texts without `texts` are cut by `segments`. A row with prompt and completion
has one token, before its prompt. Rows that are measured, kept or replayed are left as they are: to measure what is said
on condition of good, write the token before their prompts.

Defaults: threshold 0 (the paper's for PII, with scores that count what is wrong); untagged 0.01 and sentences or lines
as segments (paper; the authors' code cuts where the data says).
Errors: MethodError for tokens that the tokenizer lacks, a pattern that is none; DataError for a row that nothing
scores.
Differs from the paper in: rewards instead of penalties, so that good is at or above the threshold; nothing keeps
control tokens from being generated (the authors forbid them).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.contract.records import Record
from tunewright.errors import DataError, MethodError
from tunewright.methods.needs.segment_scores import SegmentScores, token_id

SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s)|\Z)\s*", re.DOTALL)


def cut(text: str, by: str) -> list[str]:
    """A text's segments, which joined are the text."""
    if by == "lines":
        return text.splitlines(keepends=True)
    return SENTENCE.findall(text) if by == "sentences" else [text]


class ConditionalPretraining(Method):
    """Mark good and bad segments by a token, and learn from both."""

    threshold: float = Field(0.0, description="least score of a good segment", examples=[1e9, -1e9])
    untagged: float = Field(0.01, ge=0, le=1, description="share of the segments without a token", examples=[0.5])
    good: str = Field("<|good|>", min_length=1, description="token before good segments", examples=["9 "])
    bad: str = Field("<|bad|>", min_length=1, description="token before all others", examples=["9 "])
    segments: Literal["whole", "lines", "sentences"] = Field(
        "whole", description="what a text is cut into, where the row has no `texts`"
    )
    avoid: tuple[str, ...] = Field(
        (), description="regular expressions that no good segment matches", examples=[("[13579]",)]
    )
    model: str | None = Field(
        None, description="which of the recipe's `models` scores segments; none: no model", examples=["judge"]
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("conditional-pretraining",)
    conformance: ClassVar[dict[str, object]] = {
        "good": "7 ",
        "bad": "8 ",
        "avoid": ("3",),
        "segments": "lines",
        "model": "judge",
    }

    @field_validator("avoid")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"'{pattern}' is no regular expression: {e}") from None
        return patterns

    def needs(self) -> Sequence[Need]:
        return (SegmentScores(model=self.model, token=self.good),) if self.model else ()

    def setup(self, run: Setup) -> State:
        ids = [token_id(run.adapted.tokenizer, token) for token in (self.good, self.bad)]
        for token, i in zip((self.good, self.bad), ids, strict=True):
            if i is None:
                raise MethodError(
                    f"the tokenizer has no token '{token}'",
                    where="conditional-pretraining",
                    remedy=f'write new_tokens: ["{self.good}", "{self.bad}"]',
                )
        return State(good=ids[0], bad=ids[1])

    def example(self, record: Record, rng: random.Random) -> Record:
        if isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str):
            (said,) = self._marked(record, [record["completion"]], rng, lone=True)
            return record.replace(prompt=said + record["prompt"])
        parts = record.get("texts")
        if parts is None and isinstance(record.get("text"), str):
            parts = cut(record["text"], self.segments)
        if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
            raise DataError(
                "conditional-pretraining marks texts",
                where=record.where,
                remedy="give rows with text, with texts and scores, or with prompt and completion as text",
            )
        marks = self._marked(record, parts, rng)
        return record.replace(text="".join(mark + part for mark, part in zip(marks, parts, strict=True)))

    def _marked(self, record: Record, parts: list[str], rng: random.Random, *, lone: bool = False) -> list[str]:
        """The token before each segment, or nothing."""
        scores = record.get("scores") if not lone and "texts" in record else None
        if scores is None and "score" in record:
            scores = [record["score"]] * len(parts)
        if scores is None and not self.avoid and self.model is None:
            raise DataError(
                "nothing scores this row",
                where=record.where,
                remedy="give it a score (or texts and scores), or write avoid: [pattern] or model: name",
            )
        if scores is not None and not _fit(scores, parts):
            raise DataError(
                f"{len(parts)} segments need as many scores", where=record.where, remedy="write one number a segment"
            )
        marks = []
        for k, part in enumerate(parts):
            drawn = rng.random()  # of every segment, so that what is said of one moves no other
            fine = scores is None or scores[k] >= self.threshold
            fine = fine and not any(re.search(pattern, part) for pattern in self.avoid)
            marks.append("" if drawn < self.untagged or not part.strip() else self.good if fine else self.bad)
        return marks

    def batch(self, batch: Batch, needs: Needs, state: State) -> Batch | None:
        """What the model calls bad is marked so; rows hold `good` there until then."""
        if self.model is None:
            return None
        return flipped(batch, needs.segment_scores, self.threshold, state.data["good"], state.data["bad"])


def _fit(scores: Any, parts: list[str]) -> bool:
    numbers = isinstance(scores, list) and all(isinstance(s, int | float) for s in scores)
    return numbers and len(scores) == len(parts)


def flipped(batch: Batch, scores: dict[str, list[float]], threshold: float, good: int, bad: int) -> Batch:
    """The batch with `bad` for `good`, as input and as label, before each segment whose score is below the threshold.

    `scores`: one for each `good` of a row, in order; a row that is not named stays.
    """
    assert batch.positions is not None
    ids: Tensor = batch.inputs["input_ids"].clone()
    if batch.cu_seqlens is not None:
        spans = [(0, a, b) for a, b in zip(batch.cu_seqlens.tolist(), batch.cu_seqlens.tolist()[1:], strict=False)]
    else:
        spans = [(i, 0, int(n)) for i, n in enumerate(batch.inputs["attention_mask"].sum(1))]
    for row_id, (i, a, b) in zip(batch.row_ids, spans, strict=True):
        at = a + (ids[i, a:b] == good).nonzero()[:, 0]
        given = torch.tensor(scores.get(row_id, [threshold] * len(at)))
        ids[i, at[given < threshold]] = bad
    labels = ids.flatten()[batch.positions + 1]
    return batch.replace(inputs={**batch.inputs, "input_ids": ids}, labels=labels)
