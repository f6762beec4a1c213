"""Adapters written from a description help with tasks that have no rows, beside descriptions that are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _described as lab
from tunewright.claims.papers._tuned import rate

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

FIRST, TOKENS = 10_000, 5_000
"""Of a stage that both arms begin with, at 3e-4, and of the one that they differ in."""
RATES = {"hypter": (1e-3, 3e-3), "fine-tuned": (1e-4, 3e-4)}
CLAIM = Claim(
    paper="hypter",
    says="On topics without rows, an encoder that was tuned on messages with their topic before them is right at least "
    "a point more often if adapters that a network writes from each topic's name then learn, than if it is tuned on "
    "for as many tokens.",
    task="topics",
    method=Arm(name="hypter", methods=["hypter"]),
    baselines=[Arm(name="fine-tuned", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    # none of the lab task's own rows, which named ones would join
    extra={"data": {"train": None, "eval": None, "validation": None}, "evaluation": {"rows": 240}},
    scales=("real",),
    differs="an encoder of 22M parameters that says yes or no instead of BART that writes; 40 topics to learn from and "
    "12 new ones in the place of ZEST's questions; names of topics as descriptions; each arm's rate is the better of "
    "two on 8 further topics",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on the rows of new topics; beside it the untouched base's."""
    described = {topic: topic for names in lab.topics().values() for topic in names}
    methods: dict[str, list[Any]] = {"hypter": [{"hypter": {"descriptions": described}}], "fine-tuned": ["full"]}
    first: dict[str, Any] = {"name": "described", "methods": ["full"], "train": {"learning_rate": 3e-4}}

    def trial(arm: str, number: int, judged: str, at: float) -> Any:
        then = {"name": "then", "methods": methods[arm], "train": {"learning_rate": at}, "budget": {"tokens": TOKENS}}
        stages = [{**first, "budget": {"tokens": FIRST}}, then]
        return run.trial(arm, number, data=lab.data(judged), stages=stages)

    found: dict[str, float] = {}
    for arm, rates in RATES.items():
        record = trial(arm, seed, "new", rate(rates, lambda at: trial(arm, run.first, "tried", at)))  # noqa: B023
        found |= {arm: float(record.tuned.target), "base": float(record.base.target)}
    return found
