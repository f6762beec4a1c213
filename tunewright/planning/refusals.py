"""What a run refuses of a recipe before it reads a weight: methods, their places and needs, metrics, missing pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tunewright.contract.combining import Bound, bind
from tunewright.contract.left import Earlier
from tunewright.contract.method import Method
from tunewright.contract.needs import NeedContext, Provider
from tunewright.contract.task import Task
from tunewright.errors import TunewrightError
from tunewright.models import context
from tunewright.models.compiled import check_deltas
from tunewright.recipe import Recipe, StageSpec
from tunewright.runs import made, selected
from tunewright.runs.assemble import assemble, device_of
from tunewright.runs.carrying import carried
from tunewright.runs.rehearsing import rehearse
from tunewright.runs.selecting import selector
from tunewright.runs.session import Session
from tunewright.runs.sources import task_for
from tunewright.runs.stage_methods import RECIPE_CHECKS, methods_of
from tunewright.training.setting_up import set_up

Named = list[tuple[str, Method]]


class Refusals(list[TunewrightError]):
    """Errors of steps that do not need one another, as the run raises them."""

    def of(self, step: Callable[..., Any], *given: Any) -> Any:
        """What a step gives; None where it refuses, which is noted."""
        try:
            return step(*given)
        except TunewrightError as error:
            self.note(error)
            return None

    def note(self, error: TunewrightError) -> None:
        """Add an error, unless one says the same: of the same place, or of what a stage takes from the recipe."""
        if not any(_same(error, other) for other in self):
            self.append(error)


def _same(one: TunewrightError, other: TunewrightError) -> bool:
    places = sorted((str(one.where or ""), str(other.where or "")), key=len)
    inner = places[1].removesuffix(places[0])
    alike = (one.what, one.remedy) == (other.what, other.remedy)
    return alike and (not inner or (inner.startswith("stages.") and inner.count(".") == 2))


def of_methods(recipe: Recipe, task: Task, refused: Refusals) -> dict[str, Named]:
    """The methods of each stage by its name; of a stage that is refused, none."""
    named: dict[str, Named] = {}
    for stage in recipe.stages:
        named[stage.name] = refused.of(methods_of, recipe, stage, task) or []
        refused.of(_selectors, recipe, stage)
    recipe = refused.of(carried, recipe, list(named.values())) or recipe
    for step in (*RECIPE_CHECKS, device_of):
        refused.of(step, recipe)
    return named


def refused_by(recipe: Recipe) -> Refusals:
    """What a run of a recipe refuses before its first step, as far as shapes alone tell; the rows are not checked."""
    refused = Refusals()
    of_methods(recipe, task_for(recipe), refused)
    if not refused:
        of_rehearsal(recipe, refused)
    return refused


def _selectors(recipe: Recipe, stage: StageSpec) -> None:
    own_rows = stage.data is not None and "train" in stage.data.model_fields_set
    for use in recipe.data_for(stage).select:
        where = use.place or f"stages.{stage.name}.data.select"
        selector(use, where, aimed=own_rows or recipe.data.validation is not None)


def of_rehearsal(recipe: Recipe, refused: Refusals) -> list[str]:
    """What a run refuses once its parts are there: it is assembled with models' shapes in the place of their weights,
    and every stage is set up once. What shapes alone cannot do is left to the run. Gives what makers and selectors will
    read with models, which a check does not ask.
    """
    announced: list[str] = []
    with suppress(Exception), tempfile.TemporaryDirectory(prefix="tunewright-check-") as folder:
        try:
            session = assemble(recipe, weights=False)
            announced += [*made.announced(session), *selected.announced(session)]
            rehearse(session, Path(folder))
            _set_up_first(session)
        except TunewrightError as error:
            refused.note(error)
    return announced


class _Reads(Exception):
    """A method asks for a statistic of the base's weights, which are not there."""


def _set_up_first(session: Session) -> None:
    """Set the first stage up as a run does, surgery and deltas included, as far as its methods read nothing of the
    base. The session is of no use afterwards.
    """
    part = session.stages[0]
    stage, provider = session.training_inputs(part)
    if session.start(part) != "base":
        return
    with suppress(_Reads):
        set_up(
            session.adapted,
            stage.methods,
            stage.plan,
            session.task.name,
            partial(_of_rows, provider),
            Earlier(complete=True),
        )
        if stage.spec.compile:
            check_deltas(session.adapted)
        if context.reads_rows(session.adapted.outer) and len(part.rows.rows):  # tasks refuse it where they read rows
            batch = session.task.collate([part.rows.rows[0]]).to("meta")
            session.task.forward(session.adapted.outer, batch)


def _of_rows(provider: Provider, bound: Bound, when: str = "once") -> dict[str, Any]:
    """A method's statistics, where it needs none of the base by then: what training itself reads comes later."""
    if any(need.when == when and not need.of_rows for need in bound.method.needs()):
        raise _Reads
    return provider.statistics(bound, when)


def of_needs(
    recipe: Recipe, task: Task, named: Mapping[str, Named], rows: Mapping[str, Sequence[Any]], refused: Refusals
) -> None:
    """Whether what methods ask for is there: rows of a role, other models. `rows` are by the role's name."""
    context: Any = NeedContext(
        adapted=None,  # type: ignore[arg-type]
        task=task,
        seed=recipe.train.seed,
        rows={role: list(found) for role, found in rows.items()},
        other_names=tuple(recipe.models),
        other=lambda name: None,  # type: ignore[arg-type, return-value]
        as_judge=lambda name: None,
        changes=lambda names: [],  # they are read when the stages are set up, below
    )
    for stage, methods in named.items():
        with suppress(AttributeError):  # a need that looks at the weights is left to the run
            refused.of(Provider(context).check, bind(methods, recipe.train.seed, stage))
