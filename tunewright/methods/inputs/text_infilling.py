"""Text infilling: encoder-decoders go on with what BART and mBART were pre-trained on (Lewis et al. 2020,
arXiv:1910.13461; Liu et al. 2020, arXiv:2001.08210), as mBART50 does in old and new languages together (papers:
mbart50).

Every time a text x of L tokens is read, its sentences are put into a random order, and spans of it are hidden whose
lengths are drawn from Poisson(`mean`), until round(L `rate`) tokens are; one mask stands in the place of each, whatever
its length, also of one of no token, which is an inserted mask. The decoder writes the text as it was:

    source   sentence_2 with masks, sentence_1 with masks <end>          target   sentence_1 sentence_2 <end>

Rows are plain texts (`text`, in a stage's own `data.train`; of rows with a prompt the prompt is the text, and the
completion is not read). Special and added tokens that begin or end a text (a language's, put there by `data.template`
or the tokenizer) are not hidden; those that begin it are not asked for, those that end it are, as the tokenizer ends a
target with them. Draws are keyed by (seed, epoch, row): anew in each epoch. Of a text of one token its first word is
asked for. Rows that are measured are not changed. The mask is the tokenizer's, else `<mask>`, added before training.

Defaults: mBART's: rate 0.35, mean 3.5, sentences permuted.
Errors: MethodError for a model without a tokenizer.
Differs from mBART in: tokens are hidden, where it hides words; a sentence ends with a token that is a full stop, a
question or an exclamation mark by itself; a language of its own for each row is told by a token of the template, before
the text, where mBART has it behind the source; texts longer than `data.max_length` are left out.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

from pydantic import Field, PositiveFloat

from tunewright.contract.batch import Row
from tunewright.contract.method import Method, Setup, State
from tunewright.contract.records import Record
from tunewright.pieces.corrupted_texts import as_source, infilled, permuted, tokenizer_of
from tunewright.pieces.new_tokens import add_tokens

NAME = "text-infilling"
MASK = "<mask>"
ENDS = (".", "!", "?", "。", "।", "！", "？")


class TextInfilling(Method):
    """Ask an encoder-decoder for texts whose spans are masked and whose sentences are shuffled."""

    rate: float = Field(0.35, gt=0, lt=1, description="share of a text's tokens that is hidden", examples=[0.7])
    mean: PositiveFloat = Field(3.5, description="tokens of a span, on average (Poisson)", examples=[1.0])
    permute: bool = Field(True, description="whether sentences are put into a random order")

    tasks: ClassVar[tuple[str, ...]] = ("text2text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("mbart50",)

    def prepare(self, model: Any, tokenizer: Any, rng: random.Random) -> None:
        if tokenizer is not None and tokenizer.mask_token_id is None:
            add_tokens(model, tokenizer, [MASK], rng)

    def setup(self, run: Setup) -> State:
        tokenizer = tokenizer_of(run.adapted, NAME)
        own = tokenizer.mask_token_id
        return State(
            mask=int(own if own is not None else tokenizer.convert_tokens_to_ids(MASK)),
            ends=sorted(i for token, i in tokenizer.get_vocab().items() if token.strip("▁Ġ# ") in ENDS),
            before=sorted({*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}),
            bos=tokenizer.bos_token_id,
            eos=tokenizer.eos_token_id,
        )

    def example(self, record: Record) -> Record | None:
        """A plain text as a source; what it asks for is the text itself, made when it is read."""
        return as_source(record)

    def row(self, row: Row, state: State, row_rng: random.Random) -> Row | None:
        known, ids = state.data, list(row.fields["prompt_ids"])
        inside = [k for k, token in enumerate(ids) if token not in known["before"]]
        if len(inside) < 2:
            return None
        begin, text, end = ids[: inside[0]], ids[inside[0] : inside[-1] + 1], ids[inside[-1] + 1 :]
        shuffled = permuted(text, known["ends"], row_rng) if self.permute else text
        source = [*begin, *infilled(shuffled, self.rate, self.mean, known["mask"], row_rng), *end]
        ended = known["eos"] is None or known["eos"] in end
        target = [*(t for t in begin if t == known["bos"]), *text, *(end if ended else [known["eos"]])]
        fields = {**row.fields, "prompt_ids": source, "reference": ""}
        weights = [0.0] * len(source) + [1.0] * len(target)
        return row.replace(input_ids=[*source, *target], weights=weights, fields=fields)
