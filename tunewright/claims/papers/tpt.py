"""For one picture alone, a step that makes the surest views agree helps, and more than one that asks all views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers._streams import figures

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

_VIEWS = {"mirror": False, "crop": 0.5}
CLAIM = Claim(
    paper="tpt",
    says="Of single corrupted pictures, each begun anew, one step on the surest tenth of 64 views raises the accuracy "
    "above that without adaptation and above that of a step on all views.",
    task="digits",
    method=Arm(name="tpt", methods=["full"], uses=["tpt"]),
    baselines=[Arm(name="all-views", methods=["full"]), Arm(name="without", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={
        "test_time": {
            "adapt": [{"tpt": _VIEWS}, {"tpt": {**_VIEWS, "confident": 1.0}}],
            "corruptions": ["contrast:4", "brightness:5"],
            "rows": 60,
        }
    },
    scales=("nano",),
    differs="a classifier of digits whose norms move, instead of CLIP's prompt; crops of half the picture or more, not "
    "mirrored; 120 rows a seed",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Online accuracy with the surest views, with all, and without adaptation."""
    return figures(run, seed, {"tpt": "tpt", "all-views": "tpt-2"})
