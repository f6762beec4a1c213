"""`tunewright init`: a commented recipe for a model, a data file and a task."""

from __future__ import annotations

import os
from pathlib import Path

from tunewright import catalogue
from tunewright.errors import DataError, FolderError, RecipeError, did_you_mean
from tunewright.recipe import Recipe, Source
from tunewright.recipe.yaml_text import write

_TASK_OF = {"image-label": "image-classification", "text-label": "text-classification"}
"""The task that a row shape is for; the others are for text-generation."""

_TEXT = """\
# {title}. `tunewright check {file}` checks the rows,
# `tunewright plan {file}` says what would be trained and how long it takes, `tunewright run {file}` does it.
{model:<29} # a built-in name, hub id, local folder or GGUF file
task: {task}
data:
  {data:<27} # {rows}
  # eval: FILE                # rows to measure on, 200 or more and none of them trained on; until it is written:
  validation: 10%             # share of the training rows held out, for early stopping and keep_best
  max_length: 1024            # tokens; longer plain text is split, other rows are dropped and counted (truncation)
# keep:                       # what must not be lost: general text whose loss is measured before and after
#   - {{data: general.txt}}
train:
  learning_rate: {rate}
  batch_tokens: {batch:<14} # {unit} an optimizer step: about {steps} steps an epoch
  seed: 0
methods:                      # `tunewright methods` lists them
  - {method}
budget: {{epochs: 1}}           # or tokens, steps, seconds: the first limit reached ends the run
"""


STEPS = 20
"""Optimizer steps that an epoch should have at least: with fewer there is hardly anything to learn by."""
_BATCHES = {"4k": 4000, "2k": 2000, "1k": 1000, "512": 512, "256": 256}
_PICTURES = {str(n): n for n in (32, 16, 8, 4, 2, 1)}
_BYTES = 4  # of text a token, about


def _shape(data: Path) -> tuple[str, str, int]:
    """The shape of a file's first usable row, a comment that names it and its columns, and how many rows were read
    (all, or as many as decide a batch).

    DataError when there is none.
    """
    from tunewright.contract.records import Problem
    from tunewright.data.read import read_source

    problems: list[Problem] = []
    limit = STEPS * max(_PICTURES.values())
    records = list(read_source(Source(path=str(data.resolve()), limit=limit), data.parent, problems))
    if records:
        return records[0].shape, f"rows of shape {records[0].shape}: {', '.join(records[0])}", len(records)
    if problems:
        raise problems[0].error()
    raise DataError("the file holds no row", where=str(data), remedy="one JSON object a line")


def _batch(data: Path, shape: str, rows: int) -> dict[str, object]:
    """What an optimizer step takes, so that an epoch has enough of them: a picture counts as one token."""
    if shape == "image-label":
        total, sizes, unit = rows, _PICTURES, "pictures"
    else:
        files = [data] if data.is_file() else [p for p in data.rglob("*") if p.is_file()]
        total, sizes, unit = sum(f.stat().st_size for f in files) // _BYTES, _BATCHES, "tokens"
    batch = next((n for n, size in sizes.items() if total >= STEPS * size), list(sizes)[-1])
    more = shape == "image-label" and rows >= STEPS * max(_PICTURES.values())
    steps = max(1, round(total / sizes[batch]))
    return {"batch": batch, "unit": unit, "steps": f"{steps} or more" if more else steps}


def starter(model: str, data: Path, task: str | None = None, file: str = "recipe.yaml") -> str:
    """The recipe's text. The data file is read to name its rows' shape; the task follows from it when it is not given.

    Raises DataError for a file that is missing or whose rows have no known shape, RecipeError for an unknown task.
    """
    if not data.exists():
        near = sorted(p.name for p in data.parent.iterdir()) if data.parent.is_dir() else []
        raise DataError("no such file", where=str(data), remedy=did_you_mean(data.name, near))
    if task is not None and task not in catalogue.tasks():
        raise RecipeError(f"no task '{task}'", where="--task", remedy=did_you_mean(task, catalogue.tasks()))
    shape, rows, count = _shape(data)
    chosen = task or _TASK_OF.get(shape, "text-generation")
    name = "lora" if catalogue.lookup("lora") else "full"
    return _TEXT.format(
        title=f"Adapts {model} to {data.name}",
        file=file,
        model=f"model: {_scalar(model)}",
        task=chosen,
        data=f"train: {_scalar(_from(data, Path(file).parent))}",
        rows=rows,
        rate="2e-4" if name == "lora" else "2e-5",
        method="lora: {rank: 16}" if name == "lora" else name,
        **_batch(data, shape, count),
    )


def _from(data: Path, folder: Path) -> str:
    """The data's path as seen from the recipe's folder, where it is looked for."""
    return str(data) if data.is_absolute() else os.path.relpath(data, folder)


def _scalar(text: str) -> str:
    """Text as one YAML scalar, quoted where it must be."""
    return write([text]).removeprefix("- ").strip()


def write_recipe(model: str, data: str, task: str | None, out: Path) -> None:
    """Write the recipe to `out` and read it back. FolderError when something is there or it cannot be written."""
    text = starter(model, Path(data), task, str(out))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FolderError(
            "a file of this name is there already", where=str(out), remedy="choose another with --out"
        ) from None
    except OSError as error:
        raise FolderError(
            f"cannot be written: {error.strerror}", where=str(out), remedy="choose another place with --out"
        ) from None
    Recipe.load(out)
