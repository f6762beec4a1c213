"""Small shared networks write adapters that are as good as those of networks that write them whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="polyhistor",
    says="On two tasks at once, adapters that are written as products of kernels and templates are right as often, "
    "within a point, as adapters of the same width that networks write whole.",
    task="topics",
    method=Arm(name="polyhistor", methods=["polyhistor"]),
    baselines=[Arm(name="whole", methods=["hypter"])],
    metric="measured",
    direction="higher",
    smallest=-0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"data": {"train": None, "eval": None}},  # none of the lab task's own rows, which named ones would join
    scales=("nano", "real"),
    differs="two tasks of five topics in the place of four dense ones on pictures, each with half of the rows; hypter "
    "in the place of the hypernetworks that the paper compares with; one learning rate, the methods' own",
)
RATES = {"polyhistor": 3e-3, "whole": 3e-3}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on both tasks' rows, each read with its own task's adapters."""
    data, labels = rows.halves(), list(rows.DOMAINS)
    both: dict[str, Any] = {
        part: [{"path": data[f"{part}-{i}"], "name": name} for i, name in ((1, "first"), (2, "second"))]
        for part in ("train", "eval")
    }
    both |= {"labels": labels}
    return {
        arm: run.trial(arm, seed, data=both, train={"learning_rate": rate}).tuned.target for arm, rate in RATES.items()
    }
