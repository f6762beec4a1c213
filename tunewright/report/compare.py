"""`compare.html` and the terminal's table: a comparison to look at, by the same shell and style as a run's report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.markup import escape

from tunewright.errors import FolderError
from tunewright.measure.intervals import Interval
from tunewright.report import pack_words, plots, words
from tunewright.report.compare_race import dropped, drops, race_words
from tunewright.report.compare_schema import Against, ArmFigures, Comparison, compared
from tunewright.report.page import page
from tunewright.report.plots import Curve, Point

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE, NARROW = (444.0, 360.0), (352.0, 330.0)
NATS = "nats per token"


@dataclass(frozen=True)
class Cell:
    """A figure over seeds as text: its value, its interval, and a word that judges it."""

    value: str = ""
    span: str = ""
    word: str = ""
    tone: str = ""


TONES = {
    "best": "up",
    "tied with the best": "up",
    "behind the best": "down",
    "unclear": "",
}


def cell(
    interval: Interval | None,
    unit: str,
    *,
    sign: bool = False,
    against: Against | None = None,
    best: str = "best",
    tied: str = "tied",
) -> Cell:
    """One cell. `best`, `tied`: the words for this column's first place."""
    if interval is None:
        return Cell(word="" if against is None else against.word, tone="")
    word, tone = "", ""
    if against is not None:
        named = {
            "best": best,
            "tied with the best": tied,
            "behind the best": "behind",
            "unclear": "unclear",
        }
        word, tone = named[against.word], TONES[against.word]
    return Cell(words.score(interval.value, unit, sign=sign), words.span(interval, unit), word, tone)


def headline(c: Comparison) -> list[str]:
    """The comparison in sentences: who gained most, who is tied, who keeps most."""
    best = next((a for a in c.arms if a.against is not None and a.against.word == "best"), None)
    if best is None or best.gain is None:
        return [f"No {compared(c.arms)} finished a run."]
    metric = words.metric_name(c.metric)
    tied = [a.name for a in c.arms if a.against is not None and a.against.word == "tied with the best"]
    points = " points" if c.unit == "fraction" else f" {c.unit}"
    gained = f"{words.score(best.gain.value, c.unit, sign=c.unit == 'fraction')}{points} of {metric}"
    if not shown(best):
        return [_not_shown(c, best, points), *([_won(c)] if c.winner else [f"There is no winner: {c.why}."])]
    if tied:
        first = (
            f"Most was gained by {best.name}: {gained}; {_and(tied)} {'is' if len(tied) == 1 else 'are'} tied with it."
        )
    else:
        first = f"Most was gained by {best.name}: {gained}."
    said = [first]
    kept = [a for a in c.arms if a.lost_against is not None and a.lost_at_target is not None]
    most = next((a for a in kept if a.lost_against is not None and a.lost_against.word == "best"), None)
    if most is not None and most.lost_at_target is not None:
        equal = [a.name for a in kept if a.lost_against is not None and a.lost_against.word == "tied with the best"]
        also = f"; {_and(equal)} {'is' if len(equal) == 1 else 'are'} tied with it there" if equal else ""
        said.append(
            f"At a target that {_and([a.name for a in kept])} reach, {most.name} keeps most: its loss on what was to "
            "be kept changed by "
            f"{words.score(most.lost_at_target.value, c.kept_unit, sign=True)} {c.kept_unit}{also}."
        )
    said += pack_words.compared(c.base_packs, [(a.name, a.packs) for a in ordered(c)])
    said.append(_won(c))
    return said


def shown(arm: ArmFigures) -> bool:
    """Whether the interval of an arm's gain over seeds lies above 0."""
    return arm.gain is not None and arm.gain.low is not None and arm.gain.low > 0


def _won(c: Comparison) -> str:
    return f"The winner is {c.winner}: {c.why}.{_computes(c)}"


def compute(c: Comparison, arm: ArmFigures) -> tuple[str, str]:
    """What an arm computes a token, in words, and as how many times the least of all arms; empty where not counted."""
    counted = [a.flops_per_token for a in c.arms if a.flops_per_token]
    if not arm.flops_per_token:
        return "", ""
    return f"{words.count(arm.flops_per_token)} FLOPs", f"{arm.flops_per_token / min(counted):.2g} x"


