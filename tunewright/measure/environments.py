"""Environments of gymnasium: found by their ids alone, made as a recipe says, and held against a policy's sizes.

An id is a name in gymnasium's registry, which holds its own environments and those that installed packages register; a
module before a colon, which gymnasium would import, is refused where the recipe is read. MissingExtraError without
gymnasium.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tunewright.errors import MissingExtraError, ModelError, RecipeError, did_you_mean
from tunewright.tasks._parts import DISCRETE
from tunewright.tasks._policies import sizes

WHERE = "measurement.environment"


def gymnasium() -> Any:
    """The library. MissingExtraError where it is not installed."""
    try:
        import gymnasium as library
    except ImportError:
        what = "episodes are played with gymnasium, which is not installed"
        raise MissingExtraError(what, where=WHERE, remedy="pip install 'tunewright[rl]'") from None
    return library


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what gymnasium prints of newer versions of an environment, and of its own checks."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def made(place: Mapping[str, Any], where: str = WHERE) -> Any:
    """An environment: `place` holds its `id`, `arguments` and `attributes`. RecipeError where there is none, or it
    cannot be made so.
    """
    library = gymnasium()
    name = str(place["id"])
    if name not in library.registry:
        near = did_you_mean(name, sorted(library.registry))
        raise RecipeError(f"gymnasium knows no environment '{name}'", where=where, remedy=near)
    try:
        with _quietly():
            env = library.make(name, **place.get("arguments", {}))
    except Exception as error:  # its own errors, and those of what an environment is made with
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        remedy = "install what it says, or look at arguments"
        raise RecipeError(f"'{name}' cannot be made: {said}", where=where, remedy=remedy) from error
    inner = env.unwrapped
    for key, value in place.get("attributes", {}).items():
        known = {n: v for n, v in vars(inner).items() if isinstance(v, int | float) and not isinstance(v, bool)}
        if key not in known or key.startswith("_"):
            env.close()
            remedy = did_you_mean(key, sorted(n for n in known if not n.startswith("_")))
            raise RecipeError(f"'{name}' has no number '{key}' that could be set", where=where, remedy=remedy)
        setattr(inner, key, type(known[key])(value) if float(value).is_integer() else float(value))
    return env


def check(place: Mapping[str, Any], config: Any, where: str = WHERE) -> None:
    """RecipeError or ModelError where a policy cannot play in an environment: it cannot be made, its observations or
    actions are no lists of so many numbers, or its episodes are longer than the policy knows times for.
    """
    env = made(place, where)
    try:
        _fits(env, str(place["id"]), config, where)
    finally:
        env.close()


def _fits(env: Any, name: str, config: Any, where: str) -> None:
    spaces, of = gymnasium().spaces, sizes(config)
    remedy = "take the environment that the model is of, or another model"
    seen, acts = env.observation_space, env.action_space
    if not isinstance(seen, spaces.Box) or seen.shape != (of["state_dim"],):
        what = f"observations of '{name}' are {seen}, and the model reads {of['state_dim']} numbers (state_dim)"
        raise ModelError(what, where=where, remedy=remedy)
    if getattr(config, "action_space", None) == DISCRETE:
        fits = isinstance(acts, spaces.Discrete) and int(acts.n) == of["act_dim"]
        says = f"one of {of['act_dim']} actions"
    else:
        fits = isinstance(acts, spaces.Box) and acts.shape == (of["act_dim"],)
        says = "1 number" if of["act_dim"] == 1 else f"{of['act_dim']} numbers"
    if not fits:
        what = f"actions in '{name}' are {acts}, and the model's are {says} (act_dim)"
        raise ModelError(what, where=where, remedy=remedy)
    longest = getattr(env.spec, "max_episode_steps", None)
    if longest is not None and longest > of["max_ep_len"]:
        raise ModelError(
            f"episodes of '{name}' have up to {longest} steps, and the model knows the times of {of['max_ep_len']} "
            "(max_ep_len)",
            where=where,
            remedy=f"write arguments: {{max_episode_steps: {of['max_ep_len']}}}",
        )
