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

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tunewright.contract.records import Record
from tunewright.data.select._text import Names, text_of
from tunewright.errors import MissingExtraError, RecipeError, did_you_mean
from tunewright.pieces.each_row import EachRow, Judge


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
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


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

        def judged(record: Record) -> tuple[dict[str, float], str]:
            text = text_of(record)[: self.characters]
            if sum(map(str.isalpha, text)) < self.shortest:
                why = "" if self.undecided == "keep" else f"fewer than {self.shortest} letters: undecided"
                return {"confidence": 0.0, "undecided": 1.0}, why
            found, surely = known.classify(text)
            why = "" if found in self.keep else f"language {found}"
            if not why and surely < self.confidence:
                why = f"language {found}, confidence below {self.confidence:g}"
            return {"confidence": float(surely), "undecided": 0.0}, why

        return lambda some: [judged(r) for r in some]
