"""Names for what a recipe leaves unnamed: of what is called alike, each takes as many of its folders as tell it apart.

What stands in a mapping by its name (kept text, replayed sources, probes) would replace another of the same name, and
the report would speak of one where the recipe speaks of two.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import PurePath

PACK = "pack:"
"""What stands before the name of a pack that ships, or a folder's path that has a slash in it (`pack:./mine`)."""


def pack_folder(data: str) -> str | None:
    """The path that `pack:./mine` names; None where it is the name of one that ships."""
    name = data.removeprefix(PACK)
    return name if "/" in name or name.startswith((".", "~")) else None


Entry = tuple[str | None, str]
"""(its own name, its data)."""


def kept_names(entries: Sequence[Entry]) -> list[str]:
    """What each `keep` entry is called: "k" of a/k.txt, but "a/k.txt" and "b/k.txt" where both are kept.

    Names are equal only where entries are given equal names, or the same file twice without one.
    """
    return _apart([[name] if name else [PurePath(_path(data)).stem, *_tails(data)] for name, data in entries])


def called_twice(entries: Sequence[Entry]) -> tuple[int, str] | None:
    """The place and name of an entry that is called as an earlier one; None where all differ."""
    names = kept_names(entries)
    return next(((i, name) for i, name in enumerate(names) if name in names[:i]), None)


def file_names(paths: Sequence[str]) -> list[str]:
    """What sources that are named by their paths alone are called: the file's name, with folders where two share it."""
    return _apart([_tails(p) for p in paths])


def numbered(names: Sequence[str]) -> list[str]:
    """Names in order; the second of one name is "name-2"."""
    given: list[str] = []
    for name in names:
        tries = (name if i == 1 else f"{name}-{i}" for i in count(1))
        given.append(next(t for t in tries if t not in given))
    return given


def plain_name(text: str) -> str:
    """A text in the letters that a folder may be called by anywhere: accents are left out, and what has no such letter
    becomes a dash; "" where none is left.
    """
    letters = unicodedata.normalize("NFKD", text.replace("\u00df", "ss"))
    bare = "".join(c for c in letters if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", bare).strip("-_")


def _apart(choices: Sequence[Sequence[str]]) -> list[str]:
    """Of each one's choices the shortest that nothing else is called by."""
    at = [0] * len(choices)
    while True:
        chosen = [names[i] for names, i in zip(choices, at, strict=True)]
        many = Counter(chosen)
        longer = [
            i + 1 if many[name] > 1 and i + 1 < len(names) else i
            for names, i, name in zip(choices, at, chosen, strict=True)
        ]
        if longer == at:
            return chosen
        at = longer


def _path(data: str) -> str:
    """The part of "quickstart:keep" and of a path that names it."""
    return data.split(":")[-1]


def _tails(data: str) -> list[str]:
    """A path's last part, last two parts ...; all of it."""
    path = PurePath(_path(data))
    parts = [p for p in path.parts if p != path.anchor] or [data]
    return ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
