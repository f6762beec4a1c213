"""docs/tasks.md, made from tasks, their examples, metrics and the catalogue: `python -m tunewright.commands.docs`.

Which methods apply is what the methods declare, what their objectives ask for, and, where a model reads two texts, what
they say of a tiny one. The figures of real runs come from docs/task-runs.json (`benchmarks/tasks.py`).
"""

from __future__ import annotations

import inspect
import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunewright import catalogue
from tunewright.conformance import task_next_scale
from tunewright.conformance.task_examples import example_of
from tunewright.contract.combining import serves
from tunewright.contract.left import Earlier
from tunewright.contract.method import Method, Plan, Setup, State, call
from tunewright.contract.slot import TRAINING_SLOTS
from tunewright.contract.task import MULTI_LABEL, REGRESSION, Task
from tunewright.errors import MethodError, RecipeError
from tunewright.loading.pipelines import PIPELINES
from tunewright.measure.target import METRICS, check_metric
from tunewright.methods.needs.fisher import Fisher
from tunewright.models.adapted import Adapted
from tunewright.models.arguments import reads_two_texts
from tunewright.models.surgery import Surgery
from tunewright.tasks import _next_scale, as_problem, get_task, own_names
from tunewright.tasks._parts import DETECTION, FEATURES, FORECASTING, PLAYING

_HEAD = """\
<!-- Made by `python -m tunewright.commands.docs` from the tasks: change their files, not this one. -->
# Tasks

What a row is, how a model reads it and what the loss is. Tunewright's own tasks are these; a package may
[add others](write-a-task.md), and where one says that it is of the `kind` of one of these, whatever serves this one
serves it. `tunewright init MODEL DATA` chooses the task by the data's columns. Columns of other names are brought to
these by the source's `columns`.

"""
RUNS = Path(__file__).parents[2] / "docs" / "task-runs.json"
NEXT_SCALE = "next-scale"
"""What a run is called there of the second kind of model that draws pictures."""


SOURCES = {"small": 1, "large": 1, "replayed": 1}
"""Sources of the tiny plan that methods are asked about; the last is replayed."""


def tasks_page() -> str:
    """The tasks as Markdown: a section each, and a table of the methods that not all of them take."""
    tasks = [get_task(name) for name in own_names()]
    methods = _training_methods()
    refused = {task.name: _refusals(task, methods) for task in tasks}
    parts = [_HEAD, *(_section(task, refused[task.name], len(methods)) for task in tasks), _table(tasks, refused)]
    return "\n".join(parts).rstrip("\n") + "\n"


def _training_methods() -> dict[str, type[Method]]:
    ours = [e for e in catalogue.entries().values() if e.room != catalogue.THIRD_PARTY]
    loaded = {e.name: catalogue.load_method(e.name) for e in ours}
    return {n: m for n, m in sorted(loaded.items()) if set(m.slots()) & set(TRAINING_SLOTS)}


def _section(task: Task, refused: dict[str, str], count: int) -> str:
    example = example_of(task.name)
    model: Any = example.model()
    said = " ".join((inspect.getdoc(inspect.getmodule(type(task))) or "").split("\n\n")[0].split())
    said = said.removeprefix(f"{task.name}: ")
    names = [n for n in METRICS if _measures(task, n)]
    lines = [
        f"## {task.name}",
        said[:1].upper() + said[1:],
        "```json\n" + "\n".join(json.dumps(row) for row in example.rows[:2]) + "\n```",
        (_drawers(task) if task.draws else "")
        or f"- **Models**: `transformers.{task.loads_by(model.config)}`, such as `{type(model).__name__}`"
        + (
            "; where the checkpoint has no head for the labels, a new one is drawn"
            if task.labelled or task.scores
            else ""
        )
        + ("; where the checkpoint has no such head, a new one is drawn" if task.outputs else ""),
        f"- **Loss**: {task.unit}"
        + (f"; of next-scale models {_next_scale.UNIT}" if task.draws else "")
        + ("; rows may be packed without padding" if task.packs else ""),
        f"- **Metrics**: {', '.join(f'`{n}`' for n in names)}",
        *(_problem(as_problem(task, one), count) for one in task.problem_types if one != task.problem_type),
        f"- **Drift**: {_drift(task)}",
        f"- **Methods**: {count - len(refused)} of the {count} that take part in training. " + _why(refused),
    ]
    every = [as_problem(task, one) for one in task.problem_types] or [task]
    lines += [f"- **A real run**: {run}" for one in every for run in _run(one)]
    head, body = lines[:3], lines[3:]
    return "\n\n".join(head) + "\n\n" + "\n".join(body) + "\n"


