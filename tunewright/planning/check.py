"""A recipe's data, checked row by row with the model's tokenizer; no weights are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tunewright.contract.method import Method
from tunewright.contract.pairs import GIVE_TWO, ONE_ANSWER
from tunewright.contract.record_change import RecordChange, chained, record_change, stand_ins
from tunewright.contract.records import Problem
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import CheckReport, Notice, SourceReport, check, write_clean
from tunewright.data.facts import SINGLE
from tunewright.data.labels import labels_of
from tunewright.errors import DataError
from tunewright.files.cache import cache_folder
from tunewright.loading.load import Reading, reading
from tunewright.loading.options import options_of
from tunewright.loading.policies import with_facts
from tunewright.loading.positions import beyond
from tunewright.measure.asking import Questions
from tunewright.planning.data_card import write_card
from tunewright.planning.refusals import Refusals, of_methods, of_needs, of_rehearsal
from tunewright.recipe import DataSpec, Recipe, Source, StageSpec
from tunewright.recipe.given import RecipeLike, given
from tunewright.report import notebook, words
from tunewright.runs import packs, playing, streamed, tables
from tunewright.runs.assemble import READ_ANEW
from tunewright.runs.fresh import model_of
from tunewright.runs.making import makers_of, place_of
from tunewright.runs.sources import (
    judged_options,
    kept_options,
    kept_sources,
    labelled_sources,
    replayed_sources,
    replayed_stages,
    streamed_sources,
    task_for,
    told_by_rows,
)
from tunewright.runs.trackers import lacking
from tunewright.runs.vocabulary import add_to_tokenizer
from tunewright.tasks._parts import SERIES, TRAJECTORY
from tunewright.tasks._render import dated

SHOWN = 20
"""Rows named for one notice; JSON has them all."""
APART = 3
"""Bad rows of one fault that are said one by one, at most."""


@dataclass(repr=False)
class CheckResult:
    """What was found in a recipe's data. `written`: files of the clean copy and the data card, where they were asked
    for; `blanks`: items of the card that a person has to write.
    """

    report: CheckReport
    written: list[Path] = field(default_factory=list)
    blanks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a run would take the data."""
        return self.report.ok

    @property
    def code(self) -> int:
        """The exit code of the command line, which a run would end with too; 0 where it would take the data."""
        return self.report.code

    @property
    def bad_rows(self) -> list[Problem]:
        """Rows that cannot be used: `where` (file:line) and `reason`."""
        return self.report.problems

    @property
    def notices(self) -> list[Notice]:
        """What can be used and should be looked at: duplicates, evaluation rows that are trained on ..."""
        return self.report.notices

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**self.report.to_json(), "written": [str(f) for f in self.written]}

    def __str__(self) -> str:
        return notebook.plain(lambda console: show(self.report, self.written, console))

    def __repr__(self) -> str:
        report = self.report
        return (
            f"<CheckResult: {'ok' if self.ok else 'not ok'}, {len(report.problems)} bad rows, "
            f"{len(report.refusals)} refusals, {len(report.notices)} notices>"
        )

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: show(self.report, self.written, console))


