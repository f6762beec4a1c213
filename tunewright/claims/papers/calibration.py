"""A tuned classifier is more confident than it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="calibration",
    says=(
        "Modern networks are over-confident: after training, mean confidence lies above accuracy. (That one "
        "temperature repairs it is not tested.)"
    ),
    task="topics",
    method=Arm(name="full", methods=["full"]),
    metric="measured",
    direction="higher",
    smallest=0.01,
    budget={"tokens": 100_000},
    strengths=(1.0,),
    extra={"measure": ["calibration"]},
    real={"seeds": 5, "budget": {"tokens": 100_000}, "rates": (3e-5, 1e-4, 3e-4)},
    differs="a small text encoder, tuned over about five epochs, instead of large networks trained from scratch",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean confidence less accuracy of the tuned model, on the rows that are judged; beside it the error itself."""
    probe = run.trial("full", seed).probes["calibration"]
    figures = {
        name: probe.get(f"tuned_{name}") for name in ("mean_confidence", "accuracy", "expected_calibration_error")
    }
    plain = {name: float(getattr(v, "value", v)) for name, v in figures.items() if v is not None}
    if len(plain) < len(figures):
        raise ClaimError("the probe gave no confidence or accuracy", where=f"seed {seed}")
    return {"full": plain["mean_confidence"] - plain["accuracy"], "error": plain["expected_calibration_error"]}
