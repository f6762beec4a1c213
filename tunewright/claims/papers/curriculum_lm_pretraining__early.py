"""From easy pages to hard ones a model is further at a third of the pass than in random order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _pages

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

METHOD, THIRD = "curriculum-lm-pretraining", _pages.TOKENS // 3
CLAIM = Claim(
    paper=METHOD,
    says="At a third of a pass over the same pages, a model that began with the easiest to read has a lower loss on "
    "new pages of every kind than one that read them in random order.",
    task="domain",
    method=Arm(name="in-order", methods=["full"], uses=[METHOD]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters whose rate has its whole schedule in that third; readability alone of the "
    "three signals that the paper finds best; loss of new pages instead of benchmarks; one rate, not tuned",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of new pages after a third of the pass, interleaved runs beside it."""

    def after(arm: str, *select: object) -> float:
        return _pages.loss_of(run, arm, seed, tokens=THIRD, select=select)

    return {
        "in-order": after("in-order", {METHOD: {"difficulty": "readability"}}),
        "random": after("random"),
        "interleaved": after("in-order", {METHOD: {"difficulty": "readability", "order": "interleaved"}}),
    }
