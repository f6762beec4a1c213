"""Methods where a recipe names them: built, in a place where they do something, and no two in each other's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunewright import catalogue
from tunewright.contract.combining import check_conflicts, serves
from tunewright.contract.method import Method, arguments
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.contract.task import Task
from tunewright.errors import MethodError, RecipeError
from tunewright.measure.episodes import check_ends
from tunewright.measure.target import check_metric, get_metric
from tunewright.recipe import MethodUse, Recipe, StageSpec
from tunewright.runs import merging, packs, predictors, streamed, streams
from tunewright.runs.compiled import check_compiled
from tunewright.runs.divided import check_divided
from tunewright.runs.halved import check_halved
from tunewright.runs.making import check_makers
from tunewright.runs.offloaded import check_offloaded, check_on_the_host
from tunewright.runs.selecting import check_selector
from tunewright.runs.sources import task_for
from tunewright.tasks._forecasters import gives_quantiles
from tunewright.tasks._parts import (
    DETECTION,
    DRAWN,
    FEATURES,
    FORECASTING,
    OF_CODES,
    OF_NOISE,
    TO_IMAGE,
    UNCONDITIONAL,
)
from tunewright.tasks._policies import gives_values
from tunewright.training import carry
from tunewright.training.optim import BUILTIN

_OF_THE_RUN = {
    "data": ("eval", "validation", "labels", "problem_type", "packing", "trajectories"),
    "train": ("precision", "device", "threads", "offload_param", "fsdp"),
}
"""Keys that hold for the whole run, so that a stage cannot have its own."""


def check_stage_keys(recipe: Recipe) -> None:
    for stage in recipe.stages:
        for part, keys in _OF_THE_RUN.items():
            own = getattr(stage, part)
            for key in keys:
                if own is not None and key in own.model_fields_set:
                    raise RecipeError(
                        f"'{key}' holds for the whole run: a stage cannot have its own",
                        where=f"stages.{stage.name}.{part}.{key}",
                        remedy=f"write {part}.{key}",
                    )


def check_validation(recipe: Recipe) -> None:
    """RecipeError where rows of validation are to be measured on and there are none."""
    if recipe.measurement.split == "validation" and recipe.data.validation is None:
        raise RecipeError(
            "there are no validation rows to measure on",
            where="measurement.split",
            remedy="write data.validation: 10%, or a file",
        )


def check_starts(recipe: Recipe) -> None:
    """ModelError where a stage starts from a folder that is no run, finished stage or adapter."""
    for stage in recipe.stages:
        start = stage.start or "base"
        if start != "base" and not start.startswith("stages."):
            carry.result_of(carry.seen_from(recipe.base, start), f"stages.{stage.name}.start")


def check_carry(recipe: Recipe) -> None:
    """MethodError where a stage would fold what wraps the model of the stage that it starts from."""
    wraps: dict[str, tuple[str, str] | None] = {}
    for stage in recipe.stages:
        start = stage.start or "base"
        before = wraps.get(start.removeprefix("stages.")) if start.startswith("stages.") else None
        if before is not None and stage.carry == "fold":
            where = "tasks.carry" if recipe.sequence is not None else f"stages.{stage.name}.carry"
            raise carry.wrapped(*before, "fold", where)
        own = next((u.name for u in stage.methods if "wrap" in catalogue.load_method(u.name, u.place).slots()), None)
        stays = before if stage.carry == "frozen" else None
        wraps[stage.name] = (catalogue.canonical(own), stage.name) if own is not None else stays


def check_selectors(recipe: Recipe) -> None:
    """MethodError where a selector does not serve the task, or reads with a model that the recipe does not name."""
    for stage in recipe.stages:
        for use in recipe.data_for(stage).select:
            check_selector(use, use.place or f"stages.{stage.name}.data.select", recipe)


def methods_of(recipe: Recipe, stage: StageSpec, task: Task) -> list[tuple[str, Method]]:
    uses: list[MethodUse] = list(stage.methods)
    optimizer = recipe.train_for(stage).optimizer
    if optimizer.name not in BUILTIN:
        uses.append(optimizer)
    named = []
    for use in uses:
        cls = catalogue.load_method(use.name, use.place)
        if not set(cls.slots()) & set(TRAINING_SLOTS):
            raise MethodError(
                f"'{use.name}' does nothing in training: it fills {', '.join(cls.slots())}",
                where=use.place or f"stages.{stage.name}.methods",
                remedy=_other_place(cls),
            )
        named.append((catalogue.canonical(use.name), catalogue.build(use)))
    _check_objectives(named, stage.name, task)
    _check_alone(recipe, stage, named)
    carried = stage.carry == "training" and stage.start != "base"
    check_conflicts(named, stage=stage.name, task=task, carried=carried)
    return named


def _check_objectives(named: list[tuple[str, Method]], stage: str, task: Task) -> None:
    """MethodError for an objective of likelihoods on a task whose head gives none."""
    gives = "one number a text" if task.scores else "a vector a text"
    gives = "a vector a picture" if task.is_a(FEATURES) else gives
    gives = "values and no classes" if task.is_a(FORECASTING) else gives
    gives = "one loss a picture" if task.draws else gives
    gives = "boxes that are matched with what is there" if task.is_a(DETECTION) else gives
    gives = "a likelihood of each label by itself" if task.multi_label else gives
    for name, method in named if not task.likelihoods or task.multi_label else ():
        if "objective" in type(method).slots() and (method.tasks is None or not serves(method, task)):
            raise MethodError(
                f"'{name}' trains likelihoods, and {task.called} gives {gives}",
                where=f"stages.{stage}.methods",
                remedy="take it out: the task has a loss of its own",
            )


def check_likelihoods(recipe: Recipe, methods: Sequence[Sequence[tuple[str, Method]]], task: Task, config: Any) -> None:
    """MethodError for an objective of likelihoods, RecipeError for a metric, where a model gives none a target; for one
    of quantiles where it forecasts one number.
    """
    if task.is_a(FORECASTING) and recipe.measurement.metric == "wql" and not gives_quantiles(config):
        raise RecipeError(
            f"'wql' judges quantiles, and this {config.model_type} model forecasts one number a value (loss: mse)",
            where="measurement.metric",
            remedy="write metric: mase, or take a model with loss: nll",
        )
    if task.compared(config) is task and not gives_values(task, config):
        return
    for stage, named in zip(recipe.stages, methods, strict=True):
        for name, method in named:  # an objective that does not ask for outputs reads no likelihoods
            if "objective" in type(method).slots() and "outputs" in arguments(type(method), "objective"):
                raise MethodError(
                    f"'{name}' trains likelihoods of targets, and a {config.model_type} model gives none of each",
                    where=f"stages.{stage.name}.methods",
                    remedy="take it out: the task has a loss of its own",
                )
    metric = recipe.measurement.metric
    if metric not in ("auto", "loss") and get_metric(metric).kind == "teacher-forced":
        raise RecipeError(
            f"'{metric}' reads likelihoods of targets, and a {config.model_type} model gives none of each",
            where="measurement.metric",
            remedy="write metric: auto or metric: loss",
        )


def check_drawing(recipe: Recipe, task: Task, config: Any) -> None:
    """RecipeError for a way of drawing that the model's kind does not have."""
    if not task.draws:
        return
    codes = task.compared(config) is not task
    what = "draws codes, map by map" if codes else "takes noise out of a picture, and draws no codes"
    remedy = f"leave it out; it has {', '.join(OF_CODES if codes else OF_NOISE)}"
    for name in OF_NOISE if codes else OF_CODES:
        if getattr(recipe.measurement, name) != DRAWN[name]:
            raise RecipeError(f"a {config.model_type} model {what}", where=f"measurement.{name}", remedy=remedy)


