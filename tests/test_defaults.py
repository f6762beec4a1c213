"""What a recipe leaves out is derived by one rule: in numbers, at run time, in the recipe that `init` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.defaults import below_base, interval_of_share, known, share
from benchmarks.defaults_data import DataSet, write
from benchmarks.defaults_page import page
from tests import small, tiny
from tunewright import catalogue
from tunewright.commands import cli
from tunewright.compare.arms import parse_arms
from tunewright.compare.settling import settle
from tunewright.contract.class_check import check_class
from tunewright.contract.method import Choice, Method
from tunewright.errors import MethodError
from tunewright.measure.rows import RowResult
from tunewright.planning import lengths
from tunewright.planning.plan import plan
from tunewright.recipe import Budget, Recipe, TrainSpec
from tunewright.runs.assemble import assemble, settled
from tunewright.runs.deriving import said_by, width_of
from tunewright.runs.run import run
from tunewright.training import defaults
from tunewright.training.budget import few_steps
from tunewright.training.defaults import Facts, Given, derive, rows_a_step
from tunewright.trials.row_scores import RowScores

LORA = {"": 8e-4}
KINDS = st.sampled_from(list(defaults.PASSES))


def facts(**other: Any) -> Facts:
    given: dict[str, Any] = {"task": "text-generation", "kind": "answers", "rows": 100, "tokens": 3000, "width": 1024}
    return Facts(**{**given, "rates": [LORA], **other})


def values(about: Facts, given: Given | None = None) -> dict[str, float]:
    return {name: setting.value for name, setting in derive(about, given or Given()).items()}


def test_a_hundred_answers_are_read_four_at_a_time_five_times() -> None:
    assert values(facts()) == {"learning_rate": 8e-4, "batch_tokens": 120, "epochs": 5, "warmup_steps": 0.1}


@pytest.mark.parametrize(
    ("rows", "a_step", "epochs"), [(500, 16, 4), (5000, 32, 2), (200_000, 32, 1)], ids=["500", "5k", "200k"]
)
def test_more_rows_are_read_less_often_in_larger_steps(rows: int, a_step: int, epochs: int) -> None:
    got = values(facts(rows=rows, tokens=30 * rows))
    assert (got["batch_tokens"], got["epochs"]) == (30 * a_step, epochs)


def test_what_is_given_is_not_derived_and_the_rest_goes_by_it() -> None:
    given = Given(learning_rate=1e-3, batch_tokens=3000, warmup_steps=5)
    assert values(facts(), given) == {"epochs": 30}, "one step an epoch: as many epochs as the rule allows"
    assert values(facts(), Given(limited=True)).keys() == {"learning_rate", "batch_tokens", "warmup_steps"}


def test_narrow_models_take_larger_steps() -> None:
    wide, narrow = (values(facts(width=w))["learning_rate"] for w in (4096, 256))
    assert wide == pytest.approx(8e-4 * 4**-0.75, rel=0.05) and narrow == pytest.approx(8e-4 * 4**0.75, rel=0.05)
    assert values(facts(width=None))["learning_rate"] == 8e-4


def test_plain_text_is_read_more_often_than_answers_and_faster_in_larger_steps() -> None:
    plain = {"kind": "plain text", "rows": 500, "tokens": 15_000}
    assert values(facts(**plain)) == {"learning_rate": 1.6e-3, "batch_tokens": 480, "epochs": 5, "warmup_steps": 0.1}
    rates = {n: values(facts(kind="plain text", rows=n, tokens=30 * n))["learning_rate"] for n in (50, 100, 200, 9000)}
    assert rates == {50: 8e-4, 100: 8e-4, 200: 1.1e-3, 9000: 2.3e-3}
    own = derive(facts(**plain, adds=False))["learning_rate"]
    assert own.value == 8e-4 and "plain text" not in own.reason
    assert "times 2 for plain text" in derive(facts(**plain))["learning_rate"].reason
    by_batch = [values(facts(**plain), Given(batch_tokens=b))["learning_rate"] for b in (30, 120, 480, 99_000)]
    assert by_batch == [8e-4, 8e-4, 1.6e-3, 2.3e-3]


def test_a_rate_is_the_methods_own_for_the_task_and_scaled_by_what_stands_beside_it() -> None:
    own = [{"": 1e-3, "text-classification": 3e-3}]
    assert values(facts(rates=own))["learning_rate"] == 1e-3
    assert values(facts(rates=own, task="text-classification"))["learning_rate"] == 3e-3
    assert values(facts(rates=own, factor=0.25))["learning_rate"] == 2.5e-4
    assert values(facts(rates=[]))["learning_rate"] == defaults.ADAPTER_RATE
    assert values(facts(rates=[], adds=False))["learning_rate"] == defaults.WEIGHT_RATE


def test_an_objectives_rate_grows_by_powers_of_its_own() -> None:
    held = {"kind": "pairs", "factor": 0.14, "by_width": 1.0, "by_rows": 0.5}
    narrow, middle, wide = (
        values(facts(rows=100, tokens=3000, width=w, **held))["learning_rate"] for w in (192, 576, 4096)
    )
    assert (narrow, middle, wide) == (2.1e-3, 3.1e-4, 9.9e-6)
    by_rows = [values(facts(rows=n, tokens=30 * n, width=192, **held))["learning_rate"] for n in (100, 500, 5000)]
    assert by_rows == [2.1e-3, 4.2e-3, 5.9e-3]
    own = derive(facts(rows=5000, tokens=150_000, width=192, adds=False, **held))["learning_rate"]
    assert own.value == 2.1e-3 and "times 0.75 for the objective at" in own.reason
    reason = derive(facts(rows=500, tokens=15_000, width=192, **held))["learning_rate"].reason
    assert "times 0.75 for the objective times 2 for pairs in such steps" in reason, "0.14 and the power of the width"
    assert "(both sides of a pair)" in derive(facts(**held))["batch_tokens"].reason


def test_methods_say_their_rates() -> None:
    full, lora, dpo, tuning = (catalogue.load_method(n) for n in ("full", "lora", "dpo", "prompt-tuning"))
    assert full.learning_rates[""] < lora.learning_rates[""] < tuning.learning_rates[""]
    said = said_by([lora, dpo])
    powers = {"by_width": dpo.rate_by_width, "by_rows": dpo.rate_by_rows}
    assert said == {"rates": [lora.learning_rates], "adds": True, "factor": dpo.rate_factor, "once": False} | powers
    assert dpo.rate_factor < 1 and 0 not in powers.values() and said_by([catalogue.load_method("steel")])["once"]
    assert not said_by([full])["adds"]


def test_rows_that_are_picked_by_are_read_once_many_at_a_time() -> None:
    said = values(facts(rows=40, tokens=400, once=True))
    assert (said["epochs"], said["batch_tokens"]) == (1, 400)
    assert values(facts(rows=640, tokens=6400, once=True))["batch_tokens"] == 640


@pytest.mark.parametrize("rates", [[1e-3], {"": 0.0}, {"": "fast"}])
def test_rates_that_are_none_are_refused(rates: Any) -> None:
    def choose(self: Any, candidates: Any) -> Choice:
        return Choice()

    cls = type("Odd", (Method,), {"learning_rates": rates, "choose": choose, "__module__": __name__})
    with pytest.raises(MethodError, match="learning_rates is no mapping"):
        check_class(cls)


@given(KINDS, st.integers(1, 10**7), st.integers(1, 5000), st.sampled_from([None, 64, 1024, 8192]))
def test_the_rule_gives_something_to_learn_by_whatever_the_rows_are(
    kind: Any, rows: int, size: int, width: Any
) -> None:
    size = 1 if kind == "pictures" else size
    got = values(facts(kind=kind, rows=rows, tokens=rows * size, width=width))
    assert 1 <= got["epochs"] <= defaults.MOST_EPOCHS and got["epochs"] == int(got["epochs"])
    assert 1 <= got["batch_tokens"] <= max(defaults.MOST_TOKENS, 1.1 * size * defaults.ROWS[1])
    steps = got["epochs"] * rows * size / got["batch_tokens"]
    assert steps >= 0.9 * defaults.STEPS or got["epochs"] == defaults.MOST_EPOCHS
    assert 1e-6 < got["learning_rate"] < 1e-1


@given(st.integers(1, 10**7))
def test_rows_of_a_step_are_a_power_of_two_within_bounds(rows: int) -> None:
    n = rows_a_step(rows)
    assert defaults.ROWS[0] <= n <= defaults.ROWS[1] and n & (n - 1) == 0 and rows_a_step(2 * rows) >= n


# -- at run time -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    return tmp_path


BARE = {"precision": "float32", "threads": 1, "device": "cpu"}


def test_a_recipe_without_a_rate_takes_its_methods_own(folder: Path) -> None:
    rates = {}
    for name in ("lora", "full"):
        session = assemble(Recipe.load(small.write_recipe(folder, train=BARE, stages__0__methods=[name])))
        width = width_of(session.loaded.model.config)
        own = catalogue.load_method(name).learning_rates[""]
        rates[name] = session.stages[0].train.learning_rate
        assert rates[name] == session.recipe.train.learning_rate == session.derived["main"]["learning_rate"].value
        assert rates[name] == pytest.approx(own * (1024 / (width or 0)) ** 0.75, rel=0.05)
    assert rates["full"] < rates["lora"]


def test_what_a_recipe_says_stays(folder: Path) -> None:
    path = small.write_recipe(folder, train__warmup_steps=3)
    recipe = Recipe.load(path)
    session = assemble(recipe)
    assert session.recipe is recipe and session.derived == {"main": {}}
    assert settled(recipe)[0] is recipe


@pytest.mark.slow
def test_the_resolved_recipe_shows_the_values_and_runs_the_same_again(folder: Path) -> None:
    path = small.write_recipe(
        folder, train=BARE, stages__0__budget={}, stages__0__methods=["full"], measurement__strengths=[1.0]
    )
    foreseen, _ = settled(Recipe.load(path))
    done = run(path, folder / "one", quiet=True)
    resolved = Recipe.load(done.folder / "recipe.yaml")
    assert resolved.train.learning_rate and resolved.train.batch_tokens and resolved.train.warmup_steps == 0.1
    assert resolved.stages[0].budget == foreseen.stages[0].budget and resolved.stages[0].budget.epochs
    assert resolved.train.learning_rate == foreseen.train.learning_rate
    assert resolved.train.batch_tokens == foreseen.train.batch_tokens
    again = run(done.folder / "recipe.yaml", folder / "two", quiet=True)
    assert [s.steps for s in again.report.stages] == [s.steps for s in done.report.stages]
    assert again.report.target.after.value == done.report.target.after.value


def test_stages_get_values_of_their_own(folder: Path) -> None:
    stages = [{"name": "a", "methods": ["full"]}, {"name": "b", "methods": ["lora"], "train": {"warmup_steps": 2}}]
    recipe, found = settled(Recipe.load(small.write_recipe(folder, train=BARE, stages=stages)))
    a, b = (recipe.train_for(stage) for stage in recipe.stages)
    assert a.learning_rate and b.learning_rate and a.learning_rate < b.learning_rate
    assert (a.warmup_steps, b.warmup_steps) == (0.1, 2) and "warmup_steps" not in found["b"]
    assert recipe.train.learning_rate is None and Recipe(**recipe.model_dump()).dump() == recipe.dump()


# -- the first recipe --------------------------------------------------------------------------------------------------


def begun(folder: Path, model: str, data: str, *more: str) -> tuple[Recipe, str]:
    out = folder / "first.yaml"
    out.unlink(missing_ok=True)
    done = CliRunner().invoke(cli.app, ["init", model, str(folder / data), "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    return Recipe.load(out), out.read_text()


def test_init_measures_lengths_and_writes_what_a_run_would_derive(folder: Path) -> None:
    recipe, text = begun(folder, str(folder / "base"), "train.jsonl")
    bare = recipe.model_copy(deep=True)
    bare._base, bare.train.learning_rate, bare.train.batch_tokens = recipe.base, None, None
    bare.stages[0].budget = type(bare.stages[0].budget)()
    again, _ = settled(bare)
    assert again.train == recipe.train and again.stages == recipe.stages
    assert "Measured: 40 rows" in text and "the longest row has" in text and "optimizer steps" in text
    assert recipe.data.validation == 0.2 and recipe.measurement.split == "validation"
    assert recipe.data.max_length % 32 == 0


@pytest.mark.slow
def test_init_keeps_the_best_weights_of_free_text_alone(folder: Path) -> None:
    def rows(answer: str) -> None:
        made = [{"prompt": f"card lost {i}", "completion": answer} for i in range(40)]
        (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, made)))

    rows("fee cash " * (lengths.FREE + 2))
    recipe, text = begun(folder, str(folder / "base"), "answers.jsonl")
    epochs = recipe.stages[0].budget.epochs
    said = re.search(r"about ([\d,]+) optimizer steps", text)
    assert said and epochs and recipe.train.eval_steps
    assert recipe.train.eval_steps == pytest.approx(int(said[1]) / epochs, rel=0.2, abs=1)
    stage = plan(recipe, quiet=True).stages[0]
    assert int(said[1]) == pytest.approx(stage.steps, rel=0.03, abs=1)
    assert recipe.train.keep_best == "loss" and recipe.train.eval_steps and "known by heart" in text
    assert [use.name for use in recipe.stages[0].methods] == ["lora", "ema"]
    assert not plan(recipe, quiet=True).stages[0].cautions, "the average has left the start behind"
    rows("fee")
    recipe, text = begun(folder, str(folder / "base"), "answers.jsonl")
    assert recipe.train.keep_best is None and recipe.train.eval_steps is None and "known by heart" not in text
    assert [use.name for use in recipe.stages[0].methods] == ["lora"]


def test_init_says_so_where_the_model_is_not_here(folder: Path) -> None:
    recipe, text = begun(folder, "./no-such-model", "train.jsonl")
    assert "Estimated from the file's size, 40 rows: there is no such model folder" in text
    assert "the model's width is not known" in text and recipe.train.batch_tokens


def test_init_gives_rows_of_two_answers_an_objective_that_compares_them(folder: Path) -> None:
    row = {"prompt": "card lost", "chosen": "top up", "rejected": "cash fee"}
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for _ in range(30)))
    recipe, _ = begun(folder, str(folder / "base"), "pairs.jsonl")
    assert [use.name for use in recipe.stages[0].methods] == ["lora", "dpo"]


def test_init_trains_a_small_classifier_whole(folder: Path) -> None:
    tiny.bert().save_pretrained(folder / "encoder"), tiny.tokenizer().save_pretrained(folder / "encoder")
    rows = [{"text": "card lost", "label": small.LABELS[i % 3]} for i in range(30)]
    (folder / "classes.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    recipe, _ = begun(folder, str(folder / "encoder"), "classes.jsonl")
    assert recipe.task == "text-classification" and [u.name for u in recipe.stages[0].methods] == ["full"]


def test_init_splits_long_text_into_steps_enough(folder: Path) -> None:
    (folder / "long.txt").write_text(" ".join(["card lost fee"] * 4000))
    recipe, text = begun(folder, str(folder / "base"), "long.txt")
    assert recipe.data.max_length < lengths.PIECES[1] and "longer text is split" in text
    session, _ = settled(recipe)
    tokens = int(text.split("# Measured: ")[1].split(" tokens")[0].replace(",", ""))
    assert tokens / recipe.data.max_length >= 4 * defaults.STEPS_AN_EPOCH and session.stages == recipe.stages


@given(st.integers(20, 10**6))
def test_what_is_held_out_is_enough_and_not_too_much(rows: int) -> None:
    share = lengths.held_out(rows)
    assert share is not None and 0.01 <= share <= 0.2
    assert share * rows >= min(45, 0.15 * rows) and (rows < 5000 or share * rows <= max(600, 0.02 * rows + 1))


def test_of_few_rows_none_are_held_out(folder: Path) -> None:
    (folder / "few.jsonl").write_text("\n".join((folder / "train.jsonl").read_text().splitlines()[:6]))
    recipe, text = begun(folder, str(folder / "base"), "few.jsonl")
    assert recipe.data.validation is None and recipe.measurement.split == "eval" and "too few rows" in text


# -- too few steps, comparisons, the page ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "batch", "says"),
    [
        ({"epochs": 1}, 500, "for 6,000 tokens: write train.batch_tokens: 60, or budget: {epochs: 9}"),
        ({"tokens": 6000}, 500, "write train.batch_tokens: 60, or budget: {tokens: 50000}"),
        ({"epochs": 2}, 60, "for 6,000 tokens: write budget: {epochs: 17}"),
    ],
)
def test_few_steps_say_what_to_write(budget: dict[str, Any], batch: int, says: str) -> None:
    told = few_steps(12, 6000, Budget(**budget), TrainSpec(batch_tokens=batch))
    assert told is not None and told.endswith(says)


def test_one_pass_online_is_told_to_take_online_out_and_no_budget() -> None:
    spec = TrainSpec(batch_tokens=500)
    assert few_steps(12, 6000, Budget(epochs=1), spec, once=True) == (
        "only 12 optimizer steps for 6,000 tokens: write train.batch_tokens: 60, or tasks.online: false"
    )
    alone = few_steps(12, 6000, Budget(epochs=1), spec, 4000, once=True)
    assert alone is not None and alone.endswith("tokens: write tasks.online: false")


def test_steps_enough_and_steps_that_were_asked_for_are_no_news() -> None:
    spec = TrainSpec(batch_tokens=500)
    assert few_steps(50, 6000, Budget(epochs=1), spec) is None and few_steps(49, 6000, Budget(epochs=1), spec)
    assert few_steps(12, 6000, Budget(steps=12), spec) is None


def test_what_few_steps_say_makes_steps_enough(folder: Path) -> None:
    recipe = Recipe.load(small.write_recipe(folder, train__batch_tokens=4000, stages__0__budget={"epochs": 1}))
    session = assemble(recipe)
    plan, part = session.plan(session.stages[0]), session.stages[0]
    told = few_steps(plan.steps, plan.tokens, part.spec.budget, part.train)
    assert told is not None
    smaller = int(told.split("batch_tokens: ")[1].split(",")[0])
    part.train = part.train.model_copy(update={"batch_tokens": smaller})
    longer = int(told.split("epochs: ")[1].split("}")[0])
    assert longer >= 50 and session.plan(part).steps > 10 * plan.steps


def test_of_few_rows_the_advice_can_be_followed(folder: Path) -> None:
    rows = (folder / "train.jsonl").read_text().splitlines()[:6]
    (folder / "train.jsonl").write_text("\n".join(rows))
    recipe = Recipe.load(small.write_recipe(folder, train__batch_tokens=4000, stages__0__budget={"epochs": 2}))
    session = assemble(recipe)
    plan, part = session.plan(session.stages[0]), session.stages[0]
    longest = max(row.size for row in part.rows.rows)
    told = few_steps(plan.steps, plan.tokens, part.spec.budget, part.train, longest)
    assert told is not None and f"write train.batch_tokens: {longest} (the longest row) and budget: " in told
    epochs = int(told.split("epochs: ")[1].split("}")[0])
    part.train = part.train.model_copy(update={"batch_tokens": longest})
    part.spec.budget = Budget(epochs=epochs)
    assert session.plan(part).steps >= 50


def test_arms_of_a_comparison_share_the_batch_and_have_rates_of_their_own(folder: Path) -> None:
    recipe = Recipe.load(small.write_recipe(folder, train=BARE, stages__0__budget={}))
    kept, budget, rates = settle(recipe, parse_arms("lora,full"), Budget())
    assert rates["full"] < rates["lora"] and budget.epochs
    assert kept.train.batch_tokens and kept.train.learning_rate is None and kept.base == recipe.base
    said = Recipe.load(small.write_recipe(folder, train__warmup_steps=1))
    same, own, rates = settle(said, parse_arms("lora,full"), Budget(steps=3))
    assert same is said and own.steps == 3 and set(rates.values()) == {1e-2}


def test_a_share_of_the_gain_has_an_interval_that_holds_it_and_none_of_nothing() -> None:
    def scores(gains: list[float], weights: list[float] | None = None) -> RowScores:
        of = weights or [1.0] * len(gains)
        base = [RowResult(id=str(i), score=2.0, weight=w) for i, w in enumerate(of)]
        return RowScores.of(base, [r.model_copy(update={"score": 2.0 + g}) for r, g in zip(base, gains, strict=True)])

    rng = np.random.default_rng(0)
    found = rng.normal(-1.0, 0.5, 300)
    own = 0.8 * found + rng.normal(0, 0.2, 300)
    low, high = interval_of_share(scores(list(own)), scores(list(found)), "lower")
    assert low < own.sum() / found.sum() < high and 0.01 < high - low < 0.15
    assert interval_of_share(scores(list(found)), scores(list(found)), "lower") == [1.0, 1.0]
    assert interval_of_share(scores(list(own)), scores(list(found)), "higher") is None, "tuning lost"
    noise = list(rng.normal(0.001, 1.0, 300))
    assert interval_of_share(scores(noise), scores(noise[::-1]), "higher") is None, "a share of nothing"
    assert interval_of_share(scores([1.0]), scores([1.0, 1.0]), "higher") is None, "of other rows"
    assert interval_of_share(None, scores([1.0]), "higher") is None
    heavy = scores([1.0, 0.0] * 50, [3.0, 1.0] * 50), scores([1.0, 1.0] * 50, [3.0, 1.0] * 50)
    low, high = interval_of_share(*heavy, "higher")
    assert low < 0.75 < high, "rows count by their weights"


def test_the_page_of_defaults_is_made_from_the_rule_and_the_results() -> None:
    assert Path("docs/defaults.md").read_text(encoding="utf-8") == page(known()), "python -m benchmarks.defaults --page"


CELL = {"direction": "lower", "base": 5.0, "default": 4.0, "tuned": 3.5}


@pytest.mark.parametrize(
    ("changes", "reached", "below"),
    [({}, 2 / 3, False), ({"default": 5.5}, -1 / 3, True), ({"tuned": 5.1}, None, False)],
)
def test_a_cells_share_of_the_gain(changes: dict[str, float], reached: float | None, below: bool) -> None:
    cell = {**CELL, **changes}
    assert share(cell) == (None if reached is None else pytest.approx(reached)) and below_base(cell) is below


def test_rows_to_measure_on_are_never_trained_on(tmp_path: Path) -> None:
    rows = [{"text": str(i)} for i in range(900)]
    made = DataSet("d", "plain", "nano", "loss", True, lambda folder: list(rows), evaluated=50)
    small_train, evaluated, _ = write(made, tmp_path, tmp_path / "a", 100)
    large_train, again, count = write(made, tmp_path, tmp_path / "b", 5000)
    few, many, held = ([*map(json.loads, f.read_text().splitlines())] for f in (small_train, large_train, evaluated))
    assert many[:100] == few and count == 850 and evaluated.read_text() == again.read_text()
    assert len(held) == 50 and not {r["text"] for r in held} & {r["text"] for r in many}
