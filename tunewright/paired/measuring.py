"""`tunewright measure`: two sides are read on the same rows, one model in memory at a time, and told apart."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunewright.contract.task import Task
from tunewright.data.labels import labels_of
from tunewright.errors import DataError, FolderError, RecipeError, did_you_mean
from tunewright.measure._mode import device_of
from tunewright.measure.asking import check_answers
from tunewright.measure.pack import Pack, is_pack, load_pack
from tunewright.measure.rows import pair, write_rows
from tunewright.models.precision import choose_precision
from tunewright.paired import figures
from tunewright.paired.probing import Probing, probing
from tunewright.paired.reading import Origin, Read, Wanted, apart, origin, read
from tunewright.paired.request import Request, in_flags
from tunewright.paired.result import Apart, Pair, SideInfo
from tunewright.paired.sides import (
    Asked,
    Opened,
    asked,
    device_for,
    look,
    open_side,
    problem_named,
    read_by,
    refuse_other_task,
    table_of,
    task_named,
)
from tunewright.recipe import DataSpec, Recipe, Source, TrainSpec
from tunewright.recipe.gate import KEPT, TASK
from tunewright.recipe.naming import called_twice, kept_names
from tunewright.recipe.tables import as_table
from tunewright.report.gated import judge
from tunewright.report.schema import Probe
from tunewright.runs.packs import packs_of
from tunewright.runs.sources import kept_sources
from tunewright.tasks import as_problem, get_task
from tunewright.tasks._parts import TABULAR

Say = Callable[[str], None]
ROWS = "rows.jsonl"


def measure(request: Request, out: Path | None = None, say: Say = lambda text: None) -> Pair:
    """Measure the second side against the first; write measured.json and rows.jsonl to `out`.

    Every TunewrightError names what cannot be used: a folder, a row, a task that differs, a figure that is not finite.
    """
    refuse_taken(out)
    with closing(probing(request.probes)) as probes:
        try:
            return _measured(request, probes, out, say)
        except DataError as e:
            if request.data:
                e.what, e.remedy = in_flags(e.what), in_flags(e.remedy or "") or None
            raise


def _measured(request: Request, probes: Probing, out: Path | None, say: Say) -> Pair:
    first, second = ([asked(name, request.base) for name in names] for names in (request.first, request.second))
    if probes.probes and len(first) + len(second) > 2:
        what = "a probe looks at two models, and a side has several runs"
        raise RecipeError(what, where="--probes", remedy="name one run a side, or leave the probes out")
    for member in (*first, *second):
        look(member)
    reader = _reader(request, [*second, *first])
    reader.probing = probes
    _refuse(request, reader.wanted)
    for member in (*first, *second):
        refuse_other_task(member, reader.task)
    there: Origin | None = None
    drifts: list[Apart] = []
    reads: tuple[list[Read], list[Read]] = ([], [])
    for member in first:
        say(f"reading {member.name}")
        found, there = reader.first(member, alone=len(first) == 1)
        reads[0].append(found)
    for member in second:
        say(f"reading {member.name}")
        found, drift = reader.second(member, there)
        reads[1].append(found)
        drifts += [drift] if drift is not None else []
    if len(first) > 1:
        reader.notes.append("drift was not measured: it is told from one model, and the first side has several")
    result = Pair(
        first=_info(first, reader.hashes),
        second=_info(second, reader.hashes),
        task=reader.task.name,
        target=figures.target_of(*reads),
        kept=figures.kept_of(*reads),
        packs=figures.packs_of(*reads, reader.wanted.packs),
        calibration=figures.calibration_of(*reads),
        drift=_over_runs(drifts),
        probes=reader.probed,
        notes=[*_other_words([*first, *second], reader.data), *reader.notes, *reader.otherwise(), *_left_out(reads)],
    )
    if (choice := figures.choice_of(*reads)) is not None:
        result.others.append(choice)
    if out is not None:
        _write(out, result, reads)
    if request.bounds:
        result.gate = judge(request.bounds, result)
        if out is not None:
            result.save(out)
    return result


@dataclass
class _Reader:
    """Reads one side after the other, in one way; a side's model goes when it has been read."""

    task: Task
    wanted: Wanted
    data: DataSpec
    labels: Sequence[str] | None
    device: str
    precision: str
    hashes: dict[str, str] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    probing: Probing = field(default_factory=lambda: Probing({}))
    probed: dict[str, Probe] = field(default_factory=dict)

    def first(self, member: Asked, *, alone: bool) -> tuple[Read, Origin | None]:
        """What a member of the first side gives; of one alone also what drift is told from."""
        side = self._opened(member)
        found = read(side, self.wanted)
        self.probing.keep(side, found)
        return found, origin(side, self.wanted, found) if alone else None

    def second(self, member: Asked, there: Origin | None) -> tuple[Read, Apart | None]:
        """What a member of the second side gives, and how far it is from the first."""
        side = self._opened(member)
        found = read(side, self.wanted)
        self.probed = self.probing.run(side, found)
        if there is None:
            return found, None
        if there.reference is not None and there.vocabulary != found.vocabulary:
            self.notes.append("drift was not measured: the two sides have other vocabularies")
            return found, None
        if there.reference is not None and there.coding != found.coding:
            self.notes.append(
                "drift was not measured, and losses are of other codes: the sides code pictures otherwise"
            )
            return found, None
        drift = apart(there, side, found)
        if drift is None:
            self.notes.append("drift was not measured: what the first side's head reads tells no two rows apart")
            return found, None
        return found, Apart(measure=drift.name, value=drift.interval, on=there.on)

    def _opened(self, member: Asked) -> Opened:
        gc.collect()  # a model and what hangs on it hold each other: the one before goes now
        side = open_side(member, self.task, self.data, self.labels, self.device, self.precision)
        self.hashes[member.name] = side.identity
        how = f"{str(side.loaded.dtype).removeprefix('torch.')} on {device_of(side.model).type}"
        self.computed[member.name] = how
        self.notes += [f"{member.name}: {n}" for n in side.notes]
        return side

    def otherwise(self) -> list[str]:
        """What to say of sides that were computed in another precision or on another device."""
        if len(set(self.computed.values())) < 2:
            return []
        said = ", ".join(f"{name} in {how}" for name, how in self.computed.items())
        return [f"the sides were computed otherwise: {said}"]


