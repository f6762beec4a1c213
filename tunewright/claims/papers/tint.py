"""Tuned on spoiled traces, a model answers better after noise in the writing than after noise in the computing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.data.generators.tint import Rows

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

HOW: dict[str, Any] = {"functions": ["digit", "largest"], "most": 4, "digits": 1}
STATIC, DYNAMIC = 0.2, 0.1
"""How likely a digit of the trace, and the result of an operation, is spoiled: of the first twice as many."""
LEARNT, ASKED = 3000, 200

CLAIM = Claim(
    paper="tint",
    says="After tuning on traces in which each digit was changed with a chance of a fifth once they were written, "
    "a model writes more clean traces and answers right than after tuning on traces that were computed with one wrong "
    "result in ten.",
    task="arithmetic",
    method=Arm(name="static", methods=["full"]),
    baselines=[Arm(name="dynamic", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a base of 3.4M parameters, two functions of two to four digits; every row of the training set is open to "
    "noise; no few-shot prompting; right is the whole trace, greedily written; clean traces are run beside both",
)


def files(seed: int) -> dict[str, str]:
    """The same problems with traces of each kind, and other problems with clean ones."""
    held = {r["prompt"]: r for r in Rows(rows=4 * ASKED, seed=2 * seed + 1, **HOW).make()}
    kinds: dict[str, dict[str, Any]] = {
        "static": {"noise": "digits", "intensity": STATIC},
        "dynamic": {"noise": "dynamic", "intensity": DYNAMIC},
        "clean": {},
    }
    parts = {
        kind: [r for r in Rows(rows=LEARNT, seed=2 * seed, **HOW, **noise).make() if r["prompt"] not in held]
        for kind, noise in kinds.items()
    }
    return rows.written("tint", {**parts, "eval": list(held.values())[:ASKED]})


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of new problems whose trace and answer are right."""
    found, made = dict[str, float](), files(seed)
    for kind in ("static", "dynamic", "clean"):
        data = {
            "train": [{"path": made[kind], "name": "train"}],
            "eval": [{"path": made["eval"], "name": "eval"}],
            "validation": None,
            "chat": False,
        }
        arm = kind if kind != "clean" else "dynamic"
        limit: dict[str, Any] = {"evaluation": {"max_new_tokens": 48}, "budget": {"tokens": 40_000}}
        record = run.trial(arm, seed, data=data, **limit)
        found |= {"base": float(record.base.target), kind: float(record.tuned.target)}
    return found
