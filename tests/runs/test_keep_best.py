"""`keep_best`: the weights of the best evaluation are the result, and those of the start are judged, too."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import ttest_rel

from tests import small
from tests.options import inputs
from tunewright.measure.intervals import gain_interval
from tunewright.recipe import Recipe
from tunewright.runs import stages
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

__all__ = ["inputs"]
WILD = {
    "train__eval_steps": 1,
    "train__learning_rate": 3.0,
    "stages__0__budget": {"steps": 2},
    "train__keep_best": "loss",
}


def evaluations(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["eval_loss"] for r in records if "eval_loss" in r}


def test_a_run_that_only_harms_ends_where_it_began(inputs):
    report = run(
        small.write_recipe(inputs, "wild", data__validation="25%", **WILD), out=inputs / "wild", quiet=True
    ).report
    losses = evaluations(inputs / "wild")
    assert min(losses, key=losses.__getitem__) == 0 and losses[0] < min(v for s, v in losses.items() if s)
    assert report.stages[0].best_step == 0
    assert report.target.after == report.target.before
    assert any("ended where it began" in note for note in report.notes)


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ([0.5, 0.4, 0.6], 1),  # 0.5 +- 0.25
        ([0.1, 0.9, 0.2], 0),  # 0.4 +- 1.1: by chance
        ([-0.5, -0.4, -0.6], 0),
    ],
)
def test_the_start_gives_way_to_what_is_told_from_it(gains, kept, monkeypatch):
    start = [3.0, 4.0, 5.0]
    told = iter([start, [a - b for a, b in zip(start, gains, strict=True)]])
    keeper = listening(monkeypatch, "loss", told)
    for step in (0, 1):
        keeper._judged(a_loop(step))
    assert keeper.best["step"] == kept and keeper.best["since"] == int(sum(gains) < 0)


def test_once_the_start_has_given_way_a_smaller_loss_is_enough(monkeypatch):
    told = iter([[3.0, 4.0], [2.0, 3.0], [1.0, 3.9], [9.0, 9.0]])
    keeper = listening(monkeypatch, "loss", told)
    for step in range(4):
        keeper._judged(a_loop(step))
    assert keeper.best["step"] == 2 and keeper.best["since"] == 1


def test_the_target_needs_no_error(monkeypatch):
    keeper = listening(monkeypatch, "target", iter([[3.0, 4.0], [1.0, 5.9]]))
    for step in (0, 1):
        keeper._judged(a_loop(step))
    assert keeper.best["step"] == 1


def a_loop(step):
    """Enough of a loop to be judged."""
    outer = torch.nn.Linear(1, 1)
    trained = SimpleNamespace(owned={}, changed=lambda: {"w": torch.full((1,), float(step))})
    return SimpleNamespace(adapted=SimpleNamespace(outer=outer), trained=trained, step_number=step)


def listening(monkeypatch, criterion, told):
    """A listener whose evaluations give these losses of rows, each of weight 1, and a target that falls with them."""
    monkeypatch.setattr(stages, "set_training", lambda model: None)
    rows = []

    def evaluate(loop):
        rows[:] = next(told)
        mean = sum(rows) / len(rows)
        return {"loss": mean, "target": -mean}

    spec = SimpleNamespace(keep_best=criterion, early_stopping=None)
    return stages.TrainingCallback(None, spec, "main", 0, 0, evaluate, rows_of=lambda: [[loss, 1.0] for loss in rows])


def test_without_keep_best_the_start_is_not_judged(inputs):
    recipe = small.write_recipe(inputs, "last", data__validation="25%", train__eval_steps=1)
    report = run(recipe, out=inputs / "last", quiet=True).report
    assert 0 not in evaluations(inputs / "last") and report.stages[0].best_step is None


@pytest.mark.parametrize(
    "choosing",
    [
        {"train__keep_best": "loss"},
        {"train__early_stopping": 1},
        {"stages__0__methods": ["lora", "flexora"]},
    ],
)
def test_rows_that_choose_do_not_judge(choosing, inputs):
    def sides(**changes):
        file = small.write_recipe(
            inputs, "sides", data__validation="50%", measurement__split="validation", train__eval_steps=1, **changes
        )
        session = assemble(Recipe.load(file))
        session.judge_on_validation()
        return {r.id for r in session.eval.rows}, {r.id for r in session.validation.rows}

    judged, chosen = sides(**choosing)
    assert judged and chosen and not judged & chosen
    both = sides()
    assert both[0] == both[1] == judged | chosen


def test_a_gains_interval_is_the_t_tests_where_rows_weigh_the_same_and_heavier_rows_count_more():
    before, after = [3.0, 5.0, 4.0, 2.0], [2.0, 3.5, 4.2, 1.1]
    gain, low, high = gain_interval([[x, 2.0] for x in before], [[x, 2.0] for x in after])
    said = ttest_rel(before, after).confidence_interval()
    assert (gain, low, high) == pytest.approx((0.8, said.low, said.high))
    heavy = gain_interval([[3.0, 1.0], [5.0, 3.0]], [[2.0, 1.0], [3.0, 3.0]], level=0.5)
    assert heavy[0] == pytest.approx(7 / 4) and heavy[2] - heavy[0] == pytest.approx(heavy[0] - heavy[1])
    assert heavy[2] - heavy[0] == pytest.approx((2 * ((1 - 7 / 4) ** 2 + (3 * (2 - 7 / 4)) ** 2)) ** 0.5 / 4)  # t is 1
    assert gain_interval([[3.0, 2.0]], [[2.5, 2.0]]) == (0.5, -math.inf, math.inf)
