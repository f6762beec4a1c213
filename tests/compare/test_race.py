from __future__ import annotations

import datetime
import json

import numpy as np
import pytest

from tests import small
from tests.report.test_page import assert_safe
from tests.test_compare import TREE
from tunewright.compare import comparison as comparing
from tunewright.compare import figures, racing, rounds, simulate_race
from tunewright.compare.arms import parse_arms
from tunewright.compare.cautions import cautions
from tunewright.compare.racing import Race, limits, spent
from tunewright.compare.result import Comparison
from tunewright.compare.standing import critical
from tunewright.errors import Interrupted, RecipeError
from tunewright.recipe import Budget, Recipe
from tunewright.report import compare as page
from tunewright.report.compare_schema import ArmFigures
from tunewright.trials.pool import Trial
from tunewright.trials.trial import Reading, TrialRecord, key_of, run_trial

NOW = datetime.datetime.now(datetime.UTC)

# -- the test that drops -----------------------------------------------------------------------------------------------


def test_looks_spend_what_they_may_on_fresh_draws():
    """Of 20,000 races of three normal methods, written out without the class: what is spent by each look."""
    rng, seeds, k, draws = np.random.default_rng(7), 8, 3, 20_000
    far = limits(k, seeds)
    x = rng.standard_normal((draws, seeds, k))
    gone = np.zeros(draws, bool)
    for n in range(3, seeds + 1):
        best = x[:, :n].mean(1).argmax(1)
        for a in range(k):
            for b in set(range(k)) - {a}:
                gaps = x[:, :n, a] - x[:, :n, b]
                gone |= (best == a) & (gaps.mean(1) / (gaps.std(1, ddof=1) / n**0.5) > far[n])
        assert gone.mean() == pytest.approx(spent(n, seeds), abs=0.006)
    assert gone.mean() >= 0.045


def test_limits_fall_and_the_last_one_costs_a_little_more_than_one_look():
    far = list(limits(4, 8).values())
    assert far == sorted(far, reverse=True) and 1.0 < far[-1] / critical(4, 8) < 1.3
    assert spent(8, 8) == racing.ERROR


@pytest.mark.parametrize("shape", sorted(simulate_race.SHAPES))
def test_of_methods_that_are_the_same_one_race_in_twenty_drops_any_or_calls_it_behind(shape):
    """600 races: three standard errors above 5 % is 7.7 %."""
    rates = [r.rate for r in simulate_race.same(200, (2, 4, 10), (8,), (shape,))]
    assert np.mean(rates) < 0.077


def test_what_is_far_worse_does_not_loosen_the_race_of_the_rest():
    assert max(r.rate for r in simulate_race.some(300, (6,), (8,))) < 0.085


def test_what_is_worse_is_dropped_the_sooner_the_worse_it_is():
    rates = [r.rate for r in simulate_race.worse(40, (4,), (8,))]
    assert rates == sorted(rates) and rates[0] < 0.3 and rates[-1] > 0.95


def hear(race, *columns):
    """Each column one seed: name -> figure."""
    return [race.hear({n: c[n] for n in race.racing}) for c in columns]


def test_a_method_is_dropped_at_the_look_that_shows_it_and_not_before():
    noise = [0.0, 0.01, -0.01, 0.005, -0.004, 0.003]
    race = Race(["a", "b", "c"], 6)
    found = hear(race, *({"a": 0.9, "b": 0.9 - noise[i], "c": 0.1 + noise[i]} for i in range(5)))
    assert found == [[], [], ["c"], [], []] and race.racing == ["a", "b"]
    gone = race.dropped["c"]
    assert gone.after == 3 and gone.behind in "ab" and gone.difference.n == 3 and gone.difference.high < 0
    gaps = np.array([0.8 - 2 * n if gone.behind == "b" else 0.8 - n for n in noise[:3]])
    reach = limits(3, 6)[3] * gaps.std(ddof=1) / 3**0.5
    assert gone.difference.low == pytest.approx(-gaps.mean() - reach)


def test_nothing_is_dropped_at_the_last_look():
    race = Race(["a", "b"], 4)
    steps = ({"a": 0.0 + s, "b": 0.0 + s + d} for s, d in enumerate([-0.3, 0.4, 0.1, 0.2]))
    assert hear(race, *steps) == [[]] * 4 and not race.dropped and set(race.standings()) == {"a", "b"}


