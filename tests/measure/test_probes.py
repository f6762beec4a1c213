from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tunewright.contract.class_check import check_class
from tunewright.contract.method import call
from tunewright.errors import MethodError
from tunewright.measure.calibration import Calibration, expected_calibration_error
from tunewright.measure.intervals import Interval, t_interval
from tunewright.measure.intruder_dimensions import IntruderDimensions, find_intruders
from tunewright.measure.probe import Side
from tunewright.measure.rows import RowResult
from tunewright.measure.trade import TradePoint, at_target, trade
from tunewright.models.sites import discover


def _matrix(out: int = 24, inner: int = 16, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(out, out, generator=g))
    v, _ = torch.linalg.qr(torch.randn(inner, inner, generator=g))
    n = min(out, inner)
    return (u[:, :n] * torch.linspace(5, 1, n)) @ v[:, :n].T


def _with_intruder(base: torch.Tensor, size: float = 20.0) -> torch.Tensor:
    """A strong direction spread evenly over all of the base's left vectors: it resembles none of them."""
    u = torch.linalg.svd(base, full_matrices=False)[0]
    left = u.sum(1) / u.shape[1] ** 0.5
    return base + size * torch.outer(left, torch.ones(base.shape[1]) / base.shape[1] ** 0.5)


@pytest.mark.parametrize(("out", "inner"), [(24, 16), (16, 24), (16, 16)])
def test_the_base_has_none_and_a_planted_one_is_found_first(out, inner):
    base = _matrix(out, inner)
    assert find_intruders(base, base.clone()).count == 0 and find_intruders(base, base * 1.0001).count == 0
    found = find_intruders(base, _with_intruder(base), k=4)
    assert found.count == 1 and found.intruder[0] and found.overlap[0] < 0.5


def test_signs_and_positive_factors_change_nothing():
    base = _matrix()
    tuned = _with_intruder(base)
    counts = {find_intruders(a * base, b * tuned, k=6).count for a in (1, -1, 3.0) for b in (1, -1, 0.5)}
    assert counts == {find_intruders(base, tuned, k=6).count} == {1}


def test_threshold_and_directions_matter():
    base = _matrix()
    tuned = _with_intruder(base)
    assert (
        find_intruders(base, tuned, k=6, threshold=0.05).count == 0
        and len(find_intruders(base, tuned, k=99).overlap) == 16
    )
    with pytest.raises(MethodError, match="one shape"):
        find_intruders(base, tuned.T)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_probe_finds_the_site_in_its_own_layout(name):
    model = tiny.MAKERS[name]()
    structure = discover(model)
    base = {n: p.detach() for n, p in model.named_parameters()}
    site = structure.linear_sites()[3]
    tuned = dict(base) | {site.weight_name: site.to_stored(_with_intruder(site.matrix().detach(), 50.0))}
    check_class(IntruderDimensions)
    result = call(
        IntruderDimensions(directions=3), "probe", base=Side(base), tuned=Side(tuned), structure=structure, needs=None
    )
    assert (
        result.values["intruders"] == 1
        and [r[0] for r in result.rows] == [site.weight_name]
        and result.values["matrices"] == len(structure.linear_sites())
    )
    same = IntruderDimensions().probe(Side(base), Side(base), structure)
    assert same.values["intruders"] == 0 and same.rows == []
    one = IntruderDimensions(blocks=1).probe(Side(base), Side(tuned), structure)
    assert one.values["matrices"] == len(structure.linear_sites()) // 2
    with pytest.raises(MethodError, match="weights"):
        IntruderDimensions().probe(Side(), Side(tuned), structure)


def test_calibration_error_on_what_is_known():
    assert expected_calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0], 10) == pytest.approx(0.15)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0 and expected_calibration_error([1.0, 1.0], [0, 0]) == 1
    g = np.random.default_rng(0)
    p = g.uniform(0.05, 1, 20000)
    assert expected_calibration_error(p, g.random(20000) < p) < 0.03
    assert expected_calibration_error(p, g.random(20000) < p / 2) > 0.2


def _answers(confidence):
    return [RowResult(id=str(i), score=float(i % 2), confidence=c) for i, c in enumerate(confidence)]


def test_the_calibration_probe_reads_the_answers_with_confidence():
    check_class(Calibration)
    base = Side(answers={"target": _answers([None] * 20), "choice": _answers([0.5] * 20)})
    tuned = Side(answers={"choice": _answers([0.9] * 20)})
    result = call(Calibration(bins=10), "probe", base=base, tuned=tuned, structure=None, needs=None)
    ece = result.values["tuned_expected_calibration_error"]
    assert isinstance(ece, Interval) and ece.value == pytest.approx(0.4) and ece.low < 0.4 < ece.high
    assert result.values["base_expected_calibration_error"].value == pytest.approx(0.0)
    assert result.rows == [["base", "0.40-0.50", 20, 0.5, 0.5], ["tuned", "0.80-0.90", 20, pytest.approx(0.9), 0.5]]
    assert len(Calibration(bins=1).probe(base, tuned).rows) == 2
    with pytest.raises(MethodError, match="confidence"):
        Calibration().probe(Side(answers={"target": _answers([None])}), tuned)


class _Dial:
    def __init__(self):
        self.at, self.seen = 1.0, []

    def __call__(self, s):
        from contextlib import contextmanager

        @contextmanager
        def inside():
            before, self.at = self.at, s
            self.seen.append(s)
            yield
            self.at = before

        return inside()


def test_the_trade_measures_each_strength_once_under_its_own_setting():
    dial = _Dial()

    def figure(f):
        return lambda: t_interval([f(dial.at)] * 2)

    known = {0.0: TradePoint(0.0, t_interval([0.0, 0.0]), {"general": t_interval([3.0, 3.0])})}
    points = trade(
        dial,
        [1, 0.5, 0.25, 0.5],
        figure(lambda s: 2 * s),
        {"general": figure(lambda s: 3 + s)},
        figure(lambda s: s * s),
        known=known,
    )
    assert [p.strength for p in points] == [0.0, 0.25, 0.5, 1.0] and dial.seen == [0.25, 0.5, 1.0] and dial.at == 1.0
    assert (
        [p.target.value for p in points] == [0.0, 0.5, 1.0, 2.0]
        and points[1].kept["general"].value == 3.25
        and points[2].drift.value == 0.25
    )
    curve = [(p.strength, p.target.value, p.kept["general"].value) for p in points]
    assert at_target(curve, 0.75) == pytest.approx(3.375) and at_target(curve, 2.0) == 4.0
    assert at_target(curve, 9.0) is None


def test_a_curve_is_read_on_a_monotone_cubic_and_never_beyond_its_neighbours():
    strengths = [0.0, 0.25, 0.5, 0.75, 1.0]
    curve = [(s, s, s * s) for s in strengths]
    for target in (0.1, 0.3, 0.6, 0.9):
        found, chord = at_target(curve, target), np.interp(target, strengths, [s * s for s in strengths])
        assert found == pytest.approx(target**2, abs=0.004) and target**2 < chord - 0.008
    fell = [(0.0, 0.0, 3.0), (0.5, 0.8, 3.1), (0.75, 0.2, 3.9), (1.0, 0.9, 3.0)]
    assert 3.0 <= at_target(fell, 0.5) <= 3.1  # where it first gets there
    back = [(s, -t, f) for s, t, f in fell]
    assert at_target(back, -0.5) == at_target(fell, 0.5)
