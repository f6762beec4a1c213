"""Many runs at once: what each folder holds, read from its files alone (nothing is loaded, nothing is written)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import FolderError
from tunewright.machine import host
from tunewright.report.seal import is_altered
from tunewright.runs.folder import BEGUN, LOCK, METRICS, PROGRESS, PRUNED, RECIPE

State = Literal["finished", "pruned", "running", "interrupted", "unreadable"]
"""Pruned: finished, and its weights were removed."""
DEPTH = 4
"""Folders below the one that is named in which runs are looked for; a run's own folders are not."""
NUMBERS = ("target", "kept", "drift", "seconds", "bytes")
"""What runs can be sorted by, beside name and age."""


@dataclass(frozen=True)
class Held:
    """What a folder holds. `target` is (before, after, low and high of the difference); `kept` the largest loss of a
    kept text (of a pack, where no text is kept), how much worse it is; `same`: equal for runs whose targets can be
    compared (one model, task, metric and evaluated rows), none where that is not known.
    """

    folder: Path
    state: State
    bytes: int
    model: str = ""
    task: str = ""
    methods: tuple[str, ...] = ()
    metric: str = ""
    unit: str = ""
    higher: bool = True
    target: tuple[float, float, float | None, float | None] | None = None
    kept: float | None = None
    kept_name: str = ""
    kept_unit: str = ""
    drift: float | None = None
    gate: str = ""
    seconds: float | None = None
    started: str = ""
    same: tuple[str, ...] | None = None
    problem: str = ""
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """How much better the target became, in the metric's unit."""
        if self.target is None:
            return None
        change = self.target[1] - self.target[0]
        return change if self.higher else -change

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("same", "higher", "folder")}
        return {"folder": str(self.folder), **kept, "gain": self.gain}


def found(places: Sequence[Path]) -> Iterator[Path]:
    """The run folders in some places, or these themselves, in the order of their names. FolderError for a place that
    is none.
    """
    for place in places:
        if not place.is_dir():
            raise FolderError(
                "there is no such folder", where=str(place), remedy="name a folder of runs, such as runs/ (the default)"
            )
        yield from _found(place, DEPTH)


def _found(place: Path, depth: int) -> Iterator[Path]:
    if (place / RECIPE).is_file() and any((place / name).exists() for name in (BEGUN, PROGRESS, METRICS)):
        yield place
        return
    if not depth:
        return
    try:
        with os.scandir(place) as entries:
            folders = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except OSError:  # not ours to read, or gone meanwhile
        return
    for folder in folders:
        yield from _found(Path(folder), depth - 1)


def held(folder: Path) -> Held:
    """What a run's folder holds, whatever state it is in."""
    parts = _sizes(folder)
    size = sum(parts.values())
    try:
        text = (folder / "report.json").read_text(encoding="utf-8")
        report: dict[str, Any] = json.loads(text)
    except FileNotFoundError:
        return Held(
            folder,
            "running" if host.is_locked(folder / LOCK) else "interrupted",
            size,
            parts=parts,
            **_of_recipe(folder),
        )
    except (OSError, ValueError) as error:
        return Held(folder, "unreadable", size, parts=parts, problem=f"report.json cannot be read: {error}")
    try:
        if is_altered(text):
            return Held(
                folder, "unreadable", size, parts=parts, problem="report.json was altered after the run wrote it"
            )
        return _of_report(folder, report, parts)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        why = f"report.json is not one of a run ({type(error).__name__}: {error})"
        return Held(folder, "unreadable", size, parts=parts, problem=why)


