"""What a run began with: its resolved recipe and the content of all that this names, kept beside the run.

A run that was stopped goes on under the same recipe with the same weights, rows and texts, or not at all: were one of
them another, the report would say of the whole what is true of a part. Names of files do not count, their content does:
a data folder may be moved, and the recipe's paths edited after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import CheckpointError
from tunewright.files import checkpoint, hashing
from tunewright.files.regular import regular
from tunewright.recipe import yaml_text
from tunewright.recipe.models import located
from tunewright.runs.folder import BEGUN, RECIPE, RunFolder
from tunewright.runs.judges import is_run
from tunewright.runs.session import Session
from tunewright.training import carry

SHOWN = 5
"""Changes that an error names; it counts the others."""


def note(folder: RunFolder, session: Session) -> None:
    """Write down what the run's resolved recipe says and what it names. FolderError where that cannot be written."""
    began = {"recipe": _said(folder), "content": content_of(session), "surroundings": surroundings(session)}
    checkpoint.write_json(folder.file(BEGUN), began)


def check_recipe(folder: RunFolder) -> None:
    """CheckpointError where the recipe says something else than the run began with. Loads nothing."""
    began = _read(folder)
    if began is not None:
        then, now = dict(_leaves(began["recipe"])), dict(_leaves(_said(folder)))
        # what becomes of bad rows decides nothing of those before the first, nor who holds which weights anything
        differing = [n for n in _differing(then, now) if n[-1] not in ("bad_rows", "fsdp")]
        told = [f"{'.'.join(n)}: {_value(now, n)} (was {_value(then, n)})" for n in differing]
        old, new = (_tasks(tree) for tree in (began["recipe"], _said(folder)))
        if old != new and sorted(old) == sorted(new):
            told = [f"the order of the tasks: {', '.join(new)} (was {', '.join(old)})"]
        _refuse(folder, "recipe.yaml was changed since the run began", told, "put the old values back")


def _tasks(tree: Mapping[str, Any]) -> list[str]:
    """Names of a recipe's stages, in their order."""
    return [str(s.get("name")) for s in tree.get("stages") or () if isinstance(s, dict)]


def check_content(folder: RunFolder, session: Session) -> None:
    """CheckpointError where weights, rows, texts or files that the recipe names are others by now."""
    began = _read(folder)
    if began is not None:
        told = _differing(began["content"], content_of(session))
        what = "what the recipe names is not what the run began with"
        _refuse(folder, what, told, "put the old files back")


def surroundings(session: Session) -> dict[str, str]:
    """What equal bits are promised within: the libraries, what computes, and with how many threads."""
    import torch

    from tunewright.runs.provenance import parts_of
    from tunewright.runs.results import processor, versions

    computes = {"device": session.device, "processor": processor(session.device)}
    return {**versions(), **parts_of(session), **computes, "threads": str(torch.get_num_threads())}


def elsewhere(folder: RunFolder, session: Session) -> str | None:
    """A sentence for the report where a run goes on in other surroundings than it began in; None where in the same."""
    began = _read(folder) or {}
    then, now = began.get("surroundings") or {}, surroundings(session)
    told = [f"{n} {now.get(n, 'none')}, begun with {then[n]}" for n in then if then[n] != now.get(n)]
    return (
        f"the run went on in other surroundings ({'; '.join(told)}): another run of its recipe need not give these bits"
        if told
        else None
    )


def _said(folder: RunFolder) -> dict[str, Any]:
    """The recipe's own text as a tree; replayed files stand in it by their order, since their places may change."""
    file = folder.file(RECIPE)
    try:
        text = regular(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"the run's recipe cannot be read: {e}", where=str(file), remedy="put the file back"
        ) from e
    tree: dict[str, Any] = yaml_text.read(text, str(file)).tree
    for owner in (tree, *(s for s in tree.get("stages", ()) if isinstance(s, dict))):
        data = owner.get("data")
        if isinstance(data, dict) and isinstance(data.get("replay"), dict):
            data["replay"] = [[name, share] for name, share in data["replay"].items()]
    return tree


def content_of(session: Session) -> dict[str, str]:
    """A hash of everything that the recipe names, by what it is."""
    recipe = session.recipe
    content = {"the model's weights": session.loaded.hash}
    if session.loaded.folder is not None:
        content |= {f"the model's {n}": h for n, h in hashing.files_beside(session.loaded.folder)}
    for role, spec in recipe.models.items():
        place = Path(located(spec, recipe.base).name)
        if is_run(place):
            content[f"the run of models.{role}"] = _folder(carry.result_of(place, f"models.{role}")[1])
        elif place.is_dir():
            content[f"the weights of models.{role}"] = hashing.hash_weights(place)
            content |= {f"{n} of models.{role}": h for n, h in hashing.files_beside(place)}
    for part in session.stages:
        where = f"stages.{part.spec.name}"
        content[f"the rows of {where}"] = part.rows.hash
        content |= {f"the replayed rows {i} of {where}": d.hash for i, (d, _) in enumerate(part.replay.values(), 1)}
        start = part.spec.start or "base"
        if start != "base" and not start.startswith("stages."):
            content[f"the start of {where}"] = _folder(carry.result_of(Path(start), f"{where}.start")[1])
    for role, dataset in (("eval", session.eval), ("validation", session.validation), ("test-time", session.stream)):
        if dataset is not None:
            content[f"the {role} rows"] = dataset.hash
    content |= {f"the kept text {name}": d.hash for name, d in session.keep.items()}
    content |= {f"the pack {name}": asked.pack.hash for name, asked in session.packs.items()}
    for kind, use in ((kind, use) for _, kind, use in recipe.uses()):
        for text in _texts(use.params):
            place = Path(text)
            if place.is_absolute() and place.exists():
                content[f"{place.name} of the {kind} {use.name}"] = _folder(place)
    return content


def _folder(place: Path) -> str:
    """A hash of a file, or of a folder's files by name; a finished stage is known by its manifest."""
    if place.is_file():
        return checkpoint.sha256_of(place)
    known = place / checkpoint.MANIFEST
    files = [known] if known.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    named = [(p.relative_to(place).as_posix(), checkpoint.sha256_of(p)) for p in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _read(folder: RunFolder) -> dict[str, Any] | None:
    """What was noted; None of a run that has not begun, or was begun by a version that noted nothing."""
    try:
        began: dict[str, Any] = json.loads(regular(folder.file(BEGUN)).read_text(encoding="utf-8"))
        return {**began, "recipe": dict(began["recipe"]), "content": dict(began["content"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(
            f"what the run began with cannot be read: {e}", where=str(folder.file(BEGUN)), remedy="begin a new run"
        ) from e


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a tree with its path."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value


def _differing(then: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    """Keys whose values differ; two places on this machine do not: what lies there is compared by its content."""
    return [
        n
        for n in {**then, **now}
        if (n in then) != (n in now) or then[n] != now[n] and not (_is_place(then[n]) and _is_place(now[n]))
    ]


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and "\n" not in value and Path(value).is_absolute()


def _value(leaves: Mapping[Any, Any], name: Any) -> str:
    return yaml_text.write([leaves[name]]).removeprefix("- ").strip() if name in leaves else "not there"


def _refuse(folder: RunFolder, what: str, told: list[str], remedy: str) -> None:
    if told:
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise CheckpointError(
            f"{what}: {'; '.join(told[:SHOWN])}{more}",
            where=str(folder.path),
            remedy=f"{remedy}, or begin a new run with `tunewright run {folder.file(RECIPE)}`",
        )
