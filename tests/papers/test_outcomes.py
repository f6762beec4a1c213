from __future__ import annotations

from tunewright.papers import cards, listing, outcomes


def run(seed, before, after, **more):
    strengths = [{"strength": 0.5, "target": 9.0}, {"strength": 1.0, "target": after}]
    return {"seed": seed, "status": "finished", "base": {"target": before}, "strengths": strengths, **more}


def test_what_stands_beside_a_verdict():
    result = {
        "metric": "kept",
        "untested": "the baseline 'full' has not learnt",
        "amount": {"steps": 1200, "tokens": 9, "passes": 2.4},
        "claim": {"differs": "a small base"},
        "arms": [
            {"name": "hft", "runs": [run(0, 0.0, 0.2, figure=3.0), run(1, 0.0, 0.4, figure=3.5)]},
            {"name": "full", "runs": [run(0, 0.1, 0.5, other={"base": 0.75}), {"seed": 1, "status": "failed"}]},
        ],
    }
    assert outcomes.words(result) == [
        "not tested: the baseline 'full' has not learnt",
        "trained: 1,200 steps, 2.4 passes over the rows",
        "hft: the task's figure from 0 (base) to 0.3 (tuned); kept: 3.25",
        "full: the task's figure from 0.1 (base) to 0.5 (tuned); the untouched base: 0.75; 1 of 2 runs failed",
        "unlike the paper: a small base",
    ]


def test_one_pass_and_figures_of_a_measure():
    assert outcomes.amount({"steps": 31, "passes": 1.0}) == "31 steps, 1 pass over the rows"
    assert outcomes.amount({"steps": 31}) == "31 steps" and "not noted" in outcomes.amount({})
    arm = {"name": "soup", "runs": [{"status": "finished", "figure": 0.5}]}
    assert outcomes.arm_words(arm, {"metric": "measured"}) == "soup: measured: 0.5"
    assert outcomes.arm_words({"name": "soup", "runs": []}, {}) == "soup: no figures"


def test_a_card_shows_it_below_the_verdict():
    said = listing.facts(cards.find("hft"))["claims"]
    assert "hft at nano scale: " in said and "(base) to" in said and "unlike the paper: " in said