def test_seeds_that_agree_to_the_row_count_as_a_spread_of_one_row():
    columns = [{"a": 0.60, "b": 0.55}] * 3
    assert hear(Race(["a", "b"], 8), *columns)[-1] == ["b"]
    assert hear(Race(["a", "b"], 8, least=0.05), *columns)[-1] == []
    far = [{"a": 0.95, "b": 0.05}] * 3
    assert hear(Race(["a", "b"], 8, least=0.05), *far)[-1] == ["b"]


def test_a_missing_figure_is_not_judged_and_goes_on():
    race = Race(["a", "b", "c"], 5)
    for s in range(4):
        race.hear({"a": 0.9 + s / 100, "b": None if s == 1 else 0.1, "c": float("nan")})
    assert race.racing == ["a", "b", "c"] and race.standings()["b"].word == "unclear"


def test_too_few_seeds_are_refused():
    with pytest.raises(RecipeError, match="a race of 3 seeds can drop nothing"):
        racing.check_race(3)
    racing.check_race(4)


def test_the_table_of_the_simulation_has_a_column_a_number_of_methods():
    rows = list(simulate_race.worse(2, (2, 3), (4,)))
    text = simulate_race.table(rows)
    assert "2 methods | 3 methods" in text and text.count("\n") == 1 + len(simulate_race.AWAY)


# -- its runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch):
    """Records without training: "b" learns as well as "a", "c" far less, and a third name's runs fail."""
    monkeypatch.setattr(rounds, "key_of", lambda recipe: recipe)
    asked = []

    def figures(trial):
        about = {"key": trial.recipe, "arm": trial.arm, "seed": trial.seed, "started": NOW, "seconds": 10.0}
        if trial.arm == "broken":
            return TrialRecord(**about, status="failed")
        noise = np.random.default_rng([trial.seed, *trial.arm.encode()]).standard_normal()
        gain = {"a": 0.5, "b": 0.5, "c": 0.1}[trial.arm] + 0.02 * float(noise)
        at_full = Reading(strength=1.0, target=0.1 + gain)
        cost = {"tokens": 100, "flops_by_phase": {"train": 5000.0}}
        base = Reading(strength=0.0, target=0.1)
        return TrialRecord(**about, base=base, strengths=[at_full], target_unit="nats", cost=cost)

    def run(batch):
        asked.append([(t.arm, t.seed) for t in batch])
        return {t.recipe: figures(t) for t in batch}

    return run, asked


def trials_of(names, seeds=8):
    return {(n, s): Trial(n, s, f"{n}{s}") for s in range(seeds) for n in names}


def test_a_dropped_method_is_asked_for_no_more_and_the_others_for_all_seeds(fake):
    run, asked = fake
    told = comparing.Progress(quiet=True, total=24)
    raced = rounds.run_race(trials_of("abc"), range(8), run, told)
    gone = raced.race.dropped["c"].after
    assert list(raced.race.dropped) == ["c"] and 3 <= gone < 8
    assert len(asked) == 6 and len(asked[0]) == 9 and [a for a, _ in asked[-1]] == ["a", "b"]
    assert sum(a == "c" for batch in asked for a, _ in batch) == gone and told.total == 24 - (8 - gone)


def test_the_last_one_left_runs_all_its_seeds_and_a_broken_one_goes_on(fake):
    run, asked = fake
    raced = rounds.run_race(trials_of(["a", "c", "broken"]), range(8), run, comparing.Progress(quiet=True))
    assert list(raced.race.dropped) == ["c"]
    assert {n: sum(at[0] == n for at in raced.records) for n in ("a", "broken")} == {"a": 8, "broken": 8}


def told(fake, names="abc"):
    """A comparison of a race that was run."""
    raced = rounds.run_race(trials_of(names), range(8), fake[0], comparing.Progress(quiet=True))
    records = {n: {s: r for (arm, s), r in raced.records.items() if arm == n} for n in names}
    made = Comparison(
        name="r",
        model="m",
        task="text-generation",
        metric="loss",
        unit="nats",
        budget={"tokens": 100},
        budget_words="100 training tokens",
        seeds=list(range(8)),
        tuned=False,
        arms=[ArmFigures(name=n, methods=[n], rate=1e-3) for n in names],
        finished=NOW,
        base_target=0.1,
    )
    raced.tell(made, dict.fromkeys(names, 8))
    figures.fill(made, records)
    made.cautions = cautions(made, records, Recipe(**TREE))
    return made


