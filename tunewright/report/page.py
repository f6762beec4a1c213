"""`report.html`: a run to look at. One file that asks nothing of the network, for light, dark and paper.

Everything that comes from outside (rows, names, recipe) is escaped by the templates; the only script is ours, allowed
by its hash in the page's own content security policy.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunewright.errors import FolderError
from tunewright.report import (
    along_words,
    dial_words,
    figures,
    gate_lines,
    prompts,
    sentences,
    sequence_words,
    streamed,
    summary,
    words,
)
from tunewright.report.cells import cell
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Answer, Report

MOST_ROWS = 400  # rows in the page; the rest stay in rows.jsonl


@cache
def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("tunewright.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        seconds=words.seconds,
        size=words.size,
        count=words.count,
        cell=cell,
        plain=words.plain,
        nbsp=nbsp,
        capital=words.capital,
    )
    return env


def nbsp(text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _source(name: str) -> str:
    env = _environment()
    assert env.loader is not None
    return env.loader.get_source(env, name)[0]


def policy() -> str:
    """What a page may load: its own styles and pictures, and the script that pages have, told by its hash."""
    digest = base64.b64encode(hashlib.sha256(_source("report.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri "
        "'none'; form-action 'none'"
    )


def page(template: str, context: Mapping[str, Any]) -> str:
    """Fill a page template: styles and script inline, and a policy that lets nothing else in."""
    script = _source("report.js")
    styles = _source("report.css") + _source("plots.css")
    return (
        _environment()
        .get_template(template)
        .render(styles=Markup(styles), script=Markup(script), policy=policy(), **context)
    )


def html(
    report: Report,
    metrics: Sequence[Mapping[str, Any]] = (),
    rows: Iterable[Any] = (),
    recipe: str | None = None,
    picture: Callable[[str], str] | None = None,
    legend: Sequence[tuple[str, str]] = (),
) -> str:
    """The page's text. `metrics` are the records of metrics.jsonl, `rows` the lines of rows.jsonl (mappings or
    objects); with no rows the report's own `answers` are shown. `picture`: row id -> its picture as a data URI;
    `legend`: (name, a picture of its colour) of each class that pictures are coloured by.
    """
    lines = summary.lines(report)
    columns, dial = summary.dial(report)
    answers = [Answer.of(r) for r in rows] or list(report.answers)
    shown, tally = _pick(answers, report)
    context = {
        "report": report,
        "sentences": sentences.headline(report),
        "meaning": sentences.what_intervals_mean(report),
        "cautions": sentences.cautions(report),
        "gate": gate_lines.conditions(report.gate) if report.gate is not None else [],
        "lines": [(line, Markup(figures.strip(line))) for line in lines],
        "trades": [(Markup(wide), Markup(narrow)) for wide, narrow in figures.trades(report)],
        "packs": [_asked(pack, picture) for pack in report.packs],
        "dial_columns": columns,
        "dial": dial,
        "dialled": dial_words.under_dial(report),
        "curves": [Markup(c) for c in figures.training(metrics)],
        "held_out": any("eval_loss" in m for m in metrics),
        "roles": _roles(report),
        "phases": _phases(report),
        "rows": [_row(answer, fate, picture) for answer, fate in shown],
        "staged": summary.stage_table(report),
        "matrix": sequence_words.matrix(report),
        "sequence_told": sequence_words.told(report.sequence) if report.sequence is not None else "",
        "sequence_figures": sequence_words.figures(report),
        "after_tasks": sequence_words.after(report),
        "along": along_words.stages(report),
        "along_curves": [Markup(c) for c in figures.along(report.along)],
        "streamed": streamed.lines(report),
        "took": [(a.method, streamed.took(a)) for a in report.test_time],
        "streams": [Markup(c) for c in figures.streams(report.test_time)],
        "rows_total": len(answers),
        "tally": tally,
        "tokens": {source: _tokens(pairs) for source, pairs in report.tokens_view.items()},
        "parts": any(0 < w < 1 for pairs in report.tokens_view.values() for _, w in pairs),
        "recipe": recipe,
        "counted": words.counted(report.task),
        "legend": [(name, seen) for name, seen in legend if _PICTURE.fullmatch(seen)],
        "words": words,
    }
    return page("report.html", context)


_PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+=*")


def _row(answer: Answer, fate: str, picture: Callable[[str], str] | None) -> dict[str, Any]:
    """One row of the answers' table. What the model read is given beside the question where markers were left out."""
    asked, seen = prompts.shown(answer.prompt), picture(answer.id) if picture is not None else ""
    return {
        "answer": answer,
        "fate": fate,
        "asked": asked,
        "read": answer.prompt if asked != answer.prompt else "",
        "picture": seen if _PICTURE.fullmatch(seen) else "",
    }


