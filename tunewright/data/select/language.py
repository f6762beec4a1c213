"""Language filter: keep the rows that are written in one of some languages, as CCNet and FineWeb begin with.

py3langid names a text's language (a naive Bayes over bytes; its model lies inside the package, so that nothing is
fetched, and is no pickle), with a probability that does not grow with length alone. A row stays where its language is
one of `keep` and the probability is at least `confidence`. A text of fewer than `shortest` letters is undecided: such
rows are kept or dropped by `undecided`, and their score `undecided` is 1.

`confidence` 0.5 is CCNet's bound (Wenzek et al. 2020, arXiv:1911.00359; FineWeb has 0.65), both for fastText's
classifier; `shortest` and `characters` are ours. Needs the extra `language`. One pass, no row is held. Raises
MissingExtraError without py3langid, RecipeError for a language that it does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from tunewright.contract.records import Record
from tunewright.data.select._text import Names, text_of
from tunewright.errors import MissingExtraError, RecipeError, did_you_mean
from tunewright.pieces.each_row import EachRow, Judge

TOGETHER = 32
"""Texts from which on walking through all of them side by side is quicker than one by one."""
_HELD = ("tk_nextmove", "tk_output", "_rowbase", "nb_ptc", "_encode", "_raw_score", "_sparse_score", "counted")
"""What py3langid's classifier is made of, where texts can be walked through side by side."""


def identifier() -> Any:
    """py3langid's classifier: `classify(text)` gives (language, probability), `labels` are all languages."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtraError(
            "languages are told by py3langid, which is not installed",
            where="language",
            remedy="pip install 'tunewright[language]'",
        ) from None

    class Counted(LanguageIdentifier):  # type: ignore[misc]
        """Takes what was counted of a text already."""

        counted: ClassVar[dict[bytes, Counter[int]]] = {}

        def _raw_score(self, text: bytes) -> Any:
            found = self.counted.get(text)
            return self._sparse_score(found, self.nb_ptc) if found else super()._raw_score(text)

    return Counted.from_model_file(MODEL_FILE, norm_probs=True)


def at_least(count: int, text: str) -> bool:
    """Whether a text has so many letters; no more of it is looked at than needed."""
    return sum(1 for _ in islice(filter(str.isalpha, text), count)) == count


def visits(moves: np.ndarray, bases: np.ndarray, out: np.ndarray, texts: Sequence[bytes]) -> list[Counter[int]]:
    """How often each text meets each feature, in the order in which they come: what py3langid counts byte by byte of
    one text, for all of them a byte at a time.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    lengths = np.array([len(texts[i]) for i in order])
    longest = int(lengths[0])
    letters = np.zeros((longest, len(texts)), np.uint8)
    for k, i in enumerate(order):
        letters[: lengths[k], k] = np.frombuffer(texts[i], np.uint8)
    going = np.searchsorted(
        -lengths, -np.arange(longest), side="left"
    ).tolist()  # texts that are longer than each place
    met, state = np.empty((longest, len(texts)), out.dtype), np.zeros(len(texts), np.int64)
    for place, n in enumerate(going):
        state = moves[bases[state[:n]] + letters[place, :n]]
        met[place, :n] = out[state]
    found: list[Counter[int]] = [Counter() for _ in texts]
    for k, i in enumerate(order):
        column = met[: lengths[k], k]
        found[i] = Counter(column[column >= 0].tolist())
    return found


class SideBySide:
    """A classifier of py3langid that reads many texts at once, and says of each in every bit what it says of it
    alone.
    """

    def __init__(self, known: Any):
        self.known, self.quick = known, all(hasattr(known, name) for name in _HELD)
        if self.quick:
            self.moves, self.bases, self.out = (
                np.asarray(x) for x in (known.tk_nextmove, known._rowbase, known.tk_output)
            )
            known.nb_ptc = known.nb_ptc.astype(np.float32)  # else each text would have its rows of halves cast anew

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """(language, probability) of each text."""
        if not self.quick or len(texts) < TOGETHER:
            return [self.known.classify(text) for text in texts]
        known = self.known
        encoded = [known._encode(text) for text in texts]
        known.counted.update(zip(encoded, visits(self.moves, self.bases, self.out, encoded), strict=True))
        try:
            return [known.classify(text) for text in texts]
        finally:
            known.counted.clear()


class Language(EachRow):
    """Keeps rows in some languages."""

    keep: Names = Field(
        ("en",), min_length=1, description="languages that stay, by their codes in ISO 639-1", examples=[["de", "fr"]]
    )
    confidence: float = Field(0.5, ge=0, le=1, description="least probability of the language", examples=[0.99])
    shortest: NonNegativeInt = Field(20, description="letters below which a text is undecided", examples=[1])
    undecided: Literal["keep", "drop"] = Field("keep", description="what becomes of undecided rows", examples=["drop"])
    characters: PositiveInt = Field(
        2000, description="of a text that are looked at, from its beginning on", examples=[5]
    )

    conformance: ClassVar[dict[str, object]] = {"keep": ["zxx"], "confidence": 0.0, "shortest": 0}  # numbers

    def judge(self) -> Judge:
        known = identifier()
        for code in self.keep:
            if code not in known.labels:
                raise RecipeError(
                    f"no language is called '{code}'",
                    where="language.keep",
                    remedy=f"{did_you_mean(code, known.labels)} (codes of ISO 639, of two letters where there is one)",
                )

        together = SideBySide(known)

        def judged(some: Sequence[Record]) -> list[tuple[dict[str, float], str]]:
            texts = [text_of(record)[: self.characters] for record in some]
            long = [at_least(self.shortest, text) for text in texts]
            told = iter(together.classify([text for text, enough in zip(texts, long, strict=True) if enough]))
            return [said(*next(told)) if enough else undecided for enough in long]

        few = "" if self.undecided == "keep" else f"fewer than {self.shortest} letters: undecided"
        undecided = {"confidence": 0.0, "undecided": 1.0}, few

        def said(found: str, surely: float) -> tuple[dict[str, float], str]:
            why = "" if found in self.keep else f"language {found}"
            if not why and surely < self.confidence:
                why = f"language {found}, confidence below {self.confidence:g}"
            return {"confidence": float(surely), "undecided": 0.0}, why

        return judged
