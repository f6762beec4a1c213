"""Write into the cards where methods live and which tests cover them: `python -m tunewright.papers.link`.

A method lives on the cards that its `papers` name, and on the card of its own name if there is one; a recipe
`recipes/<slug>.yaml` (also `recipes/papers/<slug>--<what>.yaml`) and a generator of rows on the card of that slug; any
other module, such as a part of the server, on the cards that its line `PAPERS = ("<slug>",)` names. Run it in a
checkout after adding a method; docs/papers.md is made anew as well.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

from tunewright import catalogue
from tunewright.data import generators
from tunewright.errors import TunewrightError
from tunewright.papers import cards
from tunewright.papers.page import papers_page

ROOT = cards.FOLDER.parents[1]
_PAPERS = re.compile(r"^PAPERS = (\(.*\))$", re.MULTILINE)


def places() -> dict[str, list[cards.Place]]:
    """slug -> where it lives, from the methods' own files and the recipes. Imports every method."""
    by_slug: dict[str, list[cards.Place]] = {}
    for name, entry in catalogue.entries().items():
        if entry.file is None or entry.room == catalogue.THIRD_PARTY:
            continue
        cls = catalogue.load_method(name)
        own = (name,) if name in cards.load() or not cls.papers else ()
        for slug in dict.fromkeys((*cls.papers, *own)):
            by_slug.setdefault(slug, []).append(cards.Place(entry.file.relative_to(ROOT).as_posix(), cls.slots()))
    for name in generators.names():
        if name in cards.load():
            file = Path(str(generators.module_of(name).__file__))
            by_slug.setdefault(name, []).append(cards.Place(file.relative_to(ROOT).as_posix()))
    for file in sorted((ROOT / "tunewright").rglob("*.py")):
        if (line := _PAPERS.search(file.read_text(encoding="utf-8"))) is not None:
            for slug in ast.literal_eval(line[1]):
                by_slug.setdefault(slug, []).append(cards.Place(file.relative_to(ROOT).as_posix()))
    for file in sorted((ROOT / "recipes").rglob("*.yaml")):
        if (slug := file.stem.partition("--")[0]) in cards.load():
            by_slug.setdefault(slug, []).append(cards.Place(file.relative_to(ROOT).as_posix()))
    return by_slug


def tests_of(place: cards.Place) -> list[str]:
    """Test files that import a method's module (or name a recipe's file)."""
    path = Path(place.file)
    package, stem = ".".join(path.parent.parts), path.stem
    names = (
        rf"\b{re.escape(package)}\.{stem}\b|from {re.escape(package)} import [^\n]*\b{stem}\b"
        if path.suffix == ".py"
        else re.escape(path.name)
    )
    files = sorted(f for f in (ROOT / "tests").rglob("test_*.py") if f.parent.name != "papers")
    return [f.relative_to(ROOT).as_posix() for f in files if re.search(names, f.read_text(encoding="utf-8"))]


def _list(values: tuple[str, ...] | list[str]) -> str:
    return "[" + ", ".join(json.dumps(v) for v in values) + "]"


def linked(text: str, found: list[cards.Place], parity: str) -> str:
    """A card's text with its `lives` and `shown` lines written anew; everything else stays as it was typed."""
    kept = [line for line in text.splitlines() if not line.startswith(("lives =", "shown ="))]
    if not found:
        return "\n".join([*kept, 'lives = "open"']) + "\n"
    lives = ", ".join(f"{{ slots = {_list(p.slots)}, file = {json.dumps(p.file)} }}" for p in found)
    tests = sorted({t for p in found for t in tests_of(p)})
    shown = (
        f"shown = {{ tests = {_list(tests)}"
        + (f", parity = {json.dumps(parity, ensure_ascii=False)}" if parity else "")
        + " }"
    )
    return "\n".join([*kept, f"lives = [{lives}]", shown]) + "\n"


def main() -> None:
    """Rewrite the cards that changed. TunewrightError names methods that have no card."""
    by_slug, known = places(), cards.load()
    missing = sorted(set(by_slug) - set(known))
    for slug, card in known.items():
        file = cards.FOLDER / f"{slug}.toml"
        before = file.read_text(encoding="utf-8")
        after = linked(before, by_slug.get(slug, []), card.parity)
        if after != before:
            file.write_text(after, encoding="utf-8")
            print(f"{slug}: {', '.join(p.file for p in by_slug.get(slug, [])) or 'open'}")
    cards.load.cache_clear()
    (ROOT / "docs" / "papers.md").write_text(papers_page(), encoding="utf-8")
    if missing:
        where = "; ".join(f"{slug} ({by_slug[slug][0].file})" for slug in missing)
        raise TunewrightError(
            f"no card for: {where}",
            remedy="write tunewright/papers/<slug>.toml, with map = false when it is no mapped paper",
        )


if __name__ == "__main__":
    try:
        main()
    except TunewrightError as error:
        sys.exit(f"error: {error}")