def _drawers(task: Task) -> str:
    """The folders that a task that draws pictures reads, by what their index calls them."""
    own = [f"`{name}`" for name, kind in PIPELINES.items() if kind.task == task.name]
    return f"- **Models**: folders of several parts, by their `model_index.json`: {', '.join(own)}"


_OTHERS = {MULTI_LABEL: {"labels": ["billing", "cards"]}, REGRESSION: {"label": 3.5}}
"""What rows of another problem have."""


def _problem(task: Task, count: int) -> str:
    """A problem type beside one class a row."""
    shown = ", ".join(f"`{n}`" for n, m in METRICS.items() if m.of and _measures(task, n))
    refused = len(_refusals(task, _training_methods()))
    has = json.dumps(_OTHERS[task.problem_type])[1:-1]
    return (
        f"- **`{task.problem_type}`**: rows with `{has}`, told from the rows or by `data.problem_type`. "
        f"Loss in {task.unit}; metrics {shown}, beside a linear probe and what is always said; "
        f"{count - refused} of the {count} methods"
    )


def _measures(task: Task, metric: str) -> bool:
    try:
        check_metric(metric, task)
    except RecipeError:
        return False
    return True


def _drift(task: Task) -> str:
    if task.is_a(FORECASTING):
        return "how far forecasts of kept series, else of the evaluated ones, moved, in standard deviations"
    if task.draws:
        return (
            "mean square of the changes of what is predicted of noised pictures, or, of next-scale models, divergence "
            "at the codes of pictures, of kept ones, else of the evaluated"
        )
    if task.is_a(PLAYING):
        return (
            "divergence at the actions of kept episodes, else of the evaluated ones; of actions that are numbers how "
            "far they moved, in standard deviations"
        )
    if task.is_a(DETECTION):
        where = "of the model's proposals, or, where the head is new or they come from the picture, how far the base's"
        return f"divergence of the classes {where} features align no more"
    if task.continues:
        return "divergence from the base's predictions on text that the base itself wrote"
    if task.pools and not task.scores:
        return "divergence through the base's own head, or, where the head is new, how far its features align no more"
    if task.outputs:
        where = "over a row's choices or places, or, where the head is new, how far the base's features align no more"
        return f"divergence {where}"
    if task.per_token:
        return "divergence at the words, or, where the head is new, how far the base's features align no more"
    if task.is_a(FEATURES):
        return "how far the vectors of the evaluated pictures align no more with the base's (1 - linear CKA)"
    if task.embeds:
        return "how far the vectors of kept text, else of the evaluated rows, align no more with the base's"
    if task.generates and task.reads_files and not task.reads_audio:
        return "divergence from the base's predictions at the answers to the evaluated pictures"
    if task.scores:
        return "how far what the head reads aligns no more with what the base's head reads"
    return "divergence from the base's predictions at the targets, on kept rows where there are some"


def _refusals(task: Task, methods: dict[str, type[Method]]) -> dict[str, str]:
    """method -> why it is refused for the task."""
    model: Any = example_of(task.name).model()
    adapted = Adapted(model) if reads_two_texts(model) else None
    kinds = [(make, Adapted(make())) for make in _every_kind(task)]
    out = {}
    for name, method in methods.items():
        if not serves(method, task):
            out[name] = "serves " + ", ".join(method.tasks or ())
        elif (not task.likelihoods or task.multi_label) and "objective" in method.slots() and method.tasks is None:
            gives = "a vector a text" if task.embeds else "one number a text" if task.scores else "a forecast"
            gives = "a vector a picture" if task.is_a(FEATURES) else gives
            gives = "a picture" if task.draws else gives
            gives = "a box" if task.is_a(DETECTION) else gives
            out[name] = f"trains likelihoods, and {gives} has none"
        elif task.couples == "batch" and _reads_rows_alone(method):
            out[name] = "reads the loss of each row by itself, and here a row's loss reads the others"
        elif adapted is not None and "attach" in method.slots() and (why := _said(method, adapted, task)):
            out[name] = why
        elif adapted is not None and method.reshapes and (why := _reshaped(method, example_of(task.name).model())):
            out[name] = why
        elif kinds and all(whys := [_said(method, made, task) or _cannot(method, make) for make, made in kinds]):
            out[name] = whys[0]
    return out


