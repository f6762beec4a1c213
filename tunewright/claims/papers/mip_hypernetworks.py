"""A hypernetwork that reads numbers at constant length learns faster than a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers._tuned import rate
from tunewright.claims.papers.mip_hypernetworks__gradients import PLAIN

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

MOVED, ROWS, RATES = (0, 4, 8, 12, 16), {"train": 300, "validation": 60, "eval": 80}, (3e-4, 1e-3, 3e-3)
"""Pixels that a source's pictures are moved to the right, and pictures of each."""
NUMBERS = {f"by-{m}": [m / max(MOVED)] for m in MOVED}
CLAIM = Claim(
    paper="mip-hypernetworks",
    says="One network writes changes for pictures that are moved by 0 to 16 pixels: after one pass, accuracy over all "
    "is at least two points higher if numbers are read at constant length and what is written is added to a learnt "
    "change than in a plain network.",
    task="digits",
    method=Arm(name="mip", methods=["mip-hypernetworks"]),
    baselines=[Arm(name="plain", methods=["mip-hypernetworks"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    # none of the lab task's own rows, which named ones would join
    extra={"data": {"train": None, "eval": None, "validation": None}, "keep": [], "evaluation": {"rows": 400}},
    scales=("nano",),
    differs="low-rank changes of a small ViT instead of all weights of new networks; each arm's rate is the best of "
    "three, its spread over them is not judged",
)


def _file(part: str, by: int) -> str:
    """Inverted digits, moved around the edge; each source has digits of its own."""
    held = np.load(corpus.data_folder() / "mnist" / ("test.npz" if part == "eval" else "train.npz"))
    first = {"train": 50_000, "validation": 55_000, "eval": 0}[part] + ROWS[part] * MOVED.index(by)
    x, y = (held[k][first : first + ROWS[part]] for k in ("x", "y"))
    return rows.pictures(f"moved-{by}", part, np.ascontiguousarray(np.roll(255 - x, by, axis=2)), y)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy over all sources' pictures; beside it the untouched base's."""
    sources = {p: [{"path": _file(p, by), "name": f"by-{by}"} for by in MOVED] for p in ROWS}

    def trial(arm: str, fields: dict[str, Any], number: int, judged: str, at: float) -> Any:
        stage: dict[str, Any] = {"name": "moved", "methods": [{"mip-hypernetworks": {**fields, "numbers": NUMBERS}}]}
        stage |= {"budget": {"epochs": 1}, "train": {"learning_rate": at}}
        return run.trial(arm, number, data={"train": sources["train"], "eval": sources[judged]}, stages=[stage])

    found: dict[str, float] = {}
    for arm, fields in (("mip", {}), ("plain", PLAIN)):
        best = rate(RATES, lambda at: trial(arm, fields, run.first, "validation", at))  # noqa: B023
        record = trial(arm, fields, seed, "eval", best)
        found |= {arm: float(record.tuned.target), "base": float(record.base.target)}
    return found
