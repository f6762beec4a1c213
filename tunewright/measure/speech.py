"""Word and character error rates of a transcript, counted by jiwer on normalised texts.

A row's rate is what was left out, put in and exchanged, over the words (characters) of its reference, and a row counts
for as many: the figure over rows is all errors over all words, which may pass 1. Texts are normalised as Whisper's
authors do (Radford et al. 2022, appendix C), by transformers' copies of their two normalisers:

    wer, cer       BasicTextNormalizer: lower case, no punctuation or symbols, nothing in brackets; diacritics stay
    wer_english    EnglishTextNormalizer: also contractions written out ("won't" as "will not"), numbers as digits
                   ("seven" as "7"), no "um"; British and American spellings are not exchanged, since the table of them
                   comes with other models than are had here
    wer_exact      no normalisation but white space: case and punctuation count

A row whose reference is empty once it is normalised counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

Normaliser = Callable[[str], str]


@lru_cache
def _basic() -> Any:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()


@lru_cache
def _english() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def basic(text: str) -> str:
    """Lower case without punctuation, symbols and what stands in brackets."""
    return str(_basic()(text)).strip()


def english(text: str) -> str:
    """As `basic`, and English numbers and contractions in one form."""
    return str(_english()(text)).strip()


def exact(text: str) -> str:
    """Runs of white space as one space."""
    return " ".join(text.split())


def word_errors(normalise: Normaliser) -> tuple[Callable[[str, str], float], Callable[[str], float]]:
    """(rate of an answer against a reference, words of a reference)."""

    @lru_cache(maxsize=1 << 16)
    def rate(answer: str, reference: str) -> float:
        import jiwer

        wanted, said = normalise(reference), normalise(answer)
        if not wanted:
            return float(len(said.split()))
        return float(jiwer.wer(wanted, said))

    return rate, lambda reference: float(len(normalise(reference).split()))


def character_errors(normalise: Normaliser) -> tuple[Callable[[str, str], float], Callable[[str], float]]:
    """(rate of an answer against a reference, characters of a reference)."""

    @lru_cache(maxsize=1 << 16)
    def rate(answer: str, reference: str) -> float:
        import jiwer

        wanted, said = normalise(reference), normalise(answer)
        if not wanted:
            return float(len(said))
        return float(jiwer.cer(wanted, said))

    return rate, lambda reference: float(len(normalise(reference)))
