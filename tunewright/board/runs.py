"""The pages of runs: the list, one run, and the scatter of many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunewright.board import metrics
from tunewright.board.index import Index, compared, opened
from tunewright.board.library import KINDS
from tunewright.board.shell import href, paged, rendered
from tunewright.errors import TunewrightError
from tunewright.finished import folders, runs_page
from tunewright.finished.folders import Held
from tunewright.report import compare, figures, gate_lines, sentences, summary, words
from tunewright.report.schema import Report
from tunewright.report.terminal_cells import clean
from tunewright.runs.folder import METRICS, RECIPE

PAGE = 100
"""Runs in a page of the list."""
CARDS = 12
"""Live runs that are drawn above the list."""
SORTS = ("age", "name", *folders.NUMBERS)
LONGEST = 256 << 10
"""Characters of a recipe that are shown."""
AXES: dict[str, tuple[str, str]] = {
    "gain": ("gain", "How much better the target became"),
    "after": ("target", "Target of the tuned model"),
    "kept": ("worst kept", "How much worse the worst kept text or pack became"),
    "drift": ("drift", "How far the model moved"),
    "seconds": ("time", "Seconds from start to end"),
    "bytes": ("disk", "Bytes of the run's folder"),
    "started": ("start", "When it was started"),
}
"""What the scatter can be drawn by: a short name and what it says."""


def listed(index: Index, query: Mapping[str, str]) -> str:
    """The list, a page of it: `q` words that a run must have, `state`, `sort`, `page` from 1."""
    runs = index.runs()
    sort = query.get("sort", "age")
    sort = sort if sort in SORTS else "age"
    found = [r for r in folders.ordered(list(runs.values()), sort) if _fits(r, query)]
    page, pages = paged(query, len(found), PAGE)
    shown = found[(page - 1) * PAGE : page * PAGE]
    return rendered(
        "runs.html",
        here="runs",
        root=clean(index.given),
        query={"q": query.get("q", ""), "state": query.get("state", ""), "sort": sort},
        sorts=SORTS,
        states=sorted({r.state for r in runs.values()}),
        live=[_row(r) for r in runs.values() if r.state == "running"][:CARDS],
        rows=[_row(r) for r in shown],
        gated=any(r.gate for r in shown),
        total=len(found),
        runs=len(runs),
        disk=words.size(sum(r.bytes for r in found)),
        page=page,
        pages=pages,
        reading=index.reading(),
    )


def _fits(run: Held, query: Mapping[str, str]) -> bool:
    if query.get("state") and run.state != query["state"]:
        return False
    text = " ".join((str(run.folder), run.model, run.task, run.metric, run.gate, *run.methods)).casefold()
    return all(word in text for word in query.get("q", "").casefold().split())


def _row(run: Held) -> dict[str, Any]:
    """A run's cells in the words of `tunewright runs`."""
    cells = {name: of(run) for name, of in runs_page.COLUMNS.items()}
    better = run.gain is not None and run.gain > 0
    known = run.target is not None and run.target[2] is not None and run.target[3] is not None
    shown = known and (run.target[2] > 0 or run.target[3] < 0)  # type: ignore[index,operator]
    name = run.folder.as_posix()
    tone = ("better" if better else "worse") if shown else ""
    said = {"name": clean(name), "problem": clean(run.problem)}
    return {**cells, **said, "url": href("run", name), "tone": tone, "task": run.task}