def _every_kind(task: Task) -> list[Callable[[], Any]]:
    """What makes a tiny model of each kind that a task has, where these are so few that what they all refuse is refused
    by the task.
    """
    if task.draws:
        return [example_of(task.name).model, task_next_scale.example_of(task.name).model]
    return [example_of(task.name).model] if task.is_a(PLAYING) else []


def _cannot(method: type[Method], make: Callable[[], Any]) -> str:
    return _reshaped(method, make()) if method.reshapes else ""


def _reads_rows_alone(method: type[Method]) -> bool:
    """Whether a method needs Fisher information, which `NeedContext.with_loss` refuses where losses read other rows."""
    return any(isinstance(need, Fisher) for need in method(**method.conformance).needs())


def _said(method: type[Method], adapted: Adapted, task: Task) -> str:
    """What a method's set-up says against the model; "" where it says nothing."""
    plan = Plan(8, 64, "main", 0, 1e-3, warmup_steps=0, sources=SOURCES, replay=tuple(SOURCES)[-1:])
    made = method(**getattr(method, "conformance", {}))
    try:
        made.setup(Setup(adapted, plan, task.name, random.Random(0), Earlier()))
    except MethodError as error:
        return error.what.split(", and ")[-1]
    return ""


def _reshaped(method: type[Method], model: Any) -> str:
    """What is said against reshaping a model; "" where it is reshaped."""
    adapted = Adapted(model)
    structure, made = adapted.structure, method(**getattr(method, "conformance", {}))
    needs = SimpleNamespace(block_importance=[0.0] * len(structure.blocks))
    offered = {"model": model, "structure": structure, "needs": needs, "tokenizer": None, "state": State()}
    try:
        given = call(made, "prepare", rng=random.Random(0), **offered)
        for surgery in [given] if isinstance(given, Surgery) else list(given or ()):
            adapted.operate(surgery)
    except MethodError as error:
        return error.what
    return ""


def _why(refused: dict[str, str]) -> str:
    """The refused methods by their reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in refused.items():
        by_reason[reason].append(f"`{name}`")
    said = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return "Refused: " + "; ".join(said) + "." if said else "None is refused."


def _table(tasks: list[Task], refused: dict[str, dict[str, str]]) -> str:
    """A row for each method that some task refuses."""
    some = sorted({name for names in refused.values() for name in names})
    head = "| method | " + " | ".join(t.name for t in tasks) + " |\n" + "| --- " * (len(tasks) + 1) + "|\n"
    rows = (
        f"| `{name}` | " + " | ".join("" if name in refused[t.name] else "yes" for t in tasks) + " |\n" for name in some
    )
    return "## Methods that not every task takes\n\nAll others apply to all tasks.\n\n" + head + "".join(rows)


def _run(task: Task) -> list[str]:
    """The task's real runs in words, that of another kind of model last; none where none was made."""
    runs = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.is_file() else {}
    return [_told(runs[name]) for name in (task.called, f"{task.name} ({NEXT_SCALE})") if name in runs]


def _told(found: dict[str, Any]) -> str:
    """A run's figures in words."""
    (before, *_), (after, low, high) = found["before"], found["after"]
    text = (
        f"{found['what']}: {found['metric']} {before:.3f} to {after:.3f} [{low:.3f}, {high:.3f}] on {found['n']:,} rows"
    )
    beside = "".join(f"; {metric} {a:.3f} to {b:.3f}" for metric, (a, b) in found.get("beside", {}).items())
    probe = found.get("probe")
    beside += f"; a linear probe on the base {probe:.3f}" if probe is not None else ""
    beside += "".join(f"; {name} {value:.3f}" for name, value in found.get("baselines", {}).items())
    kept = "".join(f"; loss on {name} {a:.3f} to {b:.3f}" for name, (a, b) in found["kept"].items())
    drift = f"; drift {found['drift'][1]:.3f} ({found['drift'][0]})"
    cost = f"; {found['steps']:,} steps, {found['tokens']:,} tokens, {found['seconds']:.0f} s of training, cores shared"
    best = sorted(found["parts"].items(), key=lambda part: -part[1])
    parts = f"; by type from {best[0][0]} ({best[0][1]:.2f}) to {best[-1][0]} ({best[-1][1]:.2f})" if best else ""
    return text + beside + parts + kept + drift + cost
