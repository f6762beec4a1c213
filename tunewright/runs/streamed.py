"""Training rows that are streamed: what a recipe may ask of them, and what a run says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tunewright.data.dataset import Dataset, is_streamed
from tunewright.data.streaming import HEAD
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe, Source, StageSpec
from tunewright.runs.sources import STAGES, task_for

_ALL = "reads all rows first, and a streamed source is never there as a whole"


def check(recipe: Recipe) -> None:
    """RecipeError where something is asked of a streamed source that needs all of its rows."""
    roles = {"eval": recipe.data.eval, "validation": recipe.data.validation}
    roles["test_time"] = recipe.test_time.data if recipe.test_time is not None else None
    for role, sources in roles.items():
        if isinstance(sources, list) and (found := _first(sources)):
            raise RecipeError(
                f"'{found.path}' is streamed, and only rows to learn from can be",
                where="test_time.data" if role == "test_time" else f"data.{role}",
                remedy="remove streaming; what is measured on is read once and kept",
            )
    streaming = {stage.name for stage in recipe.stages if _first(recipe.data_for(stage).train)}
    for stage in recipe.stages:
        if stage.name in streaming:
            _check_stage(recipe, stage)
        for replayed in recipe.data_for(stage).replay:
            if replayed.removeprefix(STAGES) in streaming and replayed.startswith(STAGES):
                raise RecipeError(
                    f"the rows of '{replayed}' are streamed, and what is replayed is read again and again",
                    where="data.replay",
                    remedy="name a file of some of its rows",
                )
    if streaming and recipe.data.labels is None and task_for(recipe).labelled:
        raise RecipeError(
            "the classes of a streamed source are not known before it has been read",
            where="data.labels",
            remedy='name them: labels: ["no", "yes"]',
        )


def _check_stage(recipe: Recipe, stage: StageSpec) -> None:
    data = recipe.data_for(stage)
    place = f"stages.{stage.name}"
    for key, asked in (("select", data.select), ("synthesize", data.synthesize)):
        if asked:
            raise RecipeError(
                f"`{key}` {_ALL}",
                where=f"data.{key}",
                remedy=f"remove {key}, or streaming, or name a part of the files",
            )
    if isinstance(data.validation, int | float):
        raise RecipeError(
            f"a share of the rows held out {_ALL}", where="data.validation", remedy="name a file of other rows"
        )
    budget = stage.budget
    if budget.epochs is not None or not budget.limited:
        raise RecipeError(
            "where a streamed source ends is not known, so that epochs cannot be planned"
            if budget.limited
            else "a streamed source has no known end, and nothing says when training ends",
            where=f"{place}.budget" if len(recipe.stages) > 1 else "budget",
            remedy="write budget: {tokens: 10M}, or steps or seconds",
        )


def _first(sources: Sequence[Source]) -> Source | None:
    return next((s for s in sources if is_streamed(s)), None)


def notes(datasets: Sequence[Dataset]) -> Iterator[str]:
    """What to say before training: what was not looked at."""
    for part in {d.name: d for dataset in datasets for d in dataset.streamed}.values():
        if part.counts["read"] >= HEAD:
            yield (
                f"{part.name} is streamed: checks, plans and what methods ask of rows before training see its first "
                f"{HEAD:,} records"
            )


def told(streamed: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """What to say after training of what was read of each source."""
    for name, seen in streamed.items():
        read, passes = int(seen["read"]), seen["passes"]
        times = f" in {passes:.3g} passes, each time counted" if passes >= 1 else ""
        yield f"{name} was streamed: {read:,} records and {int(seen['tokens']):,} tokens were read{times}"
        for key, why in (("problems", "could not be used and were"), ("left_out", "were too long and")):
            if seen[key]:
                yield f"{int(seen[key]):,} of {read:,} records of {name} {why} left out"
