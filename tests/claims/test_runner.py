from __future__ import annotations

import json
import random
import textwrap
from dataclasses import replace

import pytest

from tests import small
from tests.claims.stand_in import Engine, failed, reading, real, record
from tunewright.claims import claim as claims
from tunewright.claims import code_hash, listing, results_io, runner
from tunewright.errors import ClaimError, DataError

TASK = {"model": "m", "task": "text-generation", "data": {"train": "t.jsonl", "eval": "e.jsonl"}}
DECLARED = """
from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="hft", says="x", task="intents", seeds=4, smallest=0.05, direction="{direction}", metric="{metric}",
    rates=(1e-3, 3e-3),
    method=Arm(name="hft", methods=["hft"]),
    baselines=[Arm(name="full", methods=["full"]), Arm(name="lora", methods=[{{"lora": {{"rank": 4}}}}])]{more}
)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "claims").mkdir()
    return tmp_path


def declare(folder, metric="target", direction="higher", more="", extra=""):
    (folder / "claims" / "hft.py").write_text(
        DECLARED.format(metric=metric, direction=direction, more=more) + textwrap.dedent(extra)
    )


def figures(recipe, gain):
    """A record whose figures depend on method, seed and rate alone."""
    method = recipe.stages[0].methods[0].name
    noise = random.Random(f"{method} {recipe.train.seed}").gauss(0, 0.01)
    top = 0.5 + gain.get(method, 0.0) + noise + 10 * recipe.train.learning_rate
    return reading(0.0, 0.1, {"general": 3.0}, None), [
        reading(s, 0.1 + s * (top - 0.1), {"general": 3.0 + s * s * (0.5 - gain.get(method, 0.0))}, s)
        for s in (0.25, 0.5, 0.75, 1.0)
    ]


def made_up(broken=(), **gain):
    def run(key, arm, seed, recipe):
        method = recipe.stages[0].methods[0].name
        if (method, seed) in broken or (method, None) in broken:
            return failed(key, arm, seed, "loss is not finite")
        base, strengths = figures(recipe, gain)
        return record(
            key, arm, seed, base=base, strengths=strengths, base_hash="abc", versions={"torch": "x"}, cost={"steps": 3}
        )

    return Engine(run)


def run(here, engine, **options):
    return runner.run_claim(
        "hft", "nano", engine=engine, results=here / "results", claims=here / "claims", task=TASK, **options
    )


def test_a_claim_is_tuned_run_judged_and_stored(here):
    declare(here)
    engine = made_up(hft=0.2)
    told = []
    result = run(here, engine, say=lambda done, total, what: told.append((done, total)))
    assert result.verdict == "holds" and result.judged.against.keys() == {"full", "lora"} and result.status == "judged"
    assert [a.rate for a in result.arms] == [3e-3] * 3 and all(len(a.tuned) == 4 for a in result.arms)
    assert all([r.seed for r in a.runs] == [0, 1, 2, 3] and len(r.strengths) == 4 for a in result.arms for r in a.runs)
    assert told[-1][0] == told[-1][1] and result.base_hash == "abc" and result.versions == {"torch": "x"}
    assert [d for d, _ in told] == list(range(1, len(told) + 1)) and {t for _, t in told} == {len(told)}
    again = results_io.read("hft", here / "results")["nano"]
    assert again == result and json.loads((here / "results" / "hft.json").read_text())["nano"]["verdict"] == "holds"


@pytest.mark.parametrize(("gain", "word"), [(0.2, "holds"), (-0.2, "fails"), (0.05, "unclear")])
def test_the_verdict_follows_the_figures(here, gain, word):
    declare(here)
    assert run(here, made_up(hft=gain)).verdict == word


def test_at_matched_target_pairs_say_where_they_were_compared(here):
    declare(here, "kept at matched target", "lower")
    result = run(here, made_up(hft=0.2))
    assert result.verdict == "holds"
    assert all(0.4 < m["target"] < 0.8 and m["method"] < m["baseline"] for p in result.pairs for m in p.matched)
    assert all(r.figure is None for a in result.arms for r in a.runs)


def test_nothing_is_run_twice_and_a_baseline_is_shared(here):
    declare(here)
    engine = made_up(hft=0.2)
    run(here, engine)
    first = len(engine.ran)
    assert run(here, engine).attempts == 1 and len(engine.ran) == first
    (here / "claims" / "other.py").write_text(
        (here / "claims" / "hft.py").read_text().replace('"hft", methods=["hft"]', '"lift", methods=["lift"]')
    )
    runner.run_claim("other", "nano", engine=engine, results=here / "results", claims=here / "claims", task=TASK)
    new = engine.ran[first:]
    assert {arm for arm, _ in new} == {"tuning", "lift"} and len(new) == 4 + 2  # two of lift's seeds ran while tuning


def test_how_much_was_trained_is_stored_and_decides_whether_a_redrawing_method_was_tested(here):
    declare(here, more=", redraws=1")
    result = run(here, made_up(hft=0.2))
    assert result.amount.steps == 3 and result.target_unit == "fraction"
    assert result.verdict == "not tested" and "'hft' has hardly drawn" in result.untested
    stored = results_io.read("hft", here / "results")["nano"]
    assert stored.untested == result.untested and stored.judged.verdict == "holds"


def test_a_run_that_fails_is_shown_and_counted(here):
    declare(here)
    result = run(here, made_up(hft=0.2, broken={("full", 3)}))
    full = next(a for a in result.arms if a.name == "full")
    assert [r.status for r in full.runs] == ["finished"] * 3 + ["failed"] and "not finite" in full.runs[3].error
    assert result.verdict == "unclear" and result.failed_runs == 1 and "1 of 4 seeds" in result.judged.reason


@pytest.mark.parametrize("metric", ["target", "kept at matched target"])
def test_an_arm_that_never_finishes_makes_no_verdict_and_is_there(here, metric):
    declare(here, metric, "higher" if metric == "target" else "lower")
    result = run(here, made_up(hft=0.2, broken={("hft", None)}))
    assert result.verdict == "not tested" and result.failed_runs == 4 and result.arms[0].rate is None
    assert "no seed gave an effect" in result.untested and result.judged.verdict == "unclear"
    assert all(t["status"] == "failed" for t in result.arms[0].tuned)


@pytest.mark.parametrize("more", [0, 2])
@pytest.mark.parametrize("measured", [False, True])
def test_progress_says_that_all_is_done_when_all_is_done(here, more, measured):
    """Whatever the tuning adds to its grids, and where a measure of the claim's own follows it."""
    measure = "def measure(run, seed):\n    return {a.name: 0.1 * seed for a in run.claim.arms}\n"
    declare(here, extra=measure if measured else "")
    engine = made_up(hft=0.2)
    plain = engine._tune
    further = tuple(1e-2 * 3**i for i in range(more))
    engine._tune = lambda name, search, on: plain(name, replace(search, rates=(*search.rates, *further)), on)
    told = []
    run(here, engine, say=lambda done, total, what: told.append((done, total)))
    assert [d for d, _ in told] == list(range(1, len(told) + 1))
    assert [d for d, t in told if d >= t] == [len(told)], told


