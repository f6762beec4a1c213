"""What was selected for a stage: made once, when the stage begins, and from then on read from the run's folder.

`selection/<stage>.jsonl` begins with a line of what was asked and what it cost; a line follows for every record that
there was: its rank among those that are kept (null: left out, by which selector and why), its scores, the factor on
its loss weights (`weight` of all selectors, `weight_at_start` of those that waited for the stage). progress.json holds
the file's hash from the moment at which the selection counts as made: a run that is stopped before selects again
(windows that were scored come from the cache), one that is stopped later reads what it selected. The rows are formed
from what the file says in both cases, so that they are the same in every bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.pairs import PairRows, read_in_pairs
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import Task
from tunewright.data.dataset import Dataset
from tunewright.data.truncate import fit_length
from tunewright.errors import MethodError
from tunewright.files.cache import cache_folder
from tunewright.loading.options import options_of
from tunewright.measure.cost import Cost
from tunewright.models.flops import counting
from tunewright.runs.folder import RunFolder, unaltered
from tunewright.runs.selecting import START, Key, Selection, applied, method_of, orders, record_key, rows_of
from tunewright.runs.session import Session, StageInputs
from tunewright.runs.sources import replayed_stages

FOLDER = "selection"
SELECTED = "selected"
"""Key of progress.json: the hash of each stage's file."""
PHASE = "selection"
Say = Callable[[str], None]


def settle(session: Session, part: StageInputs, folder: RunFolder, cost: Cost, say: Say) -> None:
    """Give a stage the rows that its selectors keep. Called when the session's model is the stage's start, where it
    was not selected before. CheckpointError where what was selected is no longer what the run noted.
    """
    selection = part.selection
    if selection is None:
        return
    noted = folder.progress().get(SELECTED, {})
    file = folder.path / FOLDER / f"{selection.stage}.jsonl"
    if selection.stage not in noted:
        spent, order = (
            _made(session, part, selection, cost, say) if selection.waiting else ({}, _in_order(selection.pool))
        )
        if selection.flops:  # of a model that a selector holds: its rows were read before the run had a cost
            cost.add(PHASE, flops=selection.flops)
            spent = {**spent, "flops": spent.get("flops", 0.0) + selection.flops}
        digest = _write(file, selection, spent, order)
        folder.note_progress(cost=cost.state(), **{SELECTED: {**noted, selection.stage: digest}})
        noted = {selection.stage: digest}
    kept = _read(file, noted[selection.stage])
    if selection.waiting:
        use_rows(session, part, rows_of(selection.pool, kept, orders(selection.uses)))
        names = " and ".join(use.name for use in selection.waiting)
        total = len(_in_order(selection.pool))
        told = f"stage '{selection.stage}': {names} kept {len(kept):,} of {total:,} records"
        say(told)
        session.notes.append(told)
    part.selection = None


def _made(
    session: Session, part: StageInputs, selection: Selection, cost: Cost, say: Say
) -> tuple[dict[str, Any], list[tuple[Key, float]]]:
    """(what it cost, what is kept) by the selectors that read with a model."""
    say(f"selecting rows of the stage '{selection.stage}'")
    with cost.phase(PHASE), counting() as counted:
        records, target = selection.records(), selection.target()
        readers = readers_of(session, part, selection, records, target)
        factors = {(r.source, r.id): 1.0 for r in records}
        kept: list[tuple[Key, float]] = []
        steps = applied(selection.waiting, records, target, selection.seed, selection.stage, readers, selection.told)
        for step in steps:
            factors = {key: factors[key] * factor for key, factor in step}
            kept = list(factors.items())
    tokens = sum(reader.tokens for reader in readers.values())
    cost.add(PHASE, tokens=tokens, flops=counted.total)
    return {"tokens": tokens, "flops": counted.total}, kept


def _in_order(pool: Dataset) -> list[tuple[Key, float]]:
    return [(key, 1.0) for key in dict.fromkeys(map(record_key, pool.rows))]


