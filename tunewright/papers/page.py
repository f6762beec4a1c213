"""docs/papers.md, made from the cards: `python -m tunewright.commands.docs`."""

from __future__ import annotations

from tunewright.papers import cards

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from tunewright/papers/*.toml: change the cards, not this file. -->
# Papers

What has been published about adapting pre-trained models, a line each in our own words, and where it lives here.
{mapped} papers are mapped, {lives}
of them live in Tunewright; {beside} methods live here beside the map. `tunewright papers WORDS` searches;
`tunewright papers show SLUG` shows one with
what it says, its tests, the verdicts of its executable claims, and papers like it.

"""


def _row(card: cards.Card) -> str:
    title = card.title.replace("|", "\\|")
    linked = f"[{title}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else title
    where = ", ".join(f"[{p.file.removeprefix('tunewright/')}](../{p.file})" for p in card.lives) or "open"
    cells = (
        f"`{card.slug}`",
        linked,
        str(card.year or ""),
        card.kind,
        card.modality,
        card.mechanism.replace("|", "\\|"),
        where,
    )
    return "| " + " | ".join(cells) + " |"


def papers_page() -> str:
    """The catalogue as Markdown: a table a family."""
    all_cards = list(cards.load().values())
    mapped = [c for c in all_cards if c.map]
    out = [
        _HEAD.format(mapped=len(mapped), lives=sum(bool(c.lives) for c in mapped), beside=len(all_cards) - len(mapped))
    ]
    for family in sorted({c.family for c in all_cards}):
        rows = [_row(c) for c in all_cards if c.family == family]
        out.append(
            f"## {family}\n\n| slug | paper | year | kind | modality | what it does | lives |\n| --- | --- | --- | "
            "--- | --- | --- | --- |\n"
        )
        out.append("\n".join(rows) + "\n\n")
    return "".join(out).rstrip("\n") + "\n"
