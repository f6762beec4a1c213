"""docs/data.md: which selector helped on which corpus, by how much and at what cost, from the cells that ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.chosen import ALL, CORPORA, KEEP, RANDOM, SEEDS, SELECTORS, Corpus
from tunewright.measure.intervals import t_interval

Cell = Mapping[str, Any]

_HEAD = f"""\
<!-- Made by `python -m benchmarks.chosen --page` from benchmarks/chosen.json: change these. -->
# Which rows help

[Selectors](selection.md) compared as methods are (`tunewright compare --select`): each keeps {KEEP} of a pool, and a
model is trained on what it keeps for as many tokens as on {KEEP} drawn at random and on all rows, each one's learning
rate chosen by one rule on rows held out, {SEEDS} seeds. All are measured on rows like the task that none has seen.
"vs. random" and "vs. all rows" are differences on the same seeds, better upwards, with their 95 % intervals over
seeds, and a star where that leaves out 0; they are not widened for the number of selectors: of twenty, one may have a
star by chance. The pool is one draw, and so are the rows aimed at and measured on: the intervals say nothing about
others. Models are small, and rows few.

*cost* is what a run takes in counted FLOPs, choosing included, over one that draws its rows.
"""


def page(cells: Mapping[str, Cell]) -> str:
    """The page; what has not run is named."""
    return _HEAD + "".join(_corpus(c, [x for x in cells.values() if x["corpus"] == c.name]) for c in CORPORA)


def _corpus(corpus: Corpus, cells: Sequence[Cell]) -> str:
    said = f"\n## {corpus.name.capitalize()}\n\nThe pool: {corpus.told}. Base: `{corpus.model}`; "
    said += f"{corpus.tokens:,} tokens a run; {corpus.metric}.\n"
    done = [c for c in cells if "figures" in c]
    if not done:
        return said + "\nNot run yet.\n"
    said += f"\n| selector | {corpus.metric} | vs. random | vs. all rows | cost | rate |\n"
    said += "| --- | --- | --- | --- | --- | --- |\n"
    first, sign = done[0], -1.0 if corpus.metric == "loss" else 1.0
    both = {"random": first["random"], "all": first["all"]}
    rows = [(ALL, {"figures": first["all"], **both}), (RANDOM, {"figures": first["random"], **both})]
    rows += [(c["selector"], c) for c in done]
    for name, cell in sorted(rows, key=lambda r: -sign * _mean(r[1]["figures"]["targets"])):
        said += _row(name, cell, corpus, sign)
    said += f"\nThe base: {_shown(first['base'], corpus)}.\n"
    refused = {c["selector"]: c["refused"] for c in cells if "refused" in c}
    if refused:
        said += "\nRefused here: " + "; ".join(f"`{n}` ({why})" for n, why in sorted(refused.items())) + ".\n"
    there = {r[0] for r in rows} | refused.keys()
    if missing := [f"`{n}`" for n in SELECTORS if n not in there]:
        said += "\nNot run yet: " + ", ".join(missing) + ".\n"
    return said


def _row(name: str, cell: Cell, corpus: Corpus, sign: float) -> str:
    own = cell["figures"]
    beside = "".join(f" {_difference(own, cell[k], corpus, sign)} |" for k in ("random", "all"))
    cost = _over(own["flops_per_token"], cell["random"]["flops_per_token"])
    edge = " (outermost tried)" if own["rate_at_edge"] else ""
    called = "all rows" if name == ALL else f"`{name}`"
    return f"| {called} | {_shown(_mean(own['targets']), corpus)} |{beside} {cost} | {own['rate']:.2g}{edge} |\n"


def _difference(own: Cell, other: Cell, corpus: Corpus, sign: float) -> str:
    if own is other:
        return ""
    found = t_interval([sign * (a - b) for a, b in zip(own["targets"], other["targets"], strict=True)])
    star = "*" if found.low > 0 or found.high < 0 else ""
    scale, digits = (1.0, 3) if corpus.metric == "loss" else (100.0, 1)
    mean, low, high = (f"{scale * x:+.{digits}f}" for x in (found.value, found.low, found.high))
    return f"{mean} [{low}, {high}]{star}"


def _over(own: float | None, other: float | None) -> str:
    return "" if own is None or not other else f"{own / other:.2f}"


def _shown(value: float, corpus: Corpus) -> str:
    return f"{value:.3f}" if corpus.metric == "loss" else f"{value:.1%}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
