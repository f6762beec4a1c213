"""The pages of what is known: papers and their verdicts, methods, benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewright import catalogue
from tunewright.board.shell import href, paged, rendered
from tunewright.catalogue.folders import PACKAGE, question, without_papers
from tunewright.claims.lab.tasks import TASKS
from tunewright.errors import TunewrightError
from tunewright.papers import cards, listing, search
from tunewright.papers.cards import Card, Verdict

FILTERS = ("family", "state", "kind", "modality")
ORDER = (*cards.STATES[2:], *cards.STATES[1::-1])
"""States as the map's bars have them."""
PAGE = 60
"""Papers in a page of the list."""
KINDS = {
    "text-generation": "causal language models",
    "text-classification": "text encoders",
    "image-classification": "vision models",
}
"""The lab's bases in words, by the hub's task of what they learn."""
SOURCE = "https://github.com/tunewright/tunewright/blob/main/"


def base_of(verdict: Verdict) -> tuple[str, str]:
    """(kind in words, name) of the base that a claim was judged on; empty where the lab does not know its task."""
    task = TASKS.get(verdict.task)
    recipe = task.scales.get(verdict.scale) if task is not None else None  # type: ignore[call-overload]
    if recipe is None:
        return "", ""
    return KINDS.get(recipe["task"], recipe["task"]), str(recipe["model"])


def bases() -> list[str]:
    """Kinds of bases that claims were judged on."""
    return sorted({base_of(v)[0] for card in cards.load().values() for v in card.verdicts} - {""})


def papers(query: Mapping[str, str]) -> str:
    """The map of papers: `q` words, best first; `family`, `state`, `kind`, `modality`, and `base`: the kind of base on
    which a claim was judged, with the verdicts found there alone.
    """
    asked = {key: query.get(key, "") for key in (*FILTERS, "base")}
    found: list[Card] = []
    problem = ""
    try:
        found = listing.select(query.get("q", ""), {key: asked[key] or None for key in FILTERS})
    except TunewrightError as error:
        problem = str(error)
    shown = [(card, _judged(card, asked["base"])) for card in found]
    if asked["base"]:
        shown = [(card, judged) for card, judged in shown if judged]
    page, pages = paged(query, len(shown), PAGE)
    known = list(cards.load().values())
    choices = {key: sorted({getattr(c, key) for c in known}) for key in ("family", "kind", "modality")}
    return rendered(
        "papers.html",
        here="papers",
        q=query.get("q", ""),
        asked=asked,
        choices={"family": choices["family"], "state": cards.STATES, "base": bases(), **choices},
        problem=problem,
        found=len(shown),
        shown=shown[(page - 1) * PAGE : page * PAGE],
        page=page,
        pages=pages,
        families=_families(known),
        order=ORDER,
        mapped=sum(c.map for c in known),
        beside=sum(not c.map for c in known),
    )


def _judged(card: Card, kind: str) -> list[dict[str, Any]]:
    """A card's verdicts with their bases; of one kind of base where that is named."""
    return [
        {"verdict": v, "kind": base_of(v)[0], "base": base_of(v)[1]}
        for v in card.verdicts
        if not kind or base_of(v)[0] == kind
    ]


def _families(known: list[Card]) -> list[dict[str, Any]]:
    """Each family, the largest first: how many papers it has, and how many of each state (the weightiest of each)."""
    by_family: dict[str, Counter[str]] = {}
    for card in known:
        by_family.setdefault(card.family, Counter())[_weightiest(card)] += 1
    most = max((sum(c.values()) for c in by_family.values()), default=1)
    out = []
    for family, counts in sorted(by_family.items(), key=lambda pair: (-sum(pair[1].values()), pair[0])):
        parts, left = [], 0.0
        for state in ORDER:
            if counts[state]:
                width = 100 * counts[state] / most
                parts.append({"state": state, "count": counts[state], "left": left, "width": width})
                left += width
        out.append({"family": family, "count": sum(counts.values()), "parts": parts})
    return out


def _weightiest(card: Card) -> str:
    """What a card counts as in the map: its first verdict in the order holds, fails, unclear, not tested; else where it
    is.
    """
    return card.states[1] if len(card.states) > 1 else card.states[0]


def paper(slug: str) -> str | None:
    """One paper in full, with those that are like it; None where no card has the name."""
    if slug not in cards.load():
        return None
    card = cards.find(slug)
    facts = {k: v for k, v in listing.facts(card).items() if k not in ("claims", "like it", "lives", "paper")}
    named = catalogue.entries()
    fills = [name for name in dict.fromkeys([slug, *(Path(p.file).stem for p in card.lives)]) if _entry(name) in named]
    return rendered(
        "paper.html",
        here="papers",
        card=card,
        facts=facts,
        judged=_judged(card, ""),
        places=[(place, SOURCE + place.file) for place in card.lives],
        methods=[(_entry(name), href("methods", _entry(name))) for name in fills],
        alike=search.similar(slug, 6),
    )


def _entry(name: str) -> str:
    return name.replace("_", "-")


def methods(query: Mapping[str, str]) -> str:
    """What a recipe may name, by room; `q`: words that a name or its line must have."""
    words = query.get("q", "").casefold().split()
    lines = _lines()
    by_room: dict[str, list[tuple[str, str, str]]] = {}
    for name, room, line in lines:
        if all(w in f"{name} {line}".casefold() for w in words):
            by_room.setdefault(room, []).append((name, line, href("methods", name)))
    return rendered(
        "methods.html",
        here="methods",
        q=query.get("q", ""),
        rooms=[(_questions().get(room, room), room, found) for room, found in by_room.items()],
        shown=sum(map(len, by_room.values())),
        total=len(lines),
    )


@cache
def _lines() -> list[tuple[str, str, str]]:
    """(name, room, first line) of every entry, by room; nothing is imported."""
    order = {room: i for i, room in enumerate(catalogue.rooms())}
    entries = sorted(catalogue.entries().values(), key=lambda e: (order.get(e.room, len(order)), e.name))
    return [(e.name, e.room, without_papers(e.summary())) for e in entries]


@cache
def _questions() -> dict[str, str]:
    """Room -> the question that its methods answer."""
    return {room: question(room) for room in catalogue.rooms()}


def method(name: str) -> str | None:
    """One method in full; imports it, and torch with it. None where nothing has the name."""
    if name not in catalogue.entries():
        return None
    described = catalogue.describe(name)
    known = cards.load()
    slugs = dict.fromkeys([*described["papers"], *([name] if name in known else [])])
    return rendered(
        "method.html",
        here="methods",
        described={**described, "summary": without_papers(described["summary"])},
        papers=[(slug, known.get(slug)) for slug in slugs],
    )


def benchmarks() -> str:
    """The figures that the repository's benchmarks gave, as its own page has them."""
    shipped, checkout = Path(__file__).parent / "benchmarks.md", PACKAGE.parent / "benchmarks" / "README.md"
    file = shipped if shipped.is_file() else checkout
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return rendered("benchmarks.html", here="benchmarks", text=Markup(_html(text)) if text else "")


def _html(text: str) -> str:
    """Our own Markdown as HTML; HTML within it stays text. Links beside the file lead to the repository."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token in tokens:
        for inner in token.children or ():
            if inner.type == "link_open" and "://" not in str(inner.attrGet("href")):
                inner.attrSet("href", SOURCE + str(inner.attrGet("href")).removeprefix("../"))
    out: str = reader.renderer.render(tokens, reader.options, {})
    opening = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
    return out.replace("<table>", opening).replace("</table>", "</table></div>").replace(' style="', ' data-was="')
