"""Rules of thumb for pages of text, each with its bound and who states it, and what they measure.

Gopher: Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1 and table A1. C4: Raffel et al. 2020 (arXiv:1910.10683),
section 2.2. FineWeb: Penedo et al. 2024 (arXiv:2406.17557), section 3.5. A rule that edits pages and leaves none out
(C4's on lines without a full stop) has no place here.

A word is what stands between white space, a line one with anything on it, a paragraph what an empty line parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.data.select._repetition import AGAIN, TOP, repeated_runs
from tunewright.data.select._words import SPACE, Tokens, codes_of, kinds_of, tokens

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's."""
BULLETS = ("•", "‣", "◦", "▪", "●", "-", "*")
ELLIPSES = ("...", "…")
SENTENCE_END = (".", "!", "?", "…", '"', "'", "”", "’", "。", "！", "？", "।", "؟", "។")
"""What a line that is no heading and no menu ends with."""
SHORT = 30
"""Characters below which FineWeb calls a line short."""
_PARAGRAPHS = re.compile(r"\n\s*\n")
Measured = dict[str, float]
RUNS = {n: f"gopher-{'top' if n in TOP else 'repeated'}-{n}-words" for n in (*TOP, *AGAIN)}
"""What measures repetition, by the words of a run."""


@dataclass(frozen=True)
class Rule:
    """A bound on a measure: rows below `least` or above `most` go. `says`: what is measured, with its unit."""

    says: str
    least: float | None = None
    most: float | None = None

    def broken(self, value: float) -> str:
        """How a value breaks the rule, "" where it does not."""
        if self.least is not None and value < self.least:
            return f"{self.says} below {self.least:g}"
        return f"{self.says} above {self.most:g}" if self.most is not None and value > self.most else ""


