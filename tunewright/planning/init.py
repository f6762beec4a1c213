"""`tunewright init`: a commented recipe for a model, a data file and a task, its values derived from the rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.data.files import kind_of
from tunewright.data.generators import MADE
from tunewright.data.remote import is_remote
from tunewright.data.shapes import RECORDED, task_of
from tunewright.errors import DataError, FolderError, MissingExtraError, ModelError, RecipeError, did_you_mean
from tunewright.planning import init_series, init_tables
from tunewright.planning.columns import guessed
from tunewright.planning.init_text import commented, of_source, scalar, written
from tunewright.planning.lengths import Measured, held_out, measure
from tunewright.recipe import Recipe, Source
from tunewright.tasks._parts import (
    DETECTION,
    FEATURES,
    FORECASTING,
    NUMBERS_OF_TABLES,
    PLAYING,
    TABLE,
    TO_IMAGE,
    TRAJECTORY,
    UNCONDITIONAL,
)
from tunewright.training.defaults import Setting

_TASK_OF = {
    "audio-label": "audio-classification",
    "audio-text": "automatic-speech-recognition",
    "image-label": "image-classification",
    "image": "image-classification",
    "image-mask": "image-segmentation",
    "image-objects": DETECTION,
    "text-label": "text-classification",
    "text-labels": "text-classification",
    "text-score": "text-classification",
    "choices": "multiple-choice",
    "question-context": "question-answering",
    "tagged": "token-classification",
    "positive-pair": "sentence-similarity",
    "scored-pair": "sentence-similarity",
    "judged-passage": "text-ranking",
    "image-text": "zero-shot-image-classification",
    "series": FORECASTING,
    TRAJECTORY: PLAYING,
    "pictured-chat": "image-text-to-text",
    "pictured-prompt": "image-text-to-text",
}
"""The task that a row shape is for; the others are for text-generation."""

_ALSO = {
    "positive-pair": "; text-ranking reads them too",
    TRAJECTORY: "; measurement: {environment: ID} plays in one of gymnasium's",
}
"""What else rows of a shape are read by, or asked about."""
_SHOWN = ("image-text", "image-label")
"""Shapes of pictures that a model of pictures in texts reads too: by what is asked of it (data.template)."""
_ASKED = "What is in the picture?"
_READ = (
    *("multiple-choice", "question-answering", "image-segmentation", DETECTION, FEATURES, UNCONDITIONAL, TO_IMAGE),
    NUMBERS_OF_TABLES,
)
"""Tasks beside classification whose head is made for the task, or beside the model."""

_TEXT = """\
# {title}. `tunewright check {file}` checks the rows,
# `tunewright plan {file}` says what would be trained and how long it takes, `tunewright run {file}` does it,
# `tunewright tune {file}` looks for a better learning rate and length of training first.
# {measured}
{model:<29} # a built-in name, hub id, local folder or GGUF file
task: {task}
data:
  {data:<27} # {rows}
  # eval: FILE                # rows to measure on, 200 or more and none of them trained on; until it is written:
{validation}
{length}# keep:                       # what must not be lost: general text whose loss is measured before and after
#   - {{data: general.txt}}
train:                        # by the rule of docs/defaults.md; a line that is left out is derived again by each run
{train}
  seed: 0
methods:                      # `tunewright methods` lists them
{methods}
{budget}
"""
_BY_HEART = "free text is soon known by heart: what is best on other rows is kept"
_AVERAGED = ("ema: {decay: 0.95, every: 1}", "the mean of about the last 20 steps is the result")
FEW = 20
"""Rows at a file's start by which its shape is told."""
SMALL = 400 << 20
"""Bytes of weights up to which a classifier is trained whole: it costs little, and learns more than an adapter."""


@dataclass(frozen=True)
class Seen:
    """What the first rows of a file say: their shape, a comment that names it and the columns, which of the file's
    columns are the shape's, where they are called otherwise, whether turns hold pictures of their own, whether
    labels are pictures, too, and whether pictures come alone.
    """

    shape: str
    comment: str
    columns: dict[str, str]
    pictured: bool = False
    masked: bool = False
    alone: bool = False

    def task(self, model: str) -> str:
        """The task that rows of the shape are for, with a model."""
        if self.masked:
            return "image-segmentation"
        if self.alone:
            return FEATURES
        if self.pictured or self.shape in _SHOWN and _sees(model):
            return "image-text-to-text"
        return _TASK_OF.get(self.shape) or task_of(self.shape) or _writing(model)


