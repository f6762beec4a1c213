"""A finished run's model, read from its folder alone: the data that it was trained on need not be there any more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.contract.combining import bind
from tunewright.contract.method import Method
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import CheckpointError, FolderError
from tunewright.files import checkpoint
from tunewright.loading.load import Loaded
from tunewright.loading.options import options_of
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.precision import choose_precision
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs import predictors
from tunewright.runs.assemble import device_of
from tunewright.runs.folder import ADAPTERS, PRUNED, RECIPE
from tunewright.runs.fresh import load_model
from tunewright.runs.vocabulary import add_tokens
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.training.setting_up import prepare


@dataclass
class Finished:
    """A finished run: its recipe and report, and the base with the run's change on it, as it was trained (not
    folded).
    """

    folder: Path
    recipe: Recipe
    report: Report
    task: Task
    loaded: Loaded
    adapted: Adapted
    options: EncodeOptions
    device: str

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer


def finished_folder(folder: Path | str) -> tuple[Recipe, Report]:
    """What a finished run's folder says, before any model is loaded. FolderError for a folder that is no finished run,
    or holds its weights no longer.
    """
    folder = Path(folder)
    if not (folder / RECIPE).exists():
        raise FolderError(
            "this is no run's folder", where=str(folder), remedy="name a folder that `tunewright run` made"
        )
    if (folder / ADAPTERS).exists():
        names = sorted(p.parent.name for p in folder.glob("*/recipe.yaml"))
        raise FolderError(
            "this folder holds several adapters, each a run of its own",
            where=str(folder),
            remedy=f"name one: {', '.join(str(folder / n) for n in names)}",
        )
    if not (folder / "report.json").exists():
        raise FolderError(
            "this run is not finished", where=str(folder), remedy=f"finish it with `tunewright resume {folder}`"
        )
    if (folder / PRUNED).exists():
        raise FolderError(
            "the weights of this run were removed (`tunewright runs prune`)",
            where=str(folder),
            remedy=f"make them again: `tunewright run {folder / RECIPE}`",
        )
    return Recipe.load(folder / RECIPE), Report.load(folder)


def open_run(folder: Path | str) -> Finished:
    """Load the model of a finished run, bit for bit as the run left it.

    FolderError for a folder that is no finished run; CheckpointError when the base's weights are others by now.
    """
    folder = Path(folder)
    recipe, report = finished_folder(folder)
    task, device = get_task(recipe.task, recipe.data.problem_type), device_of(recipe)
    labels = recipe.data.labels if task.labelled else None
    loaded = _base_of(recipe, task, device)
    recorded = recipe.made_with.get("model_hash", loaded.hash)
    if recorded != loaded.hash:
        raise CheckpointError(
            f"the model's weights are not those that the run began with ({loaded.hash[:12]}, then {recorded[:12]})",
            where=recipe.model.name,
            remedy="put the old weights back",
        )
    if recipe.new_tokens:
        add_tokens(loaded, recipe.new_tokens)
    adapted = loaded.adapted()
    _prepare(recipe, adapted)
    last = folder / "stages" / recipe.stages[-1].name
    if any(not predictors.predicts(use) for use in recipe.after):
        delta_format.load_delta(adapted, folder)
    elif (last / checkpoint.MANIFEST).exists():
        carry.load_stage(last, adapted)
    else:
        raise CheckpointError(
            "the folder of the run's last stage is not there",
            where=str(last),
            remedy="put it back, or run the recipe again",
        )
    adapted.model.eval()
    return Finished(folder, recipe, report, task, loaded, adapted, options_of(recipe.data, labels, loaded), device)


def _base_of(recipe: Recipe, task: Task, device: str) -> Loaded:
    precision = choose_precision(device) if recipe.train.precision == "auto" else recipe.train.precision
    return load_model(recipe, task, task.head_of(recipe.data.labels), device, precision)


def load_base(recipe: Recipe) -> Loaded:
    """The model that a run's own recipe began with, untouched, beside what reads its inputs."""
    return _base_of(recipe, get_task(recipe.task, recipe.data.problem_type), device_of(recipe))


def _prepare(recipe: Recipe, adapted: Adapted) -> None:
    """Edit model and tokenizer as the stages' methods did before training (tokens they added, say). What changed the
    model's shape is recorded with the stage, and done again from there.
    """
    for stage in recipe.stages:
        named: list[tuple[str, Method]] = []
        for use in stage.methods:
            kind = catalogue.load_method(use.name)
            if "prepare" in kind.slots() and not kind.reshapes:
                named.append((catalogue.canonical(use.name), catalogue.build(use)))
        methods = bind(named, recipe.train_for(stage).seed, stage.name)
        for b in methods:
            prepare(adapted, methods, b, {})
