from __future__ import annotations

import datetime
import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.test_page import assert_safe
from tunewright.compare import figures
from tunewright.compare.arms import equal_budgets, parse_arms, parse_budget
from tunewright.compare.cautions import cautions
from tunewright.compare.result import Comparison
from tunewright.errors import RecipeError
from tunewright.recipe import Budget, Recipe
from tunewright.report import compare as page
from tunewright.report.compare_schema import ArmFigures
from tunewright.trials.trial import Reading, TrialError, TrialRecord, key_of

NOW = datetime.datetime.now(datetime.UTC)
SEEDS = list(range(6))


def record(arm, seed, gain, lost=0.5, drift=1.0, direction="higher", **more):
    """A curve whose target rises in proportion to strength, and whose loss and drift rise with its square."""
    sign = 1 if direction == "higher" else -1
    points = [
        Reading(strength=s, target=0.1 + sign * s * gain, kept={"general": 3.0 + s * s * lost}, drift=s * s * drift)
        for s in (0.25, 0.5, 0.75, 1.0)
    ]
    base = Reading(strength=0, target=0.1, kept={"general": 3.0}, drift=0.0)
    return TrialRecord(
        key=f"{arm}{seed}",
        arm=arm,
        seed=seed,
        started=NOW,
        base=base,
        strengths=points,
        direction=direction,
        drift_measure="kl",
        **more,
    )


def failed(arm, seed, status="failed"):
    return TrialRecord(
        key=f"{arm}{seed}",
        arm=arm,
        seed=seed,
        status=status,
        error=TrialError(type="NonFiniteError", message="loss", where="step 3"),
        started=NOW,
    )


def judged(direction="higher", seeds=None, **arms):
    """A comparison of arms given as functions of (seed, noise) that make records."""
    seeds = seeds or SEEDS
    records = {}
    for name, make in arms.items():
        rng = random.Random(name)
        records[name] = {s: make(s, rng.gauss(0, 0.01)) for s in seeds}
    made = Comparison(
        name="r",
        model="m",
        task="text-generation",
        metric="exact_match",
        direction=direction,
        budget={"tokens": 1000},
        budget_words="1,000 training tokens",
        seeds=seeds,
        tuned=False,
        arms=[ArmFigures(name=n, methods=[n], rate=1e-3) for n in arms],
        finished=NOW,
        base_target=0.1,
        base_kept={"general": 3.0},
        drift_measure="kl",
    )
    figures.fill(made, records)
    return made


def plain(name, gain, **more):
    return lambda s, noise: record(name, s, gain + noise + 0.05 * (s % 3), **more)


def words_of(made):
    return {a.name: a.against.word for a in made.arms}


# -- ties and who is behind --------------------------------------------------------------------------------------------


def test_equal_methods_are_tied_and_a_worse_one_is_behind():
    made = judged(a=plain("a", 0.60), b=plain("b", 0.602), c=plain("c", 0.30))
    words = words_of(made)
    assert sorted(words[n] for n in "ab") == ["best", "tied with the best"] and words["c"] == "behind the best"
    c = made.arm("c").against
    assert c.difference.high < 0 and c.difference.value == pytest.approx(-0.3, abs=0.03) and c.difference.unit == "seed"
    text = page.headline(made)[0]
    assert "tied with it" in text and "c" not in text.split()


def test_pairing_by_seed_sees_what_means_alone_do_not():
    made = judged(
        a=lambda s, noise: record("a", s, 0.3 + 0.1 * s), b=lambda s, noise: record("b", s, 0.28 + 0.1 * s + noise / 10)
    )
    assert made.arm("a").gain.low < made.arm("b").gain.value  # the means' own intervals overlap widely
    assert words_of(made) == {"a": "best", "b": "behind the best"}


def test_failed_seeds_make_an_arm_unclear_and_never_the_best():
    made = judged(
        a=plain("a", 0.5),
        b=lambda s, noise: failed("b", s, "killed") if s == 2 else record("b", s, 0.9 + noise),
        c=lambda s, noise: failed("c", s),
    )
    assert words_of(made) == {"a": "best", "b": "unclear", "c": "unclear"}
    assert "1 of 6 seeds" in made.arm("b").against.reason
    assert [r.status for r in made.arm("b").runs].count("killed") == 1
    assert "step 3" in made.arm("c").runs[0].error and made.arm("c").gain is None
    text = assert_safe(page.html(made)).text
    assert "1 of 6 runs did not finish" in text and "Did not finish" in text and "NonFiniteError" in text