def _reader(request: Request, sides: Sequence[Asked]) -> _Reader:
    """How all are read: as the first run among them has it, where the request does not say."""
    recipe = next((r for s in sides if (r := s.recipe) is not None), None)
    task = get_task(task_named(sides, request.task))
    if (problem := problem_named(sides)) in task.problem_types:
        task = as_problem(task, problem)
    wanted, data = _wanted(request, recipe)
    if task.name in TABULAR:
        wanted, data = _as_tables(wanted, data, sides, task)
    for pack in wanted.packs.values():
        check_answers(task, pack.name, "--keep")
    labels = recipe.data.labels if recipe is not None and task.labelled else None
    if task.labelled and labels is None and wanted.data:
        labels = list(labels_of(wanted.data, wanted.base, task))
    train = recipe.train if recipe is not None else TrainSpec()
    device = device_for(request.device if request.device != "auto" else train.device)
    precision: str = train.precision if train.precision != "auto" else choose_precision(device)
    return _Reader(task, wanted, data, labels, device, precision)


def _as_tables(wanted: Wanted, data: DataSpec, sides: Sequence[Asked], task: Task) -> tuple[Wanted, DataSpec]:
    """Rows read as the tables that the first side which says so reads. RecipeError where none does."""
    table = next((t for s in sides if (t := table_of(s, task)) is not None), None)
    if table is None or table.learnt is None:
        what = "neither side says what a table's columns are: a model that was not adapted to one does not know"
        raise RecipeError(what, where="measure", remedy="name a run, or a model that `tunewright export` wrote, as one")
    target, features = table.learnt.get("label"), [c["name"] for c in table.learnt["columns"]]
    rows = [s if s.format else as_table(s, target, features) for s in wanted.data]
    keep = {name: s if s.format else as_table(s, target, features) for name, s in wanted.keep.items()}
    return replace(wanted, data=rows, keep=keep), read_by(data, table)


def _refuse(request: Request, wanted: Wanted) -> None:
    """RecipeError, before anything is loaded, for a condition on what will not be measured."""
    for b in request.bounds:
        where = f"--require {b.figure}"
        if b.figure == "drift" and len(request.first) > 1:
            what = "drift is measured from one model, and the first side has several"
            raise RecipeError(what, where=where, remedy="name one run first, or leave the condition out")
        known = [*wanted.keep, *wanted.packs]
        if b.figure.startswith(KEPT) and (name := b.figure.removeprefix(KEPT)) not in known:
            what = f"nothing that is kept is called '{name}'"
            raise RecipeError(what, where=where, remedy=did_you_mean(b.figure, [KEPT + k for k in known]))
        if b.figure.startswith(TASK):
            what = "the harness's tasks are not evaluated here"
            raise RecipeError(what, where=where, remedy="write --lm-eval TASK,..., or name two of its outputs")
        if b.figure == "target" and not wanted.data:
            raise RecipeError("there are no rows to measure the target on", where=where, remedy="write --data FILE")


