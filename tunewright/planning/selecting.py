"""`tunewright select`: which rows selectors keep, on disk, without a training run.

Of a recipe it is what its run would train on: the same rows, in the first of its stages that selects. Of a pool of rows
alone it is what a recipe with that `data.train` would keep. Where no selector reads with a model, none is loaded, and
rows are not encoded: selectors that judge one row after the other (`pieces.each_row`) see each as it is read, others
see a pool that is read anew each time that they go through it. A pool's rows whose texts are all blank are offered to
none and left out, as a run leaves out rows that hold no token.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunewright import catalogue
from tunewright.catalogue.numbers import parse_number
from tunewright.contract.combining import check_serves
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.files import kind_of
from tunewright.data.pool import Pool
from tunewright.data.read import locate, read_all, read_source, with_rows
from tunewright.data.select._text import blank
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.files.cache import written_aside
from tunewright.models.flops import counting
from tunewright.pieces.each_row import EachRow, windows
from tunewright.planning.init import rows_seen
from tunewright.planning.subset import Said, SelectorFigures, Subset, Verdict, findable, finish, write
from tunewright.recipe import MethodUse, Recipe, Source
from tunewright.recipe.given import RecipeLike, given
from tunewright.recipe.uses import use_of
from tunewright.runs.aiming import aimed_at
from tunewright.runs.assemble import assemble
from tunewright.runs.selected import load, readers_of
from tunewright.runs.selecting import START, Key, Selection, Told, applied, checked, method_of, reads, selector
from tunewright.runs.session import Session, StageInputs
from tunewright.tasks import get_task

BLANK = Verdict({}, kept=False, reason="all of its texts are blank")
STAGE = "main"
"""The stage whose draws those of a pool are: a recipe's own, where it names none."""


def select_of_recipe(recipe: RecipeLike, out: Path, *, sets: Sequence[str] = ()) -> Subset:
    """Write the rows that a recipe's run would train on, and all scores, to `out`, which may not be there yet.

    RecipeError where nothing is selected, or only the run can; else what a run raises before it trains.
    """
    began = time.perf_counter()
    if isinstance(recipe, str | Path) and kind_of(Path(recipe)) is not None:
        raise RecipeError(
            "it holds rows, and no selector is named for them",
            where=str(recipe),
            remedy="add --with near-duplicate, or another; or give a recipe that selects",
        )
    loaded = given(recipe, sets)
    index = next((i for i, s in enumerate(loaded.stages) if loaded.data_for(s).select), None)
    if index is None:
        raise RecipeError("it selects no rows", where="data.select", remedy="write data.select: [dsir], or another")
    stage = loaded.stages[index]
    data = loaded.data_for(stage)
    asked = [n for use in data.select if reads(use) for n in method_of(use).speakers()]
    if data.synthesize or (START in asked and (stage.start or "base") != "base"):
        what = "its rows are made" if data.synthesize else "it is read with the model that an earlier stage makes"
        raise RecipeError(
            f"the rows of the stage '{stage.name}' are chosen when it begins: {what}",
            where=f"stages.{stage.name}",
            remedy=f"run it: selection/{stage.name}.jsonl in the run's folder has the scores",
        )
    _apart(data.train, loaded.base)
    with written_aside(out) as folder:
        session = assemble(loaded, weights=bool(asked))
        part = session.stages[index]
        assert part.selection is not None
        load(session)
        settled = _settled(session, part, part.selection)
        names = _names(data.select)
        said = _as_told(data.train, loaded, part.selection, settled.kept)
        wrote = write(said, folder, [locate(s, loaded.base).name for s in data.train], names)
        target = part.selection.target_rows
        subset = _subset(
            out,
            wrote,
            data.select,
            names,
            settled,
            target=len(part.selection.target()) if target is not None else 0,
            model=loaded.model.name if asked else None,
            seconds=time.perf_counter() - began,
            notes=[*session.notes, *_short(data.select, names, wrote["figures"]), *wrote["notes"]],
        )
        finish(subset, folder)
    return subset


