"""Quality classifier: keep the rows that a linear classifier takes for rows of the target, as GPT-3 filtered the web.

A text becomes the counts of its lower-cased words and of pairs of neighbours, each hashed into one of 2^18 buckets,
brought to length 1. A logistic regression (scikit-learn's, both classes of equal weight) learns to tell the target's
texts from the pool's, and a row's score is its probability of being of the target:

    s = sigmoid(w . x + b)

The share `keep` of largest scores is kept, in the order in which rows stood; of equal scores the earlier. With `pareto`
the rule is GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix A; The Pile, arXiv:2101.00027, took it over): a row
stays where z > 1 - s, with z of the Lomax distribution, P(z > t) = (1 + t)^-a, so that some of what is unlike stays;
how many stay hangs on how sure the classifier is (see `penalty`).

No row is judged by a classifier that learnt it as background: the pool is parted in two by a hash of each row's source
and id, and each part is scored by the classifier of the other (a part without a row learns from the other). So a pool
that is like the target is not told from it. At most `rows` rows of each class are learnt, the first `CHARACTERS`
characters of each. Two passes over the records, memory for what is learnt and for a number a row.

Differs from GPT-3 in: pairs of words beside words, lengths of 1, two classifiers, and the top share as the default,
which is how DCLM (arXiv:2406.11794) uses its classifier; there it is fastText's, in FineWeb-Edu a model of embeddings.
Raises DataError where the target or the pool holds no words.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, at_most, drawn, how_many
from tunewright.data.select._text import in_batches
from tunewright.data.select._words import hashed
from tunewright.errors import DataError

BITS = 18
CHARACTERS = 5_000
"""Of a row that is learnt."""
Line = tuple[np.ndarray, float]
"""What a classifier learnt: the weight of each bucket, and the constant."""


def vectors(texts: Sequence[str], ngrams: int) -> csr_matrix:
    """[T, 2^18] hashed counts of the runs of 1 to `ngrams` words of each text, of length 1; zero where it has none."""
    buckets, text = hashed(texts, ngrams, BITS)
    pairs = np.sort((text << BITS) | buckets)
    first = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)])
    counts = np.diff(np.append(first, len(pairs))).astype(float)
    row = pairs[first] >> BITS
    length = np.sqrt(np.bincount(row, counts**2, minlength=len(texts)))
    ends = np.append(0, np.cumsum(np.bincount(row, minlength=len(texts))))
    return csr_matrix((counts / length[row], pairs[first] & ((1 << BITS) - 1), ends), (len(texts), 1 << BITS))


def learnt(target: csr_matrix, pool: csr_matrix, penalty: float) -> Line:
    """The classifier that tells rows of `target` from rows of `pool`."""
    state = random.getstate()
    from sklearn.linear_model import LogisticRegression  # to import it draws from Python's own generator

    random.setstate(state)

    model = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=300)
    model.fit(vstack([target, pool]), np.repeat([1, 0], [target.shape[0], pool.shape[0]]))
    return model.coef_[0], float(model.intercept_[0])


def lomax(u: float, shape: float) -> float:
    """What a uniform draw u in [0, 1) becomes as one of the Lomax distribution (numpy's `pareto`)."""
    return float((1 - u) ** (-1 / shape) - 1)


class QualityClassifier(Method):
    """Keeps rows that a linear classifier over n-grams takes for the target's."""

    keep: Amount = Field(
        0.1, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["25%", 3]
    )
    pareto: PositiveFloat | None = Field(
        None,
        description="shape of the noise by which rows are drawn in the place of `keep`; GPT-3: 9; none: the top share",
        examples=[0.5],
    )
    ngrams: PositiveInt = Field(2, description="longest run of words that is counted", examples=[1])
    rows: PositiveInt = Field(
        10_000, description="rows of the target, and about as many of the pool, that are learnt at most", examples=[2]
    )
    penalty: PositiveFloat = Field(
        1.0,
        description="of large weights, scikit-learn's 1 / C; a larger one lets single words say less",
        examples=[0.01],
    )

    conformance: ClassVar[dict[str, object]] = {"keep": 0.5}

    @model_validator(mode="after")
    def _one_rule(self) -> QualityClassifier:
        if self.pareto is not None and "keep" in self.model_fields_set:
            raise ValueError("keep and pareto are two rules for what stays: write one of them")
        return self

    def select(self, records: Sequence[Record], target: Sequence[Record], rng: random.Random) -> Selected:
        salt = rng.getrandbits(63)
        like, _ = self._read(at_most(target, self.rows, rng), "target's records", salt)
        halves = self._learnt(like, records, salt, rng)
        scores = array("d")
        for some, texts in in_batches(records):
            x, half = vectors(texts, self.ngrams), np.array([_half(r, salt) for r in some])
            by = [expit(x @ w + b) for w, b in halves]
            scores.extend(np.where(half == 0, by[1], by[0]))  # by the one that learnt the other half
        kept, against = self._kept(records, scores, salt)
        inside = set(kept)
        reasons = ["" if i in inside else against for i in range(len(scores))]
        return Selected(kept, scores={"quality": scores}, reasons=reasons)

    def _learnt(self, target: csr_matrix, records: Sequence[Record], salt: int, rng: random.Random) -> list[Line]:
        """The classifiers that learnt the one half of the pool and the other; one twice, where a half has no row."""
        n = len(records)
        places = range(n) if n <= self.rows else sorted(rng.sample(range(n), self.rows))
        pool, half = self._read((records[i] for i in places), "records to choose from", salt)
        parts = [pool[half == h] if (half == h).any() else pool for h in (0, 1)]
        return [learnt(target, part, self.penalty) for part in parts]

    def _read(self, records: Iterable[Record], what: str, salt: int) -> tuple[csr_matrix, np.ndarray]:
        """([n, 2^18] records to learn, [n] which half of the pool each belongs to)."""
        parts, half = list[csr_matrix](), list[int]()
        for some, texts in in_batches(records):
            parts.append(vectors([t[:CHARACTERS] for t in texts], self.ngrams))
            half += [_half(r, salt) for r in some]
        if not any(part.nnz for part in parts):
            raise DataError(
                f"the {what} hold no words",
                where="quality-classifier",
                remedy="it reads text: give rows with text, prompt or messages",
            )
        return vstack(parts, format="csr"), np.array(half)

    def _kept(self, records: Sequence[Record], scores: Sequence[float], salt: int) -> tuple[list[int], str]:
        """The places of what stays, rising, and why the rest goes."""
        if self.pareto is None:
            order = np.argsort(-np.asarray(scores), kind="stable")[: how_many(self.keep, len(scores))]
            return np.sort(order).tolist(), "score below those kept"
        noise = (lomax(drawn(f"{salt}/noise/{r.source}/{r.id}"), self.pareto) for r in records)
        return [i for i, (z, s) in enumerate(zip(noise, scores, strict=True)) if z > 1 - s], "not drawn by its score"


def _half(record: Record, salt: int) -> int:
    return int(drawn(f"{salt}/half/{record.source}/{record.id}") < 0.5)
