"""Which results tested nothing: a case on each side of every threshold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tunewright.claims import claim as claims
from tunewright.claims import rejudge, results_io, tested
from tunewright.claims.claim import Arm, Claim
from tunewright.claims.results_io import Amount, ArmResult, Figures, PairResult, RunResult, ScaleResult
from tunewright.claims.rule import verdict


def declared(**more):
    fields = {"metric": "target", "direction": "higher", "smallest": 0.02, **more}
    method, baselines = Arm(name="new", methods=["hft"]), [Arm(name="old", methods=["full"])]
    return Claim(paper="hft", says="x", task="intents", method=method, baselines=baselines, **fields)


def runs(before, after, figure=True, other=None):
    return [
        RunResult(
            seed=s,
            status="finished",
            figure=a if figure else None,
            base=Figures(strength=0.0, target=before),
            strengths=[Figures(strength=0.5, target=a / 2), Figures(strength=1.0, target=a)],
            other=other or {},
        )
        for s, a in enumerate(after)
    ]


def result(claim, new, old, unit="fraction", amount=None, gaps=None):
    arms = [ArmResult(name="new", methods=[], runs=new), ArmResult(name="old", methods=[], runs=old)]
    made = ScaleResult(
        paper="hft",
        metric=claim.metric,
        direction=claim.direction,
        smallest=claim.smallest,
        claim={},
        started=datetime.now(UTC),
        claim_hash="c",
        method_hash="m",
        status="judged",
        target_unit=unit,
        amount=amount,
        arms=arms,
        pairs=[PairResult(baseline="old", effects=gaps or [0.1, 0.12, 0.11])],
    )
    made.judged = verdict({"old": made.pairs[0].effects}, claim.smallest)
    return made


def reason(claim, new, old, **more):
    return tested.untested(claim, result(claim, new, old, **more))


GOOD = [0.5, 0.52, 0.51]


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (GOOD, None),
        ([0.115, 0.12, 0.11], "hardly learnt"),
        ([0.19, 0.2, 0.21], None),  # 0.1 of 0.9 is 0.09
        ([0.17, 0.18, 0.175], "it gains 0.075 of 0.9, and what is claimed shows from 0.09 on"),
        ([0.1, 0.9, 0.05], "has not learnt"),  # much in the mean, which may be chance
        ([0.05, 0.06, 0.04], "'old' has not learnt: its gain over the untouched base is -0.05"),
    ],
)
def test_a_baseline_that_has_not_learnt(after, says):
    said = reason(declared(), runs(0.1, GOOD), runs(0.1, after))
    assert said is None if says is None else says in said


def test_what_must_be_learnt_is_the_claims_to_say():
    half = runs(0.0, [0.3, 0.31, 0.29])
    assert reason(declared(), runs(0.0, GOOD), half) is None
    assert "from 0.5 on" in reason(declared(learnt=0.5), runs(0.0, GOOD), half)


def test_a_loss_falls_where_something_is_learnt():
    claim = declared(direction="lower")
    falls, rises = runs(3.0, [2.5, 2.6, 2.4]), runs(3.0, [3.1, 3.2, 3.1])
    assert reason(claim, falls, falls, unit="nats") is None
    assert "has not learnt" in reason(claim, falls, rises, unit="nats")
    kept = declared(metric="kept at matched target", direction="lower")  # the task's figure is a share all the same
    assert reason(kept, runs(0.0, GOOD, False), runs(0.0, GOOD, False)) is None
    assert "has not learnt" in reason(kept, runs(0.0, GOOD, False), runs(0.6, GOOD, False))


@pytest.mark.parametrize(
    ("top", "d", "says"), [(0.985, 0.02, "leaves no room"), (0.97, 0.02, None), (0.985, 0.01, None)]
)
def test_a_baseline_at_the_ceiling_leaves_no_room(top, d, says):
    said = reason(declared(smallest=d), runs(0.1, GOOD), runs(0.1, [top, top, top]))
    assert said is None if says is None else f"'old' {says}" in said
    assert reason(declared(smallest=-d), runs(0.1, GOOD), runs(0.1, [top, top, top])) is None  # not worse by more


def test_a_loss_that_is_nearly_nothing_leaves_no_room():
    claim = declared(direction="lower")
    said = reason(claim, runs(3.0, GOOD), runs(3.0, [0.01, 0.015, 0.012]), unit="nats")
    assert "leaves no room" in said


def test_a_method_that_has_hardly_drawn():
    claim = declared(redraws=5)
    few, enough = Amount(steps=49), Amount(steps=50)
    assert "every 5 steps, at least 10 times to be tested, and there were 49" in reason(
        claim, runs(0.1, GOOD), runs(0.1, GOOD), amount=few
    )
    assert reason(claim, runs(0.1, GOOD), runs(0.1, GOOD), amount=enough) is None
    assert reason(declared(), runs(0.1, GOOD), runs(0.1, GOOD), amount=few) is None


def test_a_premise_that_is_not_so(tmp_path, monkeypatch):
    for name, nats in (("big", 3.0), ("small", 3.04), ("weak", 3.06)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(f'{{"held_nats": {nats}}}')
    monkeypatch.setattr(tested, "BASES", tmp_path)
    tested.held_nats.cache_clear()
    arms = runs(0.1, GOOD), runs(0.1, GOOD)
    assert "'big' is to be the better base, and has 3.000" in reason(declared(better_base=("big", "small")), *arms)
    assert reason(declared(better_base=("big", "weak")), *arms) is None
    tested.held_nats.cache_clear()


def test_claims_about_cost_need_no_gain_but_effects():
    claim = declared(metric="cost.peak_memory_bytes", direction="lower")
    assert reason(claim, runs(0.1, [0.1] * 3), runs(0.1, [0.1] * 3)) is None
    said = reason(claim, runs(0.1, GOOD), runs(0.1, GOOD), gaps=[None, None, None])
    assert said == "no seed gave an effect"


def test_a_measure_names_the_untouched_base():
    claim = declared(metric="measured")
    above, below = {"base": 0.2}, {"base": 0.6}
    assert reason(claim, runs(0, GOOD, other=above), runs(0, GOOD)) is None
    assert "has not learnt" in reason(claim, runs(0, GOOD, other=below), runs(0, GOOD))
    assert reason(claim, runs(0, GOOD), runs(0, GOOD)) is None  # it names none


def test_a_verdict_gives_way_and_the_effect_stays():
    claim = declared()
    made = result(claim, runs(0.1, GOOD), runs(0.1, [0.05, 0.06, 0.04]))
    tested.settle(claim, made)
    assert made.verdict == "not tested" and made.judged.verdict == "holds" and made.interval["value"] > 0
    fine = result(claim, runs(0.1, GOOD), runs(0.1, GOOD))
    tested.settle(claim, fine)
    assert fine.verdict == "holds" and fine.untested is None


def test_judging_again_gives_what_stands_in_the_committed_results():
    """From nothing but stored figures: effects, verdicts and reasons come out as they are written."""
    found = list(rejudge.every(claims.names(), results_io.SHIPPED))
    assert len(found) >= 40
    for name, scale, before, after in found:
        assert (before.verdict, before.untested) == (after.verdict, after.untested), f"{name}, {scale}"
        assert before.pairs == after.pairs and before.judged == after.judged, f"{name}, {scale}"


def test_judging_again_writes_what_changed_and_names_it(tmp_path, capsys, monkeypatch):
    stored = results_io.read("hft", results_io.SHIPPED)["nano"]
    stored.verdict, stored.untested = "holds", None
    results_io.write("hft", "nano", stored, tmp_path)
    monkeypatch.setattr("sys.argv", ["rejudge", "hft", "--results", str(tmp_path)])
    rejudge.main()
    assert "hft (nano): holds -> " in capsys.readouterr().out
    assert (
        results_io.read("hft", tmp_path)["nano"].verdict == results_io.read("hft", results_io.SHIPPED)["nano"].verdict
    )


@pytest.mark.parametrize(("best", "told"), [(0.0, True), (0.1, False)])
def test_where_every_arm_is_at_nothing_nothing_was_tested(best: float, told: bool) -> None:
    claim = declared(metric="measured")
    made = result(claim, runs(0.0, [0.0, 0.0, best]), runs(0.0, [0.0, 0.0, 0.0]), gaps=[0.0, 0.0, best])
    assert ("every arm is at 0 in every seed" in (tested.untested(claim, made) or "")) == told