def _wanted(request: Request, recipe: Recipe | None) -> tuple[Wanted, DataSpec]:
    """What is read of each side, and how rows are encoded. RecipeError where there are neither rows nor texts."""
    here = Path.cwd()
    if recipe is None and not request.data and not request.keep:
        raise RecipeError(
            "there is nothing to measure on: neither side is a run, which would name its rows",
            where="--data",
            remedy="write --data rows.jsonl, or --keep texts.txt",
        )
    named = [_placed(p) for p in request.data]
    given = [Source(path=p, columns=dict(request.columns)) for p in named]
    if recipe is None:
        data = DataSpec(train=given or [Source(path=request.keep[0])])
        measured, (keep, packs), base = given, _kept(request.keep, request.keep_limit), here
    else:
        data, base = recipe.data, recipe.base
        measured = given or list(recipe.data.eval or [])
        recipe = _at_most(recipe, request.keep_limit)
        own_kept = kept_sources(recipe), packs_of(recipe)
        keep, packs = _kept(request.keep, request.keep_limit) if request.keep else own_kept
    spec = recipe.measurement if recipe is not None else None
    metric = request.metric or (spec.metric if spec is not None and not given else "auto")
    own: dict[str, Any] = {}
    if spec is not None:
        own = {"max_new_tokens": spec.max_new_tokens, "beams": spec.num_beams}
        own |= {"sequences": spec.drift_sequences, "tokens": spec.drift_tokens}
    rows = request.rows or (spec.rows if spec is not None and not given else None)
    return Wanted(measured, keep, base, metric, rows, packs=packs, sure=bool(request.probes), **own), data


def _placed(path: str) -> str:
    """A file as it is seen from here, there or not; a hub id, and what ships or is made, as they stand."""
    here = Path(path).expanduser()
    file = here.exists() or here.suffix and not path.startswith(("quickstart:", "make:"))
    return str(here.absolute()) if file else path


def _at_most(recipe: Recipe, limit: int | None) -> Recipe:
    """A recipe that keeps at most so many documents or questions of each."""
    if limit is None:
        return recipe
    kept = [k.model_copy(update={"limit": min(limit, k.limit or limit)}) for k in recipe.keep]
    return recipe.model_copy(update={"keep": kept})


def _kept(texts: Sequence[str], limit: int | None) -> tuple[dict[str, Source], dict[str, Pack]]:
    """Kept texts and packs by name: `name=FILE`, or a file's own name; at most `limit` documents or questions each."""
    pairs: list[tuple[str | None, str]] = []
    for text in texts:
        name, equals, path = text.partition("=")
        pairs.append((name, path) if equals and not Path(text).exists() else (None, text))
    if again := called_twice(pairs):
        raise RecipeError(f"two kept texts are called '{again[1]}'", where="--keep", remedy="write --keep NAME=FILE")
    named = list(zip(kept_names(pairs), [p for _, p in pairs], strict=True))
    packs = {n: load_pack(p, name=n, limit=limit, where="--keep") for n, p in named if is_pack(p)}
    return {n: Source(path=_placed(p), limit=limit) for n, p in named if not is_pack(p)}, packs


def _other_words(sides: Sequence[Asked], data: DataSpec) -> list[str]:
    """What to say of runs that were trained on other words around their rows than those that all are asked with."""
    keys = ("template", "system", "chat", "max_length")
    out = []
    for side in sides:
        recipe = side.recipe
        others = [k for k in keys if recipe is not None and getattr(recipe.data, k) != getattr(data, k)]
        if others:
            out.append(f"{side.name} was trained with another data.{', data.'.join(others)} than it is asked with here")
    return out


def _over_runs(drifts: Sequence[Apart]) -> Apart | None:
    if len(drifts) < 2:
        return drifts[0] if drifts else None
    from tunewright.measure.intervals import t_interval

    return drifts[0].model_copy(update={"value": t_interval([d.value.value for d in drifts])})


def _info(members: Sequence[Asked], hashes: Mapping[str, str]) -> SideInfo:
    names = [m.name for m in members]
    return SideInfo(names=names, kind=members[0].kind, hashes=[hashes[n] for n in names])


def _left_out(reads: Sequence[Sequence[Read]]) -> list[str]:
    """What to say of rows that one side could not read."""
    ids = [{r.id for r in read.target} for side in reads for read in side]
    lost = len(set.union(*ids)) - len(set.intersection(*ids)) if ids else 0
    return [f"{lost} rows are left out: not every side could read them (data.max_length)"] if lost else []


def refuse_taken(out: Path | None) -> None:
    """FolderError for a folder that holds a measurement: it would be lost."""
    if out is not None and (out / Pair.file).exists():
        raise FolderError(
            f"it holds a measurement already ({Pair.file})", where=str(out), remedy="name another folder with --out"
        )


def _write(out: Path, result: Pair, reads: Sequence[Sequence[Read]]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FolderError(f"cannot be made: {e.strerror or e}", where=str(out), remedy="choose another --out") from None
    result.save(out)
    if len(reads[0]) == len(reads[1]) == 1 and (reads[0][0].target or reads[0][0].packs):
        there = [{r.id: r for r in side[0].every_answer()} for side in reads]
        ids = [i for i in there[0] if i in there[1]]
        write_rows(out / ROWS, pair(*([t[i] for i in ids] for t in there)))
