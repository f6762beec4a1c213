"""docs/choosing.md, made from what methods declare and what the claims found: `python -m tunewright.commands.docs`."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright import catalogue
from tunewright.catalogue.folders import question
from tunewright.compare import compared
from tunewright.compare.evidence import of_method
from tunewright.compare.suggested import Evidence
from tunewright.compare.suggesting import ROOMS
from tunewright.errors import RecipeError
from tunewright.recipe.uses import MethodUse

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from methods' classes and claims' results: change those. -->
# Which method?

Three questions, and what answers each here:

1. **Which can I use?** `tunewright suggest RECIPE` sets every method up on the shapes of your model (no weights are
   read) and says which your task and rows allow, how many numbers each trains, what its training state takes, what the
   others say in refusing, and what was shown of each. `--memory 8GB` reckons with another machine.
2. **What is known of it?** The tables below: what methods declare, and what came of testing their papers' headline
   claims on [small and real bases](claims.md). "not tested" is a claim whose baseline learnt nothing, or left no room.
   An empty cell is a claim that nobody has run here yet. None of this says which method is best for you.
3. **Which is best for me?** `tunewright compare RECIPE --methods A,B,C --tune --race`, with your rows, one budget, each
   at its own best rate, and ties called ties. `suggest` prints the command for a few: `lora` and (where it fits into
   memory) `full`, up to three of which a headline claim holds here, and of those that fold and whose claim has not
   failed the one that trains fewest numbers.

**category**: by what it spares parameters, as [the list of methods](methods.md) says (`tunewright methods --category
NAME`). **folds**: the result becomes a plain model, which costs nothing where it runs; others stay beside their base.
**4 bits**: works on a base that is held quantised. **asks for**: what it reads before it trains, beside training rows.
**beside `lora`**: by how many points of the target it ended from `lora` in [our own comparison](family.md), each at its
own best rate, on few rows and small bases; a star where the 95 % interval over seeds leaves out 0.

"""


def choosing_page() -> str:
    """The page. Imports every method of the rooms that adapt a model, and every claim that was run."""
    parts = [_HEAD]
    for room in ROOMS:
        entries = [e for e in catalogue.entries().values() if e.room == room]
        parts.append(
            f"## {question(room)}\n\n"
            "| method | category | folds | 4 bits | tasks | asks for | headline claim | beside `lora` |\n"
        )
        parts.append("| --- | --- | --- | --- | --- | --- | --- | --- |\n" + "".join(_row(e) for e in entries) + "\n")
    parts.append(
        "## What the headline claims say\n\nOf the methods above, those that were run, as they were stated.\n\n"
    )
    told, named = dict[str, list[Evidence]](), dict[str, str]()
    for entry in catalogue.entries().values():
        for e in _of(entry) if entry.room in ROOMS else ():
            told.setdefault(e.name, []).append(e)
            named[e.name] = entry.name
    parts += [
        f"- [`{name}`](claims.md){_of_other(named[name], name)}: {_verdicts(found)}. {found[0].says}\n"
        for name, found in sorted(told.items())
    ]
    return "".join(parts)


def _of_other(method: str, claim: str) -> str:
    """Which method a claim is about, where its own name does not say it."""
    return "" if method == claim else f" (of `{method}`)"


def _row(entry: catalogue.Entry) -> str:
    cls = catalogue.load_method(entry.name)
    try:
        asked = sorted({need.name.replace("_", " ") for need in catalogue.build(MethodUse(name=entry.name)).needs()})
    except RecipeError:  # a parameter without a default: what it is told is what it asks for
        asked = [n for n, field in cls.model_fields.items() if field.is_required()]
    cells = (
        f"[`{entry.name}`](methods.md)",
        cls.category or "",
        "yes" if cls.folds else "no",
        "yes" if cls.quantised else "no",
        "any" if cls.tasks is None else ", ".join(cls.tasks),
        ", ".join(asked),
        _verdicts(_of(entry)),
        compared.said(compared.of_method(entry.name)),
    )
    return "| " + " | ".join(cells) + " |\n"


def _of(entry: catalogue.Entry) -> list[Evidence]:
    """The results of its headline claims."""
    papers = catalogue.load_method(entry.name).papers
    return [e for e in of_method(entry.name, papers) if e.headline]


def _verdicts(found: Sequence[Evidence]) -> str:
    return ", ".join(f"{e.verdict} ({e.scale})" for e in found)
