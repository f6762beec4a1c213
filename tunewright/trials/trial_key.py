"""The name of a trial: a hash of everything that decides its numbers, so that equal trials are run once.

It holds the recipe without its name, the weights and files of the models, the content of the data files, what the code
does that the run really uses (the modules that it imports, the task's and the named methods' with theirs, the tasks,
shapes and metrics of other packages; not how they are laid out, worded or where they lie: see `files.source`), with the
versions of the libraries below. Names of folders do not count.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import TunewrightError
from tunewright.files import hashing, source
from tunewright.files.home import expanded
from tunewright.files.stamp import stamp
from tunewright.machine import installed
from tunewright.recipe import ModelSpec, Recipe, Source
from tunewright.recipe.naming import PACK

_SHOWN = ("errors", "report", "catalogue", "recipe", "machine", "runs.progress", "runs.track", "runs.trackers")
"""Modules that decide no number: what they say of a recipe is in the key already, or it is only shown."""
_LIBRARIES = ("torch", "transformers", "tokenizers")


def key_of(recipe: Recipe) -> str:
    """40 hexadecimal digits. What cannot be found counts as its name, so that a broken recipe has a key too."""
    tree = recipe.model_dump(mode="json")
    for field in ("name", "made_with", "gate", "tasks"):  # what decides no number, or stands in the stages
        tree.pop(field, None)
    if recipe.sequence is None:
        del tree["sequence"]
    if not recipe.measurement.along:
        del tree["measurement"]["along"]
    tree["model"] = _model(recipe.model, recipe.base)
    tree["models"] = {role: _model(spec, recipe.base) for role, spec in recipe.models.items()}
    _data(tree["data"], recipe.data, recipe.base)
    if recipe.test_time is None:
        del tree["test_time"]
    elif recipe.test_time.data:
        tree["test_time"]["data"] = [_content(s, recipe.base) for s in recipe.test_time.data]
    for stage, spec in zip(tree["stages"], recipe.stages, strict=True):
        if spec.data is not None and stage.get("data"):
            _data(stage["data"], spec.data, recipe.base)
        if spec.start and spec.start != "base" and not spec.start.startswith("stages."):
            stage["start"] = _folder(_under(spec.start, recipe.base))
    tree["keep"] = [
        [
            name,
            k.metric,
            k.limit,
            _pack(k.data, recipe.base, k.limit)
            if k.data.startswith(PACK)
            else _content(Source(path=k.data, name="keep"), recipe.base),
        ]
        for k, name in zip(recipe.keep, recipe.kept_names(), strict=True)
    ]
    what = [
        tree,
        [method_source(use.name) for _, _, use in recipe.uses()],
        _code(recipe.task),
        [importlib.metadata.version(n) for n in _LIBRARIES],
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:40]


@functools.cache
def method_source(name: str) -> str:
    """A hash of what a method's file does and of what it imports beside what every run uses; its name where it has
    no file.

    Once a process, as `_code`: a process goes on with the code that it has loaded, whatever becomes of the files.
    """
    files = method_files(name)
    return source.plain_of(files) if files else name


def method_files(name: str) -> tuple[Path, ...]:
    """A method's file and those that it imports beside what every run uses; none where it has no file."""
    entry = catalogue.lookup(name)
    if entry is None or entry.file is None or not entry.file.is_file():
        return ()
    shared = set(core_files())
    return tuple(f for f in source.closure([entry.file], decides) if f not in shared or f == entry.file)


def decides(module: str) -> bool:
    """Whether a module of the package may decide a number."""
    return module != "tunewright" and not any(f"{module}.".startswith(f"tunewright.{m}.") for m in _SHOWN)


@functools.cache
def core_files() -> tuple[Path, ...]:
    """The package's files that every run uses, whatever its recipe names."""
    return source.closure([source.PACKAGE / "runs" / "run.py"], decides)


@functools.cache
def _code(task: str) -> str:
    own = source.PACKAGE / "tasks" / f"{task.replace('-', '_')}.py"
    code = source.plain_of({*core_files(), *source.closure([own, *installed.code()], decides)})
    source.keep()
    return code


def _digest(file: Path) -> str:
    return _digest_at(file, tuple(stamp(file)))


@functools.lru_cache(65536)
def _digest_at(file: Path, changed: tuple[Any, ...]) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _under(name: str, base: Path) -> Path:
    return base / expanded(name)


def _model(spec: ModelSpec, base: Path) -> Any:
    """Of a local or built-in model its weights and the files beside them; of a fresh one what decides it, beside the
    rows; of an address where it is; of anything else its name and revision.
    """
    from tunewright.loading.locate import locate

    if spec.fresh:
        named = [base / expanded(n) for n in (spec.config, spec.tokenizer) if isinstance(n, str)]
        files = [[_digest(p)] if p.is_file() else _folder(p) for p in named if p.exists()]
        return {"dtype": spec.dtype, "drawn": spec.drawn, "files": files}
    if spec.url is not None:
        return {"url": spec.url, "name": spec.name}
    rest = {"dtype": spec.dtype, "revision": spec.revision}
    place = _under(spec.name, base)
    try:
        folder = (
            place
            if place.is_dir()
            else locate(str(place) if place.exists() else spec.name, spec.revision, progress=False).folder
        )
        return {**rest, "weights": hashing.hash_weights(folder), "files": hashing.files_beside(folder)}
    except (TunewrightError, OSError):
        return {**rest, "name": spec.name}


def _folder(folder: Path) -> Any:
    if not folder.is_dir():
        return str(folder)
    return [
        (str(p.relative_to(folder)), _digest(p))
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".safetensors", ".json") and p.is_file()
    ]


def _data(tree: dict[str, Any], spec: Any, base: Path) -> None:
    """Sources by what they hold; what else the section says stays as it is."""
    for key in ("train", "eval", "validation"):
        sources = getattr(spec, key, None)
        if isinstance(sources, list):
            tree[key] = [_content(s, base) for s in sources]
    if spec.replay:
        tree["replay"] = [
            [share, _content(Source(path=name, name="replay"), base)] for name, share in spec.replay.items()
        ]


def _pack(data: str, base: Path, limit: int | None) -> Any:
    """A pack by what decides its figures."""
    from tunewright.measure.pack import load_pack

    try:
        return ["pack", load_pack(data, base, limit=limit).hash]
    except (TunewrightError, OSError):
        return data


def _content(source: Source, base: Path) -> Any:
    """A source's name (rows are called by it), how it is read, and its files' content; images that rows name count
    by theirs.
    """
    from tunewright.data.read import locate

    rest = source.model_dump(mode="json", exclude={"path", "name"})
    try:
        place = locate(source, base)
    except (TunewrightError, OSError):
        return [source.path, rest]
    made = [place.made.key] if place.made is not None else []
    shown = [place.media.key()] if place.media is not None else []
    return [place.name, rest, place.hub, [_digest(f) for f in (*place.files, *place.beside)], *made, *shown]
