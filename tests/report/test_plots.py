from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.report.example import make_example, make_metrics
from tunewright.report import figures, plots
from tunewright.report.axes import axis, nice_step
from tunewright.report.plots import Curve, Point

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite, max_size=8), st.integers(2, 7))
@example([4.0357099841960286e-12], 5)
@settings(max_examples=200, deadline=None)
def test_an_axis_holds_its_values_and_has_ticks_inside(values: list[float], wanted: int) -> None:
    a = axis(values, 0, 100, wanted=wanted)
    assert a.low < a.high and 1 <= len(a.ticks) <= 3 * wanted + 2
    slack = 1e-6 * (a.high - a.low)
    assert all(a.low - slack <= v <= a.high + slack for v in [*values, *a.ticks])
    assert all(-1e-3 <= a(v) <= 100.001 for v in values)


def test_steps_are_round() -> None:
    assert [nice_step(s, 5) for s in (1, 0.9, 1.24, 10, 33, 0.004)] == [0.2, 0.2, 0.25, 2, 10, 0.001]


def test_a_share_never_passes_zero_and_one() -> None:
    a = axis([-0.02, 1.01], 0, 1, floor=0, ceiling=1)
    assert (a.low, a.high) == (0, 1)


def _drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def _texts(svg: str) -> list[str]:
    return [t.text or "" for t in _drawn(svg).iter("text")]


def _trade(curves: list[Curve], **options: object) -> str:
    return plots.trade(curves, Point(0, 0.1, "base"), x_label="drift", y_label="accuracy", title="trade", **options)  # type: ignore[arg-type]


def test_the_trade_joins_base_and_strengths_and_draws_their_intervals() -> None:
    curve = Curve(
        "lora", [Point(0.5, 0.4, "0.5", 0.4, 0.6, 0.3, 0.5), Point(1.5, 0.6, "1 tuned", None, None, 0.5, 0.7)]
    )
    svg = _trade([curve])
    line = next(e for e in _drawn(svg).iter("polyline"))
    spots = [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
    assert (
        len(spots) == 3
        and [s[0] for s in spots] == sorted(s[0] for s in spots)
        and [s[1] for s in spots] == sorted((s[1] for s in spots), reverse=True)
    )
    assert sum(e.get("class") == "whisker" for e in _drawn(svg).iter("line")) == 3
    assert {"base", "0.5", "1 tuned", "drift", "accuracy"} <= set(_texts(svg))


def test_several_methods_are_named_and_drawn_apart() -> None:
    curves = [Curve(f"method {i}", [Point(0.2 * i + 0.2, 0.3), Point(0.2 * i + 0.5, 0.5 + 0.1 * i)]) for i in range(4)]
    svg = _trade(curves)
    assert {"method 0", "method 1", "method 2", "method 3"} <= set(_texts(svg))
    assert {e.get("class") for e in _drawn(svg).iter("polyline")} == {f"curve s{i}" for i in range(4)}
    shapes = {e.tag for e in _drawn(svg).iter() if (e.get("class") or "").startswith("point s")}
    assert shapes == {"circle", "rect", "polygon"}


def test_worse_is_to_the_right_where_the_kept_measure_falls() -> None:
    curve = Curve("x", [Point(0.9, 0.3, "0.5"), Point(0.7, 0.6, "1")])
    svg = plots.trade(
        [curve],
        Point(0.95, 0.1, "base"),
        x_label="kept",
        y_label="y",
        title="t",
        x_fraction=True,
        x_falls=True,
        from_zero=False,
    )
    spots = [float(p.split(",")[0]) for p in next(_drawn(svg).iter("polyline")).get("points", "").split()]
    assert spots == sorted(spots) and "70 %" in _texts(svg)


def test_labels_do_not_lie_on_each_other() -> None:
    curve = Curve("x", [Point(0.01 * i, 0.1 + 0.01 * i, f"label {i}") for i in range(1, 4)] + [Point(2, 0.9, "far")])
    places = [
        (float(t.get("x", 0)), float(t.get("y", 0)))
        for t in _drawn(_trade([curve])).iter("text")
        if (t.text or "").startswith("label")
    ]
    assert all(abs(a[1] - b[1]) >= 12 or abs(a[0] - b[0]) >= 40 for i, a in enumerate(places) for b in places[:i])


@pytest.mark.parametrize("hostile", ["<script>x</script>", '"><img src=x onerror=y>', "&amp;'"])
def test_labels_are_escaped(hostile: str) -> None:
    curves = [Curve(hostile, [Point(1, 0.5, hostile)]), Curve("b", [Point(1, 0.6)])]
    svg = plots.trade(curves, Point(0, 0, hostile), x_label=hostile, y_label=hostile, title=hostile)
    assert not {"script", "img"} & {e.tag for e in _drawn(svg).iter()}
    assert hostile in _texts(svg)


def test_a_long_curve_is_thinned_and_keeps_its_peaks() -> None:
    ys = [math.sin(i / 50) for i in range(5000)]
    ys[1234], ys[4000] = 9.0, -9.0
    kept = plots.thin(list(range(5000)), ys, 240)
    assert len(kept) <= 244 and (1234, 9.0) in kept and (4000, -9.0) in kept
    assert kept == sorted(kept)
    assert plots.thin([1, 2, 3], [1.0, math.nan, 2.0]) == [(1, 1.0), (3, 2.0)]


def test_smoothing_keeps_a_line_and_its_ends() -> None:
    line = [2.0 * i for i in range(90)]
    assert plots.smooth(line) == pytest.approx(line)
    assert plots.smooth([1.0]) == [1.0]
    noisy = [(-1.0) ** i for i in range(90)]
    assert max(map(abs, plots.smooth(noisy)[10:-10])) < 0.3


def test_a_stage_boundary_cuts_the_curve() -> None:
    svg = plots.over_steps([1, 2, 3, 4], [4.0, 3.0, 9.0, 8.0], y_label="loss", title="loss", marks=[(2, "second")])
    assert len(list(_drawn(svg).iter("polyline"))) == 2 and "second" in _texts(svg)


def test_stages_that_count_from_one_follow_each_other() -> None:
    records = [{"step": s, "stage": stage, "loss": 1.0} for stage in ("a", "b") for s in (1, 2, 3)]
    steps, marks = figures.timeline(records)
    assert steps == [1, 2, 3, 4, 5, 6] and marks == [(3, "b")]
    assert figures.timeline(make_metrics(5, ("a", "b")))[0] == [float(i) for i in range(1, 11)]


def test_training_draws_what_was_logged() -> None:
    assert len(figures.training(make_metrics())) == 3
    assert figures.training([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None, "learning_rate": True}]) == []
    assert len(figures.training([{"step": 1, "loss": 2.0}])) == 1


def test_the_report_gets_a_trade_picture_for_drift_and_each_kept_measure() -> None:
    assert len(figures.trades(make_example())) == 2
    assert len(figures.trades(make_example(kept=[]))) == 1
    assert figures.trades(make_example(target=None)) == []
    wide, _ = figures.trades(make_example(trade=[]))[0]
    assert "1 tuned" in _texts(wide)


def test_numbers_in_pictures_are_finite() -> None:
    pictures = [p for pair in figures.trades(make_example()) for p in pair] + figures.training(make_metrics())
    assert not any(re.search(r'="[^"]*\b(nan|inf)\b', p) for p in pictures)
