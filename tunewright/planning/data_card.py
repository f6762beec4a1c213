"""A data card by the checklist that PRISMA-DFLLM proposes for reviews whose papers a model is tuned on (Susnjak 2023,
arXiv:2306.14905; papers: prisma-dfllm): what recipe and rows show is filled in, what only a person knows is a named
blank.

`tunewright check RECIPE --card FILE` writes it as Markdown, an item a heading of its own. Written again, it takes what
is known anew from the recipe and the rows as they are then, and keeps what a person wrote under the others: a living
review changes its rows and not its protocol. A file that is no such card is never written over.

Differs from the paper in: written after its abstract and its list of parts, in words of ours; items of PRISMA's own
list about the written review (title, abstract, discussion) are not repeated. What is found in training and measuring
(figures, cost, versions) stands in the run's report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.data.check import CheckReport
from tunewright.errors import FolderError
from tunewright.files.checkpoint import write_texts
from tunewright.files.markdown import code, inline
from tunewright.recipe import Recipe

PAPERS = ("prisma-dfllm",)
BLANK = "*To be written by you.*"
TITLE = "# Data card: "
Known = Callable[[Recipe, CheckReport], str]


@dataclass(frozen=True)
class Item:
    """One item: its name, its part, what it asks, and how it is filled in; None where only a person knows."""

    name: str
    part: str
    asks: str
    known: Known | None = None


def _sources(recipe: Recipe, report: CheckReport) -> str:
    lines = ["| rows | used for | read | used | tokens | trained tokens |", "| --- | --- | --- | --- | --- | --- |"]
    for s in report.sources:
        c = s.counts
        used = c["read"] - c["problems"] - c["left_out"] - c["zero_trained"]
        name = code(Path(s.name).name or s.name)
        role = "kept" if s.role.startswith("keep ") else inline(s.role)
        cells = [name, role, *(f"{n:,}" for n in (c["read"], used, c["tokens"], c["trained_tokens"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shapes(recipe: Recipe, report: CheckReport) -> str:
    shapes = {name: count for s in report.sources for name, count in s.shapes.items()}
    found = ", ".join(sorted(shapes)) or "none that can be read"
    return f"Rows of shape: {found}. Of a row, {recipe.data.max_length:,} tokens are read at most."


def _prepared(recipe: Recipe, report: CheckReport) -> str:
    told = []
    for stage in recipe.stages:
        data = recipe.data_for(stage)
        made, chosen = ([inline(u.name) for u in uses] for uses in (data.synthesize, data.select))
        kept = [inline(Path(name).name or name) for name in data.replay]
        parts = [
            f"{words} {', '.join(names)}"
            for words, names in (("made by", made), ("chosen by", chosen), ("with replay of", kept))
            if names
        ]
        told.append(f"- {inline(stage.name)}: {'; '.join(parts) or 'rows as they are'}")
    return "\n".join(told)


def _flaws(recipe: Recipe, report: CheckReport) -> str:
    lines = [f"- {len(report.problems):,} rows that cannot be used"] if report.problems else []
    lines += [f"- {len(report.skipped):,} bad rows, left out"] if report.skipped else []
    lines += [f"- {len(n.where):,}, {inline(n.kind)}: {inline(n.reason)}" for n in report.notices]
    return "\n".join(lines) or "None was found: no bad row, no duplicate, no evaluation row that is trained on."


def _held_out(recipe: Recipe, report: CheckReport) -> str:
    validation = recipe.data.validation
    on = _named(report, "eval")
    if not on and validation is not None and recipe.measurement.split == "validation":
        on = "the validation rows"
    told = [f"Measured on: {on or 'none: no row is held out to measure on'}."]
    if isinstance(validation, float):
        told.append(f"Validation: {validation:.0%} of the training rows.")
    elif validation is not None:
        told.append(f"Validation: {_named(report, 'validation')}.")
    return " ".join(told)


def _named(report: CheckReport, role: str) -> str:
    return ", ".join(code(Path(s.name).name or s.name) for s in report.sources if s.role == role)


def _kept(recipe: Recipe, report: CheckReport) -> str:
    kept = [s.role.removeprefix("keep ") for s in report.sources if s.role.startswith("keep ")]
    return f"Measured before and after on: {', '.join(map(inline, kept))}." if kept else "Nothing that the base knew."


def _stages(recipe: Recipe, report: CheckReport) -> str:
    told = []
    for stage in recipe.stages:
        limits = {n: v for n, v in stage.budget.model_dump().items() if v is not None} if stage.budget else {}
        budget = ", ".join(f"{v:g} {n}" for n, v in limits.items()) or "as many epochs as the rule says"
        methods = ", ".join(code(use.name) for use in stage.methods) or "none"
        told.append(f"- {inline(stage.name)}: {methods}; {budget}")
    return "\n".join(told)


def _model(recipe: Recipe, report: CheckReport) -> str:
    return f"{code(Path(recipe.model.name).name)}, for {inline(recipe.task)}; seed {recipe.train.seed}."


REVIEW, DATA, TUNING, JUDGED, RELEASE = "The review", "The rows", "The tuning", "What is judged", "Release and upkeep"
ITEMS = (
    Item("question", REVIEW, "Which question does the review answer, and which model of which field is wanted for it?"),
    Item("protocol", REVIEW, "Where is the protocol registered, and what was changed since?"),
    Item("eligibility", REVIEW, "Which papers are in and which are out, by which criteria?"),
    Item("search", REVIEW, "Which databases were searched, when, with which words?"),
    Item("screening", REVIEW, "Who screened, how many papers went at each step and why, and how far did they agree?"),
    Item("sources", DATA, "What are the rows, and how many?", _sources),
    Item("extraction", DATA, "How were texts, tables and figures taken out of the papers, and who looked them over?"),
    Item("form", DATA, "What form do rows have?", _shapes),
    Item("preparation", DATA, "What was made, chosen and mixed by the recipe?", _prepared),
    Item(
        "earlier preparation", DATA, "What was done to the rows before the recipe: cleaning, labels, written questions?"
    ),
    Item("flaws", DATA, "Which rows are bad, there twice, or in both training and evaluation?", _flaws),
    Item("bias", DATA, "What is missing or too frequent: years, languages, regions, results?"),
    Item("rights", DATA, "Under which licences are the papers, and may a model be tuned on them and given away?"),
    Item("people", DATA, "What do rows say of persons, and who agreed to it?"),
    Item("base", TUNING, "Which model is tuned?", _model),
    Item("choice of base", TUNING, "Why this one, and under which licence?"),
    Item("stages", TUNING, "How is it tuned?", _stages),
    Item("held out", JUDGED, "Which rows is it measured on?", _held_out),
    Item("kept", JUDGED, "What should it still know?", _kept),
    Item("experts", JUDGED, "Who of the field judged its answers, by which criteria?"),
    Item("limits", JUDGED, "For what should it not be asked?"),
    Item("availability", RELEASE, "Where are the model, the rows and the recipe to be had?"),
    Item("upkeep", RELEASE, "When are new papers searched for, who tunes anew, and how are versions told apart?"),
    Item("responsibility", RELEASE, "Who answers for it, who paid, and which interests conflict?"),
)


def answers_in(text: str) -> dict[str, str]:
    """What stands under each item of a card, by its name, the question aside; blanks are left out."""
    asks, parts = {i.name: i.asks for i in ITEMS}, dict.fromkeys(i.part for i in ITEMS)
    heading = "|".join([*(f"### {re.escape(n)}" for n in asks), *(f"## {re.escape(p)}" for p in parts)])
    found: dict[str, str] = {}
    at = list(re.finditer(rf"^(?:{heading})[ \t]*$", text, re.MULTILINE))
    for here, after in zip(at, [*at[1:], None], strict=False):
        name = here[0].removeprefix("###").strip()
        body = text[here.end() : after.start() if after is not None else len(text)].strip()
        answer = body.removeprefix(asks[name]).strip() if name in asks else ""
        if answer and answer != BLANK:
            found[name] = answer
    return found


def card(recipe: Recipe, report: CheckReport, written: dict[str, str]) -> tuple[str, list[str]]:
    """(the card's text, names of the items that are still blank). `written`: what a person wrote."""
    body, blanks, part = list[str](), list[str](), ""
    for item in ITEMS:
        if item.part != part:
            part = item.part
            body.append(f"## {part}")
        answer = item.known(recipe, report) if item.known is not None else written.get(item.name, BLANK)
        blanks += [item.name] if answer == BLANK else []
        body.append(f"### {item.name}\n\n{item.asks}\n\n{answer}")
    known = sum(i.known is not None for i in ITEMS)
    head = (
        f"{TITLE}{inline(recipe.name)}\n\nBy PRISMA-DFLLM's checklist (arXiv:2306.14905). {known} of {len(ITEMS)} "
        "items are filled in by `tunewright check --card` and written anew each time; the others are yours and stay. "
        f"Still blank: {', '.join(blanks) or 'none'}."
    )
    return "\n\n".join([head, *body]) + "\n", blanks


def write_card(recipe: Recipe, report: CheckReport, file: Path) -> Sequence[str]:
    """Write a recipe's card, with what a person wrote in an earlier one; gives the items that are blank. FolderError
    for a file that is no card or cannot be written.
    """
    before = ""
    if file.exists():
        try:
            before = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise FolderError("the data card cannot be read", where=str(file), remedy="name another file") from e
        if before.strip() and not before.startswith(TITLE):
            raise FolderError(
                "the file is no data card, and would be written over",
                where=str(file),
                remedy="name a file that is not there: --card data-card.md",
            )
    text, blanks = card(recipe, report, answers_in(before))
    try:
        write_texts({file: [text]})
    except FolderError as e:
        e.remedy = str(e.remedy).replace("folder with --out", "file with --card").replace("--out", "--card")
        raise
    return blanks
