"""One of two models that are measured against each other: a run's folder, a PEFT adapter's, a model's, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import DataError, FolderError, MissingExtraError, ModelError, RecipeError
from tunewright.files.regular import regular
from tunewright.loading.load import Loaded, load
from tunewright.loading.locate import locate, own_base
from tunewright.loading.options import options_of
from tunewright.loading.pipelines import is_pipeline, task_of
from tunewright.loading.sentence_modules import is_sentence_model
from tunewright.loading.tables import layout_in, task_in
from tunewright.machine import devices
from tunewright.models.adapted import Adapted
from tunewright.recipe import DataSpec, ModelSpec, Recipe
from tunewright.recipe.tables import TableSpec
from tunewright.runs.folder import RECIPE
from tunewright.runs.tables import as_spec
from tunewright.tasks import get_task
from tunewright.tasks._parts import FEATURES, PLAYING, TABULAR

ADAPTER = "adapter_config.json"
Kind = Literal["run", "adapter", "model"]


@dataclass(frozen=True)
class Asked:
    """A side as it is named. `base`: the model that an adapter goes on, where it names none that is here."""

    name: str
    kind: Kind
    base: str | None = None

    @property
    def recipe(self) -> Recipe | None:
        """A run's own recipe."""
        return Recipe.load(Path(self.name) / RECIPE) if self.kind == "run" else None


@dataclass
class Opened:
    """A side that is loaded, in evaluation mode, and how rows are encoded for it. `notes`: what to say of it."""

    asked: Asked
    task: Task
    loaded: Loaded
    adapted: Adapted
    options: EncodeOptions
    notes: list[str] = field(default_factory=list)
    packing: bool = True

    @cached_property
    def packed(self) -> bool:
        """Whether rows are read without padding, as a run would read them."""
        from tunewright.models.attention import prepare_attention

        return bool(self.packing and self.task.packs and prepare_attention(self.adapted.model))

    @property
    def model(self) -> Any:
        return self.adapted.outer

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer if self.loaded.tokenizer is not None else self.loaded.processor

    @property
    def identity(self) -> str:
        """The hash of the weights that it stands on."""
        return self.loaded.hash


def asked(name: str, base: str | None = None) -> Asked:
    """What a name stands for, by what lies in its folder. FolderError for a folder that is none of them."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if not folder.exists() and (name.startswith((".", "/", "~", "runs/")) or name.count("/") > 1):
            raise FolderError("no such folder", where=name, remedy="name a run's, an adapter's or a model's folder")
        return Asked(name, "model")
    if (folder / RECIPE).exists():
        return Asked(str(folder), "run")
    if (folder / ADAPTER).exists():
        return Asked(str(folder), "adapter", base or _base_of(folder))
    if (folder / "config.json").exists() or is_pipeline(folder) or any(folder.glob("*.gguf")):
        return Asked(str(folder), "model")
    raise FolderError(
        "this is no run, adapter or model",
        where=name,
        remedy=f"name a folder with {RECIPE}, {ADAPTER} or config.json in it",
    )


def _base_of(folder: Path) -> str:
    """The model that an adapter says it goes on, or that its run keeps; a relative path is seen from the adapter's
    folder, too.
    """
    if (own := own_base(folder)) is not None:
        return str(own)
    file = folder / ADAPTER
    try:
        named = json.loads(regular(file).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        named = None
    if not isinstance(named, str) or not named:
        raise ModelError("the adapter does not say what model it goes on", where=str(file), remedy="name it: --base")
    beside = folder / named
    return str(beside) if not Path(named).exists() and beside.is_dir() else named


def look(side: Asked) -> None:
    """Find what a side needs, its weights unread, so that a wrong name is known before the other side is measured.
    ModelError, FolderError.
    """
    if side.kind == "run":
        from tunewright.finished.finished import finished_folder

        finished_folder(side.name)
        return
    name = side.base if side.kind == "adapter" else side.name
    assert name is not None
    with _or_base(side):
        locate(name)


def refuse_other_task(side: Asked, task: Task) -> None:
    """RecipeError for a run of another task than the one that is measured."""
    if (recipe := side.recipe) is not None:
        _same(side, get_task(recipe.task, recipe.data.problem_type), task)


@contextmanager
def _or_base(side: Asked) -> Iterator[None]:
    """What cannot be found or loaded of an adapter's model says how to name another."""
    try:
        yield
    except (ModelError, MissingExtraError) as e:
        if side.kind == "adapter":
            e.remedy = f"{e.remedy}; or name the adapter's model: --base" if e.remedy else "name its model: --base"
        raise


def _same(side: Asked, own: Task, task: Task) -> None:
    """RecipeError for a run of another task than the one that is measured."""
    if own.called != task.called:
        raise RecipeError(
            f"this run does {own.called}, and the other side is measured on {task.called}",
            where=side.name,
            remedy="compare models of one task",
        )