def _computes(c: Comparison) -> str:
    """What the winner's gain took in compute, beside the arm that takes least."""
    arm = c.arm(c.winner) if c.winner is not None else None
    counted = [a for a in c.arms if a.flops_per_token]
    if arm is None or not arm.flops_per_token or len(counted) < 2:
        return ""
    each = f" It computes {words.count(arm.flops_per_token)} FLOPs {words.one_counted(c.task)}"
    least = min(counted, key=lambda a: a.flops_per_token or 0.0)
    times = arm.flops_per_token / (least.flops_per_token or 1.0)
    if least is arm or times < 1.005:
        return f"{each}, no {compared(c.arms)} less."
    return f"{each}, {times:.2g} times as many as {least.name}."


def _not_shown(c: Comparison, best: ArmFigures, points: str) -> str:
    gain = best.gain
    assert gain is not None
    if gain.value <= 0:
        moved = gain if c.direction == "higher" else _negated(gain)
        ends = f", interval {words.span(moved, c.unit)}" if moved.known else ""
        by = f"{words.score(moved.value, c.unit, sign=True)}{points}"
        alike = [a.name for a in c.arms if a.gain is not None and a.gain.value == gain.value]
        who = f"the best, {best.name}," if len(alike) == 1 else f"{', '.join(alike[:-1])} and {alike[-1]} each"
        return f"No {compared(c.arms)} gained: {who} changed {words.metric_name(c.metric)} by {by}{ends}."
    by = f"{words.score(gain.value, c.unit, sign=True)}{points}"
    ends = f", interval {words.span(gain, c.unit)}" if gain.known else ""
    return (
        f"No gain is shown: {best.name} has the largest mean, {by} of {words.metric_name(c.metric)}{ends}, "
        "which may be chance."
    )


def _negated(gain: Interval) -> Interval:
    """A gain as the change of a metric that is better the lower it is."""
    low, high = (None if end is None else -end for end in (gain.high, gain.low))
    return gain.model_copy(update={"value": -gain.value, "low": low, "high": high})


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def row(c: Comparison, arm: ArmFigures) -> dict[str, Any]:
    """What the table says of an arm."""
    against = arm.against
    failed = [r for r in arm.runs if r.status != "finished"]
    behind = against.difference if against is not None and against.word != "best" else None
    return {
        "arm": arm,
        "gain": _gain(c, arm),
        "behind": f"{words.score(behind.value, c.unit, sign=True)} [{words.span(behind, c.unit)}]"
        if behind is not None and behind.known
        else "",
        "lost": cell(
            arm.lost_at_target, c.kept_unit, sign=True, against=arm.lost_against, best="keeps most", tied="tied"
        ),
        "lost_full": cell(arm.lost, c.kept_unit, sign=True),
        "drift": cell(arm.drift_at_target, NATS),
        "drift_full": cell(arm.drift, NATS),
        "target": cell(arm.target, c.unit),
        "forgot": _forgot(c, arm),
        "failed": failed,
        "over_rows": _over_rows(c, arm.gain_over_rows),
        "behind_over_rows": _over_rows(c, against.over_rows if against is not None else None),
        "dropped": dropped(arm),
        "serves": serves(arm),
        "winner": arm.name == c.winner,
        "compute": compute(c, arm),
        "rate": "none worked" if arm.rate is None else f"{arm.rate:.2g}",
    }


def _forgot(c: Comparison, arm: ArmFigures) -> Cell:
    """What was forgotten of a sequence's tasks."""
    return cell(arm.sequence.get("forgetting"), c.unit, sign=True) if c.tasks else Cell()


def _over_rows(c: Comparison, interval: Interval | None) -> str:
    return "" if interval is None else words.span(interval, c.unit)


def _gain(c: Comparison, arm: ArmFigures) -> Cell:
    """The gain, with the place that it has among the others: none where it is not shown."""
    found = cell(arm.gain, c.unit, sign=True, against=arm.against, best="best", tied="tied with the best")
    if arm.joint:
        return replace(found, word="all at once")
    first = arm.against is not None and arm.against.word in ("best", "tied with the best")
    return replace(found, word="no shown gain", tone="") if first and not shown(arm) else found


