"""How a recipe file becomes a Recipe: overrides, paths, and names that are checked against what is there."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewright import catalogue
from tunewright.data import shapes
from tunewright.errors import RecipeError, did_you_mean
from tunewright.files.home import expanded
from tunewright.files.regular import regular
from tunewright.recipe import sequence, yaml_text
from tunewright.recipe.explain import as_written, explain
from tunewright.recipe.lowering import lower
from tunewright.recipe.models import TRAIN
from tunewright.recipe.naming import PACK, kept_names, pack_folder
from tunewright.recipe.overrides import override, rename_old_keys

_AFTER = ("weights/", "methods/decoding")
_ADAPT = ("methods/test_time",)
ROOMS = {
    "after": _AFTER,
    "method": ("methods/",),
    "optimizer": ("methods/",),
    "synthesize": ("data/synthesize", "methods/reinforcement"),
    "select": ("data/select",),
    "probe": ("measure",),
    "adapt": _ADAPT,
}
_LINES = {
    "method": "methods: [{0}]",
    "after": "after: [{0}]",
    "synthesize": "data: {{synthesize: [{0}]}}",
    "select": "data: {{select: [{0}]}}",
    "probe": "probes: [{0}]",
    "adapt": "test_time: [{0}]",
}
BUILT_IN_OPTIMIZERS = ("adamw", "sgd")


def goes_under(kind: str, room: str) -> bool:
    """Whether what lives in a room may be named at a kind of place ("method", "after", "select" ...)."""
    return room.startswith(ROOMS[kind]) and (kind in ("after", "adapt") or not room.startswith((*_AFTER, *_ADAPT)))


def packaged() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = importlib.resources.files("tunewright") / "recipes"
    return (
        sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
        if folder.is_dir()
        else []
    )


def locate(name: str | Path) -> Path:
    """A recipe's file: a path, or the name of one that ships with the package. RecipeError when there is none."""
    path = Path(name)
    if path.is_dir():
        if (path / "recipe.yaml").is_file():
            return path / "recipe.yaml"
        raise RecipeError("a folder, not a recipe", where=str(name), remedy="name the recipe's file")
    if path.exists():
        return path
    if str(name) in packaged():
        return Path(str(importlib.resources.files("tunewright") / "recipes" / f"{name}.yaml"))
    if path.suffix not in (".yaml", ".yml") and path.parent == Path("."):
        raise RecipeError(
            f"no recipe '{name}'",
            remedy=did_you_mean(str(name), packaged()) + " Or name a file: tunewright run my.yaml",
        )
    raise missing(name)


def _text(path: Path) -> str:
    try:
        raw = regular(path).read_bytes()
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="name a recipe's file that may be read"
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecipeError("not UTF-8 text", where=f"{path}:{line}", remedy="save the recipe as UTF-8") from None


def missing(where: str | Path) -> RecipeError:
    """The error for a recipe that is not there, with what could have been meant."""
    path = Path(where)
    folder = path.parent if path.parent.is_dir() else Path(".")
    near = sorted(p.name for p in folder.glob("*.y*ml"))
    remedy = (
        did_you_mean(path.name, near)
        if near
        else "write `tunewright init MODEL DATA` for an example, or `tunewright run quickstart`"
    )
    return RecipeError("no such recipe", where=str(where), remedy=remedy)


def opened(path: str | Path, sets: Sequence[str] = ()) -> tuple[yaml_text.Document, Path, list[str]]:
    """A recipe's file with overrides as a document that has a name, the file, and what to tell its reader."""
    file = locate(path)
    document = yaml_text.read(_text(file), str(path) if file == Path(path) else file.name)
    if document.tree is None:
        raise RecipeError(
            "the recipe is empty",
            where=str(path),
            remedy="it needs at least model, task, data and methods; `tunewright init` writes an example",
        )
    if not isinstance(document.tree, dict):
        raise RecipeError(
            "a recipe is a mapping (key: value)", where=document.place(()), remedy="begin with model: NAME"
        )
    notes = rename_old_keys(document)
    for text in sets:
        override(document, text)
    document.tree.setdefault("name", _run_name(file))
    return document, file, notes


def load(kind: type[Any], path: str | Path, sets: Sequence[str] = (), out: str | Path | None = None) -> Any:
    """See `Recipe.load`; `kind` is that class."""
    document, file, notes = opened(path, sets)
    lower(document, file.resolve().parent)
    sequence.expand(document)
    recipe = parse(kind, document)
    recipe._notes = notes
    recipe._base = file.resolve().parent
    recipe._out = Path(out) if out is not None else None
    return recipe


def parse(kind: type[Any], document: yaml_text.Document) -> Any:
    """Validate a document and the names in it."""
    if isinstance(document.tree, dict) and "adapters" in document.tree:
        raise RecipeError(
            "this recipe lists several adapters, and one run is asked for here",
            where=document.place(("adapters",)),
            remedy="`tunewright run`, `check`, `plan` and `resume` take it whole (in Python: tunewright.run_adapters); "
            "for anything else write a recipe for each adapter",
        )
    try:
        recipe = kind(**document.tree)
    except RecipeError as error:
        if isinstance(error.__cause__, ValidationError):
            raise explain(error.__cause__, document, kind) from None
        raise
    for place, _kind, use in recipe.uses():
        use._place = document.place(as_written(place, document))
    check_names(recipe, document)
    return recipe


def _run_name(file: Path) -> str:
    stem = file.resolve().parent.name if file.name == "recipe.yaml" else file.stem
    kept = "".join(c if c.isalnum() and c.isascii() or c in "._-" else "-" for c in stem).strip("._-")
    return kept or "run"