def test_no_winner_is_named_without_a_shown_gain(tmp_path):
    """The largest mean of methods whose gains may be chance is no first place, however little it stores."""
    wide = [-0.2, 0.5, -0.1, 0.4, -0.25, 0.1]
    small = {"cost": {"stored_bytes": 10}}
    made = judged(
        a=lambda s, n: record("a", s, wide[s], **small), b=lambda s, n: record("b", s, 0.9 * wide[s], **small)
    )
    assert made.winner is None and "no gain is shown" in made.why
    assert page.headline(made)[0].startswith("No gain is shown: a has the largest mean")
    assert page.headline(made)[-1].startswith("There is no winner")
    text = assert_safe(page.html(made)).text
    assert "no shown gain" in text and "keeps most" not in text and "stores least" not in text
    assert {page.row(made, a)["gain"].word for a in made.arms} == {"no shown gain"}
    assert all(a.lost_at_target is None for a in made.arms)
    alone = judged(seeds=[0], a=plain("a", 0.5), b=plain("b", 0.2))
    assert alone.winner is None and "one seed says nothing" in alone.why


def test_of_tied_methods_only_those_with_a_shown_gain_may_win():
    wide = [-0.2, 0.7, -0.1, 0.8, 0.4, 0.6]
    made = judged(a=lambda s, n: record("a", s, wide[s], lost=0.01), b=plain("b", 0.1, lost=2.0))
    assert words_of(made)["a"] == "best" and words_of(made)["b"] == "tied with the best"
    assert made.winner == "b" and "it alone has a gain that is shown" in made.why
    assert page.row(made, made.arm("b"))["gain"].word == "tied with the best"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_stands_in_the_terminal_with_its_intervals_whole(width, tmp_path):
    import io

    from rich.console import Console

    made = judged(**{"lora:rank=8": plain("a", 0.6), "full": plain("b", 0.602), "hft+e2wm": plain("c", 0.3)})
    out = io.StringIO()
    page.show(made, tmp_path, Console(file=out, width=width, highlight=False, color_system=None))
    table, sentences = out.getvalue().split("\n\n")[:2]
    assert all(len(line) <= width for line in [*table.splitlines(), *sentences.splitlines()])
    for name in ("lora:rank=8", "full", "hft+e2wm"):
        gain = page.row(made, made.arm(name))["gain"]
        assert gain.value in table and f"[{gain.span}]" in table


def test_intervals_stay_within_what_the_figure_can_be():
    """Two seeds have a t quantile of 12.7: without bounds the interval of a share is wider than 100 points."""
    made = judged(seeds=[0, 1], a=lambda s, n: record("a", s, 0.2 + 0.6 * s, drift=0.1 + s), b=plain("b", 0.3))
    a = made.arm("a")
    assert (a.target.low, a.target.high) == (0, 1) and a.target.value == pytest.approx(0.6)
    assert (a.gain.low, a.gain.high) == (pytest.approx(-0.1), pytest.approx(0.9))
    assert -1 <= made.arm("b").against.difference.low and made.arm("b").against.difference.high <= 1
    assert a.drift.low == 0 and all(p.drift.low >= 0 and p.target.high <= 1 for p in a.curve)
    falls = judged("lower", seeds=[0, 1], a=lambda s, n: record("a", s, 0.01 + 0.08 * s, direction="lower"))
    assert falls.arm("a").gain.high <= 0.1 + 1e-12  # a loss cannot fall below 0


def test_nothing_finished_has_no_winner_and_a_page_all_the_same():
    made = judged(a=lambda s, n: failed("a", s), b=lambda s, n: failed("b", s))
    assert made.winner is None and "No method finished" in assert_safe(page.html(made)).text


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_at_one_common_target():
    """b gains twice as much and loses more in all; where it has gained what a gains at 90 %, it has lost less."""
    made = judged(a=lambda s, n: record("a", s, 0.4 + n, lost=0.5), b=lambda s, n: record("b", s, 0.8 + n, lost=0.9))
    a, b = made.arm("a"), made.arm("b")
    assert a.lost.value < b.lost.value
    assert a.lost_at_target.value == pytest.approx(0.5 * 0.9**2, abs=0.03) and b.lost_at_target.value < 0.25
    assert (b.lost_against.word, a.lost_against.word) == ("best", "behind the best")
    assert b.drift_at_target.value < a.drift_at_target.value


