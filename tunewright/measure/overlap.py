"""How far a written text overlaps its reference, by sacrebleu and rouge-score: BLEU, chrF and ROUGE as shares of 1.

BLEU and chrF of many rows are made of the counts of all of them (Post 2018; Popovic 2015), and not of the rows' own
figures. Rows' counts are kept, so that resampling rows costs sums alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tunewright.contract.metric import Answered


@lru_cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


@lru_cache(maxsize=1 << 16)
def _sentence(answer: str, reference: str) -> Any:
    return _bleu().sentence_score(answer, [reference])


def sentence_bleu(answer: str, reference: str) -> float:
    """BLEU of one row, of the n-grams that it is long enough for."""
    return float(_sentence(answer, reference).score) / 100


def corpus_bleu(rows: Sequence[Answered]) -> float:
    """BLEU-4 of all rows together, as sacrebleu gives it (13a tokens, exponential smoothing)."""
    parts = [_sentence(row.answer, row.reference) for row in rows]
    counts, totals = (np.sum([getattr(p, name) for p in parts], axis=0).tolist() for name in ("counts", "totals"))
    sys_len, ref_len = (sum(getattr(p, name) for p in parts) for name in ("sys_len", "ref_len"))
    return float(_bleu().compute_bleu(counts, totals, sys_len, ref_len, smooth_method="exp").score) / 100


@lru_cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@lru_cache(maxsize=1 << 16)
def sentence_chrf(answer: str, reference: str) -> float:
    """chrF2 of one row: F-score of character n-grams up to 6, recall counting twice."""
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


@lru_cache
def _rouge(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name])


def rouge(name: str) -> Callable[[str, str], float]:
    """F-score of one row under "rouge1", "rouge2" (n-grams) or "rougeL" (longest common subsequence), no stemming."""

    @lru_cache(maxsize=1 << 16)
    def score(answer: str, reference: str) -> float:
        return float(_rouge(name).score(reference, answer)[name].fmeasure)

    return score
