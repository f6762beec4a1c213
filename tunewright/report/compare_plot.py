"""The gains of several methods on one scale: a dot a seed, the mean with its interval, the base as a line."""

from __future__ import annotations

from html import escape

from tunewright.report import words
from tunewright.report.axes import axis, decimal, percent
from tunewright.report.compare_schema import Comparison

WIDTH, ROW = 640.0, 30.0


def gain_strips(c: Comparison) -> str:
    """One SVG for all methods, in the order of the table; empty where nothing finished."""
    arms = [a for a in sorted(c.arms, key=lambda a: -a.gain.value if a.gain else float("inf")) if a.gain is not None]
    if not arms:
        return ""
    row, left, width = ROW, 14 + 7.0 * max(len(a.name) for a in arms), WIDTH
    height = row * len(arms) + 40
    values = [
        v
        for a in arms
        for v in (*(r.gain for r in a.finished), a.gain.low if a.gain else None, a.gain.high if a.gain else None)
    ]
    form = percent if c.unit == "fraction" else decimal
    x = axis([*values, 0.0], left, width - 16, wanted=6, zero=True, format=form)
    bottom = row * len(arms) + 8
    parts = []
    for tick in x.ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16:.1f}" '
            f'text-anchor="middle">{escape(x.format(tick))}</text>'
        )
    parts.append(f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{bottom:.1f}"/>')
    for i, arm in enumerate(arms):
        gain = arm.gain
        assert gain is not None
        y, series = 8 + row * (i + 0.5), f"s{c.arms.index(arm) % 8}"
        parts.append(f'<text class="label {series}" x="0" y="{y + 4:.1f}">{escape(arm.name)}</text>')
        dots = "".join(
            f'<circle class="seed" cx="{x(r.gain):.1f}" cy="{y:.1f}" r="3"/>'
            for r in arm.finished
            if r.gain is not None
        )
        band = ""
        if gain.low is not None and gain.high is not None:
            band = f'<line class="band" x1="{x(gain.low):.1f}" x2="{x(gain.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        hint = f"{arm.name}: {words.score(gain.value, c.unit, sign=True)} [{words.span(gain, c.unit)}]"
        mean = (
            f'<line class="mean" x1="{x(gain.value):.1f}" x2="{x(gain.value):.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>'
        )
        parts.append(f'<g class="{series}">{band}{dots}{mean}<title>{escape(hint)}</title></g>')
    title = f"gain in {words.metric_name(c.metric)} of each method: a dot a seed, the mean and its interval"
    return (
        f'<svg class="plot gains" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
