"""docs/methods.md, made from the catalogue: `python -m tunewright.commands.docs`.

A section per room: the question that the room answers is the first paragraph of its `__init__.py`, a method's line is
the first paragraph of its module, slots and papers are what its class says. A new method or room edits no other file.
"""

from __future__ import annotations

from collections import defaultdict

from tunewright import catalogue
from tunewright.catalogue.folders import PACKAGE, question, without_papers
from tunewright.contract.category import CATEGORIES
from tunewright.models.peft_types import table
from tunewright.papers import cards

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from the catalogue: change the methods' files, not this one. -->
# Methods

The {count} things that a recipe or `tunewright merge` may name today, by the question that each answers. Methods that
answer different questions are combined by naming them in one list; two that cannot go together are refused before
anything is loaded. `tunewright methods NAME` gives a method's parameters, what it needs and its papers;
[slots](contract.md) are the places where it plugs in. [The papers](papers.md) say what has been published, here
or not yet; [the claims](claims.md) say what came of testing it. A method that is marked as reconstructed was made
without its paper's text or its authors' code: `tunewright papers show SLUG` says from what, and what in it is ours.

Methods that adapt a frozen model, or choose what of it trains, say by what they spare parameters (`tunewright methods
--category NAME` lists those of one):

{categories}

"""


_PEFT = """\
## PEFT's types of adapter

Which of the {count} types of adapter that PEFT 0.21 has are read (as `start:` of a stage, by `serve`, `merge` and
`export`), what writes them, and what a refusal says of the others. PEFT merges most of them into a plain model, which
is loaded as any other; prompts, prefixes and mixtures stay beside their base. "before rows": read where a whole model
runs (`start:`, `measure`), and not as a change of layers: `serve` and `merge` refuse it.

"""


READ = {"layers": "yes", "rows": "before rows", "": "no"}


def _peft() -> str:
    """The table of PEFT's types, from what the loader goes by."""
    rows = table()
    lines = [f"| {r.name} | {READ[r.read]} | {r.written} | {r.why} |" for r in rows]
    head = "| type | read | written by | why it is not read |\n| --- | --- | --- | --- |\n"
    return _PEFT.format(count=len(rows)) + head + "\n".join(lines) + "\n"


def _papers(slugs: tuple[str, ...]) -> str:
    known = cards.load()
    links = []
    for slug in slugs:
        card = known.get(slug)
        if card is None:
            links.append(f"`{slug}`")
        else:
            links.append(f"[{card.title}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else card.title)
    return "; ".join(links)


def _row(entry: catalogue.Entry, aliases: list[str], kinds: bool) -> str:
    cls = catalogue.load_method(entry.name)
    own = (entry.name,) if not cls.papers and entry.name in cards.load() else ()
    also = f" (also {', '.join(f'`{a}`' for a in aliases)})" if aliases else ""
    assert entry.file is not None
    path = entry.file.relative_to(PACKAGE.parent).as_posix()
    slots = ", ".join(f"`{s}`" for s in cls.slots())
    mark = " *(reconstructed)*" if cards.reconstructed((*cls.papers, entry.name)) else ""
    cells = [
        f"[`{entry.name}`](../{path}){also}{mark}",
        without_papers(entry.summary()),
        *([entry.category() or ""] if kinds else []),
        slots,
        _papers((*cls.papers, *own)),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def methods_page() -> str:
    """The catalogue as Markdown: a table per room. Imports every method; MethodError for a room without a question."""
    ours = [e for e in catalogue.entries().values() if e.room != catalogue.THIRD_PARTY]
    aliases: dict[str, list[str]] = defaultdict(list)
    for old, name in catalogue.aliases().items():
        aliases[name].append(old)
    listed = "\n".join(f"- {name}: {what};" for name, what in CATEGORIES.items()).removesuffix(";") + "."
    out = [_HEAD.format(count=len(ours), categories=listed)]
    for room in catalogue.rooms():
        here = [e for e in ours if e.room == room]
        kinds = any(e.category() for e in here)
        rows = [_row(e, sorted(aliases[e.name]), kinds) for e in here]
        if rows:
            head = f"## {question(room)}\n\n`tunewright/{room}/`\n\n"
            titles = ["method", "what it does", *(["category"] if kinds else []), "slots", "papers"]
            out.append(head + f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n" + "\n".join(rows) + "\n\n")
    return "".join(out) + _peft()
