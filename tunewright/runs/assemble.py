"""From a recipe to everything a run works with: the model, encoded rows, checked methods. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunewright.contract.method import Method
from tunewright.contract.pairs import PairRows, read_in_pairs
from tunewright.contract.record_change import RecordChange, chained, record_change, stand_ins
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.caution import of_data
from tunewright.data.dataset import Dataset, build
from tunewright.data.labels import labels_of
from tunewright.data.streaming import WINDOW
from tunewright.errors import MethodError
from tunewright.files.cache import cache_folder
from tunewright.loading.fresh import has_weights
from tunewright.loading.load import Loaded, Reading, reading
from tunewright.loading.options import options_of
from tunewright.loading.policies import with_facts
from tunewright.loading.positions import beyond
from tunewright.machine import devices, going, host
from tunewright.machine.group import present
from tunewright.measure.target import check_metric, check_rows
from tunewright.models.activations import NOTHING_TO_DO
from tunewright.models.adapted import Adapted
from tunewright.models.divided import divided
from tunewright.models.originals import Files
from tunewright.models.precision import choose_precision
from tunewright.recipe import DataSpec, Recipe, Source, StageSpec
from tunewright.runs import packs, playing, several, streamed, tables
from tunewright.runs.aiming import aimed_at, target_of
from tunewright.runs.carrying import carried
from tunewright.runs.deriving import Settings, alone, fill
from tunewright.runs.divided import of_division
from tunewright.runs.fresh import load_model, model_of
from tunewright.runs.held_out import held_out
from tunewright.runs.making import makers_of, place_of
from tunewright.runs.selecting import Selection, records_of, selection_of, without
from tunewright.runs.session import Making, Session, StageInputs
from tunewright.runs.shared import SharedBase
from tunewright.runs.sources import (
    STAGES,
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
from tunewright.runs.stage_methods import (
    RECIPE_CHECKS,
    check_along,
    check_drawing,
    check_likelihoods,
    check_views,
    methods_of,
)
from tunewright.runs.trackers import lacking
from tunewright.runs.vocabulary import add_to_tokenizer, add_tokens, new_rows

Say = Callable[[str], None]
_MADE = "data.synthesize"

READ_ANEW = frozenset(
    {"train", "max_length", "truncation", "template", "system", "chat", "synthesize", "bad_rows", "shuffle_buffer"}
)
"""Keys of `data` by which a stage's rows are read anew."""


@dataclass(frozen=True)
class _Reader:
    """Reads sources as a recipe's model takes them."""

    recipe: Recipe
    task: Task
    loaded: Loaded | Reading
    options: EncodeOptions
    asks: bool = True
    """Whether selectors may ask models of their own."""

    def __call__(
        self,
        sources: Sequence[Source],
        options: EncodeOptions | None = None,
        change: RecordChange | None = None,
        learnt: DataSpec | None = None,
    ) -> Dataset:
        """`learnt`: the section whose rows are trained on, where these are."""
        return build(
            sources,
            self.task,
            self.loaded.tokenizer if self.loaded.tokenizer is not None else self.loaded.processor,
            options or self.options,
            cache_folder(),
            base=self.recipe.base,
            change=change,
            problems="fail" if learnt is None else learnt.bad_rows,
            window=WINDOW if learnt is None else learnt.shuffle_buffer,
        )


def assemble(
    recipe: Recipe, say: Say | None = None, *, weights: bool = True, base: SharedBase | None = None
) -> Session:
    """Check methods, load the model, encode the rows. Errors name the field, file or row; nothing is written.

    Without `weights`, models have shapes alone: enough to see what a run would refuse. `base`: where others' is too.
    `say` is told what is begun, and how far what takes long is (None: whoever asked outside is told the latter).
    """
    with nullcontext() if say is None else going.telling(say):
        return _assembled(recipe, say or (lambda text: None), weights, base)


