"""Pictures as inline SVG without any library: the trade, curves over steps, and a strip of two intervals.

Colours come from the page's style sheet through classes (`templates/plots.css`), so that one drawing serves light, dark
and paper. Every text is escaped. Each picture is small (a few kB) and names itself to screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from tunewright.report.axes import Axis, axis, decimal, percent

CHARACTER = 6.3  # width of a digit at the pictures' 11.5 px, for margins and labels that must not collide
MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Point:
    """A measured point with its interval's ends where they are known. `label` is written beside it."""

    x: float
    y: float
    label: str = ""
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None


@dataclass(frozen=True)
class Curve:
    """The points of one method in order of strength; `start` is joined to the first point (the base)."""

    name: str
    points: Sequence[Point] = field(default_factory=tuple)


Box = tuple[float, float, float, float]


def _tag(name: str, text: str | None = None, **attributes: object) -> str:
    inner = "".join(f' {k.rstrip("_").replace("_", "-")}="{_value(v)}"' for k, v in attributes.items() if v is not None)
    return f"<{name}{inner}/>" if text is None else f"<{name}{inner}>{text}</{name}>"


def _value(v: object) -> str:
    return f"{v:.1f}".removesuffix(".0") if isinstance(v, float) else escape(str(v), quote=True)


def _svg(width: float, height: float, title: str, parts: list[str], kind: str) -> str:
    body = _tag("title", escape(title)) + "".join(parts)
    return _tag(
        "svg",
        body,
        class_=f"plot {kind}",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    """Grid, tick labels and axis names; the y name lies above its axis, read without turning the head."""
    parts = []
    left, right = sorted((x.start, x.end))
    for tick in y.ticks:
        parts.append(_tag("line", class_="grid", x1=left, x2=right, y1=y(tick), y2=y(tick)))
        parts.append(_tag("text", escape(y.format(tick)), class_="tick", x=left - 8, y=y(tick) + 4, text_anchor="end"))
    for tick in x.ticks:
        parts.append(_tag("line", class_="grid", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 4))
        parts.append(
            _tag("text", escape(x.format(tick)), class_="tick", x=x(tick), y=y.start + 18, text_anchor="middle")
        )
    parts.append(_tag("line", class_="axis", x1=left, x2=right, y1=y.start, y2=y.start))
    parts.append(_tag("text", escape(y_label), class_="name", x=1, y=12))
    parts.append(_tag("text", escape(x_label), class_="name", x=right, y=y.start + 36, text_anchor="end"))
    return parts


def _margin(labels: Sequence[str]) -> float:
    return 14 + CHARACTER * max((len(t) for t in labels), default=1)


def _whiskers(point: Point, x: Axis, y: Axis) -> list[str]:
    parts = []
    px, py = x(point.x), y(point.y)
    if point.y_low is not None and point.y_high is not None:
        parts.append(_tag("line", class_="whisker", x1=px, x2=px, y1=y(point.y_low), y2=y(point.y_high)))
    if point.x_low is not None and point.x_high is not None:
        parts.append(_tag("line", class_="whisker", x1=x(point.x_low), x2=x(point.x_high), y1=py, y2=py))
    return parts


def mark(kind: str, x: float, y: float, size: float, class_: str) -> str:
    """A marker: circle, square, diamond or triangle of about equal area, `size` its half-width in pixels."""
    if kind == "circle":
        return _tag("circle", class_=class_, cx=x, cy=y, r=size)
    if kind == "square":
        side = size * 0.9
        return _tag("rect", class_=class_, x=x - side, y=y - side, width=2 * side, height=2 * side)
    reach = size * 1.25
    corners = {
        "diamond": [(0, -reach), (reach, 0), (0, reach), (-reach, 0)],
        "triangle": [(0, -reach), (reach, reach * 0.8), (-reach, reach * 0.8)],
    }[kind]
    return _tag("polygon", class_=class_, points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners))


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _place(text: str, px: float, py: float, taken: list[Box], limits: Box) -> tuple[float, float]:
    """The top left corner of a free place for `text` near a point; the least bad one where all are taken.

    `taken` holds points, lines and earlier labels; lying on a line costs less than lying on a label.
    """
    width, height = CHARACTER * len(text), 13.0
    best, least = (px + 8, py + 4), math.inf
    near = [
        (8, 4),
        (-8 - width, -height - 4),
        (8, -height - 4),
        (-8 - width, 4),
        (12, -height / 2),
        (-12 - width, -height / 2),
    ]
    far = [(14, 4 + d) for d in (14, -30, 28, -44)] + [(-14 - width, 4 + d) for d in (14, -30, 28, -44)]
    for dx, dy in near + far:
        box = (px + dx, py + dy, px + dx + width, py + dy + height)
        outside = box[0] < limits[0] or box[2] > limits[2] or box[1] < limits[1] or box[3] > limits[3]
        cost = sum(_overlap(box, other) * (6 if other[3] - other[1] == height else 1) for other in taken) + 20 * outside
        if cost < least:
            best, least = (box[0], box[1]), cost
    taken.append((best[0], best[1], best[0] + width, best[1] + height))
    return best


