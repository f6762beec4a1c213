"""Quality rules: leave out what breaks a rule of thumb that Gopher, C4 or FineWeb state for pages of the web.

`rules` names families (gopher, c4, fineweb) or single rules; a row goes at the first rule that it breaks, in the order
of the table in `_rules.py` (which says where each is stated), and the reason names the rule and its bound. What each
rule measures is kept with the row, so that bounds can be set by what a pool is like: a row at a bound stays. One pass,
no row is held.

The rules are meant for pages of English: a chat turn has too few words for Gopher, code has curly brackets, and the
stop words are English (`stop_words` takes others). Differs from the papers in: words stand between white space and
sentences end at . ! or ?, with no tokenizer of a language; what C4 does to lines is not done; a run of words that stood
before counts its later occurrences alone, as datatrove counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from tunewright.contract.records import Record
from tunewright.data.select._rules import FAMILIES, RULES, STOP_WORDS, Rule, measured
from tunewright.data.select._text import Names, in_batches
from tunewright.errors import did_you_mean
from tunewright.pieces.each_row import EachRow, Judge


class QualityRules(EachRow):
    """Keeps rows that break none of Gopher's, C4's and FineWeb's rules of thumb."""

    rules: Names = Field(
        FAMILIES, min_length=1, description="families of rules, or single ones: gopher, c4, fineweb, gopher-words ..."
    )
    without: Names = Field((), description="rules that are not asked, of those named", examples=[["gopher-words"]])
    bounds: dict[str, tuple[float | None, float | None]] = Field(
        {},
        description="other bounds of a rule, [least, most], null for none",
        examples=[{"gopher-words": [1, None], "c4-sentences": [0, None]}],
    )
    stop_words: Names = Field(
        STOP_WORDS, min_length=2, description="words of which a text holds at least two", examples=[["der", "und"]]
    )

    conformance: ClassVar[dict[str, object]] = {"rules": ["gopher-words"], "bounds": {"gopher-words": [8, None]}}

    @field_validator("rules", "without")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in RULES and name not in FAMILIES:
                raise ValueError(f"no rule is called '{name}': {did_you_mean(name, [*FAMILIES, *RULES])}")
        return names

    @field_validator("bounds")
    @classmethod
    def _in_order(cls, bounds: dict[str, tuple[float | None, float | None]]) -> object:
        cls._known(tuple(n for n in bounds if n not in FAMILIES))
        for name, (least, most) in bounds.items():
            if name in FAMILIES or (least is None and most is None):
                raise ValueError(f"{name}: write the bounds of one rule, as {{gopher-words: [20, 100000]}}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"{name}: least ({least:g}) must not be above most ({most:g})")
        return bounds

    @model_validator(mode="after")
    def _asked(self) -> QualityRules:
        if not self._chosen():
            raise ValueError("without leaves no rule over")
        return self

    def _chosen(self) -> dict[str, Rule]:
        """The rules by name, in the order in which they are asked, with their bounds."""

        def named(name: str, names: Sequence[str]) -> bool:
            return name in names or name.partition("-")[0] in names

        return {
            name: Rule(rule.says, *self.bounds.get(name, (rule.least, rule.most)))
            for name, rule in RULES.items()
            if named(name, self.rules) and not named(name, self.without)
        }

    def judge(self) -> Judge:
        rules = self._chosen()

        def reason(found: dict[str, float]) -> str:
            broken = ((name, rule.broken(found[name])) for name, rule in rules.items())
            return next((f"{name}: {how}" for name, how in broken if how), "")

        def judged(some: Sequence[Record]) -> list[tuple[dict[str, float], str]]:
            each = [m for _, texts in in_batches(some) for m in measured(texts, rules, self.stop_words)]
            return [(found, reason(found)) for found in each]

        return judged
