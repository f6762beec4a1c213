"""`keep_best`: the weights of the best evaluation are the result, and those of the start are judged, too."""

from __future__ import annotations

import json

import pytest

from tests import small
from tests.options import inputs
from tunewright.recipe import Recipe
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
