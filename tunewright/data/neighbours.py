"""Which texts are near each other by their words, without a model: what selectors and makers of rows look up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewright.data.select._words import tokens


def by_words(texts: Sequence[str]) -> Any:
    """[N, W] weighted counts of each text's words, sparse, as rows of length 1; a text without words has 0."""
    from scipy.sparse import csr_matrix, diags

    held = tokens(texts, punctuation=False)
    keys, columns = np.unique(held.keys, return_inverse=True)
    shape = (len(texts), len(keys))
    counts = csr_matrix((np.ones(len(columns)), (held.text, columns)), shape=shape)
    having = np.bincount(counts.indices, minlength=shape[1])
    weighted = counts @ diags(1 + np.log((1 + shape[0]) / (1 + having)))
    norms = np.sqrt(weighted.multiply(weighted).sum(1)).A1 if shape[1] else np.zeros(shape[0])
    return diags(1 / np.where(norms > 0, norms, 1)) @ weighted


def bm25(documents: Sequence[str], questions: Sequence[str], k1: float = 1.5, b: float = 0.75) -> Any:
    """[M, N] sparse: how well each document answers to a question's words (Robertson et al. 1994, with Lucene's idf).

    sum over the question's words w of ln(1 + (N - n + 0.5) / (n + 0.5)) c (k1 + 1) / (c + k1 (1 - b + b L / mean L)),
    c of them in a document of L words, n of the N documents with w; 0 where they share no word.
    """
    from scipy.sparse import csr_matrix, diags

    held = tokens([*documents, *questions], punctuation=False)
    keys, columns = np.unique(held.keys, return_inverse=True)
    n, shape = len(documents), (len(documents) + len(questions), len(keys))
    counts = csr_matrix((np.ones(len(columns)), (held.text, columns)), shape=shape)
    counts.sum_duplicates()
    found, asked = counts[:n], counts[n:]
    lengths = np.asarray(found.sum(1)).ravel()
    longer = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-12)) if n else lengths
    having = np.bincount(found.indices, minlength=shape[1])
    within = np.repeat(longer, np.diff(found.indptr))
    found.data = found.data * (k1 + 1) / (found.data + within)
    return asked @ (found @ diags(np.log(1 + (n - having + 0.5) / (having + 0.5)))).T


def runs(text: str, n: int) -> list[str]:
    """The runs of n neighbouring lower-cased words of a text, in order; of fewer words all of them as one run."""
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))] if words else []


def overlap(a: str, b: str, n: int) -> float:
    """|A and B| / |A or B| of two texts' sets of runs of n words; 0 where neither has a word."""
    one, other = set(runs(a, n)), set(runs(b, n))
    return len(one & other) / len(one | other) if one or other else 0.0