def test_without_rates_nothing_is_chosen_and_the_tasks_own_is_used(here):
    declare(here)
    text = (here / "claims" / "hft.py").read_text().replace("rates=(1e-3, 3e-3)", "rates=()")
    (here / "claims" / "hft.py").write_text(text)
    engine = made_up(hft=0.2)
    result = run(here, engine)
    assert (
        result.verdict == "holds" and len(engine.ran) == 12 and all(a.rate is None and not a.tuned for a in result.arms)
    )


def test_nothing_is_judged_before_every_run_is_there(here):
    declare(here)
    engine = made_up(hft=0.2)
    whole = engine.run

    def dies(key, arm, seed, recipe):
        if (arm, seed) == ("lora", 2):
            raise KeyboardInterrupt
        return whole(key, arm, seed, recipe)

    engine.run = dies
    with pytest.raises(KeyboardInterrupt):
        run(here, engine)
    begun = results_io.read("hft", here / "results")["nano"]
    assert begun.verdict is None and begun.status == "running" and not begun.arms
    done, engine.run = len(engine.ran), whole
    result = run(here, engine)
    assert result.attempts == 1 and result.verdict == "holds"
    assert len(engine.ran) - done == 2  # lora's seeds 2 and 3


def test_every_attempt_is_kept(here):
    declare(here)
    run(here, made_up(hft=0.2))
    declare(here, more=", at=0.9")
    begun = run(here, made_up(hft=0.2))
    assert begun.attempts == 2 and begun.earlier[0]["verdict"] == "holds" and begun.earlier[0]["arms"]
    declare(here, more=", at=0.8")
    engine = made_up(hft=0.2)
    engine.run = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(here, engine)
    declare(here, more=", at=0.7")
    last = run(here, made_up(hft=-0.2))
    assert (
        last.attempts == 4
        and [e["status"] for e in last.earlier] == ["judged", "judged", "abandoned"]
        and last.verdict == "fails"
    )


