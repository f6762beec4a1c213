"""Span corruption: encoder-decoder models go on with what T5 was pre-trained on (Raffel et al. 2020, arXiv:1910.10683),
in a language or on data of their own, as ptt5-v2 does in Portuguese and unified pre-training on tables with tables that
are written out as text (papers: ptt5-v2, unified-table-seq2seq-pretraining).

Every time a text x of L tokens is read, round(L `rate`) of them are hidden in round(those / `mean`) spans, cut at
random (`pieces.spans`). The encoder reads the text with a mark in the place of each span, the decoder writes each mark
and what it stands for:

    source   kept_0 <s_0> kept_1 <s_1> ... <end>          target   <s_0> span_0 <s_1> span_1 ... <end>

Rows are plain texts (`text`, in a stage's own `data.train`; of rows with a prompt the prompt is the text, and the
completion is not read). Draws are keyed by (seed, epoch, row): anew in each epoch. Of a text of one token its first
word is asked for. Rows that are measured are not changed. `only` names the sources that are corrupted: rows of others
are learnt as they stand, so that a stage may learn texts and tasks together.

Marks are the tokenizer's `<extra_id_0>`, `<extra_id_1>` .. (T5's), added before training where it lacks them; where
embeddings do not train (lora), name them in `new_tokens` as well.

Defaults: T5's: rate 0.15, mean 3, 100 marks.
Errors: MethodError for a model without a tokenizer, and for a source that is not there.
Differs from T5 in: a row is not filled up to a fixed length; texts longer than `data.max_length` are left out, since
rows of two sides are never split.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from tunewright.contract.batch import Row
from tunewright.contract.method import Method, Setup, State
from tunewright.contract.records import Record
from tunewright.errors import MethodError, did_you_mean
from tunewright.pieces.corrupted_texts import as_source, tokenizer_of
from tunewright.pieces.new_tokens import add_tokens
from tunewright.pieces.spans import marked, random_spans

NAME = "span-corruption"
MARK = "<extra_id_{}>"


class SpanCorruption(Method):
    """Ask an encoder-decoder for the hidden spans of texts."""

    rate: float = Field(0.15, gt=0, lt=1, description="share of a text's tokens that is hidden", examples=[0.5])
    mean: float = Field(3.0, ge=1, description="tokens of a span, on average", examples=[1.0])
    sentinels: PositiveInt = Field(100, description="tokens that mark spans, the most spans of a text", examples=[1])
    only: list[str] = Field(
        default_factory=list,
        description="sources whose rows are texts to corrupt; none: all. Rows of others are learnt as they stand",
        examples=[["pages"]],
    )

    tasks: ClassVar[tuple[str, ...]] = ("text2text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("ptt5-v2", "unified-table-seq2seq-pretraining")

    def prepare(self, model: Any, tokenizer: Any, rng: random.Random) -> None:
        if tokenizer is not None:
            add_tokens(model, tokenizer, self._marks(), rng)

    def setup(self, run: Setup) -> State:
        tokenizer = tokenizer_of(run.adapted, NAME)
        sources = set(run.plan.sources)
        if sources and (unknown := [s for s in self.only if s not in sources]):
            raise MethodError(
                f"no source is called '{unknown[0]}'", where=f"{NAME}.only", remedy=did_you_mean(unknown[0], sources)
            )
        marks = [int(i) for i in tokenizer.convert_tokens_to_ids(self._marks())]
        return State(marks=marks, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id)

    def example(self, record: Record) -> Record | None:
        """A plain text as a source; what it asks for is drawn when it is read."""
        return as_source(record) if self._texts(record.source) else None

    def row(self, row: Row, state: State, row_rng: random.Random) -> Row | None:
        known, ids = state.data, list(row.fields["prompt_ids"])
        start = [ids.pop(0)] if ids and ids[0] == known["bos"] else []
        end = [ids.pop()] if ids and ids[-1] == known["eos"] else []
        if len(ids) < 2 or not self._texts(row.source):
            return None
        spans = random_spans(len(ids), self.rate, self.mean, len(known["marks"]), row_rng)
        inputs, targets = marked(ids, spans, known["marks"])
        source = [*start, *inputs, *end]
        targets += [known["eos"]] if known["eos"] is not None else []
        fields = {**row.fields, "prompt_ids": source, "reference": ""}
        weights = [0.0] * len(source) + [1.0] * len(targets)
        return row.replace(input_ids=[*source, *targets], weights=weights, fields=fields)

    def _texts(self, source: str) -> bool:
        return not self.only or source in self.only

    def _marks(self) -> list[str]:
        return [MARK.format(i) for i in range(self.sentinels)]
