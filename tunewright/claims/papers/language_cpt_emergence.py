"""In another language, a model that reads English in the first steps alone keeps its skill at learning from context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHARE, UNTIL = 0.2, 0.1
EARLY = {"early-replay": {"until": UNTIL}}
AVERAGE = {"ema": {"decay": 0.92, "every": 2}}

CLAIM = Claim(
    paper="language-cpt-emergence",
    says="Going on in German, a model that reads English in the first tenth of the steps alone continues made "
    "sequences by copying and induction better than one that reads none.",
    task="domain",
    method=Arm(name="early", methods=["full", EARLY]),
    baselines=[Arm(name="none", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("real",),
    extra={"train": {"eval_steps": 39}, "measurement": {"along": ["general", "in-context", "distance"]}},
    differs="a model of 135M parameters and 20,000 tokens of German law instead of 7B and 10 billion tokens of Basque; "
    "sequences of random tokens instead of the authors' set of small tasks; what comes of it in downstream tasks is "
    "not tested",
)


def trial(run: ClaimRun, arm: str, seed: int) -> Any:
    """The record of an arm, with English to replay for those that read any."""
    english: dict[str, Any] = {"replay": {rows.domain_replay()["replay"]: SHARE}}
    return run.trial(arm, seed, data=english if arm in ("early", "english") else {})


def in_context(record: Any) -> float:
    """Mean share of what is asked that the tuned model has right, over copying and induction."""
    along = record.along["main"]
    return float(along["in-context.copying.end"] + along["in-context.induction.end"]) / 2


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Skill at learning from context at the end."""
    return {arm.name: in_context(trial(run, arm.name, seed)) for arm in run.claim.arms}
