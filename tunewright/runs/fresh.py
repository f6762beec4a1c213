"""The model that a recipe begins with, where it may be a fresh one: made of its config, and of its rows' tokenizer.

A run keeps its fresh model as a whole folder, `base/`; whatever else asks (check, plan, trials) finds it in the cache,
by the content of all that decides it, or makes it again. A check makes no weights.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunewright.contract.records import lone_surrogate
from tunewright.contract.task import Task
from tunewright.data.labels import labels_of
from tunewright.data.read import read_lazily
from tunewright.errors import FolderError
from tunewright.files.cache import cache_folder, passing_folder, write_json, written_aside
from tunewright.loading.fresh import reads_text, write_reader, write_weights
from tunewright.loading.load import Loaded, load
from tunewright.loading.locate import DRAWN, drawn_as
from tunewright.loading.new_tokenizer import train_tokenizer
from tunewright.recipe import ModelSpec, Recipe, Source
from tunewright.recipe.models import located
from tunewright.runs.divided import divider
from tunewright.runs.folder import BASE
from tunewright.runs.sources import task_for

_NO_TEXT = ("role", "id", "name")
"""Columns and parts of turns whose words no model is asked to write."""


def model_of(recipe: Recipe, *, weights: bool = True) -> ModelSpec:
    """The recipe's model as one that is there: a fresh one is made, the first time, and named by its folder.

    Without `weights` none are drawn, but where a stage starts from a folder: what was trained on them is known by them.
    """
    if not recipe.model.fresh:
        return located(recipe.model, recipe.base)
    weights = weights or any(s.start and s.start != "base" and not s.start.startswith("stages.") for s in recipe.stages)
    own = recipe.base / BASE
    folder = own if _is_own(own, recipe) else _cached(recipe, weights)
    return ModelSpec(name=str(folder), dtype=recipe.model.dtype)


def load_model(
    recipe: Recipe, task: Task, labels: Sequence[str] | None, device: str, precision: str, weights: bool = True
) -> Loaded:
    """The recipe's model, loaded, under the name that the recipe gives it. Raises what `loading.load.load` raises."""
    loaded = load(
        model_of(recipe, weights=weights),
        task,
        labels=labels,
        device=device,
        precision=precision,
        weights=weights,
        streams=recipe.train.offload_param == "disk",
        divide=divider(recipe),
    )
    if recipe.model.fresh:
        loaded.name = recipe.model.name
    return loaded


def settle(recipe: Recipe, run: Path) -> None:
    """Keep a run's fresh model in its folder, whole; one that is there stays."""
    if not recipe.model.fresh or _is_own(run / BASE, recipe):
        return
    with written_aside(run / BASE, replace=True) as aside:
        _make(recipe, aside, weights=True)


def texts_of(sources: Sequence[Source], base: Path) -> Iterator[str]:
    """Every text of the rows that can be read, in order."""
    for source in sources:
        for record in read_lazily(source, base).records:
            yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if lone_surrogate(value) is None:  # such a row is refused where it is encoded
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NO_TEXT:
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _learnt_from(recipe: Recipe) -> list[Source]:
    """The sources of training rows, those of every stage, each once."""
    own = [s for stage in recipe.stages if stage.data is not None and stage.data.train for s in stage.data.train]
    unique = {s.model_dump_json(exclude={"weight"}): s for s in [*recipe.data.train, *own]}
    return list(unique.values())


def _decides(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.model.drawn, "task": recipe.task}


def _is_own(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder beside the recipe is the fresh model that a run of it began with."""
    said = drawn_as(folder)
    return said is not None and {k: v for k, v in said.items() if k != "notes"} == _decides(recipe)


def _make(recipe: Recipe, folder: Path, weights: bool) -> None:
    task = task_for(recipe)
    notes = write_reader(folder, recipe.model, recipe.base, task, _labels(recipe, task), _tokenizing(recipe))
    if weights:
        write_weights(folder, task, recipe.model.drawn["seed"])
    write_json(folder / DRAWN, {"drawn": {**_decides(recipe), "notes": notes}})


def _labels(recipe: Recipe, task: Task) -> Sequence[str] | None:
    if not task.labelled:
        return None
    return recipe.data.labels or labels_of([*recipe.data.train, *(recipe.data.eval or [])], recipe.base, task)


def _cached(recipe: Recipe, weights: bool) -> Path:
    """A fresh model's folder in the cache, made where it is not there."""
    h = hashlib.sha256()
    versions = [importlib.metadata.version(n) for n in ("torch", "transformers", "tokenizers")]
    said = [_decides(recipe), list(_labels(recipe, task_for(recipe)) or ()), versions, _code(), weights]
    h.update(json.dumps(said, sort_keys=True, default=str).encode())
    for name in (recipe.model.config, recipe.model.tokenizer):
        h.update(_content(recipe.base / name if isinstance(name, str) else None).encode())
    if reads_text(task_for(recipe)):
        h.update(_hash(texts_of(_learnt_from(recipe), recipe.base)).encode())

    def make(folder: Path) -> None:
        _make(recipe, folder, weights)

    return _kept(cache_folder() / "fresh" / h.hexdigest()[:40], make)


def _tokenizing(recipe: Recipe) -> Callable[[int, bool], Any]:
    """Training a tokenizer on the recipe's rows, once for the same texts: the cache keeps it."""

    def tokenizer(size: int, masks: bool) -> Any:
        import transformers

        sources = _learnt_from(recipe)
        said = [size, masks, importlib.metadata.version("tokenizers"), _code(), _hash(texts_of(sources, recipe.base))]
        name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:40]

        def make(folder: Path) -> None:
            train_tokenizer(texts_of(sources, recipe.base), size, masks=masks).save_pretrained(folder)

        folder = _kept(cache_folder() / "tokenizers" / name, make)
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)

    return tokenizer


def _kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made whole where it is not there; in one that goes where the cache cannot be written."""
    if folder.is_dir():
        return folder
    try:
        with written_aside(folder, keep=True) as aside:
            make(aside)
    except FolderError:
        if folder.is_dir():  # of another process, in the last moment
            return folder
        folder = passing_folder("fresh")
        make(folder)
    return folder


def _hash(texts: Iterator[str]) -> str:
    h = hashlib.sha256()
    for text in texts:
        h.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return h.hexdigest()


def _content(path: Path | None) -> str:
    """A hash of a file, or of the files in a folder; "" of what is named otherwise."""
    if path is None or not path.exists():
        return ""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in (".json", ".txt", ".model"))
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()


def _code() -> str:
    """A hash of the code that makes fresh models, so that one of an older version is not taken for today's."""
    loading = Path(__file__).parents[1] / "loading"
    files = (loading / "fresh.py", loading / "new_tokenizer.py")
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