def _steps_between(a: tuple[float, float], b: tuple[float, float]) -> list[Box]:
    """Small boxes along a segment, so that no label is put on the line."""
    n = max(1, int(math.dist(a, b) / 8))
    spots = [(a[0] + (b[0] - a[0]) * i / n, a[1] + (b[1] - a[1]) * i / n) for i in range(n + 1)]
    return [(px - 2, py - 2, px + 2, py + 2) for px, py in spots]


def trade(
    curves: Sequence[Curve],
    base: Point | None,
    *,
    x_label: str,
    y_label: str,
    title: str,
    width: float = 460,
    height: float = 340,
    fraction: bool = True,
    x_fraction: bool = False,
    x_falls: bool = False,
    from_zero: bool = True,
) -> str:
    """What was gained (y) against what was lost (x): a curve a method, intervals as whiskers, the base as a ring.

    `fraction`, `x_fraction`: a share, shown as per cent within 0 and 1. `x_falls`: smaller x is worse, so the axis is
    turned round and worse is to the right all the same. `from_zero`: x is measured from the base at 0. With several
    curves each has its own colour and marker and is named at its end.
    """
    points = [p for c in curves for p in c.points] + ([base] if base else [])
    ys = [v for p in points for v in (p.y, p.y_low, p.y_high)]
    xs = [v for p in points for v in (p.x, p.x_low, p.x_high)]
    form = percent if fraction else decimal
    bottom, top = height - 44, 26.0
    y = axis(
        ys,
        bottom,
        top,
        wanted=5,
        floor=0 if fraction else None,
        ceiling=1 if fraction else None,
        zero=fraction,
        format=form,
    )
    left = _margin([form(t) for t in y.ticks])
    ends = (width - 14, left) if x_falls else (left, width - 14)
    x_limits = (0.0, 1.0) if x_fraction else (None, None)
    x = axis(
        xs,
        *ends,
        wanted=5,
        zero=from_zero,
        floor=x_limits[0],
        ceiling=x_limits[1],
        format=percent if x_fraction else decimal,
    )
    frame = _frame(x, y, x_label, y_label)
    taken = [(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in points]
    lines: list[str] = []
    marks: list[str] = []
    for index, curve in enumerate(curves):
        drawn, marked, along = _curve(index, curve, base, x, y)
        lines, marks, taken = lines + drawn, marks + marked, taken + along
    if base:
        marks.append(
            _tag("g", "".join(_whiskers(base, x, y)), class_="base")
            + mark("circle", x(base.x), y(base.y), 5, "point base")
        )
    labels = _labels(curves, base, x, y, taken, (left - 4, 14.0, width, bottom + 2))
    return _svg(width, height, title, frame + lines + marks + labels, "trade")


def _curve(index: int, curve: Curve, base: Point | None, x: Axis, y: Axis) -> tuple[list[str], list[str], list[Box]]:
    """(line and whiskers, marks with their hints, boxes along the line) of one curve, from the base on."""
    series = f"s{index % 8}"
    spots = [(x(p.x), y(p.y)) for p in ([base] if base else []) + list(curve.points)]
    text = " ".join(f"{px:.1f},{py:.1f}" for px, py in spots)
    lines, marks = [_tag("polyline", class_=f"curve {series}", points=text)], []
    for number, point in enumerate(curve.points):
        end = number == len(curve.points) - 1
        lines.append(_tag("g", "".join(_whiskers(point, x, y)), class_=series))
        shape = MARKS[index % len(MARKS)]
        said = f"{curve.name} {point.label}: {y.format(point.y)} at {x.format(point.x)}".strip()
        drawn = mark(shape, x(point.x), y(point.y), 5.5 if end else 3.5, f"point {series}")
        marks.append(_tag("g", drawn + _tag("title", escape(said))))
    return lines, marks, [box for a, b in zip(spots, spots[1:], strict=False) for box in _steps_between(a, b)]


def _labels(
    curves: Sequence[Curve],
    base: Point | None,
    x: Axis,
    y: Axis,
    taken: list[Box],
    limits: Box,
) -> list[str]:
    """Names of the points, or with several curves of the curves at their ends, where nothing is drawn yet."""
    named = [(p.label, p, "base") for p in ([base] if base else [])]
    if len(curves) > 1:
        named += [(c.name, c.points[-1], f"s{i % 8}") for i, c in enumerate(curves) if c.points]
    else:
        named += [(p.label, p, f"s{i % 8}") for i, c in enumerate(curves) for p in c.points if p.label]
    labels = []
    for text, point, class_ in named:
        if text:
            lx, ly = _place(text, x(point.x), y(point.y), taken, limits)
            labels.append(_tag("text", escape(text), class_=f"label {class_}", x=lx, y=ly + 10.5))
    return labels


def thin(xs: Sequence[float], ys: Sequence[float], most: int = 240) -> list[tuple[float, float]]:
    """At most about `most` points that keep every peak: lowest and highest of each stretch, in order."""
    pairs = [(a, b) for a, b in zip(xs, ys, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) <= most:
        return pairs
    size = math.ceil(2 * len(pairs) / most)
    kept: list[tuple[float, float]] = []
    for i in range(0, len(pairs), size):
        stretch = pairs[i : i + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def smooth(ys: Sequence[float]) -> list[float]:
    """Mean over a triangular window around each value, a fifteenth of the curve to either side: no lag, unlike a
    running average. The window shrinks towards both ends, so that a steep start is not flattened."""
    most = max(1, len(ys) // 15)
    out = []
    for i in range(len(ys)):
        reach = min(most, i, len(ys) - 1 - i)
        window = [(ys[i + d], reach + 1 - abs(d)) for d in range(-reach, reach + 1)]
        out.append(sum(y * w for y, w in window) / sum(w for _, w in window))
    return out


def over_steps(
    steps: Sequence[float],
    values: Sequence[float],
    *,
    y_label: str,
    title: str,
    smoothed: bool = False,
    dots: Sequence[tuple[float, float]] = (),
    marks: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    x_label: str = "step",
    width: float = 320,
    height: float = 200,
) -> str:
    """A curve over optimizer steps. `smoothed` draws the mean of neighbours over the raw values; `dots` are measured
    on evaluation rows; `marks` are (step, name) where a stage begins."""
    bottom, top = height - 42, 26.0
    y = axis([*values, *(d[1] for d in dots)], bottom, top, wanted=3, zero=zero)
    left = _margin([decimal(t) for t in y.ticks])
    x = axis([*steps, *(d[0] for d in dots)], left, width - 10, wanted=4, snap=False)
    parts = _frame(x, y, x_label, y_label)
    for step, name in marks:
        parts.append(_tag("line", class_="mark", x1=x(step), x2=x(step), y1=top, y2=bottom))
        if name:
            parts.append(_tag("text", escape(name), class_="tick", x=x(step) + 4, y=top + 9))
    for stage in _stages(steps, values, [m[0] for m in marks]):
        parts.append(_path(thin(*stage), x, y, "curve raw" if smoothed else "curve s0"))
        if smoothed:
            parts.append(_path(thin(stage[0], smooth(stage[1])), x, y, "curve s0"))
    parts += [mark("circle", x(a), y(b), 3, "point base") for a, b in dots if math.isfinite(b)]
    return _svg(width, height, title, parts, "steps")


def _stages(
    steps: Sequence[float], values: Sequence[float], ends: Sequence[float]
) -> list[tuple[list[float], list[float]]]:
    """The curve cut after each of `ends`: what one stage learned is not averaged into the next."""
    pieces: list[tuple[list[float], list[float]]] = [([], []) for _ in range(len(ends) + 1)]
    for step, value in zip(steps, values, strict=True):
        piece = pieces[sum(step > end for end in ends)]
        piece[0].append(step)
        piece[1].append(value)
    return [p for p in pieces if p[0]]


def _path(pairs: Sequence[tuple[float, float]], x: Axis, y: Axis, class_: str) -> str:
    if len(pairs) == 1:
        return mark("circle", x(pairs[0][0]), y(pairs[0][1]), 2.5, "point s0")
    return _tag("polyline", class_=class_, points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in pairs))


def strip(
    before: Point | None,
    after: Point | None,
    *,
    title: str,
    fraction: bool = True,
    fate: str = "better",
    width: float = 240,
    height: float = 34,
) -> str:
    """Before and after as two points with whiskers on one line; `y` of the points is not used.

    A share is drawn on 0 to 1, anything else on a range of its own with its ends written below.
    `fate`: better, worse or moved give the colour; an unclear change is grey.
    """
    shown = [p for p in (before, after) if p is not None]
    values = [v for p in shown for v in (p.x, p.x_low, p.x_high)]
    form = percent if fraction else decimal
    x = axis(values + ([0.0, 1.0] if fraction else []), 16, width - 20, wanted=2, format=form)
    middle = 10.0
    parts = [_tag("line", class_="axis", x1=x.start, x2=x.end, y1=middle, y2=middle)]
    for tick in (x.ticks[0], x.ticks[-1]):
        parts.append(_tag("line", class_="axis", x1=x(tick), x2=x(tick), y1=middle - 3, y2=middle + 3))
        parts.append(_tag("text", escape(form(tick)), class_="tick", x=x(tick), y=height - 5, text_anchor="middle"))
    colour = {"better": "s0", "worse": "worse", "moved": "worse"}.get(fate, "neutral")
    if before is not None and after is not None:
        parts.append(_tag("line", class_=f"move {colour}", x1=x(before.x), x2=x(after.x), y1=middle, y2=middle))
    for point, class_ in ((before, "base"), (after, colour)):
        if point is not None:
            if point.x_low is not None and point.x_high is not None:
                parts.append(
                    _tag("line", class_=f"band {class_}", x1=x(point.x_low), x2=x(point.x_high), y1=middle, y2=middle)
                )
            parts.append(mark("circle", x(point.x), middle, 4.5, f"point {class_}"))
    return _svg(width, height, title, parts, "strip")
