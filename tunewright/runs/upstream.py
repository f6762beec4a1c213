"""Changes that a stage's methods name: of earlier stages of the run, of other runs, of adapters, of their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tunewright.contract.change import Change
from tunewright.errors import MethodError, did_you_mean
from tunewright.files import checkpoint
from tunewright.models.peft_settings import CONFIG
from tunewright.pieces.low_rank import LowRankChange
from tunewright.training import carry
from tunewright.training.upstream import read_change

STAGES = "stages"


def changes_of(session: Any, part: Any, names: Sequence[str]) -> list[Change]:
    """The changes that names stand for, in order, for a stage (`StageInputs`) of a `Session`: "stages" (every earlier
    one), "stages.NAME", or a folder that is seen from the recipe's own: a run, a finished stage, an adapter, or one
    whose folders are these.

    What a stage has yet to train has shapes alone. MethodError where a name stands for nothing, where this stage or one
    of those does not begin at the base, or where a stage trained on rows of this one.
    """
    place = f"stages.{part.spec.name}"
    if (part.spec.start or "base") != "base":
        raise MethodError(
            f"the stage starts from {part.spec.start}, and the changes that it draws from are changes of the base",
            where=f"{place}.start",
            remedy="write start: base",
        )
    found: list[Change] = []
    for name in names:
        if name == STAGES or name.startswith(f"{STAGES}."):
            found += [_of_stage(session, part, p) for p in _stages(session, part, name)]
        else:
            found += [_of_folder(session, folder, shown) for folder, shown in _folders(session, part, name)]
    return found


def _stages(session: Any, part: Any, name: str) -> list[Any]:
    earlier = session.stages[: part.index]
    named = [p for p in earlier if name in (STAGES, f"{STAGES}.{p.spec.name}")]
    if not named:
        known = [f"{STAGES}.{p.spec.name}" for p in earlier]
        raise MethodError(
            f"no earlier stage is '{name}'",
            where="upstream",
            remedy=did_you_mean(name, known) if known else "name folders of runs: [./zoo]",
        )
    return named


def _of_stage(session: Any, part: Any, upstream: Any) -> Change:
    name = f"{STAGES}.{upstream.spec.name}"
    if (upstream.spec.start or "base") != "base":
        raise MethodError(
            f"'{name}' starts from {upstream.spec.start}, and its change is to be one of the base",
            where=f"{name}.start",
            remedy="write start: base in it",
        )
    shared = _shared(part.rows.rows, upstream.rows.rows)
    if shared:
        raise MethodError(
            f"{shared:,} of {len(part.rows.rows):,} rows of this stage were trained on by '{name}': what is picked by "
            "rows that upstream has seen is certified by nothing",
            where="upstream",
            remedy="give the stage rows of its own: data: {train: new.jsonl}",
        )
    folder = None if session.run is None else session.run / STAGES / upstream.spec.name
    if folder is not None and (folder / checkpoint.MANIFEST).exists():
        return read_change(folder, session.adapted, name)
    methods = [m for _, m in upstream.methods if isinstance(m, LowRankChange) and m.low_rank]
    if not methods:
        raise MethodError(
            f"'{name}' trains no low-rank change: {', '.join(n for n, _ in upstream.methods)}",
            where="upstream",
            remedy="let it train lora",
        )
    parameters = session.adapted.base_parameters()
    with torch.device("meta"):
        pairs = {
            s.name: (torch.empty(m.rank_at(s), s.in_features), torch.empty(s.out_features, m.rank_at(s)))
            for m in methods
            for s in m.sites(session.adapted.structure)
        }
        values = {n: torch.empty(parameters[n].shape) for n in session.adapted.new}
    return Change(name, pairs, values)


def _shared(rows: Sequence[Any], trained: Sequence[Any]) -> int:
    """How many rows are trained on, too: those of the same place and, where most are equal in all that they say, these:
    a few may be equal by chance.
    """
    places, said = {r.id for r in trained}, {(tuple(r.input_ids), r.label) for r in trained if r.input_ids}
    equal = sum((tuple(r.input_ids), r.label) in said for r in rows)
    return max(sum(r.id in places for r in rows), equal if 2 * equal > len(rows) else 0)


def _folders(session: Any, part: Any, name: str) -> list[tuple[Path, str]]:
    """The folders of finished changes that a name stands for, each with what it is called."""
    if not name.startswith(("./", "../", "/")):
        raise MethodError(
            f"'{name}' is neither a stage nor a folder",
            where="upstream",
            remedy=f"write ./{name} for a folder, or stages.NAME",
        )
    folder = carry.seen_from(session.recipe.base, name)
    if not folder.is_dir():
        raise MethodError(f"there is no folder '{name}'", where="upstream", remedy="name runs, adapters or stages")
    where = f"stages.{part.spec.name}, upstream"
    if _is_change(folder):
        return [(carry.result_of(folder, where)[1], name)]
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and _is_change(p))
    if not inside:
        raise MethodError(
            f"'{name}' is no run, finished stage or adapter, and holds none",
            where="upstream",
            remedy="name a folder that `tunewright run` made, or one of several of them",
        )
    return [(carry.result_of(p, where)[1], f"{name.rstrip('/')}/{p.name}") for p in inside]


def _is_change(folder: Path) -> bool:
    return any((folder / n).exists() for n in (checkpoint.MANIFEST, CONFIG, "recipe.yaml"))


def _of_folder(session: Any, folder: Path, name: str) -> Change:
    adapted = session.adapted
    if not adapted.base_hash and session.loaded.folder is not None:
        adapted.base_hash = session.loaded.hash_now()
    return read_change(folder, adapted, name)
