"""The recipe of a job: OpenAI's hyperparameters as recipe fields, and the parts of a recipe that a client may write.

A client names no path: what is trained on are its own files, and strings that could be paths or addresses are refused
wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import RecipeError, did_you_mean
from tunewright.recipe import Recipe
from tunewright.serve.jobs.asked import DpoHyperparameters, JobRequest

PARTS = ("methods", "train", "budget", "probes", "measurement", "gate", "data")
OF_DATA = ("max_length", "truncation", "template", "system", "chat", "packing", "shuffle", "bad_rows")
WHERE = "tunewright"
MEASURED: dict[str, Any] = {"strengths": [1.0], "drift_sequences": 16, "drift_tokens": 64, "few_shot": 0}
"""What a job measures beside the loss where it does not say: a person waits for it."""
_TEXTS = ("template", "system")
"""Fields that hold words for the model, which may be anything."""
_PATH = re.compile(r"[/\\~:]|\.\.|\.py$")
DEEPEST = 8


def recipe_of(asked: JobRequest, model: Any, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """The recipe as a mapping; `folder` holds train.jsonl and perhaps eval.jsonl. RecipeError where it is none.

    Learning rate and batch follow from the rows and are written by the worker (`worker.settled`).
    """
    own = dict(asked.tunewright or {})
    check(own)
    tree: dict[str, Any] = {
        "name": name,
        "model": model,
        "task": "text-generation",
        "methods": own.get("methods", _methods(asked)),
        "data": {**own.get("data", {}), "train": [{"path": str(folder / "train.jsonl"), "name": "training_file"}]},
        "train": {"seed": seed, **own.get("train", {})},
        "measurement": {**MEASURED, **own.get("measurement", {})},
        **{part: own[part] for part in ("budget", "probes", "gate") if part in own},
    }
    if asked.validation_file is not None:
        tree["data"]["eval"] = [{"path": str(folder / "eval.jsonl"), "name": "validation_file"}]
    epochs = asked.chosen.n_epochs
    if epochs != "auto":
        if "budget" in own:
            raise RecipeError(
                "n_epochs and a budget are both written", where=f"{WHERE}.budget", remedy="write one of them"
            )
        tree["budget"] = {"epochs": epochs}
    Recipe(**tree)
    return tree


def _methods(asked: JobRequest) -> list[Any]:
    if asked.kind == "supervised":
        return ["lora"]
    chosen = asked.chosen
    beta = chosen.beta if isinstance(chosen, DpoHyperparameters) else "auto"
    return ["lora", "dpo" if beta == "auto" else {"dpo": {"beta": beta}}]


def check(own: Mapping[str, Any]) -> None:
    """RecipeError for parts of a recipe that a client may not write, or that could name a path."""
    _known(own, PARTS, WHERE)
    for part, kind in (("train", dict), ("budget", dict), ("measurement", dict), ("gate", dict), ("data", dict)):
        if not isinstance(own.get(part, {}), kind):
            raise RecipeError(f"'{part}' is no mapping", where=f"{WHERE}.{part}", remedy=f"write {part}: {{...}}")
    _known(own.get("data", {}), OF_DATA, f"{WHERE}.data")
    for part in ("methods", "probes"):
        uses = own.get(part, [])
        if not isinstance(uses, list) or len(uses) > 16:
            raise RecipeError(f"'{part}' is no list of names", where=f"{WHERE}.{part}", remedy="write methods: [lora]")
        for use in uses:
            _use(use, f"{WHERE}.{part}")
    _plain(own, WHERE, 0)


def _known(given: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in names:
            raise RecipeError(
                f"'{str(key)[:100]}' is no part of a recipe that a job takes",
                where=where,
                remedy=did_you_mean(str(key)[:100], names),
            )


def _use(use: Any, where: str) -> None:
    name = next(iter(use)) if isinstance(use, dict) and len(use) == 1 else use
    known = catalogue.entries()
    if not isinstance(name, str) or name not in known:
        raise RecipeError(
            f"there is no method '{str(name)[:100]}'", where=where, remedy=did_you_mean(str(name)[:100], list(known))
        )


def _plain(value: Any, where: str, depth: int) -> None:
    """RecipeError for a text that could be a path or an address, anywhere inside."""
    if depth > DEEPEST:
        raise RecipeError("this is nested too deeply", where=where, remedy="write it flatter")
    if isinstance(value, dict):
        for key, inner in value.items():
            _plain(key, where, depth + 1)
            if key not in _TEXTS:
                _plain(inner, f"{where}.{str(key)[:60]}", depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, where, depth + 1)
    elif isinstance(value, str) and (_PATH.search(value) or len(value) > 200):
        raise RecipeError(
            "a job names no paths and no addresses", where=where, remedy="upload the file and name it by its id"
        )
