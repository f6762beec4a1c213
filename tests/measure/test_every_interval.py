"""Every figure that is measured lies in its own interval, and none of a bounded quantity leaves its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.compare.figures import interval as over_seeds
from tunewright.measure import calibration, drift, kept, target
from tunewright.measure.forecasts import FORECASTS
from tunewright.measure.frechet import PICTURES
from tunewright.measure.intervals import Interval, bootstrap_mean, paired_difference, t_interval, wilson
from tunewright.measure.rows import RowResult
from tunewright.tasks._forecasts import forecast, right

REGIONS = ["road:3 road>sky:2 sky:4", "sky:5", "road:1 sky>road:2", "road>sky:7"]
BOXES = [f'[["{k}", {s}, [0, 0, {w}, 10]]]' for k, s, w in (("a", 0.9, 10), ("a", 0.5, 7), ("b", 0.7, 10))] + ["[]"]
THERE = ['[["a", [0, 0, 10, 10]]]', '[["b", [0, 0, 10, 10]], ["a", [20, 0, 30, 10], true]]', "[]"]
FORECAST = [forecast(("y",), np.array([[a], [a + 1]]), np.ones(1)) for a in (-2.0, 0.0, 3.5)]
RIGHT = [right(("y",), np.array([[a], [np.nan]]), np.full(1, s), np.ones(1)) for a, s in ((-1.0, 1.0), (2.0, 4.0))]
FEATURES = ["[0.5, 1.0, -2.0]", "[0.25, 3.0, 1.0]", "[-1.0, 0.0, 0.0]", "[2.0, 2.0, 2.5]"]
CHOSEN, NUMBERS = ["[0, 1, 1]", "[1, 1, 0]", "[1, 1, 1]"], ["[[0.5, -1.0]]", "[[0.0, 2.0]]"]
PLAYED = ['{"return": -3.0, "steps": 3}', '{"return": 20.5, "steps": 9}']
ENDS = ['{"random": -5.0, "expert": 30.0}']
LABELS = ("a", "b", "c", "d")
shares = st.floats(0, 1, allow_subnormal=False)
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
nats = st.floats(1e-6, 30)
each = settings(max_examples=40, deadline=None)


def holds(found: Interval, low: float = -np.inf, high: float = np.inf) -> None:
    if found.known:
        assert found.low <= found.value <= found.high, found
        assert low <= found.low and found.high <= high, found


def _rows(scores: list[float], weights: list[float], answers: list[str], references: list[str]) -> list[RowResult]:
    return [
        RowResult(id=f"r:{i}", score=s, weight=w, answer=a, reference=r)
        for i, (s, w, a, r) in enumerate(zip(scores, weights, answers, references, strict=True))
    ]


@st.composite
def answered(draw, metric: str):
    n, m = draw(st.integers(1, 40)), target.get_metric(metric)
    one = st.sampled_from([0.0, 1.0]) if m.proportion else nats if not m.higher_is_better else shares
    said = wanted = [str(i) for i in range(-3, 4)] if m.of == "number" else LABELS
    if metric in FORECASTS:
        said, wanted = FORECAST, RIGHT
    elif metric in PICTURES:
        said = wanted = FEATURES
    elif "image-segmentation" in m.tasks:
        said = wanted = REGIONS
    elif m.kind == "played":
        said, wanted = PLAYED, ENDS
    elif "reinforcement-learning" in m.tasks:
        said, wanted = (CHOSEN, CHOSEN) if m.higher_is_better else (NUMBERS, NUMBERS)
    elif "object-detection" in m.tasks:
        said, wanted = BOXES, THERE
    scores = draw(st.lists(one, min_size=n, max_size=n))
    answers, references = (draw(st.lists(st.sampled_from(of), min_size=n))[:n] for of in (said, wanted))
    weights = draw(st.lists(st.floats(0.5, 5000), min_size=n, max_size=n)) if not m.proportion else [1.0] * n
    rows = _rows(scores, weights, answers, references)
    if m.kind == "classified":  # of the right class, as `log_loss` and `roc_auc` read it
        likely = draw(st.lists(shares, min_size=n, max_size=n))
        rows = [r.model_copy(update={"likelihood": p}) for r, p in zip(rows, likely, strict=True)]
    return rows


@pytest.mark.parametrize("metric", target.METRICS)
def test_every_metric(metric):
    m = target.get_metric(metric)
    low, high = (0, np.inf) if not m.higher_is_better else m.bounds or (-np.inf, np.inf)

    @settings(max_examples=25, deadline=None)
    @given(answered(metric))
    def check(rows):
        holds(target.summary(rows, metric), low, high)

    check()


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "loss"])
def test_a_change_is_that_of_its_own_metric(metric):
    g = np.random.default_rng(0)
    before, after = (
        _rows([float(a == b) for a, b in zip(said, wanted, strict=True)], [1.0] * 30, said, wanted)
        for said, wanted in ((g.choice(LABELS, 30).tolist(), ["a"] * 20 + list("bcdbcdbcdb")) for _ in range(2))
    )
    found = target.difference(before, after, metric)
    holds(found, -1, 1)
    change = target.summary(after, metric).value - target.summary(before, metric).value
    assert found.value == pytest.approx(change) and found.known


@each
@given(st.lists(st.tuples(numbers, st.floats(1e-3, 1e4)), min_size=1, max_size=30), st.integers(0, 3))
def test_a_mean_of_any_values_with_any_weights(pairs, seed):
    values, weights = [v for v, _ in pairs], [w for _, w in pairs]
    holds(bootstrap_mean(values, weights=weights, seed=seed), min(values), max(values))
    holds(paired_difference(values, [v / 2 for v in values], weights=weights, seed=seed))
    holds(paired_difference(values, [v + 0.1 for v in values], weights=weights, seed=seed))


def test_a_mean_that_one_row_decides():
    """Hardly a draw without that row lies near the figure: the bias correction alone would lead past it."""
    values, weights = [0.0] * 40 + [1.0], [1.0] * 40 + [1e5]
    holds(bootstrap_mean(values, weights=weights), 0, 1)
    groups = [0] * 30 + list(range(1, 12))
    holds(bootstrap_mean(values, groups, weights=weights[::-1]), 0, 1)


@each
@given(st.integers(1, 400), st.data())
def test_a_share(n, data):
    k = data.draw(st.integers(0, n))
    found = wilson(k, n)
    holds(found, 0, 1)
    assert found.known


@each
@given(st.lists(shares, min_size=1, max_size=8))
def test_shares_over_seeds_stay_shares(values):
    holds(t_interval(values, bounds=(0.0, 1.0)), 0, 1)
    holds(over_seeds(values, bounds=(0.0, 1.0)), 0, 1)
    holds(t_interval(values))


@each
@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_calibration(rows, bins):
    from tunewright.measure.probe import Side

    answers = [RowResult(id=str(i), score=float(s), confidence=c) for i, (c, s) in enumerate(rows)]
    found = calibration.Calibration(bins=bins).probe(
        Side(answers={"target": answers}), Side(answers={"target": answers})
    )
    intervals = [v for v in found.values.values() if isinstance(v, Interval)]
    assert len(intervals) == 6
    for v in intervals:
        holds(v, 0, 1)


@each
@given(st.lists(st.tuples(nats, nats, st.integers(1, 900), st.integers(1, 4000)), min_size=1, max_size=20))
def test_kept_text(documents):
    before = [kept.DocumentLoss(str(i), "k", nats=a, tokens=t, bytes=b) for i, (a, _, t, b) in enumerate(documents)]
    after = [kept.DocumentLoss(str(i), "k", nats=c, tokens=t, bytes=b) for i, (_, c, t, b) in enumerate(documents)]
    for figure in kept.FIGURES:
        holds(kept.kept(before, figure), 0)
    holds(kept.kept_difference(before, after))


@pytest.mark.parametrize("moved", [1e-3, 0.05, 0.5, 5.0])
@pytest.mark.parametrize(("rows", "size"), [(4, 4), (12, 8), (64, 96), (200, 32)])
def test_feature_drift(rows, size, moved):
    """Repeated rows align better than others: without taking that off, the interval lies below its figure."""
    g = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, size, generator=g) * torch.exp(-torch.arange(size) / 8)
    y = x + moved * torch.randn(rows, size, generator=g)
    found = drift.feature_drift(drift.Features(x), drift.Features(y)).interval
    holds(found, 0, 1)
    assert found.low < found.high
    weight = torch.randn(3, size, generator=g)
    holds(drift.feature_drift(drift.Features(x, weight), drift.Features(y, weight)).interval, 0)


def test_features_that_tell_no_rows_apart_have_no_drift():
    same, apart = torch.ones(4, 3), torch.arange(12.0).view(4, 3) ** 2
    assert drift.feature_drift(drift.Features(same), drift.Features(apart)) is None
    assert drift.feature_drift(drift.Features(apart[:1]), drift.Features(apart[:1])) is None
    assert drift.feature_drift(drift.Features(apart), drift.Features(same)).interval.value == 1


def test_feature_drift_covers_what_other_rows_would_give():
    """Coverage of the mean figure of as many rows, at least near the 95 % that it aims at (plain percentiles: 85 %)."""
    g = torch.Generator().manual_seed(7)
    size = 16
    scale, turn = torch.exp(-torch.arange(size) / 4), torch.randn(size, size, generator=g) / 4

    def pair():
        x = torch.randn(40, size, generator=g) * scale
        return x, x + 0.4 * x @ turn + 0.3 * torch.tanh(3 * x)

    truth = np.mean([1 - drift.linear_cka(*pair()) for _ in range(300)])
    inside = [not drift.feature_drift(*map(drift.Features, pair())).interval.excludes(truth) for _ in range(40)]
    assert np.mean(inside) >= 0.87
