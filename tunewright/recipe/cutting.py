"""Tasks that are one data set cut by a column: its values are read, ordered and shared out, and each task's sources
mean the rows that have some of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.data.where import drawn, meant, said, value_of, wanted
from tunewright.errors import DataError, RecipeError, did_you_mean
from tunewright.recipe.data_spec import DataSpec
from tunewright.recipe.naming import file_names, numbered, plain_name
from tunewright.recipe.recurring import BlurredParts, Task, varying
from tunewright.recipe.source import Source
from tunewright.recipe.tasks import TasksSpec
from tunewright.recipe.yaml_text import Document

ROLES = ("train", "eval", "validation")
SHOWN = 5
"""Values that a message names; it counts the others."""


def cut(document: Document, spec: TasksSpec, data: DataSpec, base: Path) -> tuple[list[Task], str]:
    assert spec.by is not None
    here = document.place(("tasks",))
    roles = {role: s for role in ROLES if isinstance(s := getattr(data, role), list)}
    if "eval" not in roles:
        raise RecipeError(
            "there are no rows to measure the tasks on", where=here, remedy="write data.eval: FILE, which is cut too"
        )
    found = {role: _column(sources, spec.by, base) for role, sources in roles.items()}
    learnt = found["train"]
    for role in [r for r in roles if r != "train"]:
        _check_both(learnt, found[role], role, spec.by, roles[role])
    values, ordered = in_order(spec, in_rising_order(learnt), here)
    groups = _groups(values, spec, here)
    parts = BlurredParts.alike(spec, groups)
    if spec.blurry is not None and spec.blurry.stochastic is not None:
        groups, parts = varying(values, len(groups), spec.blurry, here)
        ordered = f"drawn by seed {spec.blurry.stochastic}"
    names = numbered([called(g[0]) if spec.count is None else f"task-{i}" for i, g in enumerate(groups, 1)])
    tasks = []
    for k, (name, group) in enumerate(zip(names, groups, strict=True)):
        sources = {role: _meaning(of, spec.by, group, name, role) for role, of in roles.items()}
        if spec.blurry is not None:
            sources["train"] = _blurred(spec, roles["train"], groups, parts, k, name, base, here)
        tasks.append(Task(name, sources, in_rising_order({c for v in group for c in learnt[v]})))
    return tasks, ordered


def _column(sources: Sequence[Source], column: str, base: Path) -> dict[str, dict[str, None]]:
    """The values of a column, and the classes of each value's rows. DataError where a row has none."""
    out, lacking, others = dict[str, dict[str, None]](), "", dict[str, None]()
    for source in sources:
        if source.streaming:
            raise DataError(
                "a streamed source cannot be cut: its rows are not known before they are learnt from",
                where=source.path,
                remedy="remove streaming, or list a file for each task: tasks: [one.jsonl, two.jsonl]",
            )
        for where, row in rows_of(source, base):
            value = value_of(row, column, source.columns)
            text = said(value)
            others |= dict.fromkeys(row)
            if text is None:
                if value is not None and not isinstance(value, float):
                    remedy = "cut by a column of single values"
                    raise DataError(f"'{column}' holds {type(value).__name__}s", where=where, remedy=remedy)
                lacking = lacking or where
                continue
            label = said(value_of(row, "label", source.columns))
            out.setdefault(text, {}).update({} if label is None else {label: None})
    if not others and (asked := {c: v for s in sources for c, v in wanted(s).items()}):
        said_of = " and ".join(f"{c}: {', '.join(sorted(texts)[:3])}" for c, texts in asked.items())
        raise DataError(f"no row has {said_of}", where=sources[0].path, remedy="write values that rows have in `where`")
    if not out:
        remedy = did_you_mean(column, map(str, others)) if others else "give rows"
        raise DataError(f"no row has a column '{column}'", where=sources[0].path, remedy=remedy)
    if lacking:
        raise DataError(
            f"the row has no {column}: which task is it of?",
            where=lacking,
            remedy=f"fill it in, or leave such rows out: {{path: FILE, where: {{{column}: [VALUE, VALUE]}}}}",
        )
    return out


