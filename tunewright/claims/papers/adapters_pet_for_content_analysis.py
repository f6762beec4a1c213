"""Adapters behind a pattern in words learn few sentences as well as the whole model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _opinions as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ADAPTERS = Arm(name="adapters", methods=[{"bottleneck-adapters": {"reduction_factor": 4}}])
SHARED: dict[str, Any] = {
    "paper": "adapters-pet-for-content-analysis",
    "task": "intents",
    "metric": "measured",
    "direction": "higher",
    "seeds": 5,
    "rates": (),
    "strengths": (1.0,),
    "extra": {"train": {"learning_rate": None}, "evaluation": {"max_new_tokens": 3, "rows": 300}},
    "scales": ("nano",),
}
DIFFERS = (
    "opinions of products in English, good or bad, after pros and cons from other pages, by a causal model of 3.4M "
    "that says the word behind a pattern, in the place of claims and arguments in German by multilingual encoders that "
    "fill a gap; 32 sentences; each method at its rate by default"
)
CLAIM = Claim(
    says="After a near domain and 32 sentences, adapters with a pattern in words are at most two points of accuracy "
    "behind all weights tuned likewise.",
    method=ADAPTERS,
    baselines=[Arm(name="full", methods=["full"])],
    smallest=-0.02,
    differs=DIFFERS,
    **SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on other sentences."""
    return {a.name: lab.accuracy(run, a.name, seed) for a in run.claim.arms}