def _assembled(recipe: Recipe, say: Say, weights: bool, base: SharedBase | None) -> Session:
    task = task_for(recipe)
    check_along(recipe, task)
    check_views(recipe, task)
    methods = [methods_of(recipe, stage, task) for stage in recipe.stages]
    recipe = carried(recipe, methods)
    several.check(methods)
    for step in RECIPE_CHECKS:
        step(recipe)
    recipe = tables.with_layout(recipe)
    if weights:
        torch.set_num_threads(recipe.train.threads or max(1, host.cores() // present().here))
    device = device_of(recipe)
    precision: str = recipe.train.precision
    if precision == "auto":
        precision = choose_precision(device) if weights else "float32"
    say(f"loading {recipe.model.name}")
    loaded, labels = _model(recipe, task, device, precision, weights, base)
    recipe, told = with_facts(recipe, loaded.model.config)
    playing.check(recipe, loaded.model.config)
    check_likelihoods(recipe, methods, task, loaded.model.config)
    check_drawing(recipe, task, loaded.model.config)
    adapted = _adapted(recipe, loaded, methods)
    adapted.lent.update(adapted.base_parameters() if base is not None else ())
    packed = bool(recipe.data.packing and task.packs and _can_pack(loaded))
    say("reading data")
    rows = read_rows(recipe, task, methods, loaded, labels, asks=weights)
    if rows.eval is not None:
        asked = list(rows.eval.rows)[: recipe.measurement.rows]
        metric = recipe.measurement.metric
        metric = task.default_metric(asked) if metric == "auto" else metric
        check_metric(metric, task)
        check_rows(metric, task, asked)
    recipe, derived = fill(recipe, rows.stages, task, loaded.model.config)
    for part, stage in zip(rows.stages, recipe.stages, strict=True):
        part.spec, part.train = stage, recipe.train_for(stage)
    there = [d for d in (*rows.learnt, rows.eval, rows.validation, *rows.keep.values()) if d is not None]
    return Session(
        recipe,
        task,
        loaded,
        adapted,
        device,
        precision,
        packed,
        rows.options,
        rows.stages,
        rows.eval,
        rows.validation,
        rows.keep,
        [
            *streamed.notes(rows.learnt),
            *of_data(rows.learnt, {"eval": rows.eval, "validation": rows.validation, "test_time": rows.stream}),
            *told_by_rows(recipe, task),
            *tables.notes_of(recipe),
            *loaded.notes,
            *told,
            *beyond(loaded.model.config, there, rows.options.max_length, recipe.data.max_length),
            *rows.notes,
            *alone(rows.stages, task),
            *of_division(adapted),
            *_idle(recipe, device),
            *lacking(recipe.train.report_to).values(),
        ],
        weights=weights,
        derived=derived,
        stream=rows.stream,
        packs=packs.asked(recipe, task, loaded.tokenizer, rows.options),
    )


@dataclass(frozen=True)
class RunRows:
    """The rows of a run by what they are for. `learnt`: every set that is trained on; `notes`: what to say of them."""

    options: EncodeOptions
    stages: list[StageInputs]
    eval: Dataset | None
    validation: Dataset | None
    keep: dict[str, Dataset]
    learnt: list[Dataset]
    notes: list[str]
    stream: Dataset | None = None


def read_rows(
    recipe: Recipe,
    task: Task,
    methods: Sequence[list[tuple[str, Method]]],
    model: Loaded | Reading,
    labels: Sequence[str] | None,
    *,
    asks: bool = True,
) -> RunRows:
    """Encode every row that a recipe names, as its model takes them, whether the weights are loaded or not. Without
    `asks` no selector asks a model of its own.
    """
    options = options_of(recipe.data, labels, model)
    read = _Reader(recipe, task, model, options, asks)
    change = stand_ins(makers_of(recipe.data.synthesize, _MADE).makers, labels)
    learnt = [read(recipe.data.train, change=change, learnt=recipe.data)]
    evaluation = read(recipe.data.eval, judged_options(options)) if recipe.data.eval else None
    train_rows, validation = held_out(recipe, learnt[0], task, read)
    keep = {name: read([source], kept_options(options)) for name, source in kept_sources(recipe).items()}
    parts: list[StageInputs] = []
    notes: list[str] = []
    for i, (stage, named) in enumerate(zip(recipe.stages, methods, strict=True)):
        own = _read_anew(recipe, stage, named, read, labels)
        learnt += [own] if own is not None else []
        rows = train_rows if own is None else own if validation is None else without(own, validation)
        alone = stage.data is not None and "train" in stage.data.model_fields_set
        aim = partial(_aim, recipe, learnt[0] if alone else None, validation, evaluation, notes)
        there = {**keep, **{f"{STAGES}{p.spec.name}": one_by_one(p.rows) for p in parts}}
        making = _making(recipe, stage, named, rows, read, labels)
        parts.append(_stage_inputs(recipe, stage, named, rows, aim, there, read, i, making))
    stream = read(streamed_sources(recipe)) if streamed_sources(recipe) else None
    return RunRows(options, parts, evaluation, validation, keep, learnt, notes, stream)


def settled(recipe: Recipe) -> tuple[Recipe, Settings]:
    """The recipe with what it leaves to the rule written out, and what the rule gave: as a run of it will have it,
    without the model's weights.
    """
    task = task_for(recipe)
    methods = [methods_of(recipe, stage, task) for stage in recipe.stages]
    recipe = tables.with_layout(carried(recipe, methods))
    labels: Sequence[str] | None = recipe.data.labels
    if task.labelled and labels is None:
        labels = labels_of(labelled_sources(recipe), recipe.base, task)
    model = reading(model_of(recipe, weights=False), task, task.head_of(labels))
    recipe, _ = with_facts(recipe, model.config)
    if recipe.new_tokens:
        add_to_tokenizer(model.tokenizer, recipe.new_tokens)
    labels = model.labels if task.labelled else labels
    return fill(recipe, read_rows(recipe, task, methods, model, labels).stages, task, model.config)


def _model(
    recipe: Recipe, task: Task, device: str, precision: str, weights: bool, base: SharedBase | None
) -> tuple[Loaded, Sequence[str] | None]:
    """The recipe's model with its new tokens, and the labels in the order of its head."""
    labels: Sequence[str] | None = recipe.data.labels
    if task.labelled and labels is None:
        labels = labels_of(labelled_sources(recipe), recipe.base, task)
    load = base.load if base is not None else load_model
    loaded = load(recipe, task, task.head_of(labels), device, precision, weights)
    if task.labelled:  # a checkpoint's head keeps its own order of the labels
        names: Any = loaded.model.config.id2label  # type: ignore[union-attr]
        labels = [names[i] for i in sorted(names)]
    if recipe.new_tokens:
        add_tokens(loaded, recipe.new_tokens)
    return loaded, labels


def _adapted(recipe: Recipe, loaded: Loaded, methods: Sequence[Sequence[tuple[str, Method]]]) -> Adapted:
    """The loaded model as methods adapt it."""
    adapted = loaded.adapted()
    adapted.new = loaded.new
    each_batch = any(n.when == "batch" for named in methods for _, m in named for n in m.needs())
    if loaded.folder is not None and not each_batch and has_weights(loaded.folder):
        adapted.files = Files(loaded.folder)  # a signal of the base in each batch would read it again each time
    adapted.always = new_rows(adapted, recipe.new_tokens)
    return adapted


def _read_anew(
    recipe: Recipe, stage: StageSpec, named: Sequence[tuple[str, Method]], read: _Reader, labels: Sequence[str] | None
) -> Dataset | None:
    """The stage's own rows; None where those of the whole recipe are trained on."""
    given = stage.data.model_fields_set if stage.data is not None else set()
    data, change = recipe.data_for(stage), record_change(named, recipe.train_for(stage).seed)
    if change is None and not given & READ_ANEW:
        return None
    change = chained(stand_ins(makers_of(data.synthesize, place_of(stage)).makers, labels), change)
    return read(data.train, options_of(data, labels, read.loaded), change=change, learnt=data)


def _making(
    recipe: Recipe,
    stage: StageSpec,
    named: Sequence[tuple[str, Method]],
    rows: Dataset,
    read: _Reader,
    labels: Sequence[str] | None,
) -> Making | None:
    """What makes the stage's rows, of the records that `rows` stand in for; None where nothing does."""
    data = recipe.data_for(stage)
    if not data.synthesize:
        return None
    options = options_of(data, labels, read.loaded)
    change = record_change(named, recipe.train_for(stage).seed)

    def source(file: Path) -> list[Source]:
        return [Source(path=str(file.absolute()), name=f"made/{stage.name}")]

    return Making(
        makers_of(data.synthesize, place_of(stage)),
        lambda: records_of(rows, data.train, recipe.base),
        options,
        lambda file: read(source(file), options, change=change),
        lambda dataset, file: records_of(dataset, source(file), recipe.base),
    )


def _stage_inputs(
    recipe: Recipe,
    stage: StageSpec,
    named: list[tuple[str, Method]],
    rows: Dataset,
    aim: Callable[[], Dataset | None],
    there: Mapping[str, Dataset],
    read: _Reader,
    index: int,
    making: Making | None,
) -> StageInputs:
    """A stage with the rows that its selectors keep (all that may be kept, where they read with a model) and those
    that it replays, as pairs where a method asks for them. `aim` gives what selectors aim at; `there`: rows that are
    read already, by what `replay` calls them.
    """
    data, selection = recipe.data_for(stage), None
    if data.select:
        selection = _selection(recipe, stage, data, rows, aim, waits=making is not None, asks=read.asks)
        rows = selection.pool
    replay = {
        n: (there[n] if source is None else read([source]), data.replay[n])
        for n, source in replayed_sources(data, recipe)
    }
    for n in replayed_stages(data, recipe, stage):  # one source of its own, whatever the stage's rows came from
        replay[n] = (replace(there[n], name=n, parts=()), data.replay[n])
    methods = [m for _, m in named]
    rows = read_in_pairs(rows, methods, read.task)
    replay = {n: (read_in_pairs(d, methods, read.task), share) for n, (d, share) in replay.items()}
    return StageInputs(stage, recipe.train_for(stage), data, rows, replay, named, index, selection, making)


def _aim(
    recipe: Recipe,
    learnt: Dataset | None,
    validation: Dataset | None,
    evaluation: Dataset | None,
    notes: list[str],
) -> Dataset | None:
    """What a stage's selectors aim at; None where there is nothing beside the rows themselves. What is left out of it
    is noted.
    """
    if validation is None and learnt is None:
        return None
    target, told = target_of(recipe, learnt, validation, evaluation)
    notes += [told] if told and told not in notes else []
    return target


def one_by_one(dataset: Dataset) -> Dataset:
    """A stage's rows as they were before its methods asked for pairs."""
    return replace(dataset, rows=dataset.rows.rows) if isinstance(dataset.rows, PairRows) else dataset


def _idle(recipe: Recipe, device: str) -> list[str]:
    """That a recipe asks for what only a GPU with memory of its own can do."""
    asked = any(recipe.train_for(s).activation_offloading for s in recipe.stages)
    return [NOTHING_TO_DO.format(device=device)] if asked and device != "cuda" else []


def device_of(recipe: Recipe) -> str:
    """Where the recipe computes: "cpu", "cuda" or "mps". MethodError when it asks for a GPU that torch does not see."""
    device = recipe.train.device
    if device != "auto" and not devices.sees(device):
        raise MethodError(
            f"device: {device} was asked for, and torch sees no {'Apple ' if device == 'mps' else ''}GPU",
            where="train.device",
            remedy="write device: auto; `tunewright doctor` says what torch sees",
        )
    return device if device != "auto" else "cuda" if devices.sees("cuda") else "cpu"


def _can_pack(loaded: Loaded) -> bool:
    from tunewright.models.attention import prepare_attention

    parts = divided(loaded.model)
    with nullcontext() if parts is None else parts.together():
        can = prepare_attention(loaded.model)  # type: ignore[arg-type]
    if not can:
        loaded.notes.append("rows are padded: this model's attention cannot take packed rows")
    return can


def _selection(
    recipe: Recipe,
    stage: StageSpec,
    data: DataSpec,
    rows: Dataset,
    aim: Callable[[], Dataset | None],
    *,
    waits: bool,
    asks: bool,
) -> Selection:
    """The stage's selectors; those that read records alone have been applied, unless all of them wait for rows that are
    made when the stage begins (`waits`), or hold a model that is not asked here (`asks`). `aim` gives the rows that are
    aimed at.
    """
    target = aim() if aimed_at(data.select) else None
    sources = recipe.data.validation
    held = [*sources] if isinstance(sources, list) else []

    def wanted() -> list[Any]:
        return records_of(target, [*held, *recipe.data.train], recipe.base) if target is not None else []

    return selection_of(
        data.select,
        rows,
        lambda some: records_of(some, data.train, recipe.base),
        wanted,
        target,
        recipe.train_for(stage).seed,
        stage.name,
        waits=waits,
        asks=asks,
    )