def serves(arm: ArmFigures) -> tuple[str, list[str]]:
    """In a few words how it can be served, and the reasons."""
    if arm.serves is None:
        return "", []
    if not arm.serves:
        return "as a LoRA adapter", []
    if any("of PEFT's type" in reason for reason in arm.serves):
        return "as a PEFT adapter of its own type", arm.serves
    if any("wraps the model" in reason for reason in arm.serves):
        return "by its own code alone", arm.serves
    return "as a whole model", arm.serves


def pictures(c: Comparison) -> list[tuple[str, str]]:
    """(wide, narrow) curves of the target against drift and against what is kept, one curve a method."""
    if c.base_target is None:
        return []
    out: list[tuple[str, str] | None] = []
    y_label = f"{words.metric_name(c.metric)} ({c.direction} is better)"
    if c.drift_measure is not None:
        told = words.drift_unit(c.drift_measure, c.task)
        unit = f", {told}" if told else ""
        curves = [Curve(a.name, _points(c, [(p.strength, p.target, p.drift) for p in a.curve])) for a in c.arms]
        out.append(
            _both(
                c,
                curves,
                Point(0.0, c.base_target, "base"),
                f"drift: {words.drift_name(c.drift_measure)}{unit} \u2192",
                y_label,
                from_zero=True,
            )
        )
    if c.base_kept:
        name = next(iter(c.base_kept)) if len(c.base_kept) == 1 else "what was to be kept"
        base = sum(c.base_kept.values()) / len(c.base_kept)
        curves = [Curve(a.name, _points(c, [(p.strength, p.target, p.kept) for p in a.curve])) for a in c.arms]
        out.append(
            _both(
                c,
                curves,
                Point(base, c.base_target, "base"),
                f"loss on {name}, {c.kept_unit}, worse \u2192",
                y_label,
                from_zero=False,
            )
        )
    return [o for o in out if o is not None]


def _points(c: Comparison, spots: Sequence[tuple[float, Interval, Interval | None]]) -> list[Point]:
    """A curve's points; whiskers at full strength alone, or they hide the curves, and within 0 and 1 for a share."""

    def ends(i: Interval, share: bool) -> tuple[float | None, float | None]:
        if i.low is None or i.high is None:
            return None, None
        return (max(0.0, i.low), min(1.0, i.high)) if share else (i.low, i.high)

    points = []
    for strength, y, x in spots:
        if x is None:
            continue
        if strength != 1.0:
            points.append(Point(x.value, y.value, ""))
            continue
        (x_low, x_high), (y_low, y_high) = ends(x, False), ends(y, c.unit == "fraction")
        points.append(Point(x.value, y.value, "", x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high))
    return points


def _both(
    c: Comparison, curves: list[Curve], base: Point, x_label: str, y_label: str, *, from_zero: bool
) -> tuple[str, str] | None:
    if not any(curve.points for curve in curves):
        return None

    def draw(size: tuple[float, float]) -> str:
        return plots.trade(
            curves,
            base,
            x_label=x_label,
            y_label=y_label,
            title=f"{y_label} against {x_label[:-2]}, a curve a {compared(c.arms)}",
            width=size[0],
            height=size[1],
            fraction=c.unit == "fraction",
            from_zero=from_zero,
        )

    return draw(WIDE), draw(NARROW)


def gains(c: Comparison) -> str:
    """Every method's gain on one scale: a dot a seed, the mean, its interval."""
    from tunewright.report.compare_plot import gain_strips

    return gain_strips(c)


def html(c: Comparison) -> str:
    """The page's text."""
    context = {
        "c": c,
        "sentences": headline(c),
        "rows": [row(c, a) for a in ordered(c)],
        "gains": Markup(gains(c)),
        "pictures": [(Markup(w), Markup(n)) for w, n in pictures(c)],
        "words": words,
        "metric": words.metric_name(c.metric),
        "points": "points" if c.unit == "fraction" else c.unit,
        "failed": [(a, r) for a in c.arms for r in a.runs if r.status != "finished"],
        "kept_names": list(c.base_kept),
        "pack_names": list(c.base_packs),
        "drift_name": words.drift_name(c.drift_measure) if c.drift_measure else "",
        "judged": f"{words.row_of(c.metric, c.task)}s",
        "counted": words.counted(c.task),
        "one_counted": words.one_counted(c.task),
        "runs": sum(len(a.runs) for a in c.arms),
        "race": race_words(c),
        "drops": drops(c),
        "over_rows": any(a.gain_over_rows is not None for a in c.arms),
    }
    return page("compare.html", context)


