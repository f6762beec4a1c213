from __future__ import annotations

import datetime
import math

import pytest

from tests import small
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe
from tunewright.trials import tuning
from tunewright.trials.trial import Reading, Store, TrialError, TrialRecord, key_of, run_trial
from tunewright.trials.tuning import tune, tune_many, validation_recipe

TREE = {
    "model": "./m",
    "task": "text-generation",
    "data": {"train": "t.jsonl", "eval": "e.jsonl", "validation": 0.1},
    "methods": ["lora"],
}
NOW = datetime.datetime.now(datetime.UTC)


def make(rate, seed):
    return Recipe(**TREE, train={"learning_rate": rate, "seed": seed})


def by(score, seen=None, direction="higher"):
    """Runs trials by a formula of the rate; None: the run fails."""

    def run(trials):
        found = {}
        for t in trials:
            if seen is not None:
                seen.append(t)
            value = score(t.recipe.train.learning_rate)
            about = {"key": key_of(t.recipe), "started": NOW, "direction": direction}
            if value is None:
                found[about["key"]] = TrialRecord(
                    **about, status="failed", error=TrialError(type="NonFiniteError", message="loss")
                )
            else:
                found[about["key"]] = TrialRecord(**about, strengths=[Reading(strength=1.0, target=value)])
        return found

    return run


def peak(at):
    return lambda rate: -abs(math.log(rate / at))


@pytest.mark.parametrize("at, tried", [(1e-3, 3), (9e-3, 5), (1e-4, 5)])
def test_the_grid_goes_on_while_the_best_is_at_an_edge(at, tried):
    found = tune(make, [1e-3 / 3, 1e-3, 3e-3], by(peak(at)))
    assert found.rate == pytest.approx(at, rel=0.2) and not found.at_edge
    assert len({a.rate for a in found.attempts}) == tried and len(found.attempts) == 2 * tried


def test_an_edge_that_stays_the_best_ends_and_is_said():
    found = tune(make, [1e-3, 3e-3, 9e-3], by(lambda rate: rate))
    assert found.at_edge and found.rate == pytest.approx(9e-3 * 27)


def test_lower_is_better_where_the_metric_says_so():
    assert tune(
        make, [1e-3, 3e-3, 9e-3], by(lambda r: abs(math.log(r / 3e-3)), direction="lower")
    ).rate == pytest.approx(3e-3)


def test_rates_that_fail_are_never_chosen_and_smaller_ones_are_tried_when_all_fail():
    found = tune(make, [1e-3, 3e-3, 9e-3], by(lambda r: None if r > 5e-4 else 1.0))
    assert found.rate < 5e-4
    none = tune(make, [1e-3, 3e-3, 9e-3], by(lambda r: None))
    assert none.rate is None and none.score is None and {a.status for a in none.attempts} == {"failed"}


def test_where_all_rates_are_equal_the_grid_goes_on_both_ways_and_the_middle_one_is_taken():
    found = tune(make, [1e-3, 3e-3, 9e-3], by(lambda r: 0.0))
    assert found.rate == pytest.approx(3e-3) and len({a.rate for a in found.attempts}) == 9 and found.score == 0.0


def test_a_grid_on_which_nothing_was_learnt_goes_up_until_something_is():
    found = tune(make, [1e-4, 3e-4, 9e-4], by(lambda r: 0.0 if r < 2e-3 else 1 / (1 + abs(math.log(r / 8.1e-3)))))
    assert found.rate == pytest.approx(8.1e-3) and not found.at_edge and min(a.rate for a in found.attempts) == 1e-4


def test_two_equal_best_rates_inside_the_grid_end_it():
    found = tune(make, [1e-4, 3e-4, 9e-4, 2.7e-3], by(lambda r: float(2e-4 < r < 1e-3)))
    assert found.rate == pytest.approx(3e-4) and len(found.attempts) == 8


def test_several_arms_are_tuned_in_common_rounds():
    rounds = []
    run = by(peak(2.7e-2))
    found = tune_many(
        {"a": make, "b": lambda r, s: make(r, s + 10)},
        {"a": [1e-3, 3e-3, 9e-3], "b": [9e-3, 2.7e-2, 8e-2]},
        lambda ts: rounds.append(len(ts)) or run(ts),
    )
    assert found["a"].rate == pytest.approx(2.7e-2) == found["b"].rate
    assert rounds == [12, 2, 2]


def test_only_validation_rows_are_read():
    seen = []
    tune(make, [1e-3, 3e-3, 9e-3], by(peak(3e-3), seen))
    for t in seen:
        assert (
            t.recipe.data.eval is None
            and t.recipe.measurement.split == "validation"
            and t.recipe.measurement.strengths == [1.0]
        )
    with pytest.raises(RecipeError, match="no validation rows"):
        validation_recipe(Recipe(**{**TREE, "data": {"train": "t.jsonl", "eval": "e.jsonl"}}))


def test_a_tuning_trial_measures_the_rows_held_out_of_training_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=40)
    (tmp_path / "test.jsonl").write_text("not a row")  # reading it would fail
    recipe = Recipe.load(small.write_recipe(tmp_path, data__validation=0.25))
    record = run_trial(validation_recipe(recipe), Store(tmp_path / "store"))
    assert record.finished and record.evaluated == 10
    without = Recipe.load(small.write_recipe(tmp_path, measurement__split="validation", data__eval=None))
    failed = run_trial(without, Store(tmp_path / "store"))
    assert failed.error.type == "RecipeError" and failed.error.where == "measurement.split"


def test_a_keep_entry_that_a_method_looks_at_stays_while_tuning():
    keep = [{"data": "a.txt", "name": "general"}, {"data": "b.txt", "name": "calibration"}]
    looks = Recipe(**{**TREE, "methods": [{"corda": {"mode": "keep", "data": "calibration"}}]}, keep=keep)
    assert [k.name for k in validation_recipe(looks).keep] == ["general", "calibration"]
    assert validation_recipe(Recipe(**TREE, keep=keep)).keep == []


def attempts(**scores):
    return {
        float(rate): [tuning.Attempt(rate=float(rate), seed=i, score=score) for i, score in enumerate(each)]
        for rate, each in scores.items()
    }


def test_of_rates_that_are_tied_within_the_noise_the_smallest_is_known():
    tried = attempts(**{"0.001": [0.55, 0.65], "0.003": [0.60, 0.66], "0.009": [0.30, 0.31], "0.0001": [0.5, None]})
    assert tuning._tied(0.003, tried) == [0.001, 0.003]  # 0.03 apart, one deviation is 0.07
    assert tuning._tied(0.003, {r: a for r, a in tried.items() if r != 0.001}) == [0.003]
    assert tuning._tied(None, tried) == []
    exact = attempts(**{"0.001": [0.6, 0.6], "0.003": [0.61, 0.61]})
    assert tuning._tied(0.003, exact) == [0.003]
    nothing = attempts(**{"0.001": [0.0, 0.0], "0.003": [0.0, 0.0]})
    assert tuning._tied(0.003, nothing) == [0.003]  # where none has learnt anything, none is as good
    found = tuning.Tuned(rate=0.003, tied=[0.001, 0.003])
    assert found.smallest == 0.001 and tuning.Tuned(rate=0.003).smallest == 0.003
