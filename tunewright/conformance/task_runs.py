"""Checks of a task in whole runs: the base is measured, something is learnt, the run resumes, its model goes out and
comes back, and check, plan and run say the same of a bad row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from tunewright.conformance.case import Check
from tunewright.conformance.task_case import TaskCase, write_rows
from tunewright.contract.batch import Row
from tunewright.errors import TunewrightError
from tunewright.finished.export import export
from tunewright.loading.pipelines import again
from tunewright.measure.rows import read_rows
from tunewright.measure.target import answer_length, evaluate, get_metric, summary
from tunewright.models.aligned import align
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run


@contextmanager
def _own_cache(case: TaskCase) -> Iterator[None]:
    """A cache that goes with the case: what a broken task left in it must not be found by another."""
    before = os.environ.get("TUNEWRIGHT_CACHE")
    os.environ["TUNEWRIGHT_CACHE"] = str(case.folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["TUNEWRIGHT_CACHE"]
        else:
            os.environ["TUNEWRIGHT_CACHE"] = before


def _ran(case: TaskCase) -> Path:
    """The folder of the case's one run, which is made when it is first asked for."""
    out = case.folder / "out"
    if not (out / "report.json").exists():
        with _own_cache(case):
            run(case.recipe(), out, quiet=True)
    return out


def the_base_is_measured(case: TaskCase) -> None:
    """The report's figure before is the untouched base's own, on all evaluated rows, and there is a drift beside it."""
    report = Report.load(_ran(case))
    assert report.target is not None and report.target.before is not None, "the report has no figure of the base"
    rows = case.rows[-3:]
    metric = report.target.metric
    results = evaluate(case.model, case.reader, case.task, rows, metric, max_new_tokens=_most(case, rows, metric))
    value = summary(results, report.target.metric).value
    assert report.target.n == len(rows), f"{report.target.n} rows are measured, and there are {len(rows)}"
    before = report.target.before
    assert before is not None, "the report has no figure of the base"
    assert abs(before.value - value) < 1e-4, f"before is {before.value:g}, and the base gives {value:g}"
    assert report.drift is not None and report.drift.value.value >= 0, "there is no drift"
    assert report.cost.flops, "operations are not counted"


def _most(case: TaskCase, rows: Sequence[Row], metric: str) -> int | None:
    """Tokens that an answer may have, as the run allows them."""
    return min(6, answer_length(rows)) if get_metric(metric).kind == "generated" else None


def a_run_learns(case: TaskCase) -> None:
    """The loss falls over a few steps on a few rows."""
    lines = (_ran(case) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [r["loss"] for r in map(json.loads, lines) if "loss" in r]
    third = max(1, len(losses) // 3)
    first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
    assert last < first, f"the loss goes from {first:.4g} to {last:.4g} in {len(losses)} steps"


def steps_come_out_again(case: TaskCase) -> None:
    """From its last checkpoint but one, the run comes to the same bits again."""
    folder = _ran(case)
    with _own_cache(case):
        resume(folder, verify=True, quiet=True)


def what_goes_out_comes_back(case: TaskCase) -> None:
    """Exported and loaded by transformers' own class, the model answers as the run says that it does."""
    folder, out = _ran(case), case.folder / "model"
    if not out.exists():
        with _own_cache(case):
            export(folder, out)
    report = Report.load(folder)
    assert report.target is not None
    model = _loaded(case, out).eval()
    align(model)
    rows = case.rows[-3:]
    metric = report.target.metric
    results = evaluate(model, case.reader, case.task, rows, metric, max_new_tokens=_most(case, rows, metric))
    kept = list(read_rows(folder / "rows.jsonl"))
    assert [r.tuned for r in kept] == [r.answer for r in results], "the exported model answers otherwise than the run"
    gap = max(abs(r.tuned_score - again.score) for r, again in zip(kept, results, strict=True))
    assert gap < 1e-3, f"the exported model's scores differ by {gap:.2g}"


def _loaded(case: TaskCase, folder: Path) -> Any:
    """A model's folder as its library's own class loads it."""
    if case.task.draws:
        return again(folder, case.model)
    name = case.task.loads_by(case.model.config)
    return getattr(transformers, name).from_pretrained(folder, local_files_only=True)


def bad_rows_are_refused_alike(case: TaskCase) -> None:
    """A bad row among the training rows: check names its place, and plan and run refuse it in one message."""
    for k, (what, (row, _)) in enumerate(case.example.bad.items()):
        name = f"bad-{k}.jsonl"
        good = list(case.example.rows[:-3])
        write_rows(case.folder / name, [*good[:2], row, *good[2:]])
        recipe = case.recipe(data__train=name)
        with _own_cache(case):
            found = check_recipe(recipe).bad_rows
            assert [p.where for p in found] == [f"{name}:3"], f"{what}: check finds {[p.where for p in found]}"
            texts = [_refused(partial(plan, recipe, quiet=True), f"plan, {what}")]
            texts.append(_refused(partial(run, recipe, case.folder / f"out-{k}", quiet=True), f"run, {what}"))
        assert texts[0] == texts[1], f"{what}: plan and run say different things: {texts}"
        assert found[0].reason in texts[0], f"{what}: check says {found[0].reason!r}, and run says {texts[0]!r}"


def _refused(call: Callable[[], object], what: str) -> str:
    try:
        call()
    except TunewrightError as error:
        return str(error)
    raise AssertionError(f"{what}: was not refused")


def _always(case: TaskCase) -> bool:
    return True


def _has_bad(case: TaskCase) -> bool:
    return bool(case.example.bad)


CHECKS = [
    Check("the base is measured", _always, the_base_is_measured),
    Check("a run learns", _always, a_run_learns),
    Check("steps come out again", _always, steps_come_out_again),
    Check("what goes out comes back", _always, what_goes_out_comes_back),
    Check("bad rows are refused alike", _has_bad, bad_rows_are_refused_alike),
]
