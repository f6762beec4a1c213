"""From what a user names (a built-in, a hub id, a folder, a run) to a server of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError, ModelError, RecipeError
from tunewright.finished.finished import Finished, load_base, open_run
from tunewright.loading.load import Loaded, load
from tunewright.machine import devices
from tunewright.recipe import Recipe
from tunewright.runs.folder import RECIPE
from tunewright.serve.adapters import NAME
from tunewright.serve.limits import Limits
from tunewright.serve.server import Server
from tunewright.serve.vectors import VectorServer
from tunewright.serve.vllm_engine import VllmEngine, arguments, need_vllm
from tunewright.tasks import get_task

WRITES, EMBEDS = "text-generation", "sentence-similarity"


def open_server(
    model: str,
    root: Path | None = None,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    task: str = WRITES,
    device: str = "cpu",
    precision: str = "float32",
    engine: str = "own",
) -> Server | VectorServer:
    """Load a model and serve it as `name` (none: as its path or id ends).

    A run's folder is its base with the run as an adapter, or, where the change is more than an adapter, the tuned model
    alone. ModelError, MethodError or RecipeError where it cannot be served.
    """
    if engine == "vllm":
        return _by_vllm(model, root, limits or Limits(), name, task, precision)
    if (Path(model) / RECIPE).is_file():
        return _of_run(Path(model), root, limits, name)
    if task not in (WRITES, EMBEDS):
        raise RecipeError(f"models of {task} are not served", where="--task", remedy=f"{WRITES} or {EMBEDS}")
    loaded = load(model, task, device=device, precision=precision)
    name = _checked(name or Path(model).name)
    if task == EMBEDS:
        _no_adapters(root)
        return VectorServer(loaded.adapted(), loaded.tokenizer, get_task(task), name, limits)
    return Server(loaded, name, root, limits)


def _by_vllm(model: str, root: Path | None, limits: Limits, name: str | None, task: str, precision: str) -> Server:
    """A server whose requests vLLM writes. Here the model has shapes alone, for what is checked of adapters."""
    need_vllm()
    if task != WRITES or (Path(model) / RECIPE).is_file():
        what = "a run's folder" if task == WRITES else f"a model of {task}"
        remedy = "serve its base with --adapters and the folder around it, or leave --engine out"
        raise MethodError(f"{what} is not served by vLLM here", where="--engine vllm", remedy=remedy)
    loaded = load(model, task, precision=precision, weights=False)
    own = _checked(name or Path(model).name)

    def made(limits: Limits, folder_of: Callable[[str], Path]) -> VllmEngine:
        return VllmEngine(arguments(loaded.reference, root, limits, precision), folder_of)

    return Server(loaded, own, root, limits, engine=made)


def _of_run(folder: Path, root: Path | None, limits: Limits | None, name: str | None) -> Server | VectorServer:
    recipe = Recipe.load(folder / RECIPE)
    own = _checked(name or folder.resolve().name)
    task = get_task(recipe.task, recipe.data.problem_type)
    if task.is_a(EMBEDS):
        _no_adapters(root)
        finished = _whole(folder)
        return VectorServer(finished.adapted, finished.tokenizer, task, own, limits)
    if not task.is_a(WRITES):
        what = f"a model of {task.name} is not served: it neither writes text nor makes vectors of texts"
        remedy = f"write it as a folder for its own library: tunewright export {folder}"
        raise MethodError(what, where=str(folder), remedy=remedy)
    if (folder / "adapter").is_dir() and not recipe.new_tokens:
        base = Path(recipe.model.name).name
        server = Server(load_base(recipe), base if NAME.fullmatch(base) and base != own else "base", root, limits)
        server.library.serve(own, folder.resolve())
        return server
    finished = _whole(folder)
    loaded: Loaded = finished.loaded
    loaded.hash = f"tuned-{loaded.hash}"  # adapters of the base do not fit it
    return Server(loaded, own, root, limits, adapted=_as_base(finished))


def _whole(folder: Path) -> Finished:
    """A run's model with its change folded in for good."""
    finished = open_run(folder)
    if finished.adapted.wrapper is not None or not finished.adapted.foldable:
        raise ModelError(
            "the run's change wraps the model's forward or does not fold into it",
            where=str(folder),
            remedy="ask it with `tunewright chat`",
        )
    finished.adapted.fold()
    return finished


def _as_base(finished: Finished) -> Any:
    adapted = finished.adapted
    adapted.base_hash = finished.loaded.hash
    return adapted


def _no_adapters(root: Path | None) -> None:
    if root is not None:
        raise MethodError(
            "adapters go on models that write text, and this one makes vectors",
            where="--adapters",
            remedy="serve a run's folder as the model",
        )


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"'{name[:100]}' is no name for a model", where="--name", remedy="letters, digits and . _ - alone"
        )
    return name


def place_for(device: str) -> str:
    """Where a model computes that was asked for on `device`. RecipeError for a GPU that torch does not see."""
    if device != "auto" and not devices.sees(device):
        raise RecipeError(
            f"torch sees no {device}", where="--device", remedy="leave it out; `tunewright doctor` says what torch sees"
        )
    return device if device != "auto" else "cuda" if devices.sees("cuda") else "cpu"
