"""Spans of tokens to hide: where they lie, and a row as its text with marks and what the marks stand for."""

from __future__ import annotations

import random
from collections.abc import Sequence

Span = tuple[int, int]
"""Tokens `start` up to `stop` of a row."""


def random_spans(length: int, rate: float, mean: float, most: int, rng: random.Random) -> list[Span]:
    """Spans that hide about `rate` of `length` tokens, of `mean` tokens on average, at most `most` of them.

    round(length x rate) tokens are hidden, at least 1 and never all, in round(those / mean) spans, at least 1; both
    hidden and kept tokens are cut at random into that many pieces of 1 or more, which alternate, a kept one first
    (T5's random_spans_noise_mask, Raffel et al. 2020): so no two spans touch. `length` is 2 or more.
    """
    hidden = min(max(round(length * rate), 1), length - 1)
    count = min(max(round(hidden / mean), 1), hidden, length - hidden, most)
    spans, at = [], 0
    for kept, gone in zip(pieces(length - hidden, count, rng), pieces(hidden, count, rng), strict=True):
        spans.append((at + kept, at + kept + gone))
        at += kept + gone
    return spans


def pieces(total: int, count: int, rng: random.Random) -> list[int]:
    """`total` cut into `count` whole numbers of 1 or more, every way equally likely."""
    cuts = [0, *sorted(rng.sample(range(1, total), count - 1)), total]
    return [b - a for a, b in zip(cuts, cuts[1:], strict=False)]


def marked(ids: Sequence[int], spans: Sequence[Span], marks: Sequence[int]) -> tuple[list[int], list[int]]:
    """(the row with a mark in the place of each span, each mark followed by the span that it stands for)."""
    inputs, targets, at = list[int](), list[int](), 0
    for (start, stop), mark in zip(spans, marks, strict=False):
        inputs += [*ids[at:start], mark]
        targets += [mark, *ids[start:stop]]
        at = stop
    return [*inputs, *ids[at:]], targets
