"""Figures along a stage: what is measured, what follows from it, and that it comes out the same after a kill."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import small
from tests.options import inputs
from tunewright.errors import Interrupted, RecipeError
from tunewright.measure.stability_gap import stability_gap
from tunewright.report import page, terminal
from tunewright.runs.run import resume, run
from tunewright.runs.work import Work

__all__ = ["inputs"]
FOLLOWED = {
    "measurement__along": ["keep", "drift", "in-context", "distance"],
    "train__eval_steps": 2,
    "stages__0__budget": {"steps": 5},
    "data__validation": "25%",
}


@pytest.fixture(scope="module")
def finished(inputs):
    return run(small.write_recipe(inputs, "along", **FOLLOWED), out=inputs / "along", quiet=True)


def figures(report):
    (one,) = report.along
    return {f"{f.of}/{f.name}": f for f in one.figures}


def test_every_figure_is_there_at_every_evaluation_and_before_the_first_step(finished):
    found = figures(finished.report)
    assert list(found) == [
        "target/loss",
        "target/exact_match",
        "kept/keep",
        "drift/kl",
        "in-context/copying",
        "in-context/induction",
        "distance/distance",
    ]
    assert all(f.steps == [0, 2, 4, 5] == sorted(f.steps) and len(f.values) == 4 for f in found.values())


def test_first_and_last_are_the_run_s_own_base_and_tuned_model(finished):
    report, found = finished.report, figures(finished.report)
    (kept,) = report.kept
    ends = found["kept/keep"].values[0].value, found["kept/keep"].values[-1].value
    assert ends == pytest.approx((kept.before.value, kept.after.value), abs=1e-6)
    drift = found["drift/kl"].values
    assert drift[0].value == pytest.approx(0, abs=1e-6) and drift[-1].value == pytest.approx(report.drift.value.value)
    distance = [v.value for v in found["distance/distance"].values]
    assert distance[0] == 0 and 0 < distance[1] < distance[-1] < 1
    copied = found["in-context/copying"]
    assert copied.values[0].n == 16 and all(0 <= v.value <= 1 for v in copied.values)


def test_what_is_followed_moves_no_bit_of_the_run(finished, inputs):
    plain = run(
        small.write_recipe(inputs, "plain", **{**FOLLOWED, "measurement__along": []}), out=inputs / "plain", quiet=True
    )
    assert plain.report.along == [] and not (inputs / "plain" / "along").exists()
    assert plain.report.target.after == finished.report.target.after
    assert plain.report.drift == finished.report.drift and plain.report.training == finished.report.training


def test_a_run_that_was_stopped_goes_on_to_the_same_curves(finished, inputs, monkeypatch):
    file = small.write_recipe(inputs, "stopped", train__save_steps=3, **FOLLOWED)
    whole = Work._measure_stage
    monkeypatch.setattr(Work, "_measure_stage", lambda self, part: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted):
        run(file, out=inputs / "stopped", quiet=True)
    lines = (inputs / "stopped" / "along" / "main.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 4, 5]
    shutil.rmtree(inputs / "stopped" / "stages" / "main")  # as if it had been killed before its end
    monkeypatch.setattr(Work, "_measure_stage", whole)
    assert resume(inputs / "stopped", quiet=True).report.along == finished.report.along


def test_the_page_and_the_terminal_show_the_gap(finished):
    said = terminal.text(finished.report, width=160)
    assert "Along the way" in said and "in context: induction" in said and "back at" in said
    html = page.html(finished.report)
    assert '<section id="along">' in html and html.count("along the stage; line: where it stood at the start") == 14


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measurement__along": ["kepp"]}, "keep"),
        ({"measurement__along": ["drift", "drift"]}, "twice"),
        ({"train__eval_steps": None}, "eval_steps"),
        ({"data__validation": None, "data__eval": None, "gate": None}, "validation"),
    ],
)
def test_what_cannot_be_followed_is_refused(inputs, changes, said):
    with pytest.raises(RecipeError, match=said):
        run(small.write_recipe(inputs, "refused", **{**FOLLOWED, **changes}), out=inputs / "refused", quiet=True)


def test_the_gap_by_hand():
    fell = stability_gap([3.0, 3.4, 3.2, 3.0, 2.5], higher_is_better=False)
    assert (fell.depth, fell.worst, fell.recovered) == (pytest.approx(0.4), 1, 3)
    assert stability_gap([0.5, 0.25, 0.25, 0.4], higher_is_better=True).recovered is None
    assert stability_gap([0.5, 0.25, 0.25, 0.4], higher_is_better=True).worst == 1
    never = stability_gap([0.5, 0.5, 0.6], higher_is_better=True)
    assert (never.depth, never.worst, never.recovered) == (0.0, None, None)
    with pytest.raises(ValueError, match="start"):
        stability_gap([], higher_is_better=True)
