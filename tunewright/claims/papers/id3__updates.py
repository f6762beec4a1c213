"""Unmasking step by step makes half of the updates that a fixed mask makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="id3",
    says="For the same budget of entries, unmasking them step by step makes at least 45 % fewer updates of single "
    "entries than a mask that is fixed at the start.",
    task="topics",
    method=Arm(name="id3", methods=["id3"]),
    baselines=[Arm(name="fixed", methods=[{"id3": {"until": 0.0}}])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.45,
    seeds=5,
    rates=(),
    budget={"steps": 20},
    strengths=(1.0,),
    extra={"measurement": {"rows": 16, "drift_sequences": 4}},
    scales=("nano",),
    differs="a count that holds at any scale: (T + 1) / 2T of a fixed mask's updates over T steps",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Updates of single entries that a run made."""
    return {arm: run.trial(arm, seed).probes["id3"]["updates"] for arm in ("id3", "fixed")}