def _check_alone(recipe: Recipe, stage: StageSpec, named: list[tuple[str, Method]]) -> None:
    """MethodError where rows are made, selected or replayed, or weights chosen by evaluations, beside a method that has
    its stage to itself.
    """
    alone = next((n for n, m in named if m.alone), None)
    data, train = recipe.data_for(stage), recipe.train_for(stage)
    asked = {f"data.{key}": getattr(data, key) for key in ("synthesize", "select", "replay")}
    asked |= {f"train.{key}": getattr(train, key) for key in ("keep_best", "early_stopping")}
    for key, value in asked.items() if alone is not None else ():
        if value:
            raise MethodError(
                f"'{alone}' reads the stage's rows as the data has them, each once, and picks by them alone",
                where=f"stages.{stage.name}.{key}",
                remedy=f"leave {key} out of this stage",
            )


def _other_place(cls: type[Method]) -> str:
    places = {"merge": "after", "edit": "after", "predict": "after", "probe": "probes", "adapt": "test_time"}
    places |= {slot: f"data.{slot}" for slot in ("synthesize", "select")}
    return "write it under " + " or ".join(sorted({places.get(s, s) for s in cls.slots()})) + ":"


def check_after(recipe: Recipe) -> None:
    for place, slots, uses in (
        ("after", ("merge", "edit", "predict"), recipe.after),
        ("probes", ("probe",), recipe.probes),
    ):
        for use in uses:
            cls = catalogue.load_method(use.name, use.place)
            if not set(cls.slots()) & set(slots) or (place == "after" and set(cls.slots()) & set(TRAINING_SLOTS)):
                raise MethodError(
                    f"'{use.name}' cannot stand under {place}: it fills {', '.join(cls.slots())}",
                    where=use.place or place,
                    remedy="write it under stages' methods:",
                )
            catalogue.build(use)
    predictors.check(recipe)
    for use in recipe.after:
        if not predictors.predicts(use):
            merging.check(use, recipe)


