"""Reward models as a recipe names them under `models:`: a run of `task: reward-modeling`, or a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.contract.task import EncodeOptions
from tunewright.errors import CheckpointError, ModelError
from tunewright.loading.load import load
from tunewright.loading.options import options_of
from tunewright.recipe import ModelSpec, Recipe
from tunewright.runs.folder import RECIPE
from tunewright.runs.fresh import load_model
from tunewright.runs.vocabulary import add_tokens
from tunewright.tasks.reward_modeling import RewardModeling
from tunewright.training import carry
from tunewright.training.judging import Judge


def is_run(place: Path) -> bool:
    """Whether a folder is a run's."""
    return (place / RECIPE).is_file() and (place / "stages").is_dir()


def judge_of(name: str, spec: ModelSpec, tokenizer: Any, *, device: str, precision: str, weights: bool) -> Judge:
    """The reward model that `spec` names, for samples that `tokenizer` wrote. ModelError where it is none."""
    task = RewardModeling()
    if not is_run(Path(spec.name)):
        loaded = load(spec, task, device=device, precision=precision, weights=weights)
        return Judge(name, _frozen(loaded.adapted()), tokenizer, EncodeOptions())
    run = Path(spec.name)
    recipe = Recipe.load(run / RECIPE)
    if recipe.task != task.name:
        raise ModelError(
            f"this run is of the task {recipe.task}, and a reward model is asked for",
            where=f"models.{name}: {run}",
            remedy=f"name a run of `task: {task.name}`",
        )
    carry.result_of(run, f"models.{name}")  # an unfinished run is refused before its base is read
    loaded = load_model(recipe, task, task.head_of(None), device, precision, weights)
    then = recipe.made_with.get("model_hash", loaded.hash)
    if weights and then != loaded.hash:
        raise CheckpointError(
            f"its base's weights are not those that it was trained on ({loaded.hash[:12]}, then {then[:12]})",
            where=f"models.{name}: {recipe.model.name}",
            remedy="put the old weights back",
        )
    if recipe.new_tokens:
        add_tokens(loaded, recipe.new_tokens)
    adapted = loaded.adapted()
    adapted.base_hash = then
    carry.begin(adapted, str(run), "frozen", run, f"models.{name}")
    return Judge(name, _frozen(adapted), tokenizer, options_of(recipe.data, None, loaded))


def _frozen(adapted: Any) -> Any:
    adapted.outer.eval()
    adapted.model.requires_grad_(False)
    return adapted
