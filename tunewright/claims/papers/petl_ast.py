"""Adapters learn more from few sounds than other ways to tune few parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _spectrograms as lab

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ADAPTERS = Arm(name="adapters", methods=[{"bottleneck-adapters": {"config": "houlsby", "reduction_factor": 32}}])
"""About 14,000 numbers beside the head; LoRA of rank 4 on queries and values has 12,000."""
SHARED: dict[str, Any] = {
    "paper": "petl-ast",
    "task": "digits",
    "metric": "measured",
    "direction": "higher",
    "seeds": 5,
    "budget": {"epochs": 8},
    "rates": (),
    "strengths": (1.0,),
    "extra": {"train": {"batch_tokens": 16, "learning_rate": None}},
    "scales": ("nano",),
}
DIFFERS = (
    "a ViT of six blocks and width 128 that was made on pictures of written digits, in the place of AST; 54 "
    "recordings of spoken digits, each method at its rate by default"
)
CLAIM = Claim(
    says="After 54 recordings, adapters behind attention and feed-forward part tell at least one point more of new "
    "ones than LoRA of about as many numbers, and than BitFit, (IA)^3 and prompts, which have fewer.",
    method=ADAPTERS,
    baselines=[
        Arm(name="lora", methods=[{"lora": {"rank": 4, "target_modules": ["q_proj", "v_proj"]}}]),
        Arm(name="bitfit", methods=["bitfit"]),
        Arm(name="ia3", methods=["ia3"]),
        Arm(name="prompts", methods=[{"l2p": {"size": 1, "top_k": 1, "length": 20, "head": "token"}}]),
    ],
    smallest=0.01,
    differs=f"{DIFFERS}; prompts are 20 before the first block",
    **SHARED,
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy on new recordings."""
    return {a.name: lab.accuracy(run, a.name, seed) for a in run.claim.arms}