def _of_report(folder: Path, report: dict[str, Any], parts: dict[str, int]) -> Held:
    target, drift, model = report.get("target"), report.get("drift"), report.get("model") or {}
    worst = max(_losses(report), key=lambda one: one[0], default=(None, "", ""))
    figures = None
    if target and target["before"] and target["after"]:
        change = target.get("difference") or {}
        figures = (target["before"]["value"], target["after"]["value"], change.get("low"), change.get("high"))
    rows = _begun(folder).get("the eval rows")
    metric = target["metric"] if target else ""
    same = (model.get("hash") or model.get("name", ""), report.get("task") or "", metric, rows) if rows else None
    return Held(
        folder,
        _ended(folder) if report["run"]["status"] == "finished" else "interrupted",
        sum(parts.values()),
        model=Path(str(model.get("name", ""))).name,
        task=report.get("task") or "",
        methods=tuple(dict.fromkeys(m["name"] for m in report["trained"]["methods"])),
        metric=metric,
        unit=target["unit"] if target else "",
        higher=not target or target.get("direction", "higher") == "higher",
        target=figures,
        kept=worst[0],
        kept_name=worst[1],
        kept_unit=worst[2],
        drift=drift["value"]["value"] if drift else None,
        gate=(report.get("gate") or {}).get("verdict", ""),
        seconds=report["run"].get("seconds"),
        started=report["run"].get("started") or "",
        same=same if figures is not None else None,
        parts=parts,
    )


def _ended(folder: Path) -> State:
    return "pruned" if (folder / PRUNED).exists() else "finished"


def _losses(report: dict[str, Any]) -> Iterator[tuple[float, str, str]]:
    """What was lost of each kept text, or of each pack where there is none: (how much worse, its name, its unit)."""
    for one in report.get("kept") or report.get("packs") or ():
        if one["before"] and one["after"]:
            change = one["after"]["value"] - one["before"]["value"]
            yield change if one["direction"] == "lower" else -change, one["name"] or "", one["unit"]


def _of_recipe(folder: Path) -> dict[str, Any]:
    """What a recipe says of a run without a report, and when it began; nothing where it cannot be read."""
    import yaml

    try:
        recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
        methods = [m if isinstance(m, str) else next(iter(m)) for s in recipe["stages"] for m in s["methods"]]
        name = recipe["model"] if isinstance(recipe["model"], str) else recipe["model"]["name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, StopIteration):
        return {"started": _started(folder)}
    said = {"model": Path(str(name)).name, "task": str(recipe.get("task", "")), "started": _started(folder)}
    return {**said, "methods": tuple(dict.fromkeys(methods))}


def _started(folder: Path) -> str:
    """When a run without a report began; empty where that cannot be read."""
    try:
        return str(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _begun(folder: Path) -> dict[str, str]:
    """Hashes of what a run began with, by name; none where they cannot be read."""
    try:
        content = json.loads((folder / BEGUN).read_text(encoding="utf-8"))["content"]
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file and folder of a run. Links are counted as links, and what goes meanwhile as nothing."""
    out: dict[str, int] = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return out
    for entry in entries:
        out[entry.name] = _size(entry)
    return out


def _size(entry: os.DirEntry[str]) -> int:
    try:
        if not entry.is_dir(follow_symlinks=False):
            return entry.stat(follow_symlinks=False).st_size
        with os.scandir(entry.path) as inner:
            return sum(map(_size, inner))
    except OSError:
        return 0


def ordered(runs: Sequence[Held], by: str) -> list[Held]:
    """Runs, the best first: the largest gain, the least lost, moved, spent or kept; newest or by name. Those without
    the figure come last.
    """
    if by == "name":
        return sorted(runs, key=lambda r: str(r.folder))
    if by == "age":
        return sorted(runs, key=lambda r: (r.started, str(r.folder)), reverse=True)
    of: dict[str, Any] = {
        "target": lambda r: None if r.gain is None else -r.gain,
        "bytes": lambda r: -r.bytes,
        "kept": lambda r: r.kept,
        "drift": lambda r: r.drift,
        "seconds": lambda r: r.seconds,
    }
    figure = of[by]
    return sorted(runs, key=lambda r: (figure(r) is None, figure(r) or 0.0, str(r.folder)))
