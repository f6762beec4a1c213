"""A stream of updates of which each is merged with what it began from keeps more of the base for what it learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunewright.claims.claim_run import ClaimRun

UPDATES: dict[str, Callable[[Any], Any]] = {
    "turned": lambda x: np.rot90(x, 1, axes=(1, 2)),
    "mirrored": lambda x: x[:, :, ::-1],
    "upside-down": lambda x: x[:, ::-1],
    "turned-back": lambda x: np.rot90(x, 3, axes=(1, 2)),
}
ROWS, KEPT = {"train": 400, "validation": 75, "eval": 75}, 300
CHOICES: dict[str, list[tuple[float, float | None]]] = {
    "merged": [(1e-3, 0.5), (1e-3, 0.8), (3e-3, 0.5), (3e-3, 0.8)],
    "fine-tuned": [(3e-5, None), (1e-4, None), (3e-4, None), (1e-3, None)],
}
"""Rate and weight of merging, of which each arm chooses the pair that is best on other pictures."""

CLAIM = Claim(
    paper="fomo-in-flux",
    says="After four updates one after the other, a model of which each is merged with what it began from is right "
    "more often, over pictures of all updates and as many of the kind that the base knew, than one that was tuned on "
    "and on.",
    task="digits",
    method=Arm(name="merged", methods=["full", "ema-merge"]),
    baselines=[Arm(name="fine-tuned", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    # none of the lab task's own rows, which named ones would join
    extra={"data": {"train": None, "eval": None, "validation": None}, "keep": [], "evaluation": {"rows": 600}},
    scales=("nano",),
    differs="a small ViT and digits turned and mirrored instead of CLIP and 63 sets; arithmetic mean of what was "
    "learnt and what was kept; no rehearsal and no shared schedule; each arm has the best of four settings, "
    "an outermost one for both (rate 3e-5; rate 1e-3 and weight 0.5)",
)


def _file(name: str, change: Callable[[Any], Any], part: str, count: int, place: int) -> dict[str, str]:
    """Changed digits that no other set has."""
    held = np.load(corpus.data_folder() / "mnist" / ("test.npz" if part == "eval" else "train.npz"))
    at = {"train": 50_000, "validation": 54_000, "eval": 0}[part] + 400 * place
    x, y = (held[k][at : at + count] for k in ("x", "y"))
    return {"path": rows.pictures(f"updates-{name}", part, np.ascontiguousarray(change(x)), y), "name": name}


def judged(part: str) -> list[dict[str, str]]:
    """Files of all updates' new pictures, and of as many upright ones."""
    changed = [_file(n, change, part, ROWS[part], i) for i, (n, change) in enumerate(UPDATES.items())]
    return [*changed, _file("upright", lambda x: x, part, KEPT, len(UPDATES))]


def after(run: ClaimRun, arm: str, seed: int, part: str, rate: float, weight: float | None) -> float:
    """Accuracy over updates and upright pictures after the last update."""
    merging: list[Any] = [{"ema-merge": {"weight": weight}}] if weight is not None else []
    stages: list[dict[str, Any]] = [
        {
            "name": name,
            "methods": ["full", *merging],
            "data": {"train": [_file(name, change, "train", ROWS["train"], i)]},
            "budget": {"epochs": 2},
            "train": {"learning_rate": rate},
        }
        for i, (name, change) in enumerate(UPDATES.items())
    ]
    data = {"train": stages[-1]["data"]["train"], "eval": judged(part)}
    return float(run.trial(arm, seed, data=data, stages=stages).tuned.target)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy of each arm at its best setting, chosen on other pictures under the first seed."""
    found: dict[str, float] = {}
    for arm, choices in CHOICES.items():
        scores = [after(run, arm, run.first, "validation", *choice) for choice in choices]
        best = choices[int(np.argmax(scores))]
        found[arm] = after(run, arm, seed, "eval", *best)
        found |= {f"{arm}, rate": best[0]} | ({f"{arm}, weight": best[1]} if best[1] is not None else {})
    return found
