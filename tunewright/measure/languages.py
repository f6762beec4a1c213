"""What language a text is in, by its script, or by the commonest words of a few languages in Latin letters.

Plain and small, for answers of a sentence or more. It knows the languages of `LANGUAGES` and no other: a text in
another one in Latin letters is taken for the nearest, or for none. Short answers, lists of names and code are in none.
"""

from __future__ import annotations

import re
import unicodedata

COMMON: dict[str, str] = {
    "en": "the of and to is in that it for you are with as on was this be have not or by from they an which can will",
    "de": "der die das und ist in zu den nicht ein eine mit von sich auf für des dem als auch es an werden aus er sie "
    "hat dass wird bei oder ich wir",
    "fr": "le la les et est des une un dans que qui pour du en pas ce sur au plus par avec il elle je vous nous sont "
    "ne se ou aux être cette",
    "es": "el la los las y es de que en un una por con para no se del al lo como más su pero son está muy o ser hay "
    "este esta",
    "it": "il la le gli e è di che un una per con non del della nel sono si come più ma anche al i lo dei delle ha "
    "questo questa",
    "pt": "o a os as e é de que um uma em para com não do da no na se por mais dos das são como mas ao ou seu sua "
    "está você",
    "nl": "de het een en is van in dat niet op te zijn met voor er aan die ook als bij om maar naar wordt hebben deze "
    "door je ik",
}
"""The commonest words of the languages that are told apart by words."""
SCRIPTS: dict[str, tuple[str, ...]] = {
    "ru": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "hi": ("DEVANAGARI",),
    "ko": ("HANGUL",),
    "ja": ("HIRAGANA", "KATAKANA"),
    "zh": ("CJK",),
}
"""Languages that are told by script: each stands for all that are written in it. Japanese has kana among its signs."""
LANGUAGES = (*COMMON, *SCRIPTS)
LEAST = 2
"""Common words that a text needs before it is said to be in a language."""

_SETS = {code: frozenset(words.split()) for code, words in COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str | None:
    """The language's code; None where no script or words tell it, or two languages have as many of their words."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return None
    counts = dict.fromkeys(SCRIPTS, 0)
    for c in letters:
        name = unicodedata.name(c, "")
        for code, starts in SCRIPTS.items():
            counts[code] += name.startswith(starts)
    if sum(counts.values()) > len(letters) / 2:
        if counts["ja"] and counts["ja"] + counts["zh"] >= max(counts.values()):
            return "ja"
        return max(counts, key=lambda code: counts[code])
    words = [w.casefold() for w in _WORD.findall(text)]
    found = {code: sum(w in known for w in words) for code, known in _SETS.items()}
    best = max(found.values())
    first = [code for code, n in found.items() if n == best]
    return first[0] if best >= LEAST and len(first) == 1 else None
