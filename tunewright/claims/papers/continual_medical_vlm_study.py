"""Rehearsal keeps what sets of pictures that were learnt one after the other taught, and carries it to new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers._tuned import rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunewright.claims.claim_run import ClaimRun

SETS: dict[str, Callable[[Any], Any]] = {
    "turned": lambda x: np.rot90(x, 1, axes=(1, 2)),
    "mirrored": lambda x: x[:, :, ::-1],
    "upside-down": lambda x: x[:, ::-1],
}
UNSEEN: dict[str, Callable[[Any], Any]] = {"turned-back": lambda x: np.rot90(x, 3, axes=(1, 2))}
ROWS, RATES = {"train": 600, "validation": 100, "eval": 100}, (3e-4, 1e-3)
"""Pictures of each set, and the rates that each arm chooses from."""

CLAIM = Claim(
    paper="continual-medical-vlm-study",
    says="Three sets of pictures are learnt one after the other: with rehearsal of a tenth of their rows, accuracy "
    "over all three and over a set that was never learnt is higher by at least five points than without.",
    task="digits",
    method=Arm(name="rehearsal", methods=["full", {"er": {"buffer_size": 180}}]),
    baselines=[Arm(name="sequential", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    # none of the lab task's own rows, which named ones would join
    extra={"data": {"train": None, "eval": None, "validation": None}, "keep": [], "evaluation": {"rows": 400}},
    scales=("nano",),
    differs="a small ViT that knows digits upright, and digits turned and mirrored, instead of a vision-language model "
    "and medical sets; one figure over earlier, latest and unseen sets; what is rehearsed is read beside as "
    "many new rows; neither joint nor specialised models stand beside it",
)


def _file(name: str, change: Callable[[Any], Any], part: str) -> dict[str, str]:
    """Changed digits, of which each set has its own."""
    held = np.load(corpus.data_folder() / "mnist" / ("test.npz" if part == "eval" else "train.npz"))
    at = {"train": 50_000, "validation": 54_000, "eval": 0}[part] + ROWS[part] * [*SETS, *UNSEEN].index(name)
    x, y = (held[k][at : at + ROWS[part]] for k in ("x", "y"))
    return {"path": rows.pictures(f"sets-{name}", part, np.ascontiguousarray(change(x)), y), "name": name}


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy over pictures of all sets after the last one was learnt; beside it the untouched base's."""

    def after(arm: str, number: int, judged: str, at: float) -> Any:
        of = SETS if judged == "validation" else {**SETS, **UNSEEN}
        stages: list[dict[str, Any]] = [
            {
                "name": name,
                "methods": run.arm(arm).methods,
                "data": {"train": [_file(name, change, "train")]},
                "budget": {"epochs": 2},
                "train": {"learning_rate": at},
            }
            for name, change in SETS.items()
        ]
        data = {"train": stages[-1]["data"]["train"], "eval": [_file(n, change, judged) for n, change in of.items()]}
        return run.trial(arm, number, data=data, stages=stages)

    found: dict[str, float] = {}
    for arm in (a.name for a in run.claim.arms):
        best = rate(RATES, lambda at: after(arm, run.first, "validation", at))  # noqa: B023
        record = after(arm, seed, "eval", best)
        found |= {arm: float(record.tuned.target), "base": float(record.base.target)}
    return found
