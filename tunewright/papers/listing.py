"""What `tunewright papers` prints: a table of cards, or one card in full."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.errors import RecipeError, did_you_mean
from tunewright.papers import cards, search

_COLOURS = dict(zip(cards.STATES, ("dim", "cyan", "green", "red", "yellow", "magenta"), strict=True))


def select(words: str = "", filters: Mapping[str, str | None] | None = None) -> list[cards.Card]:
    """Cards that fit the words (best first; all of them by slug without words) and every filter.

    filters: "family", "kind", "modality" -> a value that cards have; "state" -> one of `cards.STATES`. RecipeError for
    a value that no card has.
    """
    matches = search.search(words) if words.strip() else list(cards.load().values())
    for key, value in (filters or {}).items():
        if value is None:
            continue
        known = cards.STATES if key == "state" else sorted({getattr(c, key) for c in cards.load().values()})
        if value not in known:
            raise RecipeError(f"no paper has the {key} '{value}'", where=f"--{key}", remedy=did_you_mean(value, known))
        matches = [c for c in matches if (value in c.states if key == "state" else getattr(c, key) == value)]
    return matches


def state(card: cards.Card) -> Text:
    """A card's state in colour: its verdicts where it has some, else whether it lives."""
    shown = card.states[1:] or card.states
    return Text.assemble(*((s + (", " if i + 1 < len(shown) else ""), _COLOURS[s]) for i, s in enumerate(shown)))


def table(found: Iterable[cards.Card]) -> Table:
    """Cards as a table, one line each."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name, options in {"paper": {"min_width": 12}, "family": {}, "year": {"min_width": 4}, "state": {}}.items():
        out.add_column(name, no_wrap=True, overflow="ellipsis", **options)  # type: ignore[arg-type]
    out.add_column("what it does", no_wrap=True, overflow="ellipsis", ratio=1)
    for card in found:
        out.add_row(Text(card.slug, "bold"), card.family, str(card.year or ""), state(card), Text(card.mechanism))
    return out


def print_list(words: str, filters: Mapping[str, str | None], as_json: bool) -> None:
    """Print the cards that fit, as a table or as JSON."""
    matches = select(words, filters)
    if as_json:
        print(json.dumps([c.as_dict() for c in matches], indent=2, ensure_ascii=False))
        return
    console = Console()
    if matches:
        console.print(table(matches))
    live, beside = sum(bool(c.lives) for c in matches), sum(not c.map for c in matches)
    also = f" ({beside} of them methods beside the map)" if beside else ""
    console.print(
        f"{len(matches)} cards{also}, {live} live here. `tunewright papers show SLUG` shows one.",
        highlight=False,
        markup=False,
    )


def facts(card: cards.Card) -> dict[str, str]:
    """What a card says, by heading."""
    about = dict.fromkeys((card.family, card.kind, card.modality, *card.tags))
    return {
        "paper": ", ".join(str(x) for x in (card.title, card.year, card.arxiv and f"arXiv:{card.arxiv}") if x),
        "what it does": card.mechanism,
        "what it says": card.claim,
        "about": ", ".join(about),
        "lives": "; ".join(p.file + (f" ({', '.join(p.slots)})" if p.slots else "") for p in card.lives)
        or "open: nothing here does it yet",
        **({"reconstructed": card.reconstructed} if card.reconstructed else {}),
        "tests": ", ".join(card.tests) or "none",
        "parity": card.parity or "none",
        "claims": "\n".join(_judged(v) for v in card.verdicts) or "none judged",
        "like it": ", ".join(c.slug for c in search.similar(card.slug)),
    }


def _judged(verdict: cards.Verdict) -> str:
    """A verdict, and below it what it rests on."""
    head = f"{verdict.claim} at {verdict.scale} scale: {verdict.verdict}"
    return "\n".join([head, *(f"  {line}" for line in verdict.beside)])


def print_card(slug: str, as_json: bool) -> None:
    """Print one card, as text or as JSON with the slugs of those like it."""
    card = cards.find(slug)
    if as_json:
        print(
            json.dumps(
                {**card.as_dict(), "similar": [c.slug for c in search.similar(card.slug)]}, indent=2, ensure_ascii=False
            )
        )
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts(card).items():
        grid.add_row(name, Text(value))
    console = Console()
    console.print(Text(f"{card.slug}: {card.name}\n", "bold"))
    console.print(grid)
