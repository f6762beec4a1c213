"""Jobs beside a server of the same base: what `tunewright.serve.app.build` takes for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError
from tunewright.recipe import Recipe
from tunewright.runs.folder import RECIPE
from tunewright.serve.engine import Engine
from tunewright.serve.jobs.jobs import Jobs
from tunewright.serve.jobs.limits import JobLimits
from tunewright.serve.jobs.routes import ENVELOPE, UPLOAD, routes
from tunewright.serve.server import Server
from tunewright.serve.tinker import routes as loops
from tunewright.serve.tinker.service import Tinker


def mounted(folder: Path, server: object, model: str, models: Path | None, at_once: int) -> dict[str, Any]:
    """`model` is the base as a recipe names it, `models` the folder in which the server looks for adapters: those of
    finished jobs are put there. MethodError for a server of vectors. FolderError where another server has the folder.
    """
    if not isinstance(server, Server):
        raise MethodError(
            "fine-tuning jobs train models that write text, and this one makes vectors",
            where="--jobs",
            remedy="leave it out, and train with `tunewright run`",
        )
    limits = JobLimits(at_once=at_once)
    jobs = Jobs(folder, {server.name: _base(model)}, models=models, limits=limits)
    more: dict[str, Any] = {
        "extra_routes": routes(jobs),
        "beside": [jobs],
        "bodies": {UPLOAD: limits.file_bytes + ENVELOPE},
    }
    own = isinstance(server.engine, Engine)  # vLLM's weights are in another process
    if own and importlib.util.find_spec("tinker") is not None:  # whose messages the protocol is made of
        tinker = Tinker(server, folder / "tinker")
        more["extra_routes"] += loops.routes(tinker)
        more["beside"].append(tinker)
        more["bodies"][loops.TRAIN] = loops.BODY
    return more


def _base(model: str) -> Any:
    """What a recipe calls the base that is served: of a run with an adapter its own base."""
    path = Path(model)
    if (path / RECIPE).is_file():
        if not (path / "adapter").is_dir():
            raise MethodError(
                "the run's change is no adapter, so that a job would train another model than is served",
                where="--jobs",
                remedy="write the run as a model with `tunewright export`, and serve that",
            )
        return Recipe.load(path / RECIPE).model.model_dump(mode="json")
    return str(path.resolve()) if path.exists() else model