def _asked(pack: PackFigure, picture: Callable[[str], str] | None) -> tuple[PackFigure, list[dict[str, Any]]]:
    """A pack with the rows that are shown of it."""
    return pack, [_row(a, f, picture) for a, f in zip(pack.shown, summary.fates(pack.shown), strict=True)]


def _pick(answers: list[Answer], report: Report) -> tuple[list[tuple[Answer, str]], dict[str, int]]:
    """At most MOST_ROWS rows with their fate, and how many there are of each fate. Where some must be left out, broken
    rows stay first, then fixed ones; the rest keep their order."""
    direction = report.target.direction if report.target is not None else "higher"
    judged = list(zip(answers, summary.fates(answers, direction), strict=True))
    tally = {fate: n for fate in summary.FATES if (n := sum(f == fate for _, f in judged))}
    if len(judged) > MOST_ROWS:
        order = {"broken": 0, "worse": 0, "fixed": 1, "better": 1}
        chosen = sorted(range(len(judged)), key=lambda i: order.get(judged[i][1], 2))[:MOST_ROWS]
        judged = [judged[i] for i in sorted(chosen)]
    return judged, tally


def _roles(report: Report) -> list[dict[str, Any]]:
    """Bars of parameters by count: the track is the base's weights there, the bar what was trained; both on one
    scale.
    """
    roles = report.trained.roles
    largest = max((max(r.total or 0, r.trained) for r in roles.values()), default=0) or 1
    return [
        {
            "name": name,
            "trained": count.trained,
            "total": count.total,
            "share": count.trained / count.total if count.total else None,
            "track": 100 * max(count.total or 0, count.trained) / largest,
            "bar": 100 * count.trained / largest,
        }
        for name, count in roles.items()
    ]


def _phases(report: Report) -> list[dict[str, Any]]:
    spent = report.cost.seconds
    whole = sum(spent.values()) or 1.0
    return [
        {"name": n, "seconds": s, "share": 100 * s / whole, "cached": n in report.cost.cached} for n, s in spent.items()
    ]


def _tokens(pairs: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Tokens ready to be shown: line ends made visible and kept, weight as a class (0, part, 1 and more)."""
    out = []
    for text, weight in pairs:
        visible = text.replace("\n", "\u21b5").replace("\t", "\u21e5") or "\u2205"
        level = "off" if weight == 0 else "on" if weight >= 1 else "part"
        out.append({"text": visible, "breaks": text.count("\n"), "level": level, "weight": weight})
    return out


def render(
    report: Report,
    metrics: Sequence[Mapping[str, Any]],
    rows: Iterable[Any],
    folder: Path | str,
    picture: Callable[[str], str] | None = None,
    legend: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `folder`/report.html aside and rename it; the recipe shown is the folder's recipe.yaml.

    Returns its path.
    """
    folder = Path(folder)
    recipe = folder / "recipe.yaml"
    written = recipe.read_text(encoding="utf-8") if recipe.is_file() else None
    text = html(report, metrics, rows, written, picture, legend)
    path, aside = folder / "report.html", folder / ".report.html.tmp"
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise FolderError(
            f"cannot write the page: {error.strerror}", where=str(path), remedy="free space or choose another --out"
        ) from error
    return path
