"""`tunewright tune`: the race, what it may read, its limits, and the recipe that it writes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import tunewright
from tests import small
from tunewright import errors
from tunewright.commands import cli
from tunewright.recipe import Recipe
from tunewright.recipe.rewrite import beside, rewritten
from tunewright.trials import tune as tuning
from tunewright.trials.pool import run_all
from tunewright.trials.race import LONGEST, STEP, Candidate, Race
from tunewright.trials.trial import Reading, TrialRecord, key_of
from tunewright.trials.tuned import Tried

OWN = Candidate(1e-3)


def hill(rate: float, length: float, batch: float = 1.0) -> Any:
    """Scores that are highest at one setting."""

    def score(c: Candidate) -> float:
        away = (math.log(c.rate / rate), math.log(c.length / length), math.log(c.batch / batch))
        return -sum(d * d for d in away)

    return score


def race(score: Any, most: int = 10_000) -> tuple[Race, list[Candidate]]:
    asked: list[Candidate] = []

    def run(candidates: Sequence[Candidate]) -> dict[Candidate, float | None]:
        some = list(candidates)[: most - len(asked)]
        asked.extend(some)
        return {c: score(c) for c in some}

    made = Race(OWN, run)
    made.run()
    return made, asked


@pytest.mark.parametrize("rate", [1e-3 * STEP**k for k in (-3, -2, -1, 0, 1, 2, 3)])
@pytest.mark.parametrize(("length", "batch"), [(1.0, 1.0), (0.5, 1.0), (4.0, 0.5), (1.0, 2.0)])
def test_the_best_is_found_where_the_scores_have_one_top(rate: float, length: float, batch: float) -> None:
    best = race(hill(rate, length, batch))[0].best()
    assert best is not None and math.isclose(best.rate, rate, rel_tol=1e-6)
    assert (best.length, best.batch) == (length, batch)


def test_short_runs_come_first_and_few_go_on() -> None:
    _, asked = race(hill(3e-3, 1.0))
    assert asked[0] == OWN and [c.length for c in asked[1:6]] == [0.5] * 5
    assert sum(c.length for c in asked) <= 12, "in lengths of the recipe"
    assert len(set(asked)) == len(asked)


@given(st.randoms(use_true_random=False), st.integers(1, 14))
def test_whatever_the_scores_the_winner_is_no_worse_than_the_recipe(rng: random.Random, most: int) -> None:
    def score(candidate: Candidate) -> float | None:
        return None if rng.random() < 0.2 and candidate != OWN else rng.choice([0.0, 0.5, rng.random()])

    made, asked = race(score, most)
    best = made.best()
    assert best is not None and made.scores[best] >= made.scores[OWN] and len(asked) <= most  # type: ignore[operator]
    assert all(c.length <= LONGEST for c in asked)


def test_of_equal_scores_the_recipes_own_stay() -> None:
    made, asked = race(lambda c: 0.25)
    assert made.best() == OWN and len(asked) < 14


def test_where_nothing_finishes_there_is_no_winner() -> None:
    assert race(lambda c: None)[0].best() is None


# -- over recipes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small.write_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Trials whose score depends on rate, epochs and batch alone; gives what was asked for."""
    asked: list[Recipe] = []

    def run(trials: Sequence[Any], store: Any, **_: Any) -> dict[str, TrialRecord]:
        asked.extend(t.recipe for t in trials)
        return {key_of(t.recipe): scored(t.recipe) for t in trials}

    monkeypatch.setattr(tuning, "run_all", run)
    return asked


def scored(recipe: Recipe) -> TrialRecord:
    train, budget = recipe.train, recipe.stages[0].budget
    away = (
        math.log(float(train.learning_rate or 0) / 9e-2) ** 2
        + math.log(float(budget.epochs or budget.steps or 1) / 4) ** 2
    )
    return TrialRecord.model_validate(
        {
            "key": key_of(recipe),
            "strengths": [Reading(strength=1.0, target=1 / (1 + away))],
            "target_metric": "exact_match",
            "evaluated": 4,
            "stages": [{"steps": 7}],
            "started": "2026-01-01T00:00:00Z",
        }
    )


