"""The name of a trial: a hash of everything that decides its numbers, so that equal trials are run once.

It holds the recipe without its name, the weights and files of the models, the content of the data files, the source of
the methods that are named (with what they import from the methods' rooms), and of the modules that read, train and
measure, with the versions of the libraries below them. Names of folders do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewright import catalogue
from tunewright.errors import TunewrightError
from tunewright.files import hashing
from tunewright.recipe import ModelSpec, Recipe, Source

_PACKAGE = Path(__file__).parents[1]
_ROOMS = (
    *("tunewright.methods.", "tunewright.pieces."),
    *("tunewright.weights.", "tunewright.measure.", "tunewright.data.select."),
)
_READ_AND_MEASURE = ("data/*.py", "tasks/*.py", "measure/*.py", "runs/meter.py", "pieces/heads.py", "pieces/means.py")
_TRAIN = (
    *("contract/*.py", "training/*.py", "models/*.py", "weights/learning.py"),
    *("runs/stages.py", "runs/selecting.py", "runs/after.py", "runs/predicting.py", "runs/predictors.py"),
)
_LIBRARIES = ("torch", "transformers", "tokenizers")
_NOT_THE_MODEL = (".safetensors", ".md", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")


def key_of(recipe: Recipe) -> str:
    """40 hexadecimal digits. What cannot be found counts as its name, so that a broken recipe has a key too."""
    tree = recipe.model_dump(mode="json")
    for field in ("name", "made_with"):
        tree.pop(field, None)
    tree["model"] = _model(recipe.model, recipe.base)
    tree["models"] = {role: _model(spec, recipe.base) for role, spec in recipe.models.items()}
    _data(tree["data"], recipe.data, recipe.base)
    for stage, spec in zip(tree["stages"], recipe.stages, strict=True):
        if spec.data is not None and stage.get("data"):
            _data(stage["data"], spec.data, recipe.base)
        if spec.start and spec.start != "base" and not spec.start.startswith("stages."):
            stage["start"] = _folder(_under(spec.start, recipe.base))
    tree["keep"] = [
        [
            k.name or Path(k.data.split(":")[-1]).stem,
            k.metric,
            k.limit,
            _content(Source(path=k.data, name="keep"), recipe.base),
        ]
        for k in recipe.keep
    ]
    what = [
        tree,
        [method_source(use.name) for _, _, use in recipe.uses()],
        _code(),
        [importlib.metadata.version(n) for n in _LIBRARIES],
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:40]


@functools.cache
def method_source(name: str) -> str:
    """A hash of a method's file and of what it imports from the methods' rooms; its name where it has no file.

    Once a process, as `_code`: a process goes on with the code that it has loaded, whatever becomes of the files.
    """
    entry = catalogue.lookup(name)
    if entry is None or entry.file is None or not entry.file.is_file():
        return name
    return _hash_files(closure(entry.file))


def closure(file: Path) -> tuple[Path, ...]:
    """A file and the files of the methods' rooms that it imports, and so on, sorted."""
    found: set[Path] = set()
    queue = [file]
    while queue:
        here = queue.pop()
        if here in found or not here.is_file():
            continue
        found.add(here)
        queue += [
            _PACKAGE.parent / (m.replace(".", "/") + ".py")
            for m in _imports(here, here.stat().st_mtime_ns)
            if m.startswith(_ROOMS)
        ]
    return tuple(sorted(found))


@functools.lru_cache(2048)
def _imports(file: Path, changed: int) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return tuple(names)


def code_files() -> tuple[Path, ...]:
    """The package's own files that read, train and measure, whatever a recipe names."""
    return tuple(p for pattern in (*_READ_AND_MEASURE, *_TRAIN) for p in sorted(_PACKAGE.glob(pattern)))


@functools.cache
def _code() -> str:
    return _hash_files(code_files())


def _hash_files(files: Iterable[Path]) -> str:
    h = hashlib.sha256()
    for file in files:
        name = str(file.relative_to(_PACKAGE)) if _PACKAGE in file.parents else file.name
        h.update(f"{name}\0{_digest(file)}\0".encode())
    return h.hexdigest()


def _digest(file: Path) -> str:
    stat = file.stat()
    return _digest_at(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(65536)
def _digest_at(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _under(name: str, base: Path) -> Path:
    return (base / name).expanduser()


def _model(spec: ModelSpec, base: Path) -> Any:
    """Of a local or built-in model its weights and the files beside them; of anything else its name and revision."""
    from tunewright.loading.locate import locate

    rest = {"dtype": spec.dtype, "revision": spec.revision}
    place = _under(spec.name, base)
    try:
        folder = (
            place
            if place.is_dir()
            else locate(str(place) if place.exists() else spec.name, spec.revision, progress=False).folder
        )
        return {**rest, "weights": hashing.hash_weights(folder), "files": _beside(folder)}
    except (TunewrightError, OSError):
        return {**rest, "name": spec.name}


def _beside(folder: Path) -> list[tuple[str, str]]:
    found = sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix not in _NOT_THE_MODEL and not p.name.startswith(".")
    )
    return [(p.name, _digest(p)) for p in found if p.name != "model.safetensors.index.json"]


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
        found = getattr(spec, key, None)
        if isinstance(found, list):
            tree[key] = [_content(s, base) for s in found]
    if spec.replay:
        tree["replay"] = [
            [share, _content(Source(path=name, name="replay"), base)] for name, share in spec.replay.items()
        ]


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
    return [place.name, rest, place.hub, [_digest(f) for f in place.files]]
