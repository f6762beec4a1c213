"""What claims about clients share: rounds of five of them on a text encoder, split or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLIENTS: dict[str, Any] = {"clients": 5, "local_rows": 8}
SPLIT = Arm(name="sfprompt", methods=[{"sfprompt": {**CLIENTS, "length": 2, "client_blocks": [1, 1], "keep": 0.5}}])
WHOLE = Arm(name="fedavg", methods=["full", {"fedavg": CLIENTS}])
SHARED: dict[str, Any] = {
    "task": "topics",
    "method": SPLIT,
    "baselines": [WHOLE],
    "seeds": 5,
    "budget": {"tokens": 24_000},
    "strengths": (1.0,),
    "extra": {"train": {"batch_tokens": 2400}},
    "scales": ("real",),
}
COUNTED: dict[str, Any] = {
    "budget": {"steps": 3},
    "rates": (),
    "extra": {"train": {"batch_tokens": 2400}, "measurement": {"rows": 16, "drift_sequences": 4}},
}
"""A count that no rate changes: three rounds of each."""
DIFFERS = (
    "MiniLM-L6 on queries of ten domains instead of ViT on CIFAR; 5 clients with alike rows in each of about ten rounds "
    "instead of 5 drawn of 50; a client holds two of six blocks"
)


def told(run: ClaimRun, seed: int, figure: str) -> dict[str, float]:
    """A figure of what all rounds cost, by arm."""
    return {a.name: float(run.trial(a.name, seed).probes[a.name][figure]) for a in run.claim.arms}