def rows_seen(path: str) -> Seen:
    """What a file's first rows are. DataError where there is no row that can be read, or recordings come alone."""
    from tunewright.data.read import read_lazily
    from tunewright.tasks._masks import is_drawn
    from tunewright.tasks._placed import shows_pictures

    columns: dict[str, str] = {}
    read = read_lazily(_source(path, columns, FEW), Path.cwd())
    first = next(iter(read.records), None)
    if first is None and read.problems and (columns := guessed(_raw(path))):
        read = read_lazily(_source(path, columns, FEW), Path.cwd())
        first = next(iter(read.records), None)
    if first is None and read.problems:
        raise read.problems[0].error()
    if first is None:
        raise DataError("the file holds no row", where=path, remedy="one JSON object a line")
    if first.shape in RECORDED and {"label", "text"}.isdisjoint(first):
        raise DataError(
            f"the rows are recordings with neither a label nor a text: {', '.join(first)}",
            where=first.where,
            remedy="give each its label (audio-classification) or its text (automatic-speech-recognition)",
        )
    guess = " (columns guessed: look at them)" if columns else ""
    words = f"rows of shape {first.shape}: {', '.join(first)}{guess}{_ALSO.get(first.shape, '')}"
    return Seen(
        first.shape,
        "; ".join([words, *read.remarks]),
        columns,
        shows_pictures(first),
        is_drawn(first),
        set(first) == {"image"},
    )


def _table_seen(columns: Sequence[str]) -> Seen:
    """What is said of a table that has these columns beside its target."""
    named = ", ".join(columns[:6]) + (", ..." if len(columns) > 6 else "")
    return Seen(TABLE, f"a table: {named}", {})


def _source(path: str, columns: Mapping[str, str], limit: int) -> Source:
    return Source(path=path, columns=dict(columns), limit=limit)


def _raw(path: str) -> list[Mapping[str, Any]]:
    """The first rows as they stand in the file."""
    from tunewright.data.raw import Bad
    from tunewright.data.read import locate, raw_rows

    source = _source(path, {}, FEW)
    rows = raw_rows(locate(source, Path.cwd()), source)
    return [row for _, _, row, _ in islice(rows, FEW) if not isinstance(row, Bad)]


def starter(
    model: str,
    data: Path | str,
    task: str | None = None,
    file: str = "recipe.yaml",
    said: init_tables.Said = init_tables.NOTHING,
) -> str:
    """The recipe's text. The rows are measured with the model's tokenizer, and the task follows from their shape when
    it is not given; of a model that is not here lengths are estimated, and the text says so. `data`: a file or
    folder, an address, a data set of the hub or a built-in one. `said`: of a table's columns.

    Raises DataError for a file that is missing or whose rows have no known shape, RecipeError for an unknown task and
    for columns that are not there, ModelError for a model that is here and does not do the task.
    """
    path = _path(str(data))
    if task is not None and task not in catalogue.tasks():
        raise RecipeError(f"no task '{task}'", where="--task", remedy=did_you_mean(task, catalogue.tasks()))
    forecasting = task == FORECASTING or task is None and init_series.forecasts(_config(model))
    drawing = FORECASTING if forecasting else task or _drawing(model)
    table = init_tables.target_in(path, drawing, said)
    if forecasting:
        named = scalar(_from(str(data), Path(file).parent))
        return init_series.starter(scalar(model), _config(model), path, named, file, _weight(model))
    seen = rows_seen(path) if table is None else _table_seen(table[2])
    chosen = drawing or (seen.task(model) if table is None else table[0])
    methods = _methods(model, chosen, seen.shape)
    asked = _ASKED if chosen == "image-text-to-text" and seen.shape in _SHOWN else None
    columns = seen.columns if table is None else {"label": table[1]}
    names = [name for name, _, _ in methods]
    measured = measure(model, path, chosen, seen.shape, names, columns, asked, said.types)
    settings = measured.settings
    budget = f"budget: {{epochs: {settings['epochs'].value:g}}}"
    template = commented(f"  template: {asked}", "asked of each picture: write your own") + "\n" if asked else ""
    return _TEXT.format(
        title=f"Adapts {model} to {path.rsplit('/', 1)[-1]}",
        file=file,
        measured=measured.words,
        model=f"model: {scalar(model)}",
        task=chosen,
        data=f"train: {of_source(_from(str(data), Path(file).parent), seen.columns)}",
        rows=seen.comment,
        validation=_validation(measured.rows),
        length=template + ("" if table is None else init_tables.lines(table[1], said)) + _length(measured),
        train="\n".join(
            _line(f"  {name}: {written(settings[name].value)}", settings[name])
            for name in ("learning_rate", "batch_tokens", "warmup_steps")
        )
        + _keeping(measured),
        methods="\n".join(commented(f"  - {text}", why) for text, why in _listed(methods, measured)),
        budget=_line(budget, settings["epochs"])
        + "\n# budget takes tokens, steps and seconds too: the first limit reached ends the run"
        + (f"\n{_measured_on(measured)}" if held_out(measured.rows) is not None else ""),
    )