def check_names(recipe: Any, document: yaml_text.Document | None = None) -> None:
    """RecipeError for a task or method that is not there, one in the wrong place, or one named twice."""
    where = document.place if document is not None else lambda path: ".".join(map(str, path))
    tasks = catalogue.tasks()
    if recipe.task not in tasks:
        raise RecipeError(f"no task '{recipe.task}'", where=where(("task",)), remedy=did_you_mean(recipe.task, tasks))
    for path, kind, use in recipe.uses():
        shown = document.place(as_written(path, document)) if document is not None else where(path)
        if kind == "optimizer" and use.name in BUILT_IN_OPTIMIZERS:
            if use.params:
                raise RecipeError(
                    f"{use.name} takes its parameters from train",
                    where=shown,
                    remedy="write them as train.betas, train.eps, train.momentum, train.weight_decay",
                )
            continue
        _check_use(kind, use.name, shown)
    _check_formats(recipe, where if document is None else lambda path: document.place(as_written(path, document)))
    for i, stage in enumerate(recipe.stages):
        names = [catalogue.canonical(u.name) for u in stage.methods]
        for j, name in enumerate(names):
            if name in names[:j]:
                raise RecipeError(
                    f"'{name}' is named twice in stage '{stage.name}'",
                    where=stage.methods[j].place or f"stages.{i}.methods.{j}",
                    remedy="keep one of the two, or use two stages",
                )


def _check_formats(recipe: Any, where: Callable[[tuple[str | int, ...]], str]) -> None:
    """RecipeError for a source's row shape that there is not: said here once, where each of its rows would say it."""
    parts: list[tuple[tuple[str | int, ...], Any]] = [(("data",), recipe.data)]
    parts += [(("stages", i, "data"), stage.data) for i, stage in enumerate(recipe.stages) if stage.data]
    for path, data in parts:
        for key in ("train", "eval", "validation"):
            sources = getattr(data, key)
            for j, source in enumerate(sources if isinstance(sources, list) else ()):
                if source.format is not None and not shapes.is_format(source.format):
                    raise RecipeError(
                        f"no row shape is called '{source.format}'",
                        where=where((*path, key, j, "format")),
                        remedy=did_you_mean(source.format, shapes.shape_names()),
                    )


def _check_use(kind: str, name: str, where: str) -> None:
    entry = catalogue.lookup(name)
    here = [n for n, e in catalogue.entries().items() if e.room == catalogue.THIRD_PARTY or goes_under(kind, e.room)]
    if entry is None:
        known = [*here, *BUILT_IN_OPTIMIZERS] if kind == "optimizer" else here
        near = did_you_mean(name, known)
        remedy = near if near.startswith("did") else f"`tunewright methods` lists them; {near}"
        raise RecipeError(f"no {'method' if kind == 'method' else kind} is named '{name}'", where=where, remedy=remedy)
    if entry.name in here:
        return
    belongs = next((k for k in ROOMS if goes_under(k, entry.room)), None)
    remedy = f"write {_LINES[belongs].format(name)}" if belongs in _LINES else f"it lives in {entry.room}"
    raise RecipeError(f"'{name}' does not go here: it is of {entry.room}", where=where, remedy=remedy)


def absolute_paths(tree: dict[str, Any], base: Path) -> None:
    """Write local paths in a dumped tree from the root, in place: those that exist under `base`, begin with a dot or
    end as data files do."""
    from tunewright.data.files import kind_of

    def path(text: Any) -> Any:
        if not isinstance(text, str) or not text or "://" in text:  # an address is the same from anywhere
            return text
        local = text.startswith(("./", "../")) or kind_of(Path(text)) or (base / text).exists()
        return str((base / text).resolve()) if local else text

    def dotted(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: dotted(v) for k, v in value.items()}
        if isinstance(value, list):
            return [dotted(v) for v in value]
        return path(value) if isinstance(value, str) and value.startswith(("./", "../")) else value

    def sources(data: dict[str, Any] | None) -> None:
        for key in ("train", "eval", "validation", "data"):
            for source in (data or {}).get(key) or [] if isinstance((data or {}).get(key), list) else []:
                source["name"] = source.get("name") or source["path"]  # rows keep their ids in the run's own copy
                source["path"] = path(source["path"])

    def replayed(data: dict[str, Any] | None) -> None:
        if data and data.get("replay"):
            data["replay"] = {path(name): share for name, share in data["replay"].items()}

    sources(tree["data"])
    sources(tree.get("test_time"))
    replayed(tree["data"])
    for spec in (tree["model"], *tree["models"].values()):
        fresh = spec.get("config") is not None
        there = [] if spec.get("url") is not None else ["name"]  # an address's model is no file
        local = [k for k in ("config", "tokenizer") if spec.get(k) != TRAIN] if fresh else there
        spec |= {key: path(spec[key]) for key in local if key in spec}
    for keep, name in zip(tree["keep"], kept_names([(k.get("name"), k["data"]) for k in tree["keep"]]), strict=True):
        keep["name"] = name
        if not keep["data"].startswith(PACK):
            keep["data"] = path(keep["data"])
        elif (folder := pack_folder(keep["data"])) is not None:
            keep["data"] = f"{PACK}{(base / expanded(folder)).resolve()}"
    for stage in tree["stages"]:
        sources(stage.get("data"))
        replayed(stage.get("data"))
        stage["start"] = (
            stage["start"] if stage["start"] == "base" or stage["start"].startswith("stages.") else path(stage["start"])
        )
        stage["methods"] = dotted(stage["methods"])
    tree["after"] = dotted(tree["after"])
    for use in tree["after"]:
        for params in use.values() if isinstance(use, dict) else ():
            if isinstance(params, dict) and isinstance(params.get("of"), list):
                params["of"] = [of if str(of).startswith("stages.") else path(of) for of in params["of"]]