def select_of_pool(
    pool: Sequence[str],
    using: str | Sequence[str | Mapping[str, Any]],
    out: Path,
    *,
    target: str | None = None,
    keep: str | float | None = None,
    model: str | None = None,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Subset:
    """Write the rows of files that selectors keep, and all scores, to `out`, which may not be there yet.

    `using`: selectors, as "dsir,near-duplicate:overlap=0.5" or as a recipe writes them. `keep`: a share or a number of
    rows, for the one of them that takes one. `target`: rows to aim at. `model`, `task`: what reads rows, for selectors
    that read with a model. `columns`: what the rows' columns are called, {"prompt": "question"}.
    """
    uses = _uses(using, keep)
    base = Path.cwd()
    found = [rows_seen(path) for path in pool]
    sources = [Source(path=path, columns=dict(columns or s.columns)) for path, s in zip(pool, found, strict=True)]
    _check(uses, target, model)
    aim = [Source(path=target, columns=dict(columns or rows_seen(target).columns))] if target is not None else None
    if any(map(reads, uses)):
        task = task or found[0].task(str(model))
        if task in catalogue.tasks():  # another is refused where the recipe is read
            for use in uses:
                check_serves(use.name, method_of(use), get_task(task), "--with")
        tree = {
            "model": model,
            "task": task,
            "data": {"train": sources, "select": uses} | ({"validation": aim} if aim else {}),
            "methods": ["full"],
            "train": {"seed": seed},
            "budget": {"steps": 1},
        }
        return select_of_recipe(given(tree), out)
    if model is not None or task is not None:
        raise RecipeError(
            "none of the selectors reads with a model",
            where="--model" if model is not None else "--task",
            remedy="take it out, or name a selector that does, such as perplexity",
        )
    began = time.perf_counter()
    _apart(sources, base)
    aimed = [r for s in aim or () for r in read_all(s, base).records]
    names = _names(uses)
    methods = [selector(use, use.place or "--with", aimed=bool(aimed)) for use in uses]
    with written_aside(out) as folder:
        if all(isinstance(m, EachRow) for m in methods):
            said = _judged(sources, base, names, [m for m in methods if isinstance(m, EachRow)])
        else:
            said = _layered(sources, base, uses, names, aimed, seed)
        wrote = write(said, folder, [locate(s, base).name for s in sources], names)
        if wrote["left_out"] == wrote["rows"]:
            raise _silent(pool)
        if not wrote["kept"]:
            took = "; ".join(_took(name, **wrote["figures"][name]) for name in names)
            raise DataError(
                f"none of {wrote['rows']:,} rows is left: {took}",
                where=", ".join(pool),
                remedy="let the selectors keep more",
            )
        seconds = time.perf_counter() - began
        notes = [f"columns guessed: {_called(s.columns)}" for s in found if s.columns and not columns]
        notes = list(dict.fromkeys([*notes, *_short(uses, names, wrote["figures"]), *wrote["notes"]]))
        subset = _subset(out, wrote, uses, names, _Settled(), len(aimed), None, seconds, notes)
        finish(subset, folder)
    return subset


# -- what is asked -----------------------------------------------------------------------------------------------------


def _uses(using: str | Sequence[str | Mapping[str, Any]], keep: str | float | None) -> list[MethodUse]:
    """Selectors as the command line or a recipe writes them, one of them with `keep`."""
    given_ = [p.strip() for p in using.split(",") if p.strip()] if isinstance(using, str) else list(using)
    uses = [use_of(u, "--with") if isinstance(u, str) else MethodUse.model_validate(u) for u in given_]
    if not uses:
        raise RecipeError("no selector is named", where="--with", remedy="write --with dsir, or near-duplicate")
    methods = [method_of(use) for use in uses]
    if keep is None:
        return uses
    takes = [k for k, m in enumerate(methods) if "keep" in type(m).model_fields and "keep" not in uses[k].params]
    if len(takes) != 1:
        named = " and ".join(uses[k].name for k in takes) or "none of the selectors"
        raise RecipeError(
            f"{named} would take it: one must",
            where="--keep",
            remedy="write it with each: --with dsir:keep=50%,k-center:keep=1000",
        )
    use = uses[takes[0]]
    number = parse_number(keep) if isinstance(keep, str) and not keep.endswith("%") else keep
    number = keep if number is None else number
    uses[takes[0]] = MethodUse(name=use.name, params={**use.params, "keep": number})
    uses[takes[0]]._place = "--with"
    method_of(uses[takes[0]])
    return uses


def _check(uses: Sequence[MethodUse], target: str | None, model: str | None) -> None:
    """RecipeError for a target or model that is missing, or a target that nothing aims at."""
    for use in uses:
        selector(use, "--with", aimed=True)
    if aimed_at(uses) != (target is not None):
        names = " and ".join(use.name for use in uses if aimed_at([use]))
        raise RecipeError(
            f"{names} aims at rows like those to be learnt" if names else "no selector aims at a target",
            where="--target",
            remedy="add --target FILE" if names else "take it out, or name one that does, such as dsir",
        )
    reading = next((use.name for use in uses if reads(use)), None)
    if reading is not None and model is None:
        raise RecipeError(
            f"'{reading}' reads rows with a model", where="--model", remedy="add --model NAME, a folder or a hub id"
        )


def _apart(sources: Sequence[Source], base: Path) -> None:
    """DataError where two sources are called alike: their rows would have the same ids."""
    names = [locate(s, base).name for s in sources]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise DataError(
            "two sources are called alike, so that their rows have the same ids",
            where=twice,
            remedy="name it once, or give one of them a name: {path: ..., name: other}",
        )


def _names(uses: Sequence[MethodUse]) -> list[str]:
    """What each selector is called in scores: the second of a name with its place, as a run calls it."""
    return [u.name if u.name not in [v.name for v in uses[:k]] else f"{u.name}#{k}" for k, u in enumerate(uses)]


def _took(name: str, offered: int, kept: int, reasons: Mapping[str, int]) -> str:
    """What a selector left of the rows that it was offered, and its commonest reason."""
    most = max(reasons, key=lambda reason: reasons[reason], default="")
    return f"'{name}' kept {kept:,} of {offered:,}" + (f" ({most}: {reasons[most]:,})" if most else "")


def _short(uses: Sequence[MethodUse], names: Sequence[str], figures: Mapping[str, Any]) -> list[str]:
    """What is told of selectors that were to keep more rows than they were offered."""
    asked = [(name, getattr(method_of(use), "keep", None)) for use, name in zip(uses, names, strict=True)]
    return [
        f"{name} was to keep {keep:,} rows, and was offered {figures[name]['offered']:,}"
        for name, keep in asked
        if isinstance(keep, int) and keep > figures[name]["offered"]
    ]


def _silent(pool: Sequence[str]) -> DataError:
    what = "no row says anything: all of their texts are blank"
    return DataError(what, where=", ".join(pool), remedy="name the column that holds the text: --column text=body")


def _called(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{ours} is '{theirs}'" for ours, theirs in columns.items())


# -- what became of each row -------------------------------------------------------------------------------------------


@dataclass
class _Settled:
    """What is kept in the end, and what selectors read with models to say so: (tokens, FLOPs) by name."""

    kept: list[tuple[Key, float]] = field(default_factory=list)
    spent: dict[str, tuple[int, float]] = field(default_factory=dict)


def _settled(session: Session, part: StageInputs, selection: Selection) -> _Settled:
    """Apply the selectors that read with a model, as the run does when the stage begins."""
    records, out = selection.records(), _Settled()
    out.kept = [((r.source, r.id), 1.0) for r in records]
    if not selection.waiting:
        return out
    target = selection.target()
    readers = readers_of(session, part, selection, records, target)
    waiting = selection.waiting
    steps = applied(waiting, records, target, selection.seed, selection.stage, readers, selection.told)
    names = _names(selection.uses)[len(selection.uses) - len(waiting) :]
    factors = dict(out.kept)
    for name in names:
        before = sum(r.tokens for r in readers.values())
        with counting() as counted:
            step = next(steps)
        out.spent[name] = sum(r.tokens for r in readers.values()) - before, counted.total
        factors = {key: factors[key] * factor for key, factor in step}
    out.kept = list(factors.items())
    return out


def _as_told(
    sources: Sequence[Source], recipe: Recipe, selection: Selection, kept: Sequence[tuple[Key, float]]
) -> Iterator[Said]:
    """Every row of the sources with what selectors told of it; rows that no selector saw are those of no run."""
    rank = {key: k for k, (key, _) in enumerate(kept)}
    for k, source in enumerate(sources):
        skipped: list[Any] | None = [] if recipe.data.bad_rows == "skip" else None
        for row, record in with_rows(source, recipe.base, skipped):
            key = record.source, record.id
            told, place = selection.told.get(key), rank.get(key)
            told = told if told is not None else Told(reason="no row of the run: held out, too long or with no token")
            by = None if place is not None else told.by
            verdict = Verdict(told.scores, place is not None, by, told.reason, place, told.weight)
            yield k, findable(row, record.base), record.source, record.id, verdict


def _judged(sources: Sequence[Source], base: Path, names: Sequence[str], methods: Sequence[EachRow]) -> Iterator[Said]:
    """Every row of the sources as it is read, judged by one selector after the other until one leaves it out."""
    judges = [(name, method.judge()) for name, method in zip(names, methods, strict=True)]
    for k, source in enumerate(sources):
        for some in windows(with_rows(source, base)):
            scores: list[dict[str, float]] = [{} for _ in some]
            out: list[tuple[str, str] | None] = [("", BLANK.reason) if blank(record) else None for _, record in some]
            for name, judge in judges:
                left = [i for i, against in enumerate(out) if against is None]
                if not left:
                    break
                for i, (found, why) in zip(left, judge([some[i][1] for i in left]), strict=True):
                    scores[i] |= {f"{name}.{what}": value for what, value in found.items()}
                    if not all(map(math.isfinite, found.values())):
                        what = f"'{name}' gives a score that is no finite number"
                        raise MethodError(what, where=some[i][1].where, remedy="look at this row, or take it out")
                    out[i] = (name, why) if why else None
            for i, (row, record) in enumerate(some):
                by, why = out[i] or (None, "")
                verdict = BLANK if by == "" else Verdict(scores[i], by is None, by, why)
                yield k, findable(row, record.base), record.source, record.id, verdict


def _layered(
    sources: Sequence[Source],
    base: Path,
    uses: Sequence[MethodUse],
    names: Sequence[str],
    target: Sequence[Record],
    seed: int,
) -> Iterator[Said]:
    """Every row of the sources, read once more when all selectors have been through them."""

    def again() -> Iterator[Record]:
        for source in sources:
            yield from (record for record in read_source(source, base) if not blank(record))

    count = sum(1 for _ in again())
    if not count:
        raise _silent([locate(s, base).name for s in sources])
    records: Sequence[Record] = Pool(again, count)
    places = np.arange(count)
    layers: list[tuple[str, np.ndarray, Selected]] = []
    for use, name in zip(uses, names, strict=True):
        method = selector(use, use.place or "--with", aimed=bool(target))
        rng = random.Random(f"{seed}/select/{STAGE}/{use.name}")
        given_ = call(method, "select", use.name, records=records, target=target, readers={}, rng=rng)
        found = checked(given_, len(records), use.name, use.place or "--with", records)
        layers.append((name, places, found))
        places = places[np.asarray(found.indices)]
        if (np.diff(places) <= 0).any() or not isinstance(records, Pool):
            records = [records[i] for i in found.indices]
        else:
            records = records.at(found.indices)
    rank = np.full(count, -1)
    rank[places] = np.arange(len(places))
    yield from _from_layers(sources, base, layers, rank)


def _from_layers(
    sources: Sequence[Source], base: Path, layers: Sequence[tuple[str, np.ndarray, Selected]], rank: np.ndarray
) -> Iterator[Said]:
    seats = []  # where each row stood among those that a selector was offered
    for _, places, _ in layers:
        seat = np.full(len(rank), -1)
        seat[places] = np.arange(len(places))
        seats.append(seat)
    weights = [dict(zip(f.indices, f.weights or (), strict=True)) for _, _, f in layers]
    i = -1
    for k, source in enumerate(sources):
        for row, record in with_rows(source, base):
            if blank(record):
                yield k, findable(row, record.base), record.source, record.id, BLANK
                continue
            i += 1
            scores: dict[str, float] = {}
            by, why, weight = None, "", 1.0
            for (name, _, found), seat, weighed in zip(layers, seats, weights, strict=True):
                at = int(seat[i])
                scores |= {f"{name}.{what}": float(values[at]) for what, values in found.scores.items()}
                why = found.reasons[at] if found.reasons is not None else ""
                weight *= weighed.get(at, 1.0)
                if at not in weighed:
                    by = name
                    break
            place = int(rank[i]) if by is None else None
            yield (
                k,
                findable(row, record.base),
                record.source,
                record.id,
                Verdict(scores, by is None, by, why, place, weight),
            )


def _subset(
    out: Path,
    wrote: Mapping[str, Any],
    uses: Sequence[MethodUse],
    names: Sequence[str],
    settled: _Settled,
    target: int,
    model: str | None,
    seconds: float,
    notes: list[str],
) -> Subset:
    figures = [
        SelectorFigures(
            name, method_of(use).model_dump(mode="json"), **wrote["figures"][name], tokens=tokens, flops=flops
        )
        for use, name in zip(uses, names, strict=True)
        for tokens, flops in [settled.spent.get(name, (0, 0.0))]
    ]
    return Subset(
        str(out),
        wrote["files"],
        "scores.jsonl",
        wrote["rows"],
        wrote["kept"],
        wrote["left_out"],
        target,
        figures,
        model,
        seconds,
        sum(s.tokens for s in figures),
        sum(s.flops for s in figures),
        notes,
    )
