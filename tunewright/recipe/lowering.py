"""How `tasks` becomes stages: a recipe as a person could have written it, a stage a task, and `sequence`, which says
which sources measure which task.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from tunewright.data.where import said, value_of
from tunewright.errors import RecipeError, TunewrightError
from tunewright.recipe.cutting import ROLES, SHOWN, called, cut, in_order, in_rising_order, rows_of, source_names
from tunewright.recipe.data_spec import DataSpec
from tunewright.recipe.explain import explain
from tunewright.recipe.recurring import Task, recurring
from tunewright.recipe.source import Source
from tunewright.recipe.stage import DataOverride
from tunewright.recipe.tasks import SequenceSpec, SequenceTask, TasksSpec
from tunewright.recipe.yaml_text import Document
from tunewright.recipe.yaml_text import Path as Keys


def lower(document: Document, base: Path) -> None:
    """Write a document's `tasks` out as stages, in place. Relative paths start from `base`. RecipeError and DataError
    with what is wrong, where, and what to write.
    """
    tree = document.tree
    if not isinstance(tree, dict) or "tasks" not in tree:
        return
    if tree["tasks"] is None:
        del tree["tasks"]
        return
    spec, data = _spec(document), _data(document)
    make = _listed if spec.of is not None else _permuted if spec.permuted is not None else cut
    tasks, ordered = make(document, spec, data, base)
    _check_spelling(tasks, document)
    scenario = _scenario(tasks, spec, document)
    if scenario in ("class-incremental", "task-incremental"):
        _draw_head(tree)
    stages = tasks
    if spec.recurring is not None:
        stages, scenario = recurring(tasks, spec.recurring, document.place(("tasks",))), None
        ordered = f"drawn by seed {spec.recurring.seed}"
    known = _write(document, spec, tasks, stages)
    told: dict[str, Any] = {
        "tasks": known,
        "scenario": scenario,
        "by": spec.by,
        "carry": spec.carry,
        "blurry": spec.blurry,
        "online": spec.online,
    }
    told |= {"recurring": spec.recurring, "ordered": ordered}
    tree["sequence"] = SequenceSpec.model_validate(told).model_dump(mode="python")


def _spec(document: Document) -> TasksSpec:
    tree = document.tree
    for key in ("stages", "adapters", "sequence"):
        if tree.get(key) is not None:
            raise RecipeError(
                f"'tasks' and '{key}' are both written",
                where=document.place(("tasks",)),
                remedy="keep tasks beside methods and budget: each task is a stage" if key == "stages" else "keep one",
            )
    if not tree.get("methods"):
        where = document.place(("tasks",))
        raise RecipeError("'methods' is missing", where=where, remedy="write methods: [lora] beside tasks")
    if not isinstance(tree["tasks"], list | Mapping | TasksSpec):
        raise RecipeError(
            f"`tasks` lists files, or says which column cuts the data, got {tree['tasks']!r}",
            where=document.place(("tasks",)),
            remedy="write tasks: [one.jsonl, two.jsonl], or tasks: {by: label, count: 5}",
        )
    try:
        return TasksSpec.model_validate(tree["tasks"])
    except ValidationError as error:
        raise explain(error, document, TasksSpec, ("tasks",)) from None


def _data(document: Document) -> DataSpec:
    """The recipe's `data`; tasks that are listed bring its training rows."""
    tree = document.tree
    given = tree.get("data")
    listed = isinstance(tree["tasks"], list) or isinstance(tree["tasks"], Mapping) and tree["tasks"].get("of")
    if listed and isinstance(given, Mapping) and given.get("train") is not None:
        raise RecipeError(
            "'data.train' and a list of tasks are both written: the list says what is learnt",
            where=document.place(("data", "train")),
            remedy="remove data.train, or cut it: tasks: {by: COLUMN}",
        )
    if listed and (given is None or isinstance(given, Mapping)):
        given = {**(given or {}), "train": ["-"]}
    try:
        return DataSpec.model_validate(given if given is not None else {})
    except ValidationError as error:
        raise explain(error, document, DataSpec, ("data",)) from None


