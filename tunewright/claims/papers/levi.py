"""Read beside a small fresh model, a frozen one answers shifted pictures better than one that is tuned itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

NOISE, JUDGED = 70.0, 400
"""Deviation of the noise on a pixel of 0 to 255, and the pictures that are judged."""

CLAIM = Claim(
    paper="levi",
    says="Tuned on clean turned digits, a frozen model that is read beside a small fresh one is right on noisy ones at "
    "least two points more often than one that was tuned whole or by low-rank changes.",
    task="digits",
    method=Arm(name="levi", methods=["levi"]),
    baselines=[Arm(name="full", methods=["full"]), Arm(name="lora", methods=[{"lora": {"rank": 16}}])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(3e-4, 1e-3, 3e-3),
    strengths=(1.0,),
    scales=("nano",),
    differs="a small ViT and noise in the place of other domains, ratings and locations; the paper gives no number in "
    "its abstract; the forms of the small model and of the adapting layers are ours",
)


def _noisy(path: str) -> str:
    """The same pictures under noise, the same for every run."""
    held = np.load(path)
    x = held["x"].astype(np.float64) + np.random.default_rng(0).normal(0, NOISE, held["x"].shape)
    return rows.pictures("digits-noisy", "eval", x.clip(0, 255).astype(np.uint8), held["y"])


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on noisy turned digits."""
    noisy: list[dict[str, Any]] = [{"path": _noisy(rows.digits()["eval"]), "name": "eval"}]
    more: dict[str, Any] = {"data": {"eval": noisy}, "evaluation": {"rows": JUDGED}}
    return {arm.name: float(run.trial(arm.name, seed, **more).tuned.target) for arm in run.claim.arms}
