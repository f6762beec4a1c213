"""Interpolated modified Kneser-Ney n-grams over token ids: what a language model has to beat (Chen and Goodman 1999).

p(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + gamma(h) p(w | h'), h' being h without its first token, with three
discounts an order
(for counts of 1, 2, and 3 or more) from the counts of counts. Lower orders count the different tokens seen before hw
instead of
occurrences. The lowest order is interpolated with the uniform distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class _Order:
    """One order: sorted n-gram keys with their discounted shares, sorted history keys with what they leave to the
    order below.
    """

    keys: Keys
    shares: NDArray[np.float64]
    histories: Keys
    left: NDArray[np.float64]


def _keys(tokens: NDArray[np.integer], n: int, bits: int) -> Keys:
    """Every run of n tokens as one number, the last token in the lowest bits."""
    out: Keys = np.zeros(len(tokens) - n + 1, dtype=np.uint64)
    for i in range(n):
        out = (out << np.uint64(bits)) | tokens[i : len(tokens) - n + 1 + i].astype(np.uint64)
    return out


def _find(sorted_keys: Keys, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    at = np.searchsorted(sorted_keys, keys)
    at[at == len(sorted_keys)] = 0
    return at, sorted_keys[at] == keys


def discounts(counts: NDArray[np.integer]) -> tuple[float, float, float]:
    """D for counts of 1, 2 and 3 or more, from how many n-grams have counts of 1 to 4; 0.5, 1, 1.5 where these give
    none inside (0, count).
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return 0.5, 1.0, 1.5
    y = n1 / (n1 + 2 * n2)
    one, two, three = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    # a discount of 0 would leave no share to shorter histories: unseen words would be impossible
    return (one, two, three) if 0 < one < 1 and 0 < two < 2 and 0 < three < 3 else (0.5, 1.0, 1.5)


class KneserNey:
    """An n-gram model of `tokens` (ids below `vocabulary`); `order` times the bits of an id must fit in 64."""

    def __init__(self, tokens: NDArray[np.integer], vocabulary: int, order: int = 5):
        self.vocabulary, self.order = vocabulary, order
        self.bits = max(1, (vocabulary - 1).bit_length())
        if self.bits * order > 64:
            raise ValueError(f"{order} ids of {self.bits} bits do not fit in 64")
        grams, counts = np.unique(_keys(tokens, order, self.bits), return_counts=True)
        self.orders: dict[int, _Order] = {}
        for n in range(order, 0, -1):
            self.orders[n] = self._order(grams, counts)
            if n > 1:  # continuation counts: how many different tokens stand before each shorter run
                grams, counts = np.unique(grams & np.uint64((1 << (self.bits * (n - 1))) - 1), return_counts=True)

    def _order(self, grams: Keys, counts: NDArray[np.integer]) -> _Order:
        one, two, three = discounts(counts)
        taken = np.where(counts == 1, one, np.where(counts == 2, two, three))
        histories, at = np.unique(grams >> np.uint64(self.bits), return_inverse=True)
        total = np.bincount(at, weights=counts)
        return _Order(grams, (counts - taken) / total[at], histories, np.bincount(at, weights=taken) / total)

    def probabilities(self, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """p of every token but the first `order - 1`, given the tokens before it: shape [len(tokens) - order + 1]."""
        count = len(tokens) - self.order + 1
        p = np.full(count, 1.0 / self.vocabulary)
        for n in range(1, self.order + 1):
            order, grams = self.orders[n], _keys(tokens, n, self.bits)[-count:]
            at, hit = _find(order.keys, grams)
            before, known = _find(order.histories, grams >> np.uint64(self.bits))
            p = np.where(known, np.where(hit, order.shares[at], 0.0) + order.left[before] * p, p)
        return p

    def nats(self, tokens: NDArray[np.integer]) -> float:
        """Mean negative log-likelihood, nats per token."""
        return float(-np.log(self.probabilities(tokens)).mean())