def check_recipe(
    recipe: RecipeLike, *, sets: Sequence[str] = (), clean: Path | None = None, card: Path | None = None
) -> CheckResult:
    """Check a recipe and its data: everything that a run would refuse before it reads the model's weights.

    The rows are encoded as the run will have them, into the cache, where it finds them. `clean`: write a clean copy
    there; `card`: write a data card there. RecipeError and ModelError where it cannot begin.
    """
    recipe = given(recipe, sets)
    task, refused = task_for(recipe), Refusals()
    named = of_methods(recipe, task, refused)
    first = len(refused)
    recipe = tables.with_layout(recipe)
    labels: Sequence[str] | None = recipe.data.labels
    if labels is None and task.labelled:
        labels = labels_of(labelled_sources(recipe), recipe.base, task)
    model = reading(model_of(recipe, weights=False), task, task.head_of(labels))
    if recipe.new_tokens:
        refused.of(add_to_tokenizer, model.tokenizer, recipe.new_tokens)
    recipe, told = with_facts(recipe, model.config)
    refused.of(playing.check, recipe, model.config)
    groups, options, changes = _roles(recipe, model, named, refused)
    reads = model.tokenizer if model.tokenizer is not None else model.processor
    cache = _writable(cache_folder())
    lenient = {"train": recipe.data, **{f"train of {s.name}": recipe.data_for(s) for s in recipe.stages}}
    skip = {role for role, data in lenient.items() if data.bad_rows == "skip"}
    report = check(groups, task, reads, options, base=recipe.base, cache=cache, changes=changes, skip=skip)
    report.cautions += streamed.notes([d for made in report.datasets.values() for d in made])
    every = [d for made in report.datasets.values() for d in made]
    report.cautions += [*model.notes, *beyond(model.config, every, options["train"].max_length, recipe.data.max_length)]
    asked = refused.of(packs.asked, recipe, task, model.tokenizer, options["train"]) or {}
    report.sources += [_questions(name, found) for name, found in asked.items()]
    for stage in recipe.stages:
        if any(m.pairs for _, m in named[stage.name]):
            refused.of(_paired, recipe, stage, report)
    report.columns = tables.columns_of(recipe)
    report.cautions += [
        *told,
        *told_by_rows(recipe, task),
        *tables.notes_of(recipe),
        *lacking(recipe.train.report_to).values(),
    ]
    of_needs(recipe, task, named, _first_rows(recipe, report), refused)
    if task.generates and (note := dated(model.tokenizer)):
        report.cautions.append(note)
    if not refused and report.ok:
        report.announced = of_rehearsal(recipe, refused)
    later = [e for e in refused[first:] if str(e) not in report.refusals]
    report.errors = [*refused[:first], *report.errors, *later]  # as a run meets them
    found = CheckResult(report, write_clean(report, groups, clean, base=recipe.base) if clean is not None else [])
    if card is not None and report.errors:
        report.cautions.append(f"{card} is not written: of a recipe that is refused there is nothing to tell")
    elif card is not None:
        found.blanks += write_card(recipe, report, card)
        found.written.append(card)
    return found


def _first_rows(recipe: Recipe, report: CheckReport) -> dict[str, list[Any]]:
    """A row of each role that has any, by the names that methods ask for."""
    rows = {role: [row for d in made for row in d.rows[:1]] for role, made in report.datasets.items()}
    kept = {role.removeprefix("keep "): found for role, found in rows.items() if role.startswith("keep ")}
    if recipe.data.validation is not None:
        rows.setdefault("validation", rows["train"])  # a share that is held out
    return {**kept, **rows, "keep": [row for found in kept.values() for row in found]}


def _questions(name: str, asked: Questions) -> SourceReport:
    """A pack among the sources: nothing of it is trained on."""
    counts = dict.fromkeys(("problems", "left_out", "zero_trained", "trained_tokens", "picture_tokens"), 0)
    return SourceReport(
        name, "keep", {"questions": len(asked.rows)}, {**counts, "read": len(asked.rows), "tokens": asked.tokens}
    )


def _writable(folder: Path) -> Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _roles(
    recipe: Recipe, model: Reading, named: Mapping[str, Sequence[tuple[str, Method]]], refused: Refusals
) -> tuple[dict[str, list[Source]], dict[str, EncodeOptions], dict[str, RecordChange | None]]:
    """The sources of a run by what they are for, how the rows of each are encoded, and what is filled in before."""
    data = recipe.data
    common = options_of(data, model.labels if model.labels is not None else data.labels, model)
    groups: dict[str, list[Source]] = {"train": data.train, "eval": data.eval or []}
    if isinstance(data.validation, list):
        groups["validation"] = data.validation
    if streamed_sources(recipe):
        groups["test_time"] = streamed_sources(recipe)
    options = dict.fromkeys(groups, judged_options(common)) | {"train": common}
    changes = {"train": refused.of(_stand_ins, data, common.labels, "data.synthesize")}
    for name, source in kept_sources(recipe).items():
        groups[f"keep {name}"], options[f"keep {name}"] = [source], kept_options(common)
    for stage in recipe.stages:
        own = recipe.data_for(stage)
        if stage.data is not None and stage.data.model_fields_set & READ_ANEW:
            role, its = f"train of {stage.name}", options_of(own, common.labels, model)
            change = chained(
                refused.of(_stand_ins, own, common.labels, place_of(stage)),
                record_change(named[stage.name], recipe.train_for(stage).seed),
            )
            # the tasks of a sequence are cut from the recipe's rows, which are read as they are
            if recipe.sequence is None or its != common or change or any(s not in data.train for s in own.train):
                groups[role], options[role], changes[role] = own.train, its, change
        for name, source in refused.of(lambda own=own: list(replayed_sources(own, recipe))) or ():
            if source is not None:
                groups[f"replay {name}"], options[f"replay {name}"] = [source], common
        refused.of(lambda own=own, stage=stage: replayed_stages(own, recipe, stage))
    return groups, options, changes


def _stand_ins(data: DataSpec, labels: Sequence[str] | None, where: str) -> RecordChange | None:
    """What fills in rows of which others will be made."""
    return stand_ins(makers_of(data.synthesize, where).makers, labels)