def ordered(c: Comparison) -> list[ArmFigures]:
    """Largest mean gain first; what never finished last."""
    return sorted(c.arms, key=lambda a: -a.gain.value if a.gain is not None else float("inf"))


def render(c: Comparison, folder: Path) -> Path:
    """Write `folder`/compare.html aside and rename it."""
    path, aside = folder / "compare.html", folder / ".compare.html.tmp"
    try:
        aside.write_text(html(c), encoding="utf-8")
        os.replace(aside, path)
    except OSError as e:
        raise FolderError(
            f"cannot write the page: {e.strerror or e}", where=str(path), remedy="free space, or choose another --out"
        ) from e
    return path


def _spanned(f: Cell, stacked: bool) -> str:
    between = "\n" if stacked else " "
    return f"{f.value}{between}\\[{f.span}]" if f.span else f.value


def _table(c: Comparison, stacked: bool) -> Table:
    """A row a method. `stacked`: intervals stand below their figures, for a narrow terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    metric = "ACC" if c.tasks else words.metric_name(c.metric)
    gain_of = f"gain\n({metric})" if stacked else f"gain ({metric})"
    kept_or_drift = "lost, matched" if c.base_kept else "drift, matched"
    forgot = ("forgetting",) if c.tasks else ()
    first, rows = compared(c.arms), [row(c, a) for a in ordered(c)]
    called = min(16, max(len(part) for name in (first, *(a.name for a in c.arms)) for part in name.split(":")))
    losses = [r["lost"] if c.base_kept else r["drift"] for r in rows]
    matched = any(lost.value for lost in losses)  # else no arm reached what the others are compared at
    for name in (
        first,
        gain_of,
        "",
        *forgot,
        *((kept_or_drift,) if matched else ()),
        "stored",
        "training",
        f"compute\n{words.one_counted(c.task)}",
    ):
        left = name in (first, "")
        least = len("dropped") if name == "" else called if name == first and stacked else None  # no word is broken
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left, min_width=least)
    for r, lost in zip(rows, losses, strict=True):
        arm, gain = r["arm"], r["gain"]
        failed = f"{len(r['failed'])} of {len(arm.runs)} failed" if r["failed"] else ""
        table.add_row(
            escape(arm.name.replace(":", ":\n") if stacked else arm.name) + (" *" if r["winner"] else ""),
            _spanned(gain, stacked),
            ", ".join(t for t in ("dropped" if arm.dropped else gain.word, failed) if t),
            *([_spanned(r["forgot"], stacked)] if c.tasks else []),
            *([_spanned(lost, stacked)] if matched else []),
            words.size(arm.stored_bytes),
            words.seconds(arm.train_seconds),
            r["compute"][1],
        )
    return table


def show(c: Comparison, folder: Path, console: Console | None = None) -> None:
    """Print the comparison as a table, and where its files are."""
    from rich.console import Console
    from rich.measure import Measurement

    from tunewright.report.terminal_cells import Paragraph

    console = console or Console(highlight=False)
    wide = _table(c, stacked=False)
    room = console.options.update(width=10_000, max_width=10_000)
    fits = Measurement.get(console, room, wide).maximum <= console.width
    console.print(wide if fits else _table(c, stacked=True))
    console.print()
    for sentence in headline(c):
        console.print(Paragraph(sentence))
    for sentence in race_words(c):
        console.print(Paragraph(sentence))
    for caution in c.cautions:
        console.print(Paragraph(f"note: {caution}", "dim"))
    console.print(
        f"\nPage: {folder / 'compare.html'}"
        + (f"; the winner's recipe: {folder / 'winner.yaml'} (*)" if c.winner else ""),
        style="dim",
    )
