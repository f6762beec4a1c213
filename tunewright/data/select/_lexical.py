"""What texts are like, told from their letters alone: how far they compress, how varied their words are, how hard they
are to read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

RATIO = 0.72
WORDS = re.compile(r"\w+")
SENTENCE_ENDS = re.compile(r"[.!?]+(?=\s|\Z)")
VOWELS = re.compile(r"[aeiouy]+")


def compressed_share(text: str) -> float:
    """Bytes of a text deflated at the highest level over its bytes; 0 of an empty one. The less is said twice the
    larger; of a short text the code's own bytes count, so that it may pass 1.
    """
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 0.0


def _one_way(words: Sequence[str]) -> float:
    """Words over the number of stretches whose type-token ratio stays above `RATIO`, the last one in part."""
    stretches, types, tokens = 0.0, set[str](), 0
    for word in words:
        tokens += 1
        types.add(word)
        if len(types) / tokens <= RATIO:
            stretches, types, tokens = stretches + 1, set(), 0
    if tokens:
        stretches += (1 - len(types) / tokens) / (1 - RATIO)
    return len(words) / stretches if stretches else float(len(words))


def mtld(text: str) -> float:
    """Lexical diversity of a text in words; of one that never falls to the ratio its number of words."""
    words = WORDS.findall(text.lower())
    return (_one_way(words) + _one_way(words[::-1])) / 2


def syllables(word: str) -> int:
    """Syllables of an English word by its letters: runs of vowels, less a silent e at its end; at least one."""
    low = word.lower()
    runs = len(VOWELS.findall(low))
    silent = runs > 1 and low.endswith("e") and not (low.endswith("le") and low[-3:-2] not in "aeiouy")
    return max(1, runs - silent)


def reading_ease(text: str) -> float:
    """Flesch's reading ease of an English text: 206.835 - 1.015 words/sentences - 84.6 syllables/words. 100 is very
    easy, below 30 very hard; there is no bound on either side. A text without words counts as one of one syllable.
    """
    words = WORDS.findall(text)
    count = max(1, len(words))
    sentences = max(1, len(SENTENCE_ENDS.findall(text)))
    spoken = sum(map(syllables, words)) if words else 1
    return 206.835 - 1.015 * count / sentences - 84.6 * spoken / count
