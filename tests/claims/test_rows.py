"""Claims that are judged over seeds and rows."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from tests.claims.stand_in import reading, record
from tests.claims.test_runner import declare, here  # noqa: F401
from tunewright.claims import claim as claims
from tunewright.claims import judging, listing, rejudge, rule
from tunewright.claims.claim import Arm, Claim
from tunewright.claims.results_io import ScaleResult
from tunewright.errors import ClaimError
from tunewright.measure.crossed import crossed_interval, spread
from tunewright.measure.rows import RowResult
from tunewright.trials.row_scores import RowScores

SEEDS = 6


def claim(**more):
    told = {"smallest": 0.0, "direction": "higher", "metric": "target", "seeds": SEEDS, "interval": "seeds and rows"}
    arms = {"method": Arm(name="hft", methods=["hft"]), "baselines": [Arm(name="full", methods=["full"])]}
    return Claim(paper="hft", says="x", task="intents", **(arms | told | more))


def rows_of(scores, ids="r", weights=None):
    weights = [1.0] * len(scores) if weights is None else weights
    return [
        RowResult(id=f"{ids}{i}", score=float(s), weight=float(w))
        for i, (s, w) in enumerate(zip(scores, weights, strict=True))
    ]


def runs(arm, table, **more):
    made = []
    for s, scores in enumerate(table):
        rows = rows_of(scores, **more)
        mean = float(np.average(scores, weights=[r.weight for r in rows]))
        kept = RowScores.of(rows_of([0.0] * len(scores), **more), rows)
        base, full = reading(0.0, 0.0, {}, None), reading(1.0, mean, {}, None)
        made.append(record(f"{arm}{s}", arm, s, base=base, strengths=[full], rows=kept))
    return made


@pytest.fixture
def tables():
    """The method is better on some rows and worse on others, and seeds agree: much hangs on which rows there are."""
    rng = np.random.default_rng(4)
    by_row = 0.3 + rng.normal(size=(1, 30))
    full = rng.normal(size=(1, 30)) + 0.05 * rng.normal(size=(SEEDS, 30))
    return full + by_row + 0.05 * rng.normal(size=(SEEDS, 30)), full


def test_an_effect_that_other_rows_would_not_show_holds_over_seeds_alone(tables):
    records = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1])}
    alone = judging.judge_records(claim(interval="seeds"), records)[1]
    pairs, both = judging.judge_records(claim(), records)
    wide = crossed_interval(spread(tables[0] - tables[1]))
    assert alone.verdict == "holds" and alone.interval.method == "t"
    assert both.verdict == "unclear" and both.reason is None and pairs[0].crossed.rows == 30
    assert (both.interval.low, both.interval.high) == pytest.approx((wide.low, wide.high))
    assert both.interval.value == pytest.approx(alone.interval.value)
    assert both.p_holds > 0.025 > alone.p_holds


def test_verdict_and_interval_agree_and_lower_is_better_turns_the_sign(tables):
    records = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1])}
    low = judging.judge_records(claim(), records)[1].interval.low
    assert judging.judge_records(claim(smallest=low - 1e-6), records)[1].verdict == "holds"
    assert judging.judge_records(claim(smallest=low + 1e-6), records)[1].verdict == "unclear"
    for r in (*records["hft"], *records["full"]):
        r.direction = "lower"
    lower = judging.judge_records(claim(direction="lower"), records)[1]
    assert lower.interval.high == pytest.approx(-low)


def test_rows_count_by_their_weights(tables):
    weights = list(range(1, 31))
    records = {n: runs(n, t, weights=weights) for n, t in zip(("hft", "full"), tables, strict=True)}
    found = judging.judge_records(claim(), records)[1]
    wide = crossed_interval(spread(tables[0] - tables[1], np.array(weights, float)))
    assert (found.interval.value, found.interval.low) == pytest.approx((wide.value, wide.low))


def test_records_of_before_and_of_other_rows_leave_the_interval_over_seeds_and_say_so(tables):
    old = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1])}
    old["full"][2].rows = None
    other = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1], ids="other")}
    for records in (old, other):
        found = judging.judge_records(claim(), records)[1]
        assert found.verdict == "unclear" and found.reason == rule.NO_ROWS and found.interval.method == "t"


def test_several_baselines_are_each_judged_over_rows(tables):
    two = claim(baselines=[Arm(name="full", methods=["full"]), Arm(name="lora", methods=["lora"])])
    records = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1]), "lora": runs("lora", tables[1] - 9)}
    found = judging.judge_records(two, records)[1]
    assert found.verdict == "unclear" and found.against["lora"].verdict == "holds"
    assert {v.interval.method for v in found.against.values()} == {"t over seeds and rows"}


def test_a_stored_result_is_judged_alike_again_and_listed_with_its_rows(tables):
    declared = claim()
    records = {"hft": runs("hft", tables[0]), "full": runs("full", tables[1])}
    pairs, found = judging.judge_records(declared, records)
    result = ScaleResult(
        paper="hft",
        metric="target",
        direction="higher",
        smallest=0.0,
        claim={},
        arms=[
            judging.ArmResult(
                name=a.name, methods=a.methods, runs=[judging.run_result(declared, s, r) for s, r in enumerate(rs)]
            )
            for a, rs in zip(declared.arms, records.values(), strict=True)
        ],
        pairs=pairs,
        judged=found,
        status="judged",
        started=datetime.datetime.now(datetime.UTC),
        claim_hash="x",
        method_hash="y",
        target_unit="fraction",
    )
    again = rejudge.rejudged(declared, ScaleResult.model_validate_json(result.model_dump_json()))
    assert again.judged.interval.low == pytest.approx(found.interval.low) and again.judged.verdict == found.verdict
    cells = listing.cells(
        {
            "claim": "hft",
            "scale": "nano",
            "interval": None,
            "seeds": 6,
            "usable": 6,
            "rows": pairs[0].crossed.rows,
            "verdict": "holds",
            "status": "judged",
            "attempts": 1,
            "holm": None,
            "smallest": 0.0,
            "relative": False,
            "stale": [],
            "seconds": 1.0,
        }
    )
    assert "6 x 30 rows" in cells


@pytest.mark.parametrize("more", [{"metric": "drift"}, {"relative": True}, {"metric": "kept at matched target"}])
def test_what_is_no_mean_over_rows_is_refused(more):
    with pytest.raises(ValueError, match="needs metric='target', not relative"):
        claim(**more)


def test_a_claim_with_a_measure_of_its_own_is_refused(here):  # noqa: F811
    declare(here, more=', interval="seeds and rows"', extra="def measure(run, seed):\n    return {}\n")
    with pytest.raises(ClaimError, match="own `measure`"):
        claims.load("hft", here / "claims")
