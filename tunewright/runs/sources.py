"""Where the rows of `keep` and `replay` are, and how kept text is encoded: the same for a run and for a check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.labels import shares_label, unlearnt
from tunewright.data.problem_type import problem_type
from tunewright.errors import DataError
from tunewright.recipe import DataSpec, Recipe, Source, StageSpec
from tunewright.recipe.naming import PACK, file_names
from tunewright.recipe.series import as_series
from tunewright.recipe.tables import as_table
from tunewright.tasks import as_problem, get_task
from tunewright.tasks._parts import FORECASTING, ROLLING, TABULAR

STAGES = "stages."
"""What `start` and `replay` put before a stage's name."""


def kept_sources(recipe: Recipe) -> dict[str, Source]:
    """The sources of the texts of `keep`, by what each is called."""
    named = zip(recipe.keep, recipe.kept_names(), strict=True)
    found = {name: Source(path=k.data, limit=k.limit) for k, name in named if not k.data.startswith(PACK)}
    if recipe.task == FORECASTING:
        return {name: as_series(source, ROLLING) for name, source in found.items()}
    return {name: as_this_table(recipe, source) for name, source in found.items()}


def as_this_table(recipe: Recipe, source: Source) -> Source:
    """A source that no list of the recipe names, read as the recipe's tables are; of another task as it is."""
    return as_table(source, recipe.data.target, recipe.data.features) if recipe.task in TABULAR else source


def kept_options(options: EncodeOptions) -> EncodeOptions:
    """How kept rows are encoded: whole texts, as they stand."""
    return replace(judged_options(options), truncation="split", template=None, kept=True)


def judged_options(options: EncodeOptions) -> EncodeOptions:
    """How evaluated rows are encoded: of an episode each step once, however training windows overlap."""
    how = options.trajectories
    return options if how is None else replace(options, trajectories={**how, "stride": how["context"]})


def replayed_sources(data: DataSpec, recipe: Recipe) -> Iterator[tuple[str, Source | None]]:
    """What `replay` names beside stages, and where its rows are: None for a `keep` entry. DataError where there are
    none.
    """
    keep = [*kept_sources(recipe)]
    for name, called in zip(data.replay, file_names(list(data.replay)), strict=True):
        if name.startswith(STAGES):
            continue
        if name in keep:
            yield name, None
        elif (recipe.base / name).exists() or name.startswith("quickstart:"):
            source = Source(path=name, name=called)
            yield name, as_series(source, None) if recipe.task == FORECASTING else as_this_table(recipe, source)
        else:
            raise DataError(
                f"replay names '{name}', which is neither a `keep` entry nor a file",
                where="data.replay",
                remedy="a pack's questions have no answers to learn from: name texts, or rows"
                if name in recipe.kept_names()
                else f"write {STAGES}{name} for the rows of that stage"
                if any(name == s.name for s in recipe.stages)
                else f"known: {', '.join(keep) or 'none'}; or write a path, or {STAGES}NAME for a stage's rows",
            )


def replayed_stages(data: DataSpec, recipe: Recipe, stage: StageSpec) -> dict[str, str]:
    """What `replay` of a stage calls earlier stages ("stages.first") -> their names. DataError for one that is not
    earlier.
    """
    names = [s.name for s in recipe.stages]
    earlier = names[: names.index(stage.name)]
    found = {called: called.removeprefix(STAGES) for called in data.replay if called.startswith(STAGES)}
    for called, name in found.items():
        if name not in earlier:
            known = ", ".join(f"{STAGES}{n}" for n in earlier) or "none: this is the first stage"
            what = "comes no earlier" if name in names else "is none"
            raise DataError(
                f"replay of the stage '{stage.name}' names '{called}', which {what}",
                where=f"stages.{stage.name}.data.replay",
                remedy=f"earlier stages: {known}",
            )
    return found


def streamed_sources(recipe: Recipe) -> list[Source]:
    """The sources of a test-time stream of its own; none where the evaluated rows are the stream."""
    return list(recipe.test_time.data or []) if recipe.test_time is not None else []


def task_for(recipe: Recipe) -> Task:
    """The recipe's task, as the problem that it names or that its rows are."""
    task = get_task(recipe.task)
    data = recipe.data
    return as_problem(task, data.problem_type or problem_type(task, data.train, recipe.base, data.labels))


def told_by_rows(recipe: Recipe, task: Task) -> list[str]:
    """What to say where the rows alone made the task another problem than one class a row, and of labels that no row
    teaches.
    """
    learnt = [source for stage in recipe.stages for source in recipe.data_for(stage).train]
    told = [*_problem(recipe, task), *_strange_tasks(recipe, task)]
    for whose, judged in (("eval rows", recipe.data.eval), ("rows of test_time", streamed_sources(recipe))):
        if task.labelled and judged and (new := unlearnt(learnt, judged, recipe.base, task)):
            named = ", ".join(repr(n) for n in new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
            told.append(f"no training row has the label {named}, and {whose} have: a class of the head, not learnt")
    return told


def _strange_tasks(recipe: Recipe, task: Task) -> list[str]:
    """What to say of tasks of a sequence that are measured on other classes than they teach."""
    if not task.labelled or recipe.sequence is None:
        return []
    told = []
    for one in recipe.sequence.tasks:
        judged = [s for s in recipe.data.eval or [] if s.name in one.eval]
        if one.classes and judged and not shares_label(judged, one.classes, recipe.base, task):
            told.append(
                f"no eval row of the task '{one.name}' has a class that its training rows have: what is measured is "
                "another task (are the files of data.eval in the order of the tasks?)"
            )
    return told


def _problem(recipe: Recipe, task: Task) -> list[str]:
    if not task.other_problem or not task.problem_types or recipe.data.problem_type is not None:
        return []
    has = "a number" if task.scores else "any number of labels"
    return [f"rows have {has}: read as {task.problem_type} (data.problem_type says otherwise)"]


def labelled_sources(recipe: Recipe) -> list[Source]:
    """The sources whose labels are a run's classes."""
    return [*recipe.data.train, *(recipe.data.eval or []), *streamed_sources(recipe)]
