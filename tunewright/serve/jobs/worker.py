"""The process of one job: `python -m tunewright.serve.jobs.worker FOLDER`.

It checks the rows, writes learning rate and batch into the recipe and runs it as `tunewright run` does, or goes on with
it. What it says to its server is files beside the run's folder: `process` (who it is), `phase` and, where the job
cannot be done, `error.json`. It knows nothing of the server and goes on without it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import DataError, Interrupted, MethodError, ModelError, RecipeError, TunewrightError
from tunewright.files.checkpoint import write_json, write_text
from tunewright.machine import host
from tunewright.recipe import Recipe

RECIPE, ERROR, PHASE, PROCESS, RUN, SETTLED = "recipe.json", "error.json", "phase", "process", "run", "settled.json"
LOCK = ".worker"
INTERRUPTED, TAKEN = 75, 98
SHOWN = 5
"""Bad rows that an error names."""
CODES: dict[type[TunewrightError], str] = {
    DataError: "invalid_file",
    RecipeError: "invalid_recipe",
    MethodError: "invalid_recipe",
    ModelError: "invalid_model",
}

FIELDS = {"train.jsonl": "training_file", "eval.jsonl": "validation_file"}
"""A job's files, and what its request calls them."""


class BadRows(DataError):
    """Rows that cannot be used; `param`: the file that they stand in."""

    def __init__(self, what: str, param: str):
        super().__init__(what)
        self.param = param


def main(folder: Path) -> int:
    """Do the job in `folder`; the exit code is that of `tunewright run`, or TAKEN where another process does it."""
    try:
        lock = host.Lock(folder / LOCK)
    except host.Held:
        return TAKEN
    write_text(folder / PROCESS, host.mark())
    try:
        _work(folder)
        return 0
    except (Interrupted, KeyboardInterrupt):
        return INTERRUPTED
    except TunewrightError as error:
        write_json(folder / ERROR, told(error, folder))
        return type(error).code
    finally:
        lock.release()


def _work(folder: Path) -> None:
    from tunewright.runs import run as runs

    if not (folder / SETTLED).exists():
        write_text(folder / PHASE, "validating_files")
        given = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        _rows_as_ours(folder)
        write_json(folder / SETTLED, settled(given["recipe"], given["chosen"]))
    write_text(folder / PHASE, "running")
    tree = json.loads((folder / SETTLED).read_text(encoding="utf-8"))
    if (folder / RUN / "recipe.yaml").exists():
        runs.resume(folder / RUN, quiet=True)
    else:
        runs.run(Recipe(**tree), folder / RUN, quiet=True)


def settled(tree: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """The recipe with learning rate and batch written where the job says how they differ from the rule's.

    BadRows names rows that cannot be used by file and line, other errors are those of the recipe.
    """
    from tunewright.planning.check import check_recipe

    recipe = Recipe(**tree)
    report = check_recipe(recipe).report
    if report.problems:
        raise bad_rows([(p.where, p.reason) for p in report.problems], tree["data"])
    if report.errors:
        raise report.errors[0]
    train = dict(tree["train"])
    if chosen["batch_size"] != "auto" and "batch_tokens" not in train:
        sizes = [row.size for dataset in report.datasets["train"] for row in dataset.rows]
        train["batch_tokens"] = max(1, math.ceil(chosen["batch_size"] * sum(sizes) / len(sizes)))
    if chosen["learning_rate_multiplier"] != "auto":
        train["learning_rate"] = _rate(recipe, train.get("learning_rate")) * chosen["learning_rate_multiplier"]
    return {**tree, "train": train}


def _rate(recipe: Recipe, given: float | None) -> float:
    """The learning rate that is multiplied: what the recipe says, else what the rule does."""
    if given is not None:
        return float(given)
    from tunewright.catalogue import load_method
    from tunewright.loading.load import reading
    from tunewright.runs.deriving import said_by, width_of
    from tunewright.runs.fresh import model_of
    from tunewright.runs.sources import task_for
    from tunewright.training.defaults import Facts, derive

    task = task_for(recipe)
    model = reading(model_of(recipe, weights=False), task, task.head_of(None))
    said = said_by([load_method(use.name, use.place) for use in recipe.stages[0].methods])
    return derive(Facts(task.name, "answers", 1, 1, width_of(model.config), **said))["learning_rate"].value


def _rows_as_ours(folder: Path) -> None:
    """Bring OpenAI's rows of two answers to ours, line by line, so that lines keep their numbers."""
    for name in FIELDS:
        path = folder / name
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = text.split("\n")
            ours = [_pair(line) for line in lines]
            if ours != lines:
                write_text(path, "\n".join(ours))


def _pair(line: str) -> str:
    if '"preferred_output"' not in line:
        return line
    try:
        row = json.loads(line)
        asked = row["input"]["messages"]
        sides = row["preferred_output"], row["non_preferred_output"]
    except (ValueError, TypeError, KeyError):
        return line
    return json.dumps({"prompt": asked, "chosen": sides[0], "rejected": sides[1]}, ensure_ascii=False)


def bad_rows(problems: Sequence[tuple[str, str]], data: dict[str, Any]) -> BadRows:
    """What is said of rows that cannot be used: each by its file and line."""
    files = {data[part][0]["path"]: data[part][0]["name"] for part in ("train", "eval") if part in data}
    told, first = [], ""
    for where, reason in problems[:SHOWN]:
        path, _, line = where.rpartition(":")
        param = next((name for known, name in files.items() if Path(path).name == Path(known).name), "training_file")
        first = first or param
        told.append(f"{param}, line {line}: {reason}")
    more = len(problems) - SHOWN
    return BadRows("; ".join([*told, f"and {more} more bad rows"] if more > 0 else told), first)


def told(error: TunewrightError, folder: Path) -> dict[str, Any]:
    """An error as OpenAI's jobs have it, without a path of this machine."""
    text = f"{error.what} ({error.remedy})" if error.remedy else error.what
    if error.where and not isinstance(error, BadRows):
        text = f"{error.where}: {text}"
    param = error.param if isinstance(error, BadRows) else None
    for place in (folder.resolve(), folder, Path.cwd()):
        for name, field in FIELDS.items():
            if (path := str(place / name)) in text:
                text, param = text.replace(path, field), param or field
        text = text.replace(f"{place}/", "").replace(str(place), "the job's folder")
    code = next((c for kind, c in CODES.items() if isinstance(error, kind)), "training_failed")
    return {"code": code, "message": text[:2000], "param": param}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