def _listed(document: Document, spec: TasksSpec, data: DataSpec, base: Path) -> tuple[list[Task], str]:
    assert spec.of is not None
    at: Keys = ("tasks",) if isinstance(document.tree["tasks"], list) else ("tasks", "of")
    tasks = [_item(document, item, (*at, k), base) for k, item in enumerate(spec.of)]
    names = [t.name for t in tasks]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise RecipeError(
            f"two tasks are named '{twice}'", where=document.place(at), remedy="write {name: other, train: FILE}"
        )
    for role in ROLES[1:]:
        _share_out(document, tasks, role, getattr(data, role))
    for task in tasks:
        task.sources = {
            role: [
                s.model_copy(update={"name": n})
                for s, n in zip(of, source_names([s.name or s.path for s in of], task.name, role), strict=True)
            ]
            for role, of in task.sources.items()
        }
        if "eval" not in task.sources:
            raise RecipeError(
                f"the task '{task.name}' has no rows to be measured on",
                where=document.place(task.at),
                remedy=f"write {{name: {task.name}, train: FILE, eval: FILE}}, or data.eval: a file for each task, in "
                "their order",
            )
    order, ordered = in_order(spec, names, document.place(("tasks",)), listed=True)
    return sorted(tasks, key=lambda t: order.index(t.name)), ordered


def _permuted(document: Document, spec: TasksSpec, data: DataSpec, base: Path) -> tuple[list[Task], str]:
    """Tasks of all rows, with the pixels of their pictures in an order of each."""
    assert spec.permuted is not None
    here = document.place(("tasks",))
    roles = {role: s for role in ROLES if isinstance(s := getattr(data, role), list)}
    if "eval" not in roles:
        raise RecipeError("there are no rows to measure the tasks on", where=here, remedy="write data.eval: FILE")
    if any(s.permute is not None for of in roles.values() for s in of):
        raise RecipeError(
            "a source has an order of pixels of its own", where=here, remedy="remove permute, or permuted"
        )
    classes, rng = _classes(roles["train"], base), random.Random(f"{spec.order_seed or 0}/orders of pixels")
    orders: list[int | None] = [None, *rng.sample(range(1, 1 << 31), spec.permuted - 1)]
    tasks = []
    for i, order in enumerate(orders, 1):
        sources = {}
        for role, of in roles.items():
            names = source_names([s.name or s.path for s in of], f"order-{i}", role)
            pairs = zip(of, names, strict=True)
            sources[role] = [s.model_copy(update={"name": name, "permute": order}) for s, name in pairs]
        tasks.append(Task(f"order-{i}", sources, classes))
    return tasks, "as they are, then by drawn orders of pixels"