def test_a_method_that_hardly_learns_is_not_compared_there():
    made = judged(a=plain("a", 0.6), b=plain("b", 0.5), idle=lambda s, n: record("idle", s, 0.01, lost=0.0, drift=0.0))
    assert made.arm("idle").lost_at_target is None and made.arm("idle").lost_against is None
    assert made.arm("a").lost_at_target is not None and made.winner != "idle"
    assert "not compared" in assert_safe(page.html(made)).text


def test_of_tied_methods_the_one_that_keeps_most_wins():
    made = judged(a=plain("a", 0.6, lost=0.9), b=plain("b", 0.599, lost=0.2))
    assert made.winner == "b" and "tied in gain" in made.why and "loses least" in made.why


def test_lower_is_better_where_the_metric_says_so():
    made = judged(direction="lower", a=plain("a", 0.6, direction="lower"), b=plain("b", 0.2, direction="lower"))
    assert made.arm("a").gain.value > 0.5 and made.winner == "a" and made.arm("a").target.value < 0


# -- arms and budgets --------------------------------------------------------------------------------------------------


def test_arms_are_names_parameters_combinations_and_files(tmp_path):
    (tmp_path / "own.yaml").write_text("methods: [{lora: {rank: 2}}, asft]\ntrain: {learning_rate: 1e-3}\n")
    arms = parse_arms("lora,lora:rank=4:alpha=8,lora+asft,own.yaml", tmp_path)
    assert [a.name for a in arms] == ["lora", "lora:rank=4:alpha=8", "lora+asft", "own"]
    assert arms[1].written() == [{"lora": {"rank": 4, "alpha": 8}}] and [u.name for u in arms[2].methods] == [
        "lora",
        "asft",
    ]
    assert arms[3].train == {"learning_rate": 1e-3} or arms[3].train == {"learning_rate": "1e-3"}


@pytest.mark.parametrize(
    "text, says",
    [
        ("lora", "at least two"),
        ("lora,lora", "twice"),
        ("lora,loro", "loro"),
        ("lora,full:x", "no parameter"),
        ("lora,lora:rnk=3", "rank"),
        ("lora,none.yaml", "cannot be read"),
    ],
)
def test_a_wrong_list_of_methods_is_refused_with_the_item(text, says):
    with pytest.raises(RecipeError) as e:
        parse_arms(text)
    assert says in str(e.value)


@pytest.mark.parametrize(
    "line", ["budget: {steps: 9}", "data: {train: x.jsonl}", "train: {batch_tokens: 9}", "train: {seed: 3}"]
)
def test_a_fragment_may_not_change_rows_order_or_budget(tmp_path, line):
    (tmp_path / "own.yaml").write_text(f"methods: [lora]\n{line}\n")
    with pytest.raises(RecipeError, match="may not differ"):
        parse_arms("lora,own.yaml", tmp_path)


TREE = {
    "model": "./m",
    "task": "text-generation",
    "data": {"train": "t.jsonl", "eval": "e.jsonl"},
    "methods": ["lora"],
    "budget": {"tokens": 1000},
}


def test_the_budget_of_tokens_is_one_for_all_and_of_seconds_less_the_set_up():
    recipe, arms = Recipe(**TREE), parse_arms("lora,corda")
    assert {g.budget.tokens for g in equal_budgets(recipe, arms, parse_budget("tokens=2k", recipe), None).values()} == {
        2000
    }
    assert parse_budget(None, recipe).tokens == 1000

    def pilots(trials):
        costs = {"lora": {"set-up": 0.5}, "corda": {"set-up": 0.5, "statistics": 4.0, "selection": 3.0}}
        return {
            key_of(t.recipe): TrialRecord(key="k", started=NOW, cost={"seconds": costs[t.arm.split()[0]]})
            for t in trials
        }

    given = equal_budgets(recipe, arms, Budget(seconds=20), pilots)
    assert {n: g.budget.seconds for n, g in given.items()} == {"lora": 19.5, "corda": 12.5}
    with pytest.raises(RecipeError, match="set-up of 'corda' alone takes 7.5 s"):
        equal_budgets(recipe, arms, Budget(seconds=5), pilots)