def test_the_winner_is_written_with_the_text_as_it_was(folder: Path, pretended: list[Recipe]) -> None:
    text = small.write_recipe(folder, stages__0__budget={"epochs": 2}, data__validation=0.2).read_text()
    (folder / "r.yaml").write_text("# mine\n" + text)
    done = CliRunner().invoke(cli.app, ["tune", "r.yaml"])
    assert done.exit_code == 0, done.output
    tuned = Recipe.load("r.tuned.yaml")
    assert (tuned.train.learning_rate, tuned.stages[0].budget.epochs) == (9e-2, 4)
    assert "Next: tunewright run r.tuned.yaml" in done.stdout and "as written" in done.stdout
    assert Path("r.yaml").read_text() == "# mine\n" + text
    assert {r.measurement.split for r in pretended} == {"validation"} and not any(r.data.eval for r in pretended)


@pytest.mark.parametrize(
    ("rows", "unit", "doubts"), [(25, "fraction", True), (100, "fraction", False), (25, "nats", False)]
)
def test_of_few_rows_the_page_says_how_far_chance_goes(rows: int, unit: str, doubts: bool) -> None:
    own, best = (Tried(rate, {"epochs": 2.0}, 8, score, 5, 1.0) for rate, score in ((1e-3, 0.4), (2e-3, 0.5)))
    recipe = Recipe(model="m", task="text-generation", data={"train": "t"}, methods=["lora"])
    result = tuning.TuneResult(recipe, [own, best], best, "accuracy", "higher", rows, unit=unit)
    assert ("right to about 10 points" in str(result)) is doubts


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ((0.4, 0.4, 0.4), "All 3 settings score alike"),
        ((0.4, 0.4, 0.3), "one other setting is as good"),
        ((0.4, 0.2, 0.3), "own values are the best of these"),
        ((0.4, None, None), "own values are the best of these"),
    ],
)
def test_the_recipes_own_values_stay_for_a_reason(scores: Sequence[float | None], says: str) -> None:
    tried = [Tried(1e-3 * (i + 1), {"epochs": 2.0}, 8, s, 5, 1.0) for i, s in enumerate(scores)]
    recipe = Recipe(model="m", task="text-generation", data={"train": "t"}, methods=["lora"])
    result = tuning.TuneResult(recipe, tried, tried[0], "accuracy", "higher", 10, seeds=2)
    assert says in str(result) and "10 held-out rows, others for each of 2 seeds" in str(result)
    assert result.to_json()["seeds"] == 2


def test_write_puts_the_winner_into_the_recipe(folder: Path, pretended: list[Recipe]) -> None:
    path = small.write_recipe(folder, stages__0__budget={"epochs": 4}, data__validation=0.2)
    done = tunewright.tune(path, write=True, quiet=True)
    assert Recipe.load(path).train.learning_rate == 9e-2 and done.written == path
    assert done.changed["train.learning_rate"] == 9e-2 and not beside(path).exists()
    again = tunewright.tune(path, quiet=True)
    assert again.changed == {} and again.written is None and "nothing is to be changed" in str(again)


def test_rows_to_choose_by_are_held_out_where_the_recipe_holds_none(folder: Path, pretended: list[Recipe]) -> None:
    tunewright.tune(small.write_recipe(folder), quiet=True, trials=2)
    assert {r.data.validation for r in pretended} == {0.2}


def test_trials_and_minutes_are_limits_and_the_recipes_own_is_always_run(
    folder: Path, pretended: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small.write_recipe(folder, stages__0__budget={"epochs": 2})
    three = tunewright.tune(path, quiet=True, trials=3)
    assert len(three.tried) == 3 and three.stopped == "3 trials are done"
    two = tunewright.tune(path, quiet=True, trials=5, seeds=2)
    assert len(two.tried) == 2 and {r.train.seed for r in pretended[3:]} == {0, 1}
    now = tunewright.tune(path, quiet=True, minutes=0)
    assert len(now.tried) == 1 and now.stopped == "the minutes are over" and now.best == now.own


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages__0__budget": {"seconds": 5}}, "a budget in seconds"),
        ({"stages": [{"name": n, "methods": ["lora"]} for n in "ab"]}, "this one has 2"),
    ],
)
def test_what_cannot_be_tuned_is_refused(folder: Path, changes: dict[str, Any], says: str) -> None:
    done = CliRunner().invoke(cli.app, ["tune", str(small.write_recipe(folder, **changes))])
    assert done.exit_code == errors.RecipeError.code and says in done.stderr