def _paired(recipe: Recipe, stage: StageSpec, report: CheckReport) -> None:
    """DataError where a stage compares two answers and a row has one."""
    own = f"train of {stage.name}"
    roles = [own if own in report.datasets else "train"]
    for name in recipe.data_for(stage).replay:
        roles += [role for role in (f"replay {name}", f"keep {name}") if role in report.datasets]
    for role in roles:
        for dataset in report.datasets[role]:
            assert dataset.facts is not None
            for where in dataset.facts.flagged(SINGLE):
                raise DataError(ONE_ANSWER, where=where, remedy=GIVE_TWO)


CUT = (TRAJECTORY, SERIES)
"""Shapes of which a row is cut into windows: what is counted then is windows, but for rows that cannot be used."""


def _shapes(shapes: Mapping[str, int]) -> str:
    """How many rows, or windows of them, there are of each shape."""
    return ", ".join(
        f"{n} window{'' if n == 1 else 's'} of {shape}" if shape in CUT else f"{n} {shape}"
        for shape, n in shapes.items()
    )


def _used(source: SourceReport) -> str:
    """How many of the rows are used, where some are not."""
    counts = source.counts
    if (bad := counts["problems"]) and set(source.shapes) & set(CUT):
        return f"{bad} row{'' if bad == 1 else 's'} that cannot be used; "
    used = counts["read"] - counts["problems"] - counts["left_out"] - counts["zero_trained"]
    return f"{used} of {counts['read']} used; " if used < counts["read"] else ""


def _of_pictures(counts: Mapping[str, int]) -> str:
    """How many of the tokens pictures became, where there are any."""
    seen = counts.get("picture_tokens", 0)
    return f", {seen:,} of pictures" if seen else ""


def _bad(out: Console, called: str, problems: Sequence[Problem]) -> None:
    """Bad rows; many with the same fault are said once, with the first of their places."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for p in problems:
        alike.setdefault((p.field, p.reason, p.remedy), []).append(p)
    for some in alike.values():
        if len(some) <= APART:
            for p in some:
                out.print(f"{called} {escape(str(p))}")
            continue
        more = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
        places = escape(", ".join(p.where for p in some[:SHOWN]))
        field, reason, remedy = (escape(said) for said in (some[0].field, some[0].reason, some[0].remedy))
        several = called.replace("row[", "rows[")
        out.print(f"{several} {len(some)}: {field}: {reason}\n  {places}{more}\n  -> {remedy}")


def show(report: CheckReport, files: Sequence[Path] = (), console: Console | None = None) -> None:
    """Print a report: sources with their counts, every bad row, notices with their rows, and a verdict."""
    out = console or Console(highlight=False, soft_wrap=True, emoji=False)
    for s in report.sources:
        shapes = _shapes(s.shapes) or "no rows that can be read"
        out.print(
            f"[bold]{escape(s.role)}[/] {escape(s.name)}: {shapes}; {_used(s)}{s.counts['tokens']:,} "
            f"{words.counted(report.task)}, {s.counts['trained_tokens']:,} trained{_of_pictures(s.counts)}"
        )
    if report.columns:
        out.print(f"[bold]columns[/] {escape(report.columns)}")
    for text in report.announced:
        out.print(f"[bold]later[/] {escape(text)}")
    _bad(out, "[red]bad row[/]", report.problems)
    _bad(out, "[yellow]left out[/]", report.skipped)
    for n in report.notices:
        rows = [f"{w} (as {n.pairs[i]})" if n.pairs else w for i, w in enumerate(n.where[:SHOWN])]
        more = f" and {len(n.where) - SHOWN} more" if len(n.where) > SHOWN else ""
        out.print(
            f"[yellow]{n.kind}[/] {len(n.where)}: {escape(n.reason)}\n  {escape(', '.join(rows))}{more}\n  -> "
            f"{escape(n.remedy)}"
        )
    for text in report.refusals:
        out.print(f"[red]refused[/] {escape(text)}")
    for f in files:
        out.print(f"written: {escape(str(f))}")
    for text in report.cautions:
        out.print(f"[yellow]caution[/] {escape(text)}")
    if not report.ok:
        counted = ("bad row", len(report.problems)), ("refusal", len(report.refusals))
        bad, refused = (f"{n:,} {what}{'' if n == 1 else 's'}" for what, n in counted)
        out.print(f"[red]{bad}, {refused}[/]")
    elif report.cautions:
        out.print("[yellow]a run would take this data, and say the cautions above on every page[/]")
    else:
        out.print("[green]ok: a run would take this data[/]")
