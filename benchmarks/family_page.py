"""docs/family.md: what each method of the parameter-efficient family gained, lost and cost, from the cells that ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.family import BESIDE, EVALUATED, ROWS, SEEDS, TASKS, Task, methods
from tunewright import catalogue
from tunewright.compare.compared import told_apart
from tunewright.measure.intervals import t_interval

Cell = Mapping[str, Any]
LOW_RANK = ("dora", "pissa", "olora", "eva", "lora-fa", "adalora", "lora-ga", "vera")
"""What trains a low-rank change as `lora` does, in another way: eight of the best known."""

_HEAD = f"""\
<!-- Made by `python -m benchmarks.family --page` from benchmarks/family.json: change these. -->
# What may change, compared

Every method that says what may change in a model, alone and with its defaults, beside `{BESIDE}`: {ROWS} rows, the same
passes, each method's learning rate chosen on held-out rows by one rule (`tunewright compare --tune`), {SEEDS} seeds,
measured on {EVALUATED} rows that none has seen. Targets are means over seeds; "vs. {BESIDE}" is the difference to it on
the same seeds, with its 95 % interval over them, and a star where that leaves out 0. The intervals are not widened for
the number of methods: of twenty, one may have a star by chance. Models are small and rows few: what is not told apart
here may be elsewhere. No seconds stand here: cells ran beside other work.

*lost* is what kept text got worse by, in nats a token; *drift* how far the model's predictions or features moved from
its base's (its measure stands with the task); *trained* how many numbers train.
"""


def page(cells: Mapping[str, Cell]) -> str:
    """The page; what has not run is named."""
    return _HEAD + "".join(_task(t, [c for c in cells.values() if c["task"] == t.name]) for t in TASKS)


def _task(task: Task, cells: Sequence[Cell]) -> str:
    said = f"\n## {task.name.capitalize()}\n\n`{task.task}` on `{task.data}`; base: `{task.model}`; "
    said += f"{task.epochs} passes."
    said += f" Pictures of {task.side} pixels." if task.side else ""
    said += (
        f" Methods that change convolutions where they are asked to have `target_modules: {task.layers}`."
        if task.layers
        else ""
    )
    said += "\n"
    done = [c for c in cells if "figures" in c]
    if not done:
        return said + "\nNot run yet.\n"
    beside = done[0]["beside"]
    said += _public(done)
    said += f"\n| method | {task.metric.replace('_', ' ')} | vs. {BESIDE} | lost | drift | trained | FLOPs a token "
    said += "| rate |\n"
    said += "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    rows = [(BESIDE, beside, beside), *((c["method"], c["figures"], c["beside"]) for c in done)]
    for name, own, lora in sorted(rows, key=lambda r: -_mean(r[1]["targets"])):
        said += _row(name, own, lora)
    said += f"\nThe base: {done[0]['base']:.1%}. Drift is {done[0]['drift_measure'] or 'not measured'}.\n"
    refused = {c["method"]: c["refused"] for c in cells if "refused" in c}
    if refused:
        said += _refusals(refused)
    there = {r[0] for r in rows} | refused.keys()
    missing = [n for n in methods() if n not in there]
    other = [n for n in missing if (tasks := catalogue.load_method(n).tasks) is not None and task.task not in tasks]
    for what, names in (("Not run yet", [n for n in missing if n not in other]), ("Serve other tasks", other)):
        if names:
            said += f"\n{what}: " + ", ".join(f"`{n}`" for n in names) + ".\n"
    return said


def _refusals(refused: Mapping[str, str]) -> str:
    """Who was refused and why, those together of whom the same is said."""
    by: dict[str, list[str]] = {}
    for name, why in sorted(refused.items()):
        alike = why.replace(f"'{name}' ", "").replace(f"'{name.replace('-', '')}' ", "")
        by.setdefault(alike, []).append(f"`{name}`")
    return "\nRefused here:\n\n" + "".join(f"- {', '.join(names)}: {why}\n" for why, names in by.items())


def _public(done: Sequence[Cell]) -> str:
    """Whether variants of LoRA end within two points of it once rates are tuned, as arXiv 2602.04998 found."""
    found = {c["method"]: _difference(c["figures"]["targets"], c["beside"]["targets"]) for c in done}
    ran = {n: found[n] for n in LOW_RANK if n in found}
    if len(ran) < 2:
        return ""
    near = [n for n, (mean, _, _) in ran.items() if abs(mean) <= 0.02]
    return (
        f"\nOf {len(ran)} variants of LoRA that have run, {len(near)} end within two points of it once rates are tuned "
        "(arXiv 2602.04998 found that of nine)." + _drifts([c for c in done if c["method"] in near]) + "\n"
    )


def _drifts(near: Sequence[Cell]) -> str:
    """Whether what a method moved tells apart those that end alike."""
    moved = {c["method"]: _mean(c["figures"]["drift"]) for c in near if None not in c["figures"]["drift"]}
    if len(moved) < 2:
        return ""
    least, most = min(moved, key=lambda n: moved[n]), max(moved, key=lambda n: moved[n])
    lora = _mean(near[0]["beside"]["drift"])
    return (
        f" These moved the model by {moved[least]:.3g} (`{least}`) to {moved[most]:.3g} (`{most}`), `{BESIDE}` by "
        f"{lora:.3g}."
    )


def _row(name: str, own: Mapping[str, Any], lora: Mapping[str, Any]) -> str:
    difference = "" if name == BESIDE else _told(*_difference(own["targets"], lora["targets"]))
    lost, drift = ("" if None in own[k] or not own[k] else f"{_mean(own[k]):.3g}" for k in ("lost", "drift"))
    edge = " (outermost tried)" if own["rate_at_edge"] else ""
    flops = "" if own["flops_per_token"] is None else f"{own['flops_per_token']:.2g}"
    trained = "" if own["trained"] is None else f"{own['trained']:,}"
    return (
        f"| `{name}` | {_mean(own['targets']):.1%} | {difference} | {lost} | {drift} | {trained} | {flops} "
        f"| {own['rate']:.2g}{edge} |\n"
    )


def _difference(own: Sequence[float], lora: Sequence[float]) -> tuple[float, float, float]:
    found = t_interval([a - b for a, b in zip(own, lora, strict=True)])
    assert found.low is not None and found.high is not None  # of three seeds
    return found.value, found.low, found.high


def compared(cells: Mapping[str, Cell]) -> list[dict[str, Any]]:
    """What the package keeps of the cells: each method's difference to `lora` by task, in the tasks' order."""
    named = {t.name: t for t in TASKS}
    order = list(named)
    found = []
    for cell in sorted(cells.values(), key=lambda c: (c["method"], order.index(c["task"]))):
        if "figures" in cell:
            mean, low, high = _difference(cell["figures"]["targets"], cell["beside"]["targets"])
            task = named[cell["task"]]
            row = {"method": cell["method"], "task": task.name, "base": task.model, "metric": task.metric}
            found.append(row | {"difference": round(mean, 4), "low": round(low, 4), "high": round(high, 4)})
    return found


def _told(mean: float, low: float, high: float) -> str:
    if high - low < 1e-9:
        return f"{100 * mean:+.1f} (on each seed)"
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{'*' if told_apart(low, high) else ''}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