RULES = {
    "gopher-words": Rule("words", 50, 100_000),
    "gopher-word-length": Rule("mean characters of a word", 3, 10),
    "gopher-symbols": Rule("hashes or ellipses a word", most=0.1),
    "gopher-bullets": Rule("share of lines that begin with a bullet", most=0.9),
    "gopher-ellipses": Rule("share of lines that end with an ellipsis", most=0.3),
    "gopher-letters": Rule("share of words with a letter", least=0.8),
    "gopher-stop-words": Rule("different stop words", least=2),
    "gopher-repeated-lines": Rule("share of lines that stood before", most=0.3),
    "gopher-repeated-line-characters": Rule("share of characters in lines that stood before", most=0.2),
    "gopher-repeated-paragraphs": Rule("share of paragraphs that stood before", most=0.3),
    "gopher-repeated-paragraph-characters": Rule("share of characters in paragraphs that stood before", most=0.2),
    **{
        RUNS[n]: Rule(f"share of characters in the commonest {n} words in a row", most=most)
        for n, most in zip(TOP, (0.20, 0.18, 0.16), strict=True)
    },
    **{
        RUNS[n]: Rule(f"share of characters in {n} words that stood before", most=most)
        for n, most in zip(AGAIN, (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
    },
    "c4-sentences": Rule("sentences", least=3),
    "c4-placeholder": Rule('times "lorem ipsum"', most=0),
    "c4-braces": Rule("curly brackets", most=0),
    "fineweb-line-ends": Rule("share of lines that end as sentences do", least=0.12),
    "fineweb-short-lines": Rule(f"share of lines under {SHORT} characters", most=0.67),
    "fineweb-repeated-line-characters": Rule("share of characters in lines that stood before", most=0.1),
}
FAMILIES = ("gopher", "c4", "fineweb")
WORDS = ("gopher-words", "gopher-word-length", "gopher-symbols", "gopher-letters", "gopher-stop-words")
PAGE = ("c4-sentences", "c4-placeholder", "c4-braces")
_letter = np.full(0x110000, 2, np.uint8)


def _letters(codes: np.ndarray) -> np.ndarray:
    """Whether each character is a letter, as 0 or 1."""
    found = _letter[codes]
    if (found > 1).any():
        for code in np.unique(codes[found > 1]).tolist():
            _letter[code] = chr(code).isalpha()
        found = _letter[codes]
    return np.asarray(found)


def _words(
    held: Tokens, texts: Sequence[str], stop: Sequence[str], codes: np.ndarray, kinds: np.ndarray
) -> dict[str, np.ndarray]:
    count, solid = len(texts), np.append(kinds != SPACE, False)
    edges = np.flatnonzero(np.append(solid[:1], solid[1:] != solid[:-1]))
    begins, ends = edges[::2], edges[1::2]
    of = np.searchsorted(held.bounds, begins, side="right")
    lettered = np.maximum.reduceat(_letters(codes), begins) if len(begins) else begins
    words = np.bincount(of, minlength=count)
    some = np.maximum(1, words)
    symbols = [max(t.count("#"), sum(map(t.count, ELLIPSES))) for t in texts]
    stops = [np.bincount(held.text[held.keys == key], minlength=count) > 0 for key in np.unique(tokens(stop).keys)]
    return {
        "gopher-words": words,
        "gopher-word-length": np.bincount(of, ends - begins, minlength=count) / some,
        "gopher-symbols": np.array(symbols) / some,
        "gopher-letters": np.bincount(of, lettered, minlength=count) / some,
        "gopher-stop-words": np.sum(stops, 0),
    }


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """(share of parts, share of characters) that stood before."""
    different = dict.fromkeys(parts)
    whole = sum(map(len, parts))
    return 1 - len(different) / max(1, len(parts)), 1 - sum(map(len, different)) / max(1, whole) if whole else 0.0


def _lines(text: str) -> Measured:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    count = max(1, len(lines))
    share, characters = _repeated(lines) if lines else (0.0, 0.0)
    paragraphs = [p for p in map(str.strip, _PARAGRAPHS.split(text)) if p]
    whole, of_them = _repeated(paragraphs) if paragraphs else (0.0, 0.0)
    return {
        "gopher-bullets": sum(line.startswith(BULLETS) for line in lines) / count,
        "gopher-ellipses": sum(line.endswith(ELLIPSES) for line in lines) / count,
        "gopher-repeated-lines": share,
        "gopher-repeated-line-characters": characters,
        "gopher-repeated-paragraphs": whole,
        "gopher-repeated-paragraph-characters": of_them,
        "fineweb-line-ends": sum(line.endswith(SENTENCE_END) for line in lines) / count,
        "fineweb-short-lines": sum(len(line) < SHORT for line in lines) / count,
        "fineweb-repeated-line-characters": characters,
    }


def _page(held: Tokens, texts: Sequence[str], codes: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """A sentence ends where `_lexical.SENTENCE_ENDS` does: at one of three signs with white space or the text's end
    behind it. One look at all characters takes a quarter of the time of an expression over each text.
    """
    signs = np.flatnonzero((codes == ord(".")) | (codes == ord("!")) | (codes == ord("?")))
    ends = signs[np.append(kinds, SPACE)[signs + 1] == SPACE]  # texts are joined by white space
    sentences = np.bincount(np.searchsorted(held.bounds, ends, side="right"), minlength=len(texts))
    placeholder = "lorem ipsum" in held.joined
    return {
        "c4-sentences": sentences,
        "c4-placeholder": np.array([t.lower().count("lorem ipsum") if placeholder else 0 for t in texts]),
        "c4-braces": np.array([t.count("{") for t in texts]),
    }


def measured(texts: Sequence[str], rules: Mapping[str, Rule], stop: Sequence[str]) -> list[Measured]:
    """Of each text what some rules measure, by their names."""
    out = [Measured() for _ in texts]
    if rules.keys() & _lines("").keys():
        for found, text in zip(out, texts, strict=True):
            found |= _lines(text)
    held, arrays = tokens(texts, punctuation=False), dict[str, np.ndarray]()
    codes = codes_of(held.joined)
    kinds = kinds_of(codes)
    if any(name in rules for name in PAGE):
        arrays |= _page(held, texts, codes, kinds)
    if any(name in rules for name in WORDS):
        arrays |= _words(held, texts, stop, codes, kinds)
    if any(name in rules for name in RUNS.values()):
        arrays |= {RUNS[n]: shares for n, shares in repeated_runs(held).items()}
    for name, values in arrays.items():
        for found, value in zip(out, values.tolist(), strict=True):
            found[name] = value
    return [{name: found[name] for name in rules} for found in out]