def _methods(model: str, task: str, shape: str) -> list[tuple[str, str, str]]:
    """(name, as written, why) of the methods that suit a task and its rows."""
    if task == FEATURES and catalogue.lookup("simclr") is not None:
        whole = [("full", "full", "small enough to train whole; lora for a larger one")]
        objective = ("simclr", "simclr", "two views of a picture are near; byol and mae are others")
        return [*(whole if _small(model) else [("lora", "lora: {rank: 16}", "")]), objective]
    pairs = task == "text-generation" and shape.startswith("preference")
    if catalogue.lookup("lora") is None:
        return [("full", "full", "")]
    if (task.endswith("-classification") or task in _READ) and _small(model):
        return [("full", "full", "small enough to train whole; lora for a larger one")]
    preferring = [("dpo", "dpo", "learns from chosen and rejected answers")] if pairs else []
    return [("lora", "lora: {rank: 16}", ""), *preferring]


def _listed(methods: list[tuple[str, str, str]], measured: Measured) -> list[tuple[str, str]]:
    """The methods as they are written; where the best weights are kept, an average over steps beside them."""
    averaged = [_AVERAGED] if measured.eval_steps is not None else []
    return [*((text, why) for _, text, why in methods), *averaged]


def _small(model: str) -> bool:
    """Whether a model's weights are on this machine and few."""
    return 0 < _weight(model) <= SMALL


def _weight(model: str) -> int:
    """Bytes of a model's weights that are on this machine; 0 where they are not."""
    from tunewright.files.hashing import weight_files

    try:
        folder = _folder(model)
        return sum(f.stat().st_size for f in weight_files(folder)) if folder is not None else 0
    except OSError:
        return 0


def _writing(model: str) -> str:
    """The task of a model that writes: of an encoder-decoder that is here text2text-generation, of one that sees
    pictures, too, image-text-to-text.
    """
    if _sees(model):
        return "image-text-to-text"
    return "text2text-generation" if _config(model).get("is_encoder_decoder") is True else "text-generation"


def _drawing(model: str) -> str | None:
    """The task of a diffusers pipeline that is here; None of any other model."""
    from tunewright.loading.pipelines import task_of

    folder = _folder(model)
    return task_of(folder) if folder is not None else None


def _sees(model: str) -> bool:
    """Whether a model that is here reads pictures among texts, by its type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = _config(model)
    return config.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and "vision_config" in config


def _config(model: str) -> dict[str, Any]:
    """The config of a model that is here; nothing of any other."""
    try:
        folder = _folder(model)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _folder(model: str) -> Path | None:
    """A model's folder on this machine; None where it is not here."""
    from tunewright.loading.locate import locate

    try:
        return locate(model, progress=False).folder
    except (ModelError, MissingExtraError, FolderError, OSError):
        return None


def _validation(rows: int) -> str:
    share = held_out(rows)
    if share is None:
        return "  # validation: 10%           # too few rows to hold any out"
    count = round(share * rows)
    return commented(f"  validation: {share:.0%}", f"of the training rows, {count:,} of them, held out to measure on")


def _length(measured: Measured) -> str:
    """The line of max_length; nothing for pictures and recordings."""
    if measured.length is None:
        return ""
    return _line(f"  max_length: {measured.length.value:g}", measured.length) + "\n"


def _keeping(measured: Measured) -> str:
    """The lines that keep the best weights; nothing where the last ones are as good a choice."""
    if measured.eval_steps is None:
        return ""
    every = commented(f"  eval_steps: {measured.eval_steps}", "about once an epoch, on the rows held out")
    return f"\n{every}\n{commented('  keep_best: loss', _BY_HEART)}"


def _measured_on(measured: Measured) -> str:
    which = "the held-out rows" if measured.eval_steps is None else "every other held-out row, and the rest choose"
    return f"measurement: {{split: validation}} # gain is measured on {which}; take this out with data.eval"


def _line(text: str, setting: Setting) -> str:
    return commented(text, setting.reason)


def _path(data: str) -> str:
    """The data as a source names it wherever the recipe stands: a whole path, or the name of what is no file here."""
    at = Path(data)
    if at.exists():
        return str(at.resolve())
    if is_remote(data) or data.startswith((MADE, "quickstart:")) or _of_the_hub(at):
        return data
    near = sorted(p.name for p in at.parent.iterdir()) if at.parent.is_dir() else []
    raise DataError("no such file", where=data, remedy=did_you_mean(at.name, near))


def _of_the_hub(at: Path) -> bool:
    """Whether a path that is not there has the form of a hub data set's name."""
    return len(at.parts) == 2 and not at.is_absolute() and not kind_of(at) and not at.parent.exists()


def _from(data: str, folder: Path) -> str:
    """The data's path as seen from the recipe's folder, where it is looked for; a name stays as it is."""
    return os.path.relpath(data, folder) if Path(data).exists() and not Path(data).is_absolute() else data


def write_recipe(
    model: str, data: str, task: str | None, out: Path, said: init_tables.Said = init_tables.NOTHING
) -> Recipe:
    """Write the recipe to `out`, read it back and return it. FolderError where something is, or none can be written."""
    text = starter(model, data, task, str(out), said)
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
    return Recipe.load(out)