def open_side(
    side: Asked, task: Task, data: DataSpec, labels: Sequence[str] | None, device: str, precision: str
) -> Opened:
    """Load a side for a task, its rows encoded as `data` says; a run is loaded where and as precisely as it trained,
    others on `device` in `precision`. ModelError, FolderError and CheckpointError as loading raises them; RecipeError
    for a run of another task.
    """
    if side.kind == "run":
        return _run(side, task, data)
    name = side.base if side.kind == "adapter" else side.name
    assert name is not None
    with _or_base(side):
        loaded = load(
            ModelSpec(name=name),
            task,
            labels=task.head_of(labels),
            device=device,
            precision=precision,
        )
    adapted = loaded.adapted()
    if side.kind == "adapter":
        from tunewright.training.carry import load_any_adapter

        load_any_adapter(adapted, Path(side.name))
    adapted.outer.eval()
    data = read_by(data, table_of(side, task))
    options = options_of(data, own_labels(task, loaded, labels), loaded)
    return Opened(side, task, loaded, adapted, options, loaded.notes, data.packing)


def _run(side: Asked, task: Task, data: DataSpec) -> Opened:
    from tunewright.finished.finished import open_run

    finished = open_run(side.name)
    _same(side, finished.task, task)
    labels = finished.recipe.data.labels if task.labelled else None
    data = read_by(data, finished.recipe.data.table)
    options = options_of(data, own_labels(task, finished.loaded, labels), finished.loaded)
    return Opened(side, task, finished.loaded, finished.adapted, replace(options), packing=data.packing)


def table_of(side: Asked, task: Task) -> TableSpec | None:
    """How a side reads tables, as its run or its folder says; None where neither does."""
    if (recipe := side.recipe) is not None:
        return recipe.data.table
    if task.name not in TABULAR:
        return None
    layout = layout_in(_folder(side), task.name)
    return None if layout is None else as_spec(layout)


def read_by(data: DataSpec, table: TableSpec | None) -> DataSpec:
    """How rows are encoded for a side that reads tables in a way of its own."""
    return data if table is None else data.model_copy(update={"table": table})


def own_labels(task: Task, loaded: Loaded, labels: Sequence[str] | None) -> Sequence[str] | None:
    """The labels in the order of the model's own head."""
    names = getattr(loaded.model.config, "id2label", None) if task.labelled else None
    return [names[i] for i in sorted(names)] if names else labels


def device_for(device: str) -> str:
    """Where to compute: "auto" takes a GPU that torch sees."""
    if device != "auto":
        return device
    return "cuda" if devices.sees("cuda") else "cpu"


def task_named(sides: Sequence[Asked], given: str | None) -> str:
    """The task of the sides: as it is given, as their runs say, or as their models' config.json names their class.

    RecipeError where none says it.
    """
    if given is not None:
        return given
    for side in sides:
        if (recipe := side.recipe) is not None:
            return recipe.task
    for side in sides:
        if found := _by_class(side):
            return found
    raise RecipeError(
        "what the models do is not to be seen here", where="--task", remedy="write --task text-generation, or another"
    )


def problem_named(sides: Sequence[Asked]) -> str | None:
    """The problem type of a classification, as the sides' runs say or their models' config.json; None: neither does."""
    for side in sides:
        if (recipe := side.recipe) is not None and recipe.data.problem_type is not None:
            return recipe.data.problem_type
    return next((str(p) for s in sides if (p := _config(s).get("problem_type")) is not None), None)


_BY_CLASS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForAudioClassification": "audio-classification",
    "ForImageClassification": "image-classification",
    "ForSemanticSegmentation": "image-segmentation",
    "ForObjectDetection": "object-detection",
    "ForMaskedLM": "fill-mask",
    "ForMultipleChoice": "multiple-choice",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "DecisionTransformerModel": PLAYING,
    "CLIPModel": "zero-shot-image-classification",
    "SiglipModel": "zero-shot-image-classification",
}


def _by_class(side: Asked) -> str | None:
    if (task := task_of(_folder(side)) or task_in(_folder(side))) is not None:
        return task
    if is_sentence_model(_folder(side)):
        return "sentence-similarity"
    config = _config(side)
    kinds = config.get("architectures") or []
    if "vision_config" in config and any(str(kind).endswith("ForConditionalGeneration") for kind in kinds):
        return "image-text-to-text"
    if named := next((t for kind in kinds for ending, t in _BY_CLASS.items() if str(kind).endswith(ending)), None):
        return named
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES

    return FEATURES if {*map(str, kinds)} & {*MODEL_FOR_IMAGE_MAPPING_NAMES.values()} else None


def _folder(side: Asked) -> Path:
    return Path(side.base if side.kind == "adapter" and side.base else side.name)


def _config(side: Asked) -> dict[str, Any]:
    """What a side's config.json says; nothing where there is none that can be read."""
    file = _folder(side) / "config.json"
    try:
        found = json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, DataError):
        return {}
    return found if isinstance(found, dict) else {}