def _item(document: Document, item: Any, at: Keys, base: Path) -> Task:
    given = {"train": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else {}
    if not given.get("train"):
        raise RecipeError(
            "a task is a file, or a mapping of keys of `data` with `train`",
            where=document.place(at),
            remedy="write tasks: [one.jsonl, {name: two, train: two.jsonl, eval: two-test.jsonl}]",
        )
    name = given.pop("name", None)
    try:
        read = DataOverride.model_validate(given)
    except ValidationError as error:
        raise explain(error, document, DataOverride, at) from None
    assert read.train is not None
    task = str(name) if name is not None else called(PurePosixPath(read.train[0].path.removesuffix(".gz")).stem)
    sources = {role: s for role in ROLES if isinstance(s := getattr(read, role), list)}
    own = {k: v for k, v in given.items() if k not in sources}
    return Task(task, sources, _classes(read.train, base), own, at)


def _classes(sources: Sequence[Source], base: Path) -> list[str]:
    """The classes of rows that have one each; none where rows have none, or cannot be read yet."""
    found: dict[str, None] = {}
    try:
        for source in [s for s in sources if not s.streaming]:
            for k, (_, row) in enumerate(rows_of(source, base)):
                if (label := said(value_of(row, "label", source.columns))) is not None:
                    found[label] = None
                elif k >= SHOWN and not found:
                    break
    except TunewrightError:
        return []  # whoever encodes the rows says what is wrong with them
    return in_rising_order(found)


def _share_out(document: Document, tasks: Sequence[Task], role: str, given: Any) -> None:
    """Give the sources of the recipe's own `data.eval` to the tasks, one each in order, where none brings its own."""
    if not isinstance(given, list):
        return
    where = document.place(("data", role))
    if any(role in t.sources for t in tasks):
        raise RecipeError(
            f"'data.{role}' is written, and a task brings {role} rows of its own",
            where=where,
            remedy="write them for each task, and remove them from data",
        )
    if len(given) != len(tasks):
        raise RecipeError(
            f"data.{role} lists {len(given)} sources for {len(tasks)} tasks",
            where=where,
            remedy=f"list one for each task, in their order, or write {{name: NAME, train: FILE, {role}: FILE}}",
        )
    for task, source in zip(tasks, given, strict=True):
        task.sources[role] = [source]


def _check_spelling(tasks: Sequence[Task], document: Document) -> None:
    """RecipeError where classes of two tasks differ in case and spaces alone."""
    seen: dict[str, tuple[str, str]] = {}
    for task in tasks:
        for name in task.classes:
            other, of = seen.setdefault(" ".join(name.casefold().split()), (name, task.name))
            if other != name and of != task.name:
                raise RecipeError(
                    f"the label '{name}' of the task '{task.name}' is written '{other}' in '{of}': one class or two?",
                    where=document.place(task.at),
                    remedy="write it in one way, or give two classes names that differ by more than case and spaces",
                )


def _scenario(tasks: Sequence[Task], spec: TasksSpec, document: Document) -> str | None:
    """Which scenario it is: as the recipe says, else as the classes tell. RecipeError where they say otherwise."""
    here = document.place(("tasks", "scenario"))
    if not all(t.classes for t in tasks):
        if spec.scenario is not None:
            raise RecipeError(
                f"{spec.scenario} is said of rows that have a class each, and these have none",
                where=here,
                remedy="leave scenario out, or name the column: columns: {label: YOUR_COLUMN}",
            )
        return None
    owner: dict[str, str] = {}
    shared = next(
        ((c, owner[c], t.name) for t in tasks for c in t.classes if owner.setdefault(c, t.name) != t.name), None
    )
    told = "class-incremental" if shared is None else "domain-incremental"
    if spec.scenario in (None, "task-incremental", told):
        return spec.scenario or told
    why = "no class is in two tasks" if shared is None else f"'{shared[0]}' is in '{shared[1]}' and in '{shared[2]}'"
    raise RecipeError(f"{spec.scenario} was said, and {why}", where=here, remedy=f"write scenario: {told}")


def _write(document: Document, spec: TasksSpec, tasks: Sequence[Task], stages: Sequence[Task]) -> list[SequenceTask]:
    """The stages and the rows to measure on, in the place of `tasks`, `methods` and `budget`; what the stages are."""
    tree, places = document.tree, document.places
    methods, budget = tree.pop("methods"), tree.pop("budget", None)
    if spec.online and budget:
        raise RecipeError(
            "online is one pass over each task, and a budget is written",
            where=document.place(("budget",)),
            remedy="remove budget, or online",
        )
    more = {"budget": {"epochs": 1} if spec.online else budget} if spec.online or budget is not None else {}
    told = {role: [_told(s) for t in tasks for s in t.sources.get(role, ())] for role in ROLES}
    tree["data"] = {**(tree.get("data") or {}), **{role: found for role, found in told.items() if found}}
    tree["stages"] = []
    for j, task in enumerate(stages):
        own = {**task.own, "train": [_told(s) for s in task.sources["train"]]}
        stage = {"name": task.name, "carry": spec.carry or "fold", "methods": copy.deepcopy(methods), "data": own}
        stage |= more
        tree["stages"].append(stage)
        places[("stages", j)] = places[("stages", j, "data")] = document.place(task.at)
        for path, where in list(places.items()):
            if path[:1] in (("methods",), ("budget",)):
                places[("stages", j, *path)] = where
            elif path[: len(task.at)] == task.at != ("tasks",) and len(path) > len(task.at):
                places[("stages", j, "data", *path[len(task.at) :])] = where
    del tree["tasks"]

    def named(task: Task, role: str) -> list[str]:
        return [s.name or s.path for s in task.sources.get(role, ())]

    return [SequenceTask(name=t.name, classes=t.classes, **{r: named(t, r) for r in ROLES}) for t in tasks]


def _draw_head(tree: dict[str, Any]) -> None:
    """Let a new head start at random where the recipe does not say: a probe on the first task's rows holds the classes
    of all later ones for unlikely from the start, which these have to unlearn.
    """
    train = tree.get("train")
    if train is None or isinstance(train, Mapping) and train.get("head") is None:
        tree["train"] = {**(train or {}), "head": "random"}


def _told(source: Source) -> dict[str, Any]:
    """A source as a recipe writes it."""
    more = {key: value for key in ("where", "share", "permute") if (value := getattr(source, key))}
    return {**source.model_dump(mode="python", exclude_unset=True), "name": source.name, **more}
