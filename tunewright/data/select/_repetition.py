"""How much of a text is said again and again, as Gopher measures it (Rae et al. 2021, arXiv:2112.11446, table A1).

Of the runs of n words (signs between them aside) of one text: for n of 2 to 4 the characters of the most frequent run,
all its occurrences together, over those of all words; of equally frequent ones the longest counts, and a run that
stands once is none. For n of 5 to 10 the characters of all words that lie in a run which stood before, each counted
once, over those of all words. A run of n + 1 words is repeated only where the one of its first n is, so that after
pairs only few are looked at.
"""

from __future__ import annotations

import numpy as np

from tunewright.data.select._words import FACTOR, SPREAD, Tokens

TOP, AGAIN = (2, 3, 4), (5, 6, 7, 8, 9, 10)


def repeated_runs(held: Tokens) -> dict[int, np.ndarray]:
    """By n of 2 to 10 the [T] shares of characters in the most frequent run, or in runs that stood before."""
    sizes, texts = held.ends - held.starts, len(held.bounds)
    upto = np.append(0, np.cumsum(sizes))
    whole = np.maximum(1, np.bincount(held.text, sizes, minlength=texts))
    starts = np.arange(len(sizes))
    keys = held.keys ^ (held.text.astype(np.uint64) + np.uint64(1)) * FACTOR
    out = {}
    for n in (*TOP, *AGAIN):
        inside = starts + n - 1 < len(sizes)
        starts, keys = starts[inside], keys[inside]
        inside = held.text[starts] == held.text[starts + n - 1]
        starts = starts[inside]
        keys = keys[inside] * FACTOR + held.keys[starts + n - 1]
        starts, keys, group = _met_again(starts, keys)
        if n in TOP:
            out[n] = _most_frequent(starts, group, upto, held.text, n, texts) / whole
        else:
            out[n] = _stood_before(starts, group, sizes, held.text, n, texts) / whole
    return out


def _met_again(starts: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of runs those whose key another one has: (starts, keys, [R] which key by number), by key and in their order."""
    places = (keys * SPREAD) >> np.uint64(62 - len(keys).bit_length())
    some = np.flatnonzero((np.bincount(places.astype(np.int64)) > 1)[places]) if len(keys) else places
    starts, keys = starts[some], keys[some]  # no other one shares a place: no other one is the same
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    fresh = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    again = ~fresh | np.append(~fresh[1:], False)[: len(keys)]
    return starts[order][again], keys[again], np.cumsum(fresh[again]) - 1


def _most_frequent(
    starts: np.ndarray, group: np.ndarray, upto: np.ndarray, text: np.ndarray, n: int, count: int
) -> np.ndarray:
    """[T] characters of each text's most frequent run."""
    out = np.zeros(count)
    if len(starts):
        first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        times = np.bincount(group)
        long = upto[starts[first] + n] - upto[starts[first]]
        of = text[starts[first]]
        order = np.lexsort((long, times, of))  # the last of each text is the one
        out[of[order]] = (times * long)[order]
    return out


def _stood_before(
    starts: np.ndarray, group: np.ndarray, sizes: np.ndarray, text: np.ndarray, n: int, count: int
) -> np.ndarray:
    """[T] characters of words in runs that are not the first of their kind."""
    later = starts[1:][group[1:] == group[:-1]]
    covered = np.zeros(len(sizes) + 1, np.int64)
    np.add.at(covered, later, 1)
    np.add.at(covered, later + n, -1)
    at = np.flatnonzero(np.cumsum(covered[:-1]) > 0)
    return np.bincount(text[at], sizes[at], minlength=count)
