"""Gates: what a condition says, when it passes, and how many more rows would tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import MethodError, RecipeError
from tunewright.measure.intervals import Interval
from tunewright.recipe import Recipe
from tunewright.recipe.gate import bound, bounds
from tunewright.report import gate_lines
from tunewright.report.gated import judge, more, verdict_of
from tunewright.report.measured import Measured
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Drift, Report, RunInfo


@pytest.mark.parametrize(
    ("figure", "said", "of", "at_least", "value"),
    [
        ("target", ">= 0.85", "after", True, 0.85),
        ("target", ">85%", "after", True, 0.85),
        ("drift", " <= 1e-1 ", "after", False, 0.1),
        ("kept.general", "no worse by 0.02", "change", True, -0.02),
        ("kept.general", "No worse by more than 2 %", "change", True, -0.02),
        ("calibration", "no worse", "change", True, 0.0),
        ("target", "better by 0.02", "change", True, 0.02),
        ("target", "better", "change", True, 0.0),
    ],
)
def test_conditions_as_they_are_written(figure, said, of, at_least, value):
    found = bound(figure, said)
    assert (found.of, found.at_least, found.value) == (of, at_least, pytest.approx(value))


@pytest.mark.parametrize(
    ("figure", "said", "words"),
    [
        ("targets", ">= 1", "did you mean 'target'"),
        ("kept.", ">= 1", "no figure"),
        ("target", "0.85", "no condition"),
        ("target", ">= ..", "no number"),
        ("target", ">= 1e999", "no number"),
        ("target", "no worse by -1", "no condition"),
        ("drift", "no worse by 0.1", "write drift: '<= 1.0'"),
    ],
)
def test_what_is_no_condition(figure, said, words):
    with pytest.raises(RecipeError) as e:
        bound(figure, said)
    assert words in str(e.value) and f"gate.{figure}" in str(e.value)


def interval(low, value, high, n=100):
    return Interval(value=value, low=low, high=high, n=n)


@pytest.mark.parametrize(
    ("ends", "at_least", "value", "verdict"),
    [
        ((0.8, 0.9, 0.95), True, 0.8, "pass"),
        ((0.8, 0.9, 0.95), True, 0.81, "cannot tell"),
        ((0.8, 0.9, 0.95), True, 0.95, "cannot tell"),
        ((0.8, 0.9, 0.95), True, 0.96, "fails"),
        ((0.8, 0.9, 0.95), False, 0.95, "pass"),
        ((0.8, 0.9, 0.95), False, 0.94, "cannot tell"),
        ((0.8, 0.9, 0.95), False, 0.79, "fails"),
    ],
)
def test_it_passes_only_where_the_interval_clears_the_bound(ends, at_least, value, verdict):
    assert verdict_of(interval(*ends), at_least, value) == verdict


def test_without_an_interval_it_cannot_tell():
    assert verdict_of(Interval(value=1.0, n=1), True, 0.5) == "cannot tell"
    assert more(Interval(value=1.0, n=1), 0.5) is None


@given(st.integers(2, 2000), st.floats(0.01, 5), st.floats(-1, 1))
def test_so_many_more_rows_would_tell(n, spread, value):
    """A mean that stays where it is clears the bound with the rows that were said, and with two fewer not yet."""

    def mean(rows):
        half = 2 * spread / np.sqrt(rows)
        return Interval(value=0.3, low=0.3 - half, high=0.3 + half, n=rows)

    extra = more(mean(n), value) if verdict_of(mean(n), True, value) == "cannot tell" else None
    if extra is None:
        return
    told = "pass" if value < 0.3 else "fails"
    assert verdict_of(mean(n + extra + 1), True, value) == told
    assert extra <= 2 or verdict_of(mean(n + extra - 2), True, value) == "cannot tell"


def measured(name, before, after, direction="higher"):
    gap = Interval(value=after - before, low=after - before - 0.01, high=after - before + 0.01, n=50)
    ends = [Interval(value=v, low=v - 0.05, high=v + 0.05, n=50) for v in (before, after)]
    unit = "fraction" if direction == "higher" else "nats per token"
    return Measured(
        name=name, metric="m", direction=direction, unit=unit, before=ends[0], after=ends[1], difference=gap
    )


def report():
    target = Report(run=RunInfo(name="r")).model_dump() | {"target": measured(None, 0.5, 0.8).model_dump()}
    found = Report.model_validate(target)
    found.kept = [measured("general", 2.0, 2.1, "lower"), measured("code", 3.0, 2.5, "lower")]
    found.drift = Drift(value=Interval(value=0.5, low=0.4, high=0.6, n=10, unit="sequence"))
    return found


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        ({"target": ">= 0.7"}, "pass"),
        ({"target": ">= 0.78"}, "cannot tell"),
        ({"target": ">= 0.9"}, "fails"),
        ({"target": "better by 0.29"}, "pass"),
        ({"target": "better by 0.35"}, "fails"),
        ({"kept.general": "no worse by 0.2"}, "pass"),  # a loss that rose by 0.1
        ({"kept.general": "no worse by 0.1"}, "cannot tell"),
        ({"kept.general": "no worse by 0.05"}, "fails"),
        ({"kept.code": "better by 0.4"}, "pass"),
        ({"kept.code": "<= 2.6"}, "pass"),
        ({"drift": "<= 1"}, "pass"),
        ({"drift": "<= 0.3"}, "fails"),
        ({"target": ">= 0.7", "drift": "<= 0.5"}, "cannot tell"),
        ({"drift": "<= 0.5", "kept.general": "no worse by 0.05"}, "fails"),
    ],
)
def test_the_verdict_is_the_worst_of_its_conditions(gate, verdict):
    found = judge(bounds(gate), report())
    assert found.verdict == verdict
    assert [c.figure for c in found.conditions] == list(gate)
    for c in found.conditions:
        on_it = abs(c.measured.value) == pytest.approx(abs(bound(c.figure, c.bound).value))
        assert (c.more is not None) is (c.verdict == "cannot tell" and not on_it)
    said = gate_lines.lines(found)
    assert said[-1] == f"gate: {verdict}" and len(said) == len(gate) + 1


def test_figures_that_were_not_measured_are_named():
    empty = Report(run=RunInfo(name="r"))
    for gate, words in (
        ({"target": ">= 1"}, "data.eval"),
        ({"drift": "<= 1"}, "one vocabulary"),
        ({"kept.x": "<= 1"}, "nothing kept is called 'x'"),
    ):
        with pytest.raises(MethodError) as e:
            judge(bounds(gate), empty)
        assert words in str(e.value)


def test_lines_say_shares_in_per_cent_and_how_many_rows_would_tell():
    lines = gate_lines.lines(judge(bounds({"target": ">= 0.78", "drift": "<= 0.5"}), report()))
    told = (
        "target >= 0.78  cannot tell: is 80.0 % (75.0 to 85.0); about 263 more rows would tell, were it to stay there"
    )
    assert lines[0].startswith(told)
    assert lines[1] == "drift <= 0.5    cannot tell: is 0.50 (0.40 to 0.60); more sequences would not tell"


def test_more_questions_are_those_of_a_copy_of_the_pack():
    asked = report()
    asked.packs = [PackFigure(**measured("facts", 0.5, 0.8).model_dump(), floor=0.1)]
    (line,) = gate_lines.conditions(judge(bounds({"kept.facts": ">= 0.78"}), asked))
    assert line[1].endswith("263 more questions would tell, were it to stay there: write them into a copy of the pack")


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"target": ">= 0.5"}, "data.eval"),
        ({"kept.gneral": "<= 1"}, "did you mean 'kept.general'"),
        ({"drift": "small"}, "no condition"),
        ({"calibration": "<= 0.1"}, "tunewright measure"),
    ],
)
def test_a_recipes_gate_is_checked_when_it_is_read(gate, words):
    tree = {"model": "m", "task": "text-generation", "data": {"train": "a.jsonl"}, "methods": ["lora"]}
    tree |= {"keep": [{"data": "g.txt", "name": "general"}]}
    with pytest.raises(RecipeError) as e:
        Recipe(**tree, gate=gate)
    assert words in str(e.value)
    good = {"drift": "<= 1", "kept.general": "<= 3"}
    assert Recipe(**tree, gate=good).gate == good
    assert Recipe(**tree).gate is None and "gate" not in Recipe(**tree).dump()
    assert Recipe(**tree, gate=good).dump().count("kept.general") == 1


def test_half_widths_shrink_with_the_root_of_the_rows():
    rng = np.random.default_rng(0)
    assert more(interval(0.4, 0.5, 0.6, n=100), 0.45) == 300
    for _ in range(20):
        low, value = rng.uniform(0, 0.4), rng.uniform(0.45, 0.5)
        off = rng.uniform(0.01, 0.04)
        needed = 100 * ((value - low) / off) ** 2
        assert more(interval(low, value, 0.9), value - off) == max(1, int(np.ceil(needed)) - 100)
