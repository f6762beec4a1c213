"""Verses of four languages, aligned, and a BART that has read two of them: what claims about mBART50 share."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _chosen
from tunewright.claims.papers import _encoder_decoders as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

OLD, NEW = ("eus-1571", "glv"), ("chr", "cop")
"""Basque of 1571 and Manx; Cherokee and Coptic, in scripts of their own."""
READ, JUDGED = 40_000, 60
"""Tokens of each reading, and verses of each kind that are judged."""


@cache
def verses(part: str) -> list[dict[str, str]]:
    """Verses that all four languages have, by language, of a length that a row holds, in an order drawn once."""
    by: dict[tuple[Any, ...], dict[str, str]] = {}
    for r in corpus.rows(f"bible-lowres/{part}.jsonl.gz"):
        by.setdefault((r["book"], r["chapter"], r["verse"]), {})[r["lang"]] = r["text"]
    every = (v for v in by.values() if v.keys() >= {*OLD, *NEW})
    return rows.shuffled([v for v in every if all(20 <= len(v[lang]) <= 110 for lang in (*OLD, *NEW))])


def texts(languages: tuple[str, ...], part: str = "train") -> list[str]:
    """Verses of some languages behind their names, those of all languages in turn."""
    return [f"[{lang}] {verse[lang]}" for verse in verses(part) for lang in languages]


def fresh(seed: int) -> str:
    """The folder of a BART that knows nothing, whose tokenizer knows all four scripts."""
    return lab.drawn("bart", texts((*OLD, *NEW)), seed)


def known(run: ClaimRun, arm: str, seed: int) -> str:
    """The folder of a BART that has read the old languages."""
    read = lab.reading("old", texts(OLD), READ, "text-infilling")
    return lab.folder(run, lab.recipe(run, arm, seed, fresh(seed), [read], to_mend(OLD)))


def to_mend(languages: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of other verses to be written whole, their second half masked, those of all languages in turn."""
    out = []
    for text in texts(languages, "test")[: JUDGED * len(languages)]:
        words = text.split()
        half = [*words[: 1 + len(words) // 2], "<mask>"]
        out.append({"prompt": " ".join(half), "completion": " ".join(words[1:])})
    return out


def pairs(source: str, goal: str, part: str, first: int, count: int) -> list[dict[str, str]]:
    """Rows of a direction: the language to write and the verse in the other one, and the verse."""
    some = verses(part)[first : first + count]
    return [{"prompt": f"[{goal}] {v[source]}", "completion": v[goal]} for v in some]


def translating(
    run: ClaimRun, arm: str, seed: int, model: str, found: Any, judged: Any, tokens: int, rate: float
) -> Any:
    """The record of a model that learns rows of some directions, judged on some."""
    stage = lab.learning("translate", found, tokens, rate)
    return _chosen.finished(run, lab.recipe(run, arm, seed, model, [stage], judged))
