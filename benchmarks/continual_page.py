"""docs/continual-compared.md: what each continual method kept of each stream, from the cells that were run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import continual_peer
from benchmarks.continual import ARMS, BUFFER, JOINT
from benchmarks.continual_data import STREAMS, Stream
from tunewright.measure.intervals import t_interval

Cell = Mapping[str, Any]

_HEAD = f"""\
<!-- Made by `python -m benchmarks.continual --page` from benchmarks/continual.json: change these. -->
# Continual methods compared

What [a sequence of tasks](continual.md) leaves of each task, by method, on four streams. Every arm learns the same
rows in the same number of passes, at the rates that its methods name; nothing was tuned. `joint` learns all tasks at
once and bounds what a sequence can reach; `full` and `lora` do nothing against forgetting. What rehearses may keep
{BUFFER} rows. `+wise-ft` is the whole change at half strength.

Each figure is a mean over orders of the tasks (the order's number is the seed too), with its 95 % interval over them;
of one order there is none. No seconds stand here: cells ran beside other work, some beside more than others. "vs.
full" is the difference to plain full tuning on the same orders: a star where its interval leaves out 0.
The intervals are not widened for the number of arms: of twenty, one may have a star by chance.
"""


def page(cells: Mapping[str, Cell], beside: Mapping[str, Cell] | None = None) -> str:
    """The page; streams without a cell are named as not run. `beside`: cells of `continual_peer`."""
    streams = "".join(_stream(s, [c for c in cells.values() if c["stream"] == s.name]) for s in STREAMS)
    return _HEAD + streams + continual_peer.section(beside or {})


def _stream(stream: Stream, cells: Sequence[Cell]) -> str:
    said = f"\n## {stream.name.capitalize()}\n\n{stream.what[0].upper()}{stream.what[1:]}. Base: `{stream.model}`; "
    said += f"{stream.train} rows to learn from and {stream.test} to measure on for each value of `{stream.group}`, "
    said += f"{stream.epochs} passes over each task.\n"
    done = [c for c in cells if "accuracy" in c]
    if not done:
        return said + "\nNot run yet.\n"
    loss = done[0]["direction"] == "lower"
    head = "loss after all tasks" if loss else "accuracy after all tasks"
    said += f"\n| method | {head} | vs. full | forgetting | held for later | orders |\n"
    said += "| --- | --- | --- | --- | --- | --- |\n"
    arms = [a for a in ARMS if any(c["arm"] == a for c in done)]
    best = sorted(arms, key=lambda a: _mean(done, a, "accuracy") * (1 if loss else -1))
    for arm in best:
        said += _row(arm, done, loss)
    said += f"\nThe base, which knows none of the tasks: {figure([done[0]['base']], loss)}.\n"
    refused = {c["arm"]: c["refused"] for c in cells if "refused" in c}
    if refused:
        said += "\nRefused here: " + "; ".join(f"`{a}` ({why})" for a, why in refused.items()) + ".\n"
    missing = [a for a in ARMS if a not in arms and a not in refused]
    if missing:
        said += "\nNot run yet: " + ", ".join(f"`{a}`" for a in missing) + ".\n"
    return said


def _row(arm: str, cells: Sequence[Cell], loss: bool) -> str:
    own = {c["order"]: c for c in cells if c["arm"] == arm}
    full = {c["order"]: c for c in cells if c["arm"] == "full"}
    pairs = [own[o]["accuracy"] - full[o]["accuracy"] for o in own if o in full]
    against = "" if arm == "full" or not pairs else figure(pairs, loss, change=True)
    forgetting = [c["forgetting"] for c in own.values() if "forgetting" in c]
    held = max(c.get("held_bytes", 0.0) for c in own.values())
    columns = [
        f"`{arm}`" if arm != JOINT else f"`{arm}` (bound)",
        figure([c["accuracy"] for c in own.values()], loss),
        against,
        figure(forgetting, loss, change=True, star=False) if forgetting else "",
        _bytes(held),
        f"{len(own)}",
    ]
    return "| " + " | ".join(columns) + " |\n"


def _mean(cells: Sequence[Cell], arm: str, key: str) -> float:
    values = [c[key] for c in cells if c["arm"] == arm]
    return float(sum(values) / len(values))


def figure(values: Sequence[float], loss: bool, *, change: bool = False, star: bool = True) -> str:
    """A mean with its interval over orders: a loss in nats, else percent (points for a change)."""
    scale, digits, unit = (1.0, 3, "") if loss else (100.0, 1, "" if change else " %")
    sign = "+" if change else ""
    mean = sum(values) / len(values)
    text = f"{scale * mean:{sign}.{digits}f}{unit}"
    if len(values) < 2:
        return text
    whole = (-1.0, 1.0) if change else (0.0, 1.0)
    over = t_interval(values, bounds=None if loss else whole)
    marked = " *" if change and star and over.excludes(0.0) else ""
    return f"{text} [{scale * over.low:{sign}.{digits}f}, {scale * over.high:{sign}.{digits}f}]{marked}"


def _bytes(count: float) -> str:
    if not count:
        return "0"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