def rows_of(source: Source, base: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A source's rows that can be read, with where each stands."""
    from tunewright.data.raw import Bad
    from tunewright.data.read import limited, locate

    asked = wanted(source)
    for name, where, row, _ in limited(locate(source, base), source):
        if not isinstance(row, Bad) and drawn(name, source) and meant(row, asked, source.columns):
            yield where, row


def _check_both(
    learnt: Mapping[str, Any], judged: Mapping[str, Any], role: str, by: str, sources: Sequence[Source]
) -> None:
    """DataError where a task would have no rows to be measured on, or rows are of no task."""
    where = sources[0].path
    if lost := [v for v in learnt if v not in judged]:
        raise DataError(
            f"no {role} row has {by} {some(lost)}, which training rows have",
            where=where,
            remedy=f"add such rows, or leave the value out of training: where: {{{by}: [VALUE, VALUE]}}",
        )
    if new := [v for v in judged if v not in learnt]:
        raise DataError(
            f"{role} rows have {by} {some(new)}, which no training row has",
            where=where,
            remedy=f"{did_you_mean(new[0], learnt)} Or leave them out: where: {{{by}: [VALUE, VALUE]}}",
        )


def _groups(values: Sequence[str], spec: TasksSpec, here: str) -> list[list[str]]:
    """The values of each task: as many in each, the first tasks one more where they do not go up."""
    count, first = spec.count or len(values), spec.first
    if len(values) < 2:
        raise RecipeError(
            f"all rows have {spec.by} {some(values)}: that is one task", where=here, remedy="cut by another column"
        )
    rest = len(values) - (first or 0)
    if count > len(values) or first is not None and rest < count - 1:
        raise RecipeError(
            f"{count} tasks were asked for, and {spec.by} has {len(values)} values",
            where=here,
            remedy=f"write count: {min(len(values), max(2, rest + 1 if first else len(values)))} or fewer",
        )
    many = count if first is None else count - 1
    sizes = [rest // many + (k < rest % many) for k in range(many)]
    sizes = sizes if first is None else [first, *sizes]
    ends = [sum(sizes[: k + 1]) for k in range(count)]
    return [list(values[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def _meaning(sources: Sequence[Source], by: str, values: Sequence[str], task: str, role: str) -> list[Source]:
    """Sources of the rows that have one of some values, called by their task."""
    named = source_names([s.name or s.path for s in sources], task, role)
    return [
        s.model_copy(update={"name": name, "where": {**s.where, by: list(values)}})
        for s, name in zip(sources, named, strict=True)
    ]


def _blurred(
    spec: TasksSpec,
    sources: Sequence[Source],
    groups: Sequence[Sequence[str]],
    drawn: BlurredParts,
    k: int,
    task: str,
    base: Path,
    here: str,
) -> list[Source]:
    """What task k learns from where borders are blurry: its own values whole, of those that are shared its part of
    their rows, and a part of the rows that are spread over all tasks.
    """
    assert spec.by is not None and spec.blurry is not None
    blur, own = spec.blurry.blur, drawn.own
    shared = [v for g, n in zip(groups, own, strict=True) for v in g[n:]]
    if any(s.share is not None for s in sources):
        raise RecipeError("a source has a share of its own", where=here, remedy="remove share, or blurry")
    if not shared:
        raise RecipeError("no value is left to be shared", where=here, remedy="write a smaller blurry.disjoint")
    parts = {
        f"{task}/own": (groups[k][: own[k]], None),
        f"{task}/most": (groups[k][own[k] :], (blur, 1.0)),
        f"{task}/spread": (shared, (drawn.ends[k], drawn.ends[k + 1])),
    }
    out = []
    for name, (values, share) in parts.items():
        whole = share is None or share[0] < share[1]
        for s in _meaning(sources, spec.by, values, name, "train") if values and whole else ():
            part = s if share is None else s.model_copy(update={"share": share})
            if share is None or any(True for _ in rows_of(part, base)):  # of few rows none may be drawn
                out.append(part)
    return out


def source_names(given: Sequence[str], task: str, role: str) -> list[str]:
    """What a task's sources are called; of several, with their files'."""
    own = f"{task}/validation" if role == "validation" else task  # rows of one name and place count as the same
    return [own] if len(given) == 1 else [f"{own}/{name}" for name in file_names(list(given))]


def in_order(spec: TasksSpec, there: list[str], here: str, *, listed: bool = False) -> tuple[list[str], str]:
    """Values, or tasks' names, in the order that is asked for, and that order in words."""
    if spec.order_seed is not None:
        order = list(there)
        random.Random(f"{spec.order_seed}/order of tasks").shuffle(order)
        return order, f"drawn by seed {spec.order_seed}"
    if spec.order is None:
        return there, "as listed" if listed else "sorted"
    asked, what = [said(v) or "" for v in spec.order], "task" if listed else f"{spec.by}"
    if new := next((v for v in asked if v not in there), None):
        whose = "no task is called so" if listed else "no row has it"
        raise RecipeError(f"order names the {what} '{new}', and {whose}", where=here, remedy=did_you_mean(new, there))
    if len(set(asked)) < len(asked):
        raise RecipeError("order names a value twice", where=here, remedy="write each once")
    if lost := [v for v in there if v not in asked]:
        leave = "" if listed else f", or leave their rows out: where: {{{spec.by}: [VALUE, VALUE]}}"
        raise RecipeError(f"order leaves out {some(lost)}", where=here, remedy=f"name all{leave}")
    return asked, "as written"


def called(text: str) -> str:
    """A stage's name from a value or a file's."""
    return plain_name(text)[:60] or "task"


def in_rising_order(texts: Any) -> list[str]:
    """Numbers by their size before others by the alphabet."""
    return sorted(texts, key=lambda t: (0, float(t), t) if re.fullmatch(r"-?\d+(\.\d+)?", t) else (1, 0.0, t))


def some(values: Sequence[str]) -> str:
    named = ", ".join(f"'{v}'" for v in values[:SHOWN])
    return named + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
