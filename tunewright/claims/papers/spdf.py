"""Pre-trained with three weights in four at zero and tuned dense, a model learns a task nearly as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.papers import _fresh

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

PRETRAINING, TUNING = 500_000, 100_000
RATES = (3e-3, 1e-3)
"""Of pre-training and of tuning."""

CLAIM = Claim(
    paper="spdf",
    says="Pre-trained with 75 % of the blocks' weights held at zero and then tuned whole on another kind of text, a "
    "model's loss there is at most 0.05 nats a token above that of one that was dense throughout.",
    task="domain",
    method=Arm(name="sparse", methods=["spdf"]),
    baselines=[Arm(name="dense", methods=["full"])],
    metric="measured",
    direction="lower",
    smallest=-0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a model of 0.2M parameters and half a million tokens of general text (there 1.3B and billions); German "
    "law is what it is tuned on; one rate each (3e-3, then 1e-3), not tuned",
)


def loss_of(run: ClaimRun, arm: str, seed: int, pretraining: Any, tuning: Any) -> float:
    """Loss of new sentences of law after both stages, nats a token."""
    general = [{"path": _fresh.general(), "name": "general"}]
    law = [{"path": rows.domain()["train"], "name": "law"}]
    first = _fresh.stage("pretraining", general, PRETRAINING, RATES[0], methods=[pretraining])
    second = _fresh.stage("tuning", law, TUNING, RATES[1], methods=[tuning], start="stages.pretraining")
    record = run.trial(arm, seed, model=_fresh.model(seed), data={"train": general}, stages=[first, second])
    return float(record.tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Loss of both."""
    return {
        "sparse": loss_of(run, "sparse", seed, "spdf", "full"),
        "dense": loss_of(run, "dense", seed, "full", "full"),
    }