def test_the_budget_of_flops_becomes_tokens_by_what_is_counted():
    recipe, arms = Recipe(**TREE), parse_arms("lora,full,corda")

    def pilots(trials):
        each = {
            "lora": {"train": 4e7},
            "full": {"train": 6e7},
            "corda": {"train": 4e7, "statistics": 1e9, "selection": 3e9},
        }
        return {
            key_of(t.recipe): TrialRecord(
                key="k", started=NOW, cost={"tokens": 10, "flops_by_phase": each[t.arm.split()[0]]}
            )
            for t in trials
        }

    given = equal_budgets(recipe, arms, Budget(flops=12e9), pilots)
    assert {n: g.budget.tokens for n, g in given.items()} == {"lora": 3000, "full": 2000, "corda": 2000}
    with pytest.raises(RecipeError, match="statistics of 'corda' alone take"):
        equal_budgets(recipe, arms, Budget(flops=1e9), pilots)


def test_an_unknown_budget_is_refused():
    for text in ("tokns=3", "tokens", "tokens=x", "steps=0", "tokens=-5", "steps=1.5"):
        with pytest.raises(RecipeError, match="no budget"):
            parse_budget(text, Recipe(**TREE))


# -- units -------------------------------------------------------------------------------------------------------------


def test_a_narrow_table_breaks_long_names_at_their_settings_and_has_no_empty_column():
    def shown(width, **arms):
        console = Console(width=width, record=True, file=io.StringIO())
        page.show(judged(**arms), Path("out"), console)
        return console.export_text()

    long = {"lora:rank=4": plain("lora:rank=4", 0.3), "random:keep=50%": plain("random:keep=50%", 0.1)}
    assert "random:keep=50%" in shown(140, **long) and "lost, matched" in shown(140, **long)
    narrow = shown(70, **long)
    assert "\nrandom: " in narrow and "\nkeep=50%" in narrow
    nothing = {n: (lambda s, noise, n=n: record(n, s, 0.0)) for n in ("a", "b")}
    assert "matched" not in shown(140, **nothing)


def test_selectors_are_called_so_and_equal_ones_are_named_together():
    made = judged(a=lambda s, noise: record("a", s, 0.0), b=lambda s, noise: record("b", s, 0.0))
    assert page.headline(made)[0].startswith("No method gained: a and b each changed ")
    assert "not tuned: each method ran at" in cautions(made, {}, Recipe(**TREE))[0]
    for arm in made.arms:
        arm.select = ["random"]
    assert page.headline(made)[0].startswith("No selector gained: a and b each changed ")
    assert not any("method" in line for line in page.headline(made))
    assert "not tuned: each selector ran at" in cautions(made, {}, Recipe(**TREE))[0]
    for arm in made.arms:
        arm.gain = arm.against = None
    assert page.headline(made) == ["No selector finished a run."]


@pytest.mark.parametrize(("direction", "says"), [("lower", 1), ("higher", -1)])
def test_what_got_worse_is_told_by_the_metrics_own_sign(direction, says):
    made = judged(
        direction,
        a=lambda s, noise: record("a", s, -0.2 - 0.03 * (s % 2 - 0.5), direction=direction),
        b=lambda s, noise: record("b", s, -0.4 - 0.001 * s, direction=direction),
    )
    made.unit, made.metric = "units of the target", "rmse"
    sentence = page.headline(made)[0]
    assert sentence.startswith("No method gained: the best, a, changed root mean squared error by ")
    by = float(sentence.partition(" by ")[2].split()[0].replace("\u2212", "-"))
    low, _, high = sentence.partition("interval ")[2].removesuffix(".").partition(" to ")
    low, high = (float(x.replace("\u2212", "-")) for x in (low, high))
    assert by == pytest.approx(says * 0.2, abs=0.02) and low <= by <= high and low < high and low * says > 0


def test_a_comparison_counts_in_its_tasks_own_units(tmp_path):
    made = judged(a=plain("a", 0.60), b=plain("b", 0.30))
    made.task, made.kept_unit, made.drift_measure = "text-to-image", "squared error per element", "denoising"
    out = io.StringIO()
    page.show(made, tmp_path, Console(file=out, width=200))
    text, html = out.getvalue(), page.html(made)
    assert "an image" in text and "a token" not in text
    assert "Compute an image" in html and "matched target, squared error per element" in html
    assert "nats per token" not in html and ">Tokens<" not in html