def test_stopped_by_the_user_it_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(trials: Sequence[Any], store: Any, **_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "run_all", stopped)
    done = CliRunner().invoke(cli.app, ["tune", str(small.write_recipe(folder))])
    assert done.exit_code == errors.INTERRUPTED and "the same command again goes on" in done.stderr
    assert not beside(folder / "r.yaml").exists()


def test_too_few_rows_are_refused(folder: Path) -> None:
    Path("train.jsonl").write_text("\n".join(Path("train.jsonl").read_text().splitlines()[:9]))
    with pytest.raises(errors.RecipeError, match="9 training rows are too few"):
        tunewright.tune(small.write_recipe(folder), quiet=True)


def test_write_needs_a_file_of_ones_own(folder: Path) -> None:
    with pytest.raises(errors.RecipeError, match="no file to write"):
        tunewright.tune("quickstart", write=True)
    with pytest.raises(errors.RecipeError, match="keep one of them|both say"):
        tunewright.tune(small.write_recipe(folder), write=True, out="x.yaml")


@pytest.mark.slow
def test_real_runs_are_kept_and_found_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.write_recipe(folder, stages__0__budget={"steps": 2})
    asked = ["tune", str(path), "--trials", "3", "--workers", "1", "--json"]
    first = json.loads(CliRunner().invoke(cli.app, asked).stdout)
    assert len(first["tried"]) == 3 and all(t["score"] is not None for t in first["tried"]), first
    assert [t["budget"]["steps"] for t in first["tried"]] == [2, 1, 1] and first["rows"] == 8

    def nothing_left(trials: Any, store: Any, **how: Any) -> Any:
        assert all((known := store.get(key_of(t.recipe))) is not None and known.settled for t in trials)
        return run_all(trials, store, **how)

    monkeypatch.setattr(tuning, "run_all", nothing_left)
    again = json.loads(CliRunner().invoke(cli.app, asked).stdout)
    assert again["tried"] == first["tried"]


# -- text --------------------------------------------------------------------------------------------------------------

BLOCK = """\
# about
model: m   # which
train:                 # how
  learning_rate: 2e-4  # peak
  seed: 3
budget: {epochs: 1}    # long
methods: [lora]
"""
VALUES: dict[tuple[str, ...], Any] = {("train", "learning_rate"): 3e-3, ("budget",): {"epochs": 4.0}}


def test_values_change_where_they_stand_and_only_their_own_comments_go() -> None:
    assert rewritten(BLOCK, VALUES) == BLOCK.replace("2e-4  # peak", "0.003").replace(
        "budget: {epochs: 1}    # long", "budget: {epochs: 4}"
    )


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        "model: m\ntrain: {seed: 1, learning_rate: 1e-3}\nmethods: [lora]\n",
        "model: m\ntrain: {seed: 1}\nbudget:\n  epochs: 2\n\n  tokens: 5\nmethods: [lora]\n",
        "model: m\nmethods: [lora]",
        "train: &t\n  learning_rate: 0.001\nother: *t\n",
        "train:\n\n  # a word\n  seed: 1\n",
        "train: {}\nmodel: m\n",
        "stages:\n  - {name: a, methods: [lora], budget: {steps: 3}}\n",
    ],
)
def test_every_layout_ends_with_the_values(text: str) -> None:
    before, after = (json.loads(json.dumps(yaml.safe_load(t))) for t in (text, rewritten(text, VALUES)))
    assert float(after["train"].pop("learning_rate")) == 3e-3
    budget = after["stages"][0].pop("budget") if "stages" in after else after.pop("budget")
    assert budget == {"epochs": 4}
    (before.get("train") or {}).pop("learning_rate", None), before.pop("budget", None)
    if "stages" in before:
        before["stages"][0].pop("budget")
    assert {k: v for k, v in after.items() if v} == {k: v for k, v in before.items() if v}
