"""Clients that train a prompt and the ends of a split model come near to those that train all of it."""

from __future__ import annotations

from tunewright.claims.claim import Claim
from tunewright.claims.papers._clients import DIFFERS, SHARED, SPLIT, WHOLE

CLAIM = Claim(
    paper="sfprompt",
    says="After as many rounds, clients that hold the ends of a model are right at most two points less often than "
    "those that average all of its weights.",
    metric="target",
    direction="higher",
    smallest=-0.02,
    differs=f"{DIFFERS}; bytes and operations that are saved are the claims sfprompt--bytes and sfprompt--operations",
    **{
        **SHARED,
        "method": SPLIT.model_copy(update={"rates": (1e-3, 3e-3)}),
        "baselines": [WHOLE.model_copy(update={"rates": (3e-4, 1e-3)})],
        "budget": {"steps": 50},
    },
)
