"""Weights that read English in the first steps move less far from the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.papers import language_cpt_emergence as first

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = first.CLAIM.model_copy(
    update={
        "says": "English in the first tenth of the steps makes the shift of the weights smaller by a twentieth.",
        "direction": "lower",
        "relative": True,
        "smallest": 0.05,
        "scales": ("nano",),
        "extra": {"train": {"eval_steps": 20}, "measurement": {"along": ["distance"]}},
    }
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Distance of the weights from the base's, as a share of their length, at the end."""
    return {arm.name: first.trial(run, arm.name, seed).along["main"]["distance.distance.end"] for arm in run.claim.arms}
