"""The picture of docs/merging.md: a row per method, three panels for three, five and eight fine-tunings, drift and time
beside.

One SVG file with its own colours for light and dark, without any library, so that it is the same wherever it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tunewright.measure.intervals import Interval
from tunewright.report.plots import mark

ROW, TOP, NAMES, PANEL, GAP, SIDE = 25.0, 92.0, 176.0, 232.0, 26.0, 112.0

STYLE = """
svg { --paper: #fff; --ink: #1b2430; --soft: #566171; --faint: #98a1ae; --rule: #e3e7ec; --wash: #f5f7f9; --a:
  #0b6e6e; --w: #b1461e; --n: #4a57b5;
  font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { svg { --paper: #12161b; --ink: #e4e8ed; --soft: #a3adba; --faint: #6d7785;
  --rule: #2a313a; --wash: #1a2027;
  --a: #4fc3b8; --w: #f08a5d; --n: #98a5f5; } }
.paper { fill: var(--paper); } .wash { fill: var(--wash); } text { fill: var(--soft); } .ink { fill: var(--ink); }
  .head { fill: var(--ink); font-weight: 600; }
.small { font-size: 11px; } .grid { stroke: var(--rule); } .base { stroke: var(--faint); stroke-dasharray: 3 3; }
  .learns { fill: var(--n); font-weight: 600; }
.whisker { stroke: var(--c); stroke-width: 1.6; stroke-linecap: round; opacity: .5; } .average { --c: var(--a); }
  .worst { --c: var(--w); }
.point { fill: var(--c); stroke: var(--paper); stroke-width: 1; } .hollow { fill: var(--paper); stroke: var(--c);
  stroke-width: 1.7; }
.few { --c: var(--faint); } .some { --c: var(--soft); } .many { --c: var(--ink); }
"""


@dataclass(frozen=True)
class Line:
    """One method: by number of models its average and worst share of the fine-tunings' own scores, drift and
    seconds.
    """

    name: str
    average: Mapping[int, Interval]
    worst: Mapping[int, Interval]
    drift: Mapping[int, float]
    seconds: Mapping[int, float]
    learns: bool = False


def picture(lines: Sequence[Line], base: Mapping[int, float], counts: Sequence[int]) -> str:
    """The SVG's text. `base`: the base's own average by number of models, a dashed line in each panel."""
    bottom = TOP + ROW * len(lines)
    width, height = NAMES + len(counts) * (PANEL + GAP) + 2 * (SIDE + GAP), bottom + 46
    title = "Every merge method on the same fine-tunings: average and worst task, drift and time"
    parts = [f'<rect class="paper" width="{width:g}" height="{height:g}"/>']
    parts += [
        f'<rect class="wash" x="0" y="{TOP + ROW * i:g}" width="{width:g}" height="{ROW:g}"/>'
        for i in range(0, len(lines), 2)
    ]
    parts += [_text(12, _middle(i) + 4, line.name, "learns" if line.learns else "ink") for i, line in enumerate(lines)]
    parts += _legend()
    left = NAMES
    for count in counts:
        parts += _panel(lines, count, base[count], left, bottom)
        left += PANEL + GAP
    parts += _side(lines, counts, "drift, nats", lambda line: line.drift, left, bottom)
    parts += _side(lines, counts, "time, seconds", lambda line: line.seconds, left + SIDE + GAP, bottom)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{title}">'
        f"<title>{title}</title><style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _middle(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _text(x: float, y: float, text: str, class_: str = "", anchor: str = "start") -> str:
    return f'<text class="{class_}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(x: float, low: float, high: float, class_: str) -> str:
    return f'<line class="{class_}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def _legend() -> list[str]:
    parts = [f'<g class="average">{mark("circle", 18, 22, 5, "point")}</g>', _text(30, 26, "average task")]
    parts += [
        f'<g class="worst">{mark("diamond", 128, 22, 4, "hollow")}</g>',
        _text(140, 26, "worst task, each as a share of its own fine-tuning's accuracy"),
    ]
    parts += [
        _text(524, 26, "learned from rows", "learns"),
        '<line class="base" x1="664" x2="688" y1="22" y2="22"/>',
        _text(696, 26, "average of the base"),
    ]
    return parts


def _panel(lines: Sequence[Line], count: int, base: float, left: float, bottom: float) -> list[str]:
    """Averages and worst tasks on 0 to 1."""

    def x(share: float) -> float:
        return left + 8 + (PANEL - 16) * min(max(share, 0.0), 1.0)

    parts = [_text(left + 8, TOP - 30, f"{count} fine-tunings", "head")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            _rule(x(tick), TOP - 4, bottom, "grid"),
            _text(x(tick), TOP - 11, f"{100 * tick:g}", "small", "middle"),
            _text(x(tick), bottom + 17, f"{100 * tick:g}", "small", "middle"),
        ]
    parts += [_text(x(1.0), bottom + 34, "% of its own", "small", "end"), _rule(x(base), TOP, bottom, "base")]
    for i, line in enumerate(lines):
        for by_count, class_, shape, lift in (
            (line.worst, "worst", "diamond", 3.5),
            (line.average, "average", "circle", -3.5),
        ):
            if count in by_count:
                parts.append(_share(by_count[count], x, _middle(i) + lift, class_, shape, line.name))
    return parts


def _share(value: Interval, x: Callable[[float], float], y: float, class_: str, shape: str, name: str) -> str:
    """One mark with its interval; a filled circle, or a hollow diamond."""
    ends = ""
    if value.low is not None and value.high is not None:
        ends = f'<line class="whisker" x1="{x(value.low):.1f}" x2="{x(value.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    dot = (
        mark(shape, x(value.value), y, 4.5, "point")
        if shape == "circle"
        else mark(shape, x(value.value), y, 3.6, "hollow")
    )
    return f'<g class="{class_}">{ends}{dot}<title>{escape(name)}, {class_}: {100 * value.value:.1f} %</title></g>'


def _side(
    lines: Sequence[Line],
    counts: Sequence[int],
    name: str,
    of: Callable[[Line], Mapping[int, float]],
    left: float,
    bottom: float,
) -> list[str]:
    """A column on a logarithmic scale: a dot a number of models, darker for more."""
    values = [v for line in lines for n, v in of(line).items() if n in counts and v > 0]
    low, high = math.floor(math.log10(max(min(values), 1e-3))), math.ceil(math.log10(max(values)))

    def x(value: float) -> float:
        return left + 8 + (SIDE - 16) * (math.log10(max(value, 10.0**low)) - low) / max(1, high - low)

    parts = [_text(left + 8, TOP - 30, name, "head")]
    step = 1 if high - low < 4 else 2
    for power in range(low, high + 1):
        parts.append(_rule(x(10.0**power), TOP - 4, bottom, "grid"))
        if (high - power) % step == 0:
            parts.append(_text(x(10.0**power), TOP - 11, f"{10.0**power:g}", "small", "middle"))
    shades = ("few", "some", "many")
    parts += [
        f'<g class="{shade}">{mark("circle", left + 14 + 34 * k, bottom + 13, 3.4, "point")}</g>'
        f"{_text(left + 21 + 34 * k, bottom + 17, str(n), 'small')}"
        for k, (n, shade) in enumerate(zip(counts, shades, strict=False))
    ]
    for i, line in enumerate(lines):
        parts += [
            f'<g class="{shade}">{mark("circle", x(of(line)[n]), _middle(i), 3.4, "point")}</g>'
            for n, shade in zip(counts, shades, strict=False)
            if n in of(line)
        ]
    return parts