def readers_of(
    session: Session, part: StageInputs, selection: Selection, records: Sequence[Record], target: Sequence[Record]
) -> dict[str, Reader]:
    """A reader of each model that a stage's waiting selectors name, by its name; it reads records and target alone, or
    changed copies of these, encoded anew.
    """
    places: dict[int, tuple[Dataset, list[int]]] = {}
    options = options_of(part.data, session.options.labels, session.loaded)
    for dataset, some in ((selection.pool, records), (selection.target_rows, target)):
        if dataset is None:
            continue
        by_key: dict[Key, list[int]] = {}
        for i, row in enumerate(dataset.rows):
            by_key.setdefault(record_key(row), []).append(i)
        # by the object: a record of the target may be called as one of the pool is
        places |= {id(r): (dataset, by_key[(r.source, r.id)]) for r in some}

    offered = {(r.source, r.id) for some in (records, target) for r in some}

    def encoded(record: Record) -> list[Row]:
        if id(record) not in places and (record.source, record.id) in offered:
            try:
                row = session.task.encode(record, session.tokenizer, options)
                return fit_length(row, options.max_length, options.truncation) or [row]
            except RowProblem as problem:
                raise problem.at(record.where).error() from None
        if id(record) not in places:
            raise MethodError(
                f"a selector reads a record that it was not given: {record.where}",
                where=f"stages.{selection.stage}.data.select",
                remedy="hand readers the records and the target, or changed copies: record.replace(...)",
            )
        dataset, indices = places[id(record)]
        return [dataset.rows[i] for i in indices]

    return {
        name: Reader(
            name,
            session.adapted if name == START else session.other(name),
            session.task,
            encoded,
            seed=part.train.seed,
            device=session.device,
            packed=session.packed and name == START,  # attention of other models was not made ready for packed rows
            cache=cache_folder() / "scores",
        )
        for name in selection.speakers()
    }


def use_rows(session: Session, part: StageInputs, rows: Dataset) -> None:
    """Train a stage on other rows, and let later stages that replay it replay these."""
    part.rows = read_in_pairs(rows, [m for _, m in part.methods], session.task)
    for later in session.stages[part.index + 1 :]:
        for called, name in replayed_stages(later.data, session.recipe, later.spec).items():
            if name == part.spec.name:
                later.replay[called] = (replayed(rows, called, later, session.task), later.data.replay[called])


def replayed(rows: Dataset, called: str, part: StageInputs, task: Task) -> Dataset:
    """An earlier stage's rows as a stage replays them: one source of its own, whatever they came from."""
    plain = replace(rows, rows=rows.rows.rows) if isinstance(rows.rows, PairRows) else rows
    plain = replace(plain, name=called, parts=(), ordered=False)
    paired: Dataset = read_in_pairs(plain, [m for _, m in part.methods], task)
    return paired


def load(session: Session) -> None:
    """Load the other models that selectors read with, so that one which is not there is refused at once."""
    for part in session.stages:
        for name in part.selection.speakers() if part.selection is not None else ():
            if name != START:
                session.other(name)


def announced(session: Session) -> list[str]:
    """What a plan says of stages whose rows are selected when they begin."""
    out = []
    for part in session.stages:
        if part.selection is None or not part.selection.waiting:
            continue
        names = " and ".join(use.name for use in part.selection.waiting)
        own = [method_of(use).own_model() for use in part.selection.waiting]
        named = [*part.selection.speakers(), *(n for n in own if n is not None)]
        models = ", ".join("the model that it starts from" if n == START else n for n in named)
        rows, tokens = len(part.selection.pool.rows), part.selection.pool.counts["tokens"]
        among = f"{rows:,} rows" if part.making is None else "what was made"
        reading = f", reading their {tokens:,} tokens with {models}" if models else ""
        out.append(
            f"stage '{part.spec.name}': {names} will choose among {among} when it begins{reading}; rows, epochs and "
            "steps to an epoch are told here of all of them"
        )
    return out


# -- the file ----------------------------------------------------------------------------------------------------------


def _write(file: Path, selection: Selection, spent: dict[str, Any], kept: list[tuple[Key, float]]) -> str:
    """Write what became of every record; gives the file's SHA-256."""
    rank = {key: (i, factor) for i, (key, factor) in enumerate(kept)}
    uses = [{"name": u.name, "parameters": method_of(u).model_dump(mode="json")} for u in selection.uses]
    lines: list[dict[str, Any]] = [
        {"stage": selection.stage, "pool": selection.pool.hash, "kept": len(kept), "selectors": uses, **spent}
    ]
    for key in dict.fromkeys([*selection.told, *rank]):
        told, place = selection.told.get(key), rank.get(key)
        line: dict[str, Any] = {"source": key[0], "id": key[1], "rank": place[0] if place else None}
        if place is not None and place[1] != 1.0:
            line["weight_at_start"] = place[1]
        if told is not None:
            line |= {"weight": told.weight} if told.weight != 1.0 else {}
            line |= {"by": told.by} if told.by else {}
            line |= {"reason": told.reason} if told.reason else {}
            line |= {"scores": told.scores} if told.scores else {}
        lines.append(line)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    file.parent.mkdir(exist_ok=True)
    aside = file.with_name(file.name + ".part")
    aside.write_bytes(text)
    aside.replace(file)
    return hashlib.sha256(text).hexdigest()


def _read(file: Path, digest: str) -> list[tuple[Key, float]]:
    """What is kept, in order."""
    data = unaltered(file, digest, "what was selected")
    lines = [json.loads(line) for line in data.decode().strip("\n").split("\n")[1:]]
    ranked = sorted((x for x in lines if x["rank"] is not None), key=lambda x: int(x["rank"]))
    return [((x["source"], x["id"]), float(x.get("weight_at_start", 1.0))) for x in ranked]