def test_other_numbers_from_the_same_code_are_another_attempt(here):
    declare(here)
    run(here, made_up(hft=0.2))
    assert run(here, made_up(hft=0.3)).attempts == 2


def test_methods_that_a_measure_applies_and_modules_it_shares_count_too(here):
    declare(here)
    plain = claims.load("hft", here / "claims")
    arm = plain.claim.method.model_copy(update={"uses": ["model-soups"]})
    assert code_hash.of_methods(plain.claim) != code_hash.of_methods(plain.claim.model_copy(update={"method": arm}))
    before = code_hash.of_claim(plain)
    shared = here / "claims" / "_shared.py"
    own = "\n\ndef measure(run, seed):\n    return {'hft': x, 'full': 0.0, 'lora': 0.0}\n"
    plain.file.write_text("from tunewright.claims.papers._shared import x\n" + plain.file.read_text() + own)
    measured, hashes = plain.model_copy(update={"measure": print}), []
    for text in ("x = 1\n", "x = 1  # the same\n", "x = 2\n"):
        shared.write_text(text)
        hashes.append(code_hash.of_claim(measured))
    assert hashes[0] == hashes[1] and len({before, *hashes}) == 3


def test_against_the_best_baseline_of_validation_alone(here):
    declare(here, more=', against="best"')
    result = run(here, made_up(hft=0.2, lora=0.3))
    assert result.verdict == "fails" and not result.judged.against  # lora did best there
    declare(here)
    assert run(here, made_up(hft=0.2, lora=0.1, full=-0.3)).judged.against.keys() == {"full", "lora"}


def test_a_measure_of_its_own_is_judged_by_the_same_rule_and_goes_on_where_it_stopped(here):
    body = """
    def measure(run, seed):
        record = run.trial("hft", seed, train={"batch_tokens": 512})
        assert run.scale == "nano" and run.rates["hft"] == 3e-3 and run.task["model"] == "m"
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / f"scratch-{seed}").touch()
        return {"hft": record.strengths[-1].target, "full": 0.1, "lora": 0.2 + seed / 1000, "rank": 3.0}
    """
    declare(here, "measured", extra=body)
    engine = made_up(hft=0.2)
    result = run(here, engine)
    assert (
        result.verdict == "holds"
        and [r.other["rank"] for r in result.arms[0].runs] == [3.0] * 4
        and result.arms[2].runs[3].figure == pytest.approx(0.203)
    )
    done = len(engine.ran)
    assert run(here, engine).attempts == 1 and len(engine.ran) == done
    broken = made_up(hft=0.2)
    broken.run_one = lambda recipe, keep: failed("k", "hft", 0, "out of memory")
    (here / "claims" / "hft.py").write_text((here / "claims" / "hft.py").read_text() + "\nCHANGED = 1\n")
    result = run(here, broken)
    assert (
        result.verdict == "not tested" and result.failed_runs == 4 and "out of memory" in result.arms[0].runs[0].error
    )


