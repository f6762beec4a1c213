"""From what a recipe names as its model to a local transformers folder: built-in, hub, folder or GGUF file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import MissingExtraError, ModelError, nearest
from tunewright.files import cache
from tunewright.files.hashing import PIPELINE
from tunewright.files.home import expanded
from tunewright.files.regular import is_special, regular
from tunewright.loading import builtin

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
DRAWN = "tunewright.json"
"""The file that says of a folder what it was made from; it decides no number (`files.hashing`)."""
FRESH_NOTE = (
    "the base is a fresh model: gains, losses and drift are counted from random weights, which were drawn by seed"
)
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]


@dataclass
class Located:
    """A model's folder on this machine, what a report prints as its origin, its licence, and what the user should
    know.
    """

    folder: Path
    source: str
    licence: str | None
    notes: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    rope: Any = None  # a recipe's scaling of positions, which the config gets as it is read


def locate(
    name: str, revision: str | None = None, *, progress: bool = True, patterns: Sequence[str] | None = None
) -> Located:
    """Find (and where needed fetch or convert) a model. `patterns`: the files of a hub's repository that are fetched,
    where it is no transformers folder. Errors name what is wrong and what to write instead.
    """
    path = expanded(name)
    if name in (own := builtin.shipped()):
        _no_revision(name, revision, "a shipped model")
        return Located(own[name], f"shipped with tunewright: {name}", licence_of(own[name]))
    if name in builtin.TABLE:
        _no_revision(name, revision, "a built-in model")
        model = builtin.find(name)
        return Located(builtin.ensure(name, progress=progress), model.source, model.licence)
    if name.endswith(".gguf"):
        _no_revision(name, revision, "a file")
        return _gguf(path)
    if path.is_dir():
        _no_revision(name, revision, "a folder")
        check_folder(path)
        drawn = drawn_as(path)
        if drawn is not None:
            notes = [f"{FRESH_NOTE} {drawn['seed']}", *drawn.get("notes", ())]
            return Located(path, f"drawn from a config, seed {drawn['seed']}", None, notes)
        return Located(path, f"folder {path}", licence_of(path))
    if path.is_file():
        raise ModelError(
            "a model is a folder, a hub id, a built-in name or a .gguf file, not this file",
            where=name,
            remedy="give the folder with config.json",
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not HUB_ID.fullmatch(name):
        raise ModelError("there is no such model folder", where=name, remedy=_beside(path))
    if "/" not in name and (near := nearest(name, [*builtin.TABLE, *own], n=1)):
        raise ModelError(
            f"no model '{name}'",
            remedy=f"did you mean the built-in '{near[0]}'? A hub id has the form owner/name, a folder ./name",
        )
    return _hub(name, revision, patterns)


def drawn_as(folder: Path) -> dict[str, Any] | None:
    """What a fresh model's folder was drawn from: config, tokenizer, vocab_size, seed, task, notes. None of others."""
    try:
        said = json.loads(regular(folder / DRAWN).read_text(encoding="utf-8"))
        return dict(said["drawn"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def own_base(folder: Path) -> Path | None:
    """The fresh model that a run keeps, of the run's folder or of one in it; None where it keeps none.

    What the run wrote names it by where it was then, which a folder that is moved or copied leaves behind.
    """
    for run in (folder, folder.resolve().parent):
        if (run / "recipe.yaml").is_file() and drawn_as(run / "base") is not None:
            return run / "base"
    return None


def _no_revision(name: str, revision: str | None, what: str) -> None:
    if revision is not None:
        raise ModelError(
            f"'revision' is for hub ids, and this is {what}", where=f"model {name}", remedy="remove revision"
        )


def _beside(path: Path) -> str:
    parent = path.parent
    folders = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    near = nearest(path.name, folders)
    if near:
        return "near: " + ", ".join(str(parent / n) for n in near)
    own = ", ".join([*builtin.TABLE, *builtin.shipped()])
    return f"give an existing folder, a hub id (owner/name) or one of: {own}"


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a model, saying what it is. ModelError."""
    for pattern in PATTERNS:
        for path in folder.glob(pattern):  # a library would wait for a pipe without end
            if is_special(path) or path.is_dir():
                kind = "a folder" if path.is_dir() else "a pipe or a device"
                raise ModelError(
                    f"{kind}, where a model has a file", where=str(path), remedy="download the model again"
                )
    if (folder / "config.json").exists() or (folder / PIPELINE).exists():
        return
    if (folder / "adapter_config.json").exists():
        base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "its base"
        remedy = f"write model: {base} and let the stage start from it (start: {folder})"
        raise ModelError(f"this is a PEFT adapter for {base}, not a model", where=str(folder), remedy=remedy)
    if (folder / "recipe.yaml").exists():
        raise ModelError(
            "this is a run's folder, not a model",
            where=str(folder),
            remedy=f"write its model with: tunewright export {folder}",
        )
    ggufs = sorted(folder.glob("*.gguf"))
    remedy = f"write model: {ggufs[0]}" if ggufs else "give a folder with config.json, a tokenizer and *.safetensors"
    raise ModelError("there is no config.json in this folder", where=str(folder), remedy=remedy)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(f"not readable as JSON: {e}", where=str(path), remedy="download the model again") from e
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(path), remedy="download the model again")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as written. ModelError when it is not JSON."""
    return _read_json(folder / "config.json")


def licence_of(folder: Path) -> str | None:
    """The `license` of the model card's YAML header, if there is one."""
    import yaml

    try:
        text = regular(folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    header = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        values = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError:
        return None
    licence = values.get("license") if isinstance(values, dict) else None
    return str(licence) if licence else None


def _hub(name: str, revision: str | None, patterns: Sequence[str] | None = None) -> Located:
    """A hub repository's snapshot: safetensors, config, tokenizer; from the local cache when the hub is out of
    reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model {name}" + (f"@{revision}" if revision else "")
    # without this question the library asks six times, for 25 seconds, before it looks into its cache
    reached = _reachable()
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns or PATTERNS),
                ignore_patterns=["*/*"] if patterns is None else None,
                local_files_only=not reached,
            )
        )
    except GatedRepoError as e:
        raise ModelError(
            "this model asks for a login",
            where=where,
            remedy=f"accept its terms at https://huggingface.co/{name}, then: hf auth login",
        ) from e
    except RevisionNotFoundError as e:
        raise ModelError(
            "the hub's repository has no such revision", where=where, remedy="give a branch, tag or commit of it"
        ) from e
    except RepositoryNotFoundError as e:
        raise ModelError(
            "the hub has no such model (or it is private)",
            where=where,
            remedy="check owner/name; for a private model: hf auth login",
        ) from e
    except HFValidationError as e:
        raise ModelError(f"not a hub id: {e}", where=where, remedy="write owner/name") from e
    except (EntryNotFoundError, HfHubHTTPError, OSError) as e:
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        if not reached:
            first = "it does not answer, or HF_HUB_OFFLINE is set"
        folders = [p.name for p in Path().iterdir() if p.is_dir()] if "/" not in name else []
        near = nearest(name, folders, n=1)
        guess = f"did you mean the folder ./{near[0]}? Else " if near else ""
        instead = f"{guess}connect, or give a local folder with config.json and *.safetensors, or a built-in: "
        remedy = instead + ", ".join(builtin.TABLE)
        raise MissingExtraError(
            f"the model cannot be fetched from the hub, and is not in its cache ({first})", where=where, remedy=remedy
        ) from e
    check_folder(folder)
    return Located(folder, f"hub {name}@{folder.name}", licence_of(folder))


def _reachable(seconds: float = 5.0) -> bool:
    """Whether the hub answers at all, by one request through the library's own session (its proxies and offline
    switch).
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception:  # whichever HTTP library it uses, whatever it cannot do: no answer
        return False
    return True


def _gguf(file: Path) -> Located:
    """A GGUF file, converted once into the cache by its content."""
    from tunewright.loading import gguf_any

    if not file.is_file():
        raise ModelError("there is no such file", where=str(file), remedy=_beside(file))
    with file.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    folder = cache.cache_folder() / "gguf" / f"{digest[:32]}-{builtin.FORMAT}"
    if not (folder / "config.json").exists():
        with cache.written_aside(folder, replace=True) as aside:
            gguf_any.convert(file, aside)
    return Located(folder, f"GGUF file {file} (sha256 {digest[:12]})", licence_of(folder))