def one(index: Index, name: str, run: Held, folder: Path) -> str:
    """One run: what its report says where there is one, its curves, its recipe and its files."""
    report, problem = _report(index, folder, run)
    records = _records(index, folder)
    recipe = opened(index.root, folder, RECIPE)
    context: dict[str, Any] = {}
    if report is not None:
        context = {
            "sentences": sentences.headline(report),
            "cautions": sentences.cautions(report),
            "gate": gate_lines.conditions(report.gate) if report.gate is not None else [],
            "lines": [(line, Markup(figures.strip(line))) for line in summary.lines(report)],
            "meaning": sentences.what_intervals_mean(report),
        }
    return rendered(
        "run.html",
        here="runs",
        name=clean(name),
        run=run,
        row=_row(run),
        report=report,
        problem=clean(problem),
        curves=[Markup(c) for c in figures.training(records)],
        target=words.metric_name(run.metric) if run.metric else "target",
        last=records[-1] if records else {},
        recipe="" if recipe is None else recipe.read_text(encoding="utf-8", errors="replace")[:LONGEST],
        files=[(clean(part), words.size(size)) for part, size in run.parts.items()],
        page=opened(index.root, folder, "report.html") is not None,
        kind=KINDS.get(run.task, ""),
        urls={kind: href(kind, name) for kind in ("report", "data/report", "data/metrics")},
        **context,
    )


def framed(kind: str, name: str) -> str:
    """The page around a run's report or a comparison's page ("report", "comparison")."""
    back = (href("run", name), clean(name)) if kind == "report" else ("/compare", "Compare")
    title = "report" if kind == "report" else clean(name)
    here = "runs" if kind == "report" else "compare"
    return rendered("framed.html", here=here, title=title, url=href(kind, name), back=back[0], back_to=back[1])


def _report(index: Index, folder: Path, run: Held) -> tuple[Report | None, str]:
    if opened(index.root, folder, Report.file) is None:
        return None, run.problem
    try:
        report = Report.load(folder)
        sentences.headline(report)
    except TunewrightError as error:
        return None, run.problem or str(error)
    return report, run.problem


def _records(index: Index, folder: Path) -> list[Mapping[str, Any]]:
    file = opened(index.root, folder, METRICS)
    try:
        return metrics.read(file) if file is not None else []
    except OSError:  # it went meanwhile
        return []


def growth(index: Index, folder: Path, since: str, state: str) -> dict[str, Any]:
    """The curves of a run as JSON values; without them where nothing was added since `since`."""
    file = opened(index.root, folder, METRICS)
    now = metrics.mark(file) if file is not None else ""
    if now == since:
        return {"mark": now, "state": state}
    return {"mark": now, "state": state, **metrics.columns(_records(index, folder))}


def scattered(index: Index) -> str:
    """The page of the scatter; its points are fetched (`points`). Comparisons stand below."""
    told = []
    for name, file in index.comparisons().items():
        found = compared(file)
        page = opened(index.root, file.parent, "compare.html") is not None
        said = found if isinstance(found, str) else " ".join(compare.headline(found))
        told.append({"name": clean(name), "url": href("comparison", name) if page else "", "said": said})
    return rendered("compare.html", here="compare", axes=AXES, comparisons=told)


def points(index: Index) -> dict[str, Any]:
    """Every run that has a figure, and the groups whose targets can be compared, largest first."""
    runs = index.runs()
    groups: dict[tuple[str, ...], list[Held]] = {}
    for run in runs.values():
        if run.same is not None:
            groups.setdefault(run.same, []).append(run)
    order = {same: i for i, same in enumerate(sorted(groups, key=lambda s: -len(groups[s])))}
    named = [
        f"{groups[s][0].model}, {groups[s][0].task}, {words.metric_name(groups[s][0].metric)}: {len(groups[s])} runs"
        for s in order
    ]
    return {"groups": named, "points": [_point(name, run, order) for name, run in runs.items()]}


def _point(name: str, run: Held, order: Mapping[tuple[str, ...], int]) -> dict[str, Any]:
    row = _row(run)
    figures = {
        "gain": run.gain,
        "after": run.target[1] if run.target else None,
        "kept": run.kept,
        "drift": run.drift,
        "seconds": run.seconds,
        "bytes": float(run.bytes),
        "started": _time(run.started),
    }
    said = {k: row[k] for k in ("methods", "model", "state", "metric", "target", "change", "drift", "time")}
    group = None if run.same is None else order[run.same]
    units = {"gain": run.unit, "after": run.unit, "kept": run.kept_unit}
    urls = {"url": row["url"], "recipe": href("data/recipe", name)}
    return {"name": row["name"], **urls, "group": group, "unit": units, "figures": figures, "said": said}


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