def check_measured(recipe: Recipe) -> None:
    """RecipeError for a metric that is none, or that the task's rows have nothing for, and for beams where none are."""
    task = task_for(recipe)
    if recipe.measurement.num_beams is not None and (task.continues or not task.generates):
        raise RecipeError(
            f"answers of {recipe.task} are written without beams",
            where="measurement.num_beams",
            remedy="leave it out; text2text-generation and automatic-speech-recognition take it",
        )
    _check_drawn(recipe, task)
    metric, places = recipe.measurement.metric, recipe.measurement.environment or []
    if (recipe.data.eval or places) and metric != "auto":
        found = check_metric(metric, task)
        if found.kind == "played" and not places:
            what = f"'{metric}' is what episodes give, and the recipe names no environment to play in"
            raise RecipeError(what, where="measurement.metric", remedy="write measurement.environment: CartPole-v1")
        if found.kind != "played" and not recipe.data.eval:
            what = f"'{metric}' is read of rows, and the recipe has none to evaluate"
            raise RecipeError(what, where="measurement.metric", remedy="write data.eval: FILE, or metric: return")
    check_ends(places, metric)


def _check_drawn(recipe: Recipe, task: Task) -> None:
    """RecipeError for how pictures are drawn, where none are."""
    said = recipe.measurement
    drawn = [name for name, plain in DRAWN.items() if getattr(said, name) != plain]
    if drawn and not task.draws:
        raise RecipeError(
            f"{recipe.task} draws no pictures",
            where=f"measurement.{min(drawn)}",
            remedy=f"leave it out; {UNCONDITIONAL} and {TO_IMAGE} take it",
        )
    if said.guidance_scale != 1 and not task.is_a(TO_IMAGE):
        raise RecipeError(
            "pictures that are drawn of no text have no guidance",
            where="measurement.guidance_scale",
            remedy=f"leave it out; {TO_IMAGE} takes it",
        )


RECIPE_CHECKS: tuple[Callable[[Recipe], None], ...] = (
    check_after,
    check_stage_keys,
    check_starts,
    check_validation,
    check_measured,
    check_makers,
    check_carry,
    check_offloaded,
    check_divided,
    check_on_the_host,
    check_compiled,
    check_selectors,
    check_halved,
    packs.check,
    streams.check,
    streamed.check,
)
"""What is refused of a recipe beside its stages' methods before anything is loaded: by a check, a plan and a run."""


def check_views(recipe: Recipe, task: Task) -> None:
    """RecipeError where a recipe says how pictures are changed into views, and its task makes none."""
    if recipe.data.views is not None and not task.is_a(FEATURES):
        raise RecipeError(
            f"views of pictures are learnt by {FEATURES}, and the task is {task.name}",
            where="data.views",
            remedy=f"take it out, or write task: {FEATURES}",
        )


def check_along(recipe: Recipe, task: Task) -> None:
    """RecipeError where the task has not what the recipe follows along the way."""
    names = recipe.measurement.along
    for i, name in enumerate(names):
        why = ""
        if name == "in-context" and not task.continues:
            why = "is read of models that continue text"
        elif task.embeds and name in recipe.kept_names():
            why = "has no loss under this task"
        if why:
            raise RecipeError(
                f"'{name}' {why}, and the task is {task.name}",
                where=f"measurement.along[{i}]",
                remedy="take it out; drift and distance can be followed under every task",
            )
