"""The stream that claims about test time share, so that each of its runs is made once, and how they read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CORRUPTIONS = ["contrast:3", "brightness:5", "contrast:4", "contrast:5"]
TWO_ROUNDS: dict[str, Any] = {
    "test_time": {
        "adapt": ["tent", {"cotta": {"mirror": False}}],
        "corruptions": [*CORRUPTIONS, *CORRUPTIONS],
        "rows": 200,
        "batch_rows": 50,
    }
}


def figures(run: ClaimRun, seed: int, arms: Mapping[str, str]) -> dict[str, float]:
    """Arm -> the online figure of the method that it names, and the arm "without". ClaimError where there is none."""
    record = run.trial(run.claim.method.name, seed)
    found = record.test_time
    for method in arms.values():
        if not {"online", "without"} <= found.get(method, {}).keys():
            raise ClaimError(f"the run answered no stream by '{method}'", where=record.key)
    read = {arm: found[method]["online"] for arm, method in arms.items()}
    return {**read, "without": found[next(iter(arms.values()))]["without"]}