def test_a_page_and_a_table_say_who_was_dropped_when_why_and_what_it_spared(fake):
    made = told(fake)
    gone = made.arm("c").dropped
    left = 8 - gone.after
    assert made.race.spared_runs == left and made.race.spared_seconds == pytest.approx(10 * left)
    assert made.race.spared_flops == pytest.approx(5000 * left)
    words = {a.name: a.against.word for a in made.arms}
    assert words["c"] == "behind the best" and made.arm("c").against.difference == gone.difference
    assert {words["a"], words["b"]} == {"best", "tied with the best"}
    other = made.arm("a" if words["b"] == "best" else "b").against
    x = [[r.gain for r in made.arm(n).runs] for n in "ab"]
    gaps = np.subtract(*x)
    half = limits(3, 8)[8] * gaps.std(ddof=1) / 8**0.5  # of the last look of three methods, not of one look at two
    assert (other.difference.high - other.difference.low) / 2 == pytest.approx(half) and other.p is None
    text = assert_safe(page.html(made)).text
    assert f"dropped after {gone.after} seeds" in text and f"behind {gone.behind}: the interval" in text
    assert f"{left} runs were spared" in text or left == 1 and "1 run was spared" in text
    assert f"c after {gone.after}" in str(made) and " dropped" in str(made)
    assert Comparison.model_validate_json(made.model_dump_json()) == made


def test_a_race_that_drops_none_says_so(fake):
    text = assert_safe(page.html(told(fake, "ab"))).text
    assert "The race dropped no method" in text


# -- from recipe to page -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=60, test=12)
    runs = []

    def run_all(trials, store, on_record=None, **_):
        found = {}
        for t in trials:
            if runs[-1:] == ["stop"]:
                raise KeyboardInterrupt
            known = store.get(key_of(t.recipe))
            found[key_of(t.recipe)] = known or run_trial(t.recipe, store, arm=t.arm)
            runs.extend([] if known else [(t.arm, t.seed)])
            on_record(found[key_of(t.recipe)])
            if len(runs) == 4 and "stop" not in runs:
                runs.append("stop")
        return found

    monkeypatch.setattr(comparing, "run_all", run_all)
    return tmp_path, runs


@pytest.mark.slow
def test_an_interrupted_race_comes_to_the_same_end(here):
    """`idle` hardly learns: it is dropped, in a race that was stopped and in one that was not."""
    folder, runs = here
    recipe = Recipe.load(small.write_recipe(folder, measurement__metric="loss"))
    (folder / "idle.yaml").write_text("methods: [full]\ntrain: {learning_rate: 1.0e-9}\n")
    (folder / "good.yaml").write_text("methods: [full]\ntrain: {learning_rate: 1.0e-2}\n")
    arms = parse_arms("good.yaml,idle.yaml", folder)
    given = {"seeds": 4, "budget": Budget(steps=2), "race": True, "quiet": True}
    with pytest.raises(Interrupted):
        comparing.compare(recipe, arms, out=folder / "out", **given)
    runs[-1] = "gone on"
    found = comparing.compare(recipe, arms, out=folder / "out", **given)
    made = len(runs)
    assert found.arm("idle").dropped is not None and made == 8  # seven runs and the mark
    again = comparing.compare(recipe, arms, out=folder / "out", **given)
    assert len(runs) == made  # nothing was run again
    for one in ("arms", "race", "winner", "cautions"):
        assert getattr(again, one) == getattr(found, one)
    runs.clear()
    runs.extend(["gone on", "stop", "gone on"])
    whole = comparing.compare(recipe, arms, out=folder / "whole", **given)
    times = {"seconds", "train_seconds", "setup_seconds", "peak_memory_bytes"}
    assert [_without(a, times) for a in whole.arms] == [_without(a, times) for a in found.arms]
    assert whole.race.spared_runs == found.race.spared_runs > 0
    assert json.loads((folder / "out" / "compare.json").read_text())["race"]["spared_runs"] == whole.race.spared_runs


def _without(arm, names):
    tree = arm.model_dump(exclude=names)
    return {**tree, "runs": [{k: v for k, v in r.items() if k not in names} for r in tree["runs"]]}


def test_a_race_of_too_few_seeds_is_refused_before_anything_is_run(here):
    folder, runs = here
    recipe = Recipe.load(small.write_recipe(folder))
    with pytest.raises(RecipeError, match="can drop nothing"):
        comparing.compare(recipe, parse_arms("lora,full"), seeds=3, race=True, out=folder / "out")
    assert not runs and not (folder / "out").exists()
