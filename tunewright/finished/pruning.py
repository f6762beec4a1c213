"""Freeing the disk of what runs leave: weights and checkpoints of those that nobody will use. Their figures stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError
from tunewright.files.checkpoint import write_json
from tunewright.finished.folders import Held
from tunewright.runs.folder import BASE, LOCK, PRUNED, RECIPE, RunFolder, locked

WEIGHTS = frozenset({"stages", "adapter", "delta.safetensors", "wrapper", "model", BASE})
"""What a finished run's folder holds of models; recipe, report, rows and logged steps stay."""
CHECKPOINT = "checkpoint-"


@dataclass(frozen=True)
class Going:
    """What goes of a run: names in its folder, and their bytes. `why`: what it stays for, where nothing goes."""

    run: Held
    names: tuple[str, ...] = ()
    why: str = ""

    @property
    def bytes(self) -> int:
        return sum(self.run.parts.get(name, 0) for name in self.names)


def planned(runs: Sequence[Held], keep: int) -> list[Going]:
    """What would go: of each group of finished runs that can be compared, the weights of all but the `keep` best (the
    largest gain; of equals the one that moved least); and of every finished run the checkpoints, which only a resume
    needs. Runs that are not finished, whose gate is all that tells them, or that another run's recipe names, stay.
    """
    best: dict[tuple[str, ...], list[Held]] = {}
    for run in runs:
        if run.state == "finished" and run.same is not None:  # what has no weights left keeps no other's place
            best.setdefault(run.same, []).append(run)
    staying = {r.folder for some in best.values() for r in sorted(some, key=_worth)[:keep]}
    named = dict(_named(runs))
    out = []
    for run in runs:
        left = tuple(name for name in run.parts if name.startswith(CHECKPOINT))
        weights = tuple(name for name in run.parts if name in WEIGHTS)
        if run.state not in ("finished", "pruned"):
            out.append(Going(run, why=f"it is {run.state}"))
        elif run.same is None:
            out.append(Going(run, left, "" if left else "it has no target to be compared by"))
        elif run.folder in staying:
            out.append(Going(run, left, "" if left else "it is among the best"))
        elif (by := named.get(run.folder)) is not None:
            out.append(Going(run, left, "" if left else f"{by} names it"))
        else:
            out.append(Going(run, (*weights, *left), "" if weights or left else "only its figures are left"))
    return out


def _worth(run: Held) -> tuple[bool, float, float]:
    return run.gate == "fails", -(run.gain or 0.0), run.drift if run.drift is not None else 0.0


def _named(runs: Sequence[Held]) -> Iterator[tuple[Path, str]]:
    """Runs that a recipe of another one names, with who does."""
    import yaml

    homes = {run.folder.resolve(): run.folder for run in runs}
    for run in runs:
        try:
            tree = yaml.safe_load((run.folder / RECIPE).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for text in _texts(tree):
            path = Path(text)
            if not path.is_absolute() and not (run.folder / path).exists() and not path.exists():
                continue
            for place in (run.folder / path, path):
                at = place.resolve()
                for home in (at, *at.parents):
                    if home in homes and homes[home] != run.folder:
                        yield homes[home], str(run.folder)


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        if 0 < len(tree) < 4096 and "\n" not in tree and "\0" not in tree:
            yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)


def remove(going: Going) -> int:
    """Take it away; bytes that became free. FolderError where a live run has come to hold the folder, or a file cannot
    be removed: then the rest stays.
    """
    folder = going.run.folder
    freed = 0
    with locked(RunFolder(folder)):
        for name in going.names:
            path = folder / name
            try:
                if path.is_symlink() or path.is_file():
                    path.unlink()
                elif path.is_dir():
                    shutil.rmtree(path)
            except OSError as error:
                raise FolderError(
                    f"it cannot be removed: {error.strerror or error}",
                    where=str(path),
                    remedy="check whose it is; nothing behind it was removed",
                ) from error
            freed += going.run.parts.get(name, 0)
        if WEIGHTS & set(going.names):
            write_json(folder / PRUNED, {"removed": list(going.names)})
    if LOCK not in going.run.parts:
        (folder / LOCK).unlink(missing_ok=True)
    return freed
