"""What a policy's inputs hang on, from where it is said first: the recipe, the model's config, the training rows."""

from __future__ import annotations

from typing import Any

from tunewright.data.read import read_source
from tunewright.recipe import Recipe
from tunewright.recipe.trajectories import TrajectorySpec
from tunewright.tasks import _policies
from tunewright.tasks._parts import CONTINUOUS, PLAYING
from tunewright.tasks._trajectories import Facts, Trajectory

_WHERE = "data.trajectories"


def policy_options(config: Any, spec: TrajectorySpec | None) -> dict[str, Any]:
    """How windows are made for a policy. What a recipe says is written into its config, which goes with the model from
    there on. ModelError where something is said nowhere.
    """
    if spec is not None:
        _policies.note(config, _given(spec), _WHERE)
    return _policies.options(config, spec.stride if spec is not None else None)


def with_facts(recipe: Recipe, config: Any) -> tuple[Recipe, list[str]]:
    """The recipe with all that its policy's inputs hang on, and the returns that it is asked for, written out; and what
    to say of what the training rows alone said. Recipes of other tasks as they are.
    """
    spec = recipe.data.trajectories
    if recipe.task != PLAYING or spec is None:
        return recipe, []
    places = recipe.measurement.environment or []
    config_says = {name: getattr(config, name, None) for name in _policies.FACTS}
    known = {**config_says, **_given(spec)}
    lacks = [n for n in _policies.FACTS[:-1] if known[n] is None]
    lacks = [n for n in lacks if n != "action_std" or known["action_space"] in (None, CONTINUOUS)]
    unasked = any(place.target_return is None for place in places)
    if lacks or unasked:
        found = _of_rows(recipe, config)
        if not found.count:  # no row can be used, which is told of each
            space = CONTINUOUS if config.action_tanh else "discrete"
            found.add(_nothing(config, space))
        known |= {n: v for n, v in found.said().items() if n in lacks}
    filled = recipe.model_copy(deep=True)
    filled._base, filled._out, filled._notes = recipe._base, recipe._out, recipe._notes
    written = {n: known[n] for n in _policies.FACTS[:-1]}
    written["context"] = known["context_steps"] or _policies.CONTEXT
    filled.data.trajectories = spec.model_copy(update=written)
    for place in filled.measurement.environment or []:
        if place.target_return is None:
            place.target_return = found.best
    shown = [n for n in lacks if n != "action_space" and known[n] is not None]
    told = f"the model's config.json does not say {', '.join(shown)}: taken from the training rows (data.trajectories)"
    return filled, [told] if shown and not recipe.model.fresh else []


def _given(spec: TrajectorySpec) -> dict[str, Any]:
    """What a recipe says, by the config's names."""
    said = {**spec.model_dump(exclude={"stride", "context"}), "context_steps": spec.context}
    return {name: value for name, value in said.items() if value is not None}


def _of_rows(recipe: Recipe, config: Any) -> Facts:
    """What the training rows say that fit the model; of others nothing is taken."""
    facts, wide = Facts(), int(config.state_dim)
    for source in recipe.data.train:
        for record in read_source(source, recipe.base, []):
            one = record.get("trajectory")
            if not isinstance(one, Trajectory) or one.observations.shape[1] != wide:
                continue
            if facts.space not in ("", one.space) or one.space == CONTINUOUS and one.actions.shape[1] != config.act_dim:
                continue
            facts.add(one)
    return facts


def _nothing(config: Any, space: str) -> Trajectory:
    """A step at which nothing is."""
    import numpy as np

    actions = np.zeros((1, int(config.act_dim))) if space == CONTINUOUS else np.zeros(1, np.int64)
    return Trajectory(np.zeros((1, int(config.state_dim))), actions, np.zeros(1))
