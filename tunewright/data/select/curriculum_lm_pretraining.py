"""Curriculum: learn from easy rows to hard ones (Zhang et al. 2025, "Beyond Random Sampling: Efficient Language Model
Pretraining via Curriculum Learning", arXiv:2506.11300; papers: curriculum-lm-pretraining).

Each of the n records has a difficulty d, where more is harder:

| `difficulty` | d |
| --- | --- |
| compression | bytes of the text, deflated, over its bytes: redundant text first |
| diversity | MTLD of the text, in words (McCarthy & Jarvis 2010): texts of few words first |
| readability | minus Flesch's reading ease (English): short words and sentences first |
| fertility | tokens of the model over words: texts of common words first |
| length | tokens of the model |
| perplexity | mean loss of the trained tokens under the model, in nats |

Ranked by it (of equal ones the earlier first), records are learnt in one of these orders:

| `order` | |
| --- | --- |
| sorted | by rank: a vanilla curriculum |
| linear, quadratic, | `groups` of equal size by rank, one after the other, mixed inside; group k = 1 .. K ends when a |
| inverse-quadratic | share t_k of the pass is over, with t_k = k/K, (k/K)^(1/2) or 1 - (1 - k/K)^(1/2) |
| interleaved | `groups` runs, each from the easiest to the hardest: run s has the ranks s, s + K, s + 2K ... |

Quadratic pacing (difficulty c(t) = t^2) stays with easy groups, the inverse (1 - (1 - t)^2) with hard ones: no record
comes twice in a pass, so that the groups that get less time give as many records as fit it, drawn, and the others of
them are left out (linear pacing leaves out none; with 10 groups the two others keep about a third).

With `warmup` w below 1 the curriculum is a warm-up: a share w of the records, drawn, is ordered so, and all others
follow in random order. The order is that of the first pass over the rows, whatever `data.shuffle` says; later passes
are shuffled, or, with `shuffle: false`, in this order again. Of several sources each is in order, and they take turns
by their shares: put rows that one order is meant for into one source. A selector behind this one may keep fewer.

Defaults: compression is one of the three best signals of the paper (with diversity and readability), ten groups and
the three paces are the paper's; sorted over the whole pass is its plainest setting.
Errors: MethodError where perplexity is asked of a classifier whose head is new.
Differs from the paper in: only its abstract, summaries and first figure's caption were read, so how many tokens a pace
gives each group, and how an interleaved run is filled, are ours; groups are of equal numbers of records; syllables are
counted by letters; perplexity is that of the stage's own start or of one of `models`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from tunewright.contract.method import Method, Plan
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import how_many, smallest
from tunewright.data.select._lexical import WORDS, compressed_share, mtld, reading_ease
from tunewright.data.select._text import text_of

READ_BY_LETTERS = {
    "compression": compressed_share,
    "diversity": mtld,
    "readability": lambda text: -reading_ease(text),
}
POWERS = {"linear": 1.0, "quadratic": 0.5}


def ends(pace: str, groups: int) -> list[float]:
    """t_k, the share of the pass that is over when group k ends, for k = 1 .. `groups`; the last is 1."""
    if pace == "inverse-quadratic":
        return [1 - t for t in ends("quadratic", groups)[-2::-1]] + [1.0]
    return [(k / groups) ** POWERS[pace] for k in range(1, groups + 1)]


def paced(ranked: Sequence[int], pace: str, groups: int, rng: random.Random) -> list[int]:
    """Records, easiest first, in groups of which each takes its share of the pass: as many as the pool has for all of
    them, drawn inside each group and in random order there.
    """
    n = len(ranked)
    groups = min(groups, n)
    cut = [round(k * n / groups) for k in range(groups + 1)]
    till = [0.0, *ends(pace, groups)]
    shares = [b - a for a, b in zip(till, till[1:], strict=False)]
    total = min((b - a) / share for a, b, share in zip(cut, cut[1:], shares, strict=False))
    out: list[int] = []
    for a, b, share in zip(cut, cut[1:], shares, strict=False):
        fits = b - a if pace == "linear" else min(b - a, max(1, round(total * share)))
        out += rng.sample(list(ranked[a:b]), fits)
    return out


def interleaved(ranked: Sequence[int], runs: int) -> list[int]:
    """Records, easiest first, in so many runs that each go from easy to hard."""
    return [i for s in range(min(runs, len(ranked))) for i in ranked[s::runs]]


class CurriculumLMPretraining(Method):
    """Puts records into an order from easy to hard."""

    difficulty: Literal["compression", "diversity", "readability", "fertility", "length", "perplexity"] = Field(
        "compression", description="what makes a record hard"
    )
    order: Literal["sorted", "linear", "quadratic", "inverse-quadratic", "interleaved"] = Field(
        "sorted", description="how difficulty grows: record by record, by groups at a pace, or in runs"
    )
    groups: int = Field(10, ge=2, description="groups of a pace, or interleaved runs", examples=[3])
    warmup: float = Field(
        1.0, gt=0, le=1, description="share of the records that is put in order; the others follow", examples=[0.5]
    )
    model: str = Field(
        "start",
        description="what counts tokens and reads records for fertility, length and perplexity: start (of the stage), "
        "or one of the recipe's `models`",
    )

    orders: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("text-generation", "fill-mask")
    papers: ClassVar[tuple[str, ...]] = ("curriculum-lm-pretraining",)
    conformance: ClassVar[dict[str, object]] = {"difficulty": "perplexity", "order": "interleaved", "groups": 4}

    def speakers(self) -> tuple[str, ...]:
        return () if self.difficulty in READ_BY_LETTERS else (self.model,)

    def caution(self, plan: Plan) -> str | None:
        own = sum(tokens for name, tokens in plan.sources.items() if name not in plan.replay)
        if self.order == "interleaved" or plan.tokens >= 0.95 * self.warmup * own:
            return None
        return f"the budget ends at {plan.tokens / own / self.warmup:.0%} of the way: the hardest rows are not learnt"

    def select(self, records: Sequence[Record], readers: dict[str, Reader], rng: random.Random) -> Selected:
        found = self._difficulties(records, readers)
        count = how_many(self.warmup, len(records))
        ordered = sorted(rng.sample(range(len(records)), count)) if self.warmup < 1 else list(range(len(records)))
        ranked = [ordered[k] for k in smallest([found[i] for i in ordered], len(ordered))]
        kept = self._in_order(ranked, rng)
        rest = sorted(set(range(len(records))) - set(ranked))
        rng.shuffle(rest)
        inside = {*kept, *rest}
        reasons = ["" if i in inside else f"{self.order} pacing has no time for it" for i in range(len(records))]
        return Selected([*kept, *rest], scores={"difficulty": found}, reasons=reasons)

    def _in_order(self, ranked: Sequence[int], rng: random.Random) -> list[int]:
        if self.order == "sorted" or not ranked:
            return list(ranked)
        if self.order == "interleaved":
            return interleaved(ranked, self.groups)
        return paced(ranked, self.order, self.groups, rng)

    def _difficulties(self, records: Sequence[Record], readers: dict[str, Reader]) -> list[float]:
        if self.difficulty in READ_BY_LETTERS:
            by_letters = READ_BY_LETTERS[self.difficulty]
            return [by_letters(text_of(r)) for r in records]
        reader = readers[self.model]
        if self.difficulty == "perplexity":
            return [float(x) for x in reader.losses(records).tolist()]
        tokens = [sum(row.size for row in reader.rows_of(r)) for r in records]
        if self.difficulty == "length":
            return [float(n) for n in tokens]
        return [n / max(1, len(WORDS.findall(text_of(r)))) for n, r in zip(tokens, records, strict=True)]