def test_a_figure_that_stands_alone(here):
    declare(here, "measured", extra="def measure(run, seed):\n    return {'hft': 0.5 + seed / 100}\n")
    text = (here / "claims" / "hft.py").read_text()
    (here / "claims" / "hft.py").write_text(
        text[: text.index("baselines=")] + "\n)\n" + text[text.index("def measure") :]
    )
    result = run(here, made_up())
    assert (
        result.verdict == "holds"
        and result.pairs[0].baseline == "nothing"
        and result.interval["value"] == pytest.approx(0.515)
    )


def test_a_direction_that_the_metric_has_not_is_an_error(here):
    declare(here, "target", "lower")
    with pytest.raises(ClaimError, match="direction='higher'"):
        run(here, made_up(hft=0.2))


def test_an_unreadable_result_is_named(here):
    (here / "results").mkdir()
    (here / "results" / "hft.json").write_text('{"nano": {"verdict": "maybe"}}')
    with pytest.raises(ClaimError, match="not a claim's result"):
        results_io.read("hft", here / "results")


def test_the_table_shows_verdicts_with_and_without_holm(here, monkeypatch):
    declare(here)
    run(here, made_up(hft=0.2))
    monkeypatch.setattr(claims, "load", lambda name, folder=here / "claims", load=claims.load: load(name, folder))
    monkeypatch.setattr(listing, "base_today", lambda loaded, scale: "abc")
    rows = listing.rows(["hft"], results=here / "results")
    assert rows[0]["verdict"] == rows[0]["holm"] == "holds" and rows[0]["stale"] == [] and rows[0]["seeds"] == 4
    text = listing.table(rows)
    assert "hft    nano   holds" in text and "+0.05" in text
    assert "no claim has a result yet" in listing.table([])


def test_a_whole_claim_on_a_tiny_model(here):
    small.write_inputs(here, test=12)
    declare(here, "kept at matched target", "lower", more=", reach=0.01")
    text = (here / "claims" / "hft.py").read_text().replace("seeds=4", "seeds=2").replace("(1e-3, 3e-3)", "(3e-3,)")
    (here / "claims" / "hft.py").write_text(text.replace(', Arm(name="lora", methods=[{"lora": {"rank": 4}}])', ""))
    task = {k: v for k, v in small.RECIPE.items() if k != "stages"} | {
        "model": str(here / "base"),
        "keep": [str(here / "keep.txt")],
        "budget": {"steps": 3},
    }
    task["data"] = {"train": str(here / "train.jsonl"), "eval": str(here / "test.jsonl"), "max_length": 128}
    task["measurement"] = {**task["measurement"], "few_shot": 0, "metric": "loss"}
    engine = Engine(real(here / "runs"))
    result = runner.run_claim("hft", "nano", engine=engine, results=here / "results", claims=here / "claims", task=task)
    assert result.failed_runs == 0 and [r.status for a in result.arms for r in a.runs] == ["finished"] * 4
    assert (
        result.verdict in ("holds", "fails", "unclear", "not tested") and result.base_hash and result.versions["torch"]
    )
    assert all(r.strengths[-1].target < r.base.target for a in result.arms for r in a.runs)
    stored = results_io.read("hft", here / "results")["nano"]
    assert len(stored.arms[0].runs[0].strengths[-1].kept) == 1 and stored == result


def test_a_lab_task_that_cannot_be_had_is_an_error_and_no_result(here, monkeypatch):
    declare(here)

    def gone(claim, scale):
        raise DataError("no data", remedy="set TUNEWRIGHT_DATA")

    monkeypatch.setattr(runner, "lab_recipe", gone)
    with pytest.raises(DataError):
        runner.run_claim("hft", "nano", engine=made_up(), results=here / "results", claims=here / "claims")
    assert results_io.read("hft", here / "results") == {}
