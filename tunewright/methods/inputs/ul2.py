"""UL2: train on a mixture of denoisers, announced by mode tokens (Tay et al. 2022, arXiv:2205.05131; papers: ul2).

Every time a row x of L tokens is read, one kind of denoiser is drawn by its share, and one of its settings evenly:

    R  short spans:   mean length mu 3 or 8, a share r = 0.15 of the tokens hidden
    X  extreme:       (mu 3, r 0.5), (8, 0.5), (64, 0.15), (64, 0.5)
    S  continuation:  the last n tokens, n drawn evenly from 1 .. 2 r L, r = 0.25

For R and X round(r L) tokens are hidden in round(r L / mu) spans (`pieces.spans`). The row becomes

    <mode> kept_0 <s_0> kept_1 <s_1> ...  <s_0> span_0 <s_1> span_1 ... <end>         (R, X)
    <mode> x_1 .. x_(L-n)  x_(L-n+1) .. x_L <end>                                      (S)

and the loss is on what stands behind the inputs: the marks, the spans and the end; for S the continuation and the end.
Draws are keyed by (seed, epoch, row id): anew in each epoch, the same however rows are packed. A row whose denoised
form would be longer than the model reads is cut first, one of fewer than 2 tokens is left as it is. Prompts and answers
are one text here. Rows that are measured are not changed.

Marks and mode tokens that the tokenizer lacks are added before training, started near the mean embedding, apart from
one another, and exported with it: a later run chooses a mode by writing its token first (`template: "[S] {text}"`).
Where embeddings do not train (lora), name them in `new_tokens` as well. Without a tokenizer the vocabulary's last ids
serve.

Defaults: the paper's seven denoisers, in equal parts (its table 1; the kinds' shares are thus 2 : 4 : 1), 100 marks as
T5 has. MethodError for modes that are not three different texts, shares that are all zero, and a vocabulary without
room.

Differs from the paper in: the model reads inputs from left to right, as its targets (causal), where the paper has an
encoder, or a decoder that sees its inputs from both sides; a row is not filled up to a fixed length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from tunewright.contract.batch import Row
from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.pieces.new_tokens import add_tokens
from tunewright.pieces.spans import marked, random_spans

Denoiser = tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(gt=0, lt=1)]]
"""(mean length of a span in tokens, share of the tokens that is hidden)."""
MARK = "<extra_id_{}>"
KINDS = "RSX"


def denoised(
    ids: Sequence[int], spans: tuple[float, float], marks: Sequence[int], rng: random.Random
) -> tuple[list[int], list[int]]:
    """(inputs, targets) of a text of 2 tokens or more with spans of it hidden."""
    mean, rate = spans
    return marked(ids, random_spans(len(ids), rate, mean, len(marks), rng), marks)


def continued(ids: Sequence[int], rate: float, rng: random.Random) -> tuple[list[int], list[int]]:
    """(inputs, targets) of a text of 2 tokens or more whose end is asked for, a share `rate` of it on average."""
    most = min(max(1, round(2 * rate * len(ids))), len(ids) - 1)
    at = len(ids) - rng.randint(1, most)
    return list(ids[:at]), list(ids[at:])


def fitting(length: int, spans: tuple[float, float] | None, marks: int, limit: int) -> int:
    """The most tokens of a text of `length` whose denoised form, with mode, start and end, takes `limit` at most."""

    def size(n: int) -> int:
        if spans is None:
            return n + 3
        hidden = min(max(round(n * spans[1]), 1), n - 1)
        return n + 3 + 2 * min(max(round(hidden / spans[0]), 1), hidden, n - hidden, marks)

    while length > 2 and size(length) > limit:
        length -= max(1, (size(length) - limit) // 2)
    return length


class UL2(Method):
    """Train on a mixture of denoisers with mode tokens."""

    r: NonNegativeFloat = Field(2.0, description="share of rows with short spans (R), to those of x and s")
    x: NonNegativeFloat = Field(4.0, description="share of rows with long spans or much hidden (X)", examples=[0.0])
    s: NonNegativeFloat = Field(1.0, description="share of rows whose end is to be written (S)", examples=[9.0])
    r_spans: list[Denoiser] = Field(
        [(3.0, 0.15), (8.0, 0.15)],
        min_length=1,
        description="R's settings, each as likely: mean tokens of a span, share of tokens hidden",
        examples=[[(2.0, 0.3)]],
    )
    x_spans: list[Denoiser] = Field(
        [(3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5)],
        min_length=1,
        description="X's settings, as those of R",
        examples=[[(2.0, 0.6)]],
    )
    s_rate: float = Field(0.25, gt=0, lt=1, description="share of a row that S asks for, on average", examples=[0.5])
    modes: list[str] = Field(
        ["[R]", "[S]", "[X]"],
        description="tokens that announce R, S and X; none: rows are not announced",
        examples=[[]],
    )
    sentinels: PositiveInt = Field(100, description="tokens that mark spans, the most spans of a row", examples=[1])

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("ul2",)
    conformance: ClassVar[dict[str, object]] = {"sentinels": 4, "r": 1.0, "x": 1.0}

    def prepare(self, model: Any, tokenizer: Any, rng: random.Random) -> None:
        if tokenizer is not None:
            add_tokens(model, tokenizer, self._tokens(), rng)

    def setup(self, run: Setup) -> State:
        if self.r + self.x + self.s == 0:
            raise MethodError("no denoiser has a share", where="ul2", remedy="write r, x or s above 0")
        if self.modes and len({*self.modes}) != len(KINDS):
            raise MethodError(
                f"ul2 announces three kinds, and modes names {len({*self.modes})}",
                where="ul2.modes",
                remedy='write one for each, modes: ["[R]", "[S]", "[X]"], or none: []',
            )
        model: Any = run.adapted.model
        tokenizer, size = run.adapted.tokenizer, model.get_input_embeddings().num_embeddings
        tokens = self._tokens()
        if tokenizer is not None:
            ids = [int(i) for i in tokenizer.convert_tokens_to_ids(tokens)]
            around = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        else:
            ids, around = [*range(size - len(tokens), size)], {"bos": None, "eos": None}
        if min(ids) < 1:
            raise MethodError(
                f"{len(tokens)} tokens for marks and modes do not fit into a vocabulary of {size}",
                where="ul2.sentinels",
                remedy="write fewer sentinels",
            )
        modes = dict(zip(KINDS, ids[self.sentinels :], strict=False))
        longest = getattr(model.config, "max_position_embeddings", None) or 2**30
        return State(marks=ids[: self.sentinels], modes=modes, limit=int(longest), **around)

    def row(self, row: Row, state: State, row_rng: random.Random) -> Row | None:
        known = state.data
        ids = list(row.input_ids)
        start = [ids.pop(0)] if ids and ids[0] == known["bos"] else []
        if ids and ids[-1] == known["eos"]:
            ids.pop()
        kind = row_rng.choices("RSX", (self.r, self.s, self.x))[0]
        spans = None if kind == "S" else row_rng.choice(self.r_spans if kind == "R" else self.x_spans)
        ids = ids[: fitting(len(ids), spans, len(known["marks"]), known["limit"])]
        if len(ids) < 2:
            return None
        inputs, targets = (
            continued(ids, self.s_rate, row_rng) if spans is None else denoised(ids, spans, known["marks"], row_rng)
        )
        inputs = [*start, *([known["modes"][kind]] if known["modes"] else []), *inputs]
        targets += [known["eos"]] if known["eos"] is not None else []
        fields = {"kind": "prompt", "prompt_ids": inputs, "reference": ""}
        weights = [0.0] * len(inputs) + [1.0] * len(targets)
        return row.replace(input_ids=[*inputs, *targets], weights=weights, fields=fields)

    def _tokens(self) -> list[str]:
        return [*(MARK.format(i) for i in range(self.sentinels)), *self.modes]
